//! A new user's first steps, with the usual mistakes: no login loses an identity, and the caller
//! can follow the advice in a refusal.

use std::fs;

use taskpass_tests::{Broker, Cli, Installation, Output};

use crate::support::text;

fn token(broker: &Broker<'_>, name: &str) -> String {
    let made = broker.operator().json(&["agent", "token", name]);
    text(&made, "join_token").to_owned()
}

fn register(broker: &Broker<'_>, name: &str) {
    broker
        .operator()
        .json(&["agent", "register", name, "--owner", "alice@acme.test"]);
}

fn login(into: &Cli, token: &str, more: &[&str]) -> Output {
    into.run_with(&[&["login", "--join-token", "-"], more].concat(), token)
}

fn who(cli: &Cli) -> String {
    text(&cli.json(&["svid", "show"]), "spiffe_id").to_owned()
}

fn assert_left_alone(done: &Output, holder: &str) {
    assert_eq!(done.code, 1, "{}{}", done.stdout, done.stderr);
    for words in [holder, "still counts", "--identity DIR", "--replace"] {
        assert!(done.stderr.contains(words), "{words}: {}", done.stderr);
    }
}

/// The variables of an operator are often still set in the shell where the agent logs in.
#[test]
fn a_login_does_not_replace_the_identity_of_another() {
    let installation = Installation::new();
    let broker = installation.start();
    register(&broker, "builder");
    register(&broker, "tester");
    let operator = broker.operator();
    let token_of_builder = token(&broker, "builder");

    let done = login(&operator, &token_of_builder, &[]);
    assert_left_alone(&done, "spiffe://acme.test/operator/admin");
    operator.json(&["agent", "list"]);

    // The refusal did not use up the token. A second token of the same agent may use the same
    // directory.
    let builder = broker.attested("builder");
    for token in [token_of_builder, token(&broker, "builder")] {
        let done = login(&builder, &token, &[]);
        assert_eq!(done.code, 0, "{}", done.stderr);
    }

    // Only the broker knows the token's agent. It refuses before it uses up the token.
    let token_of_tester = token(&broker, "tester");
    let done = login(&builder, &token_of_tester, &[]);
    assert_left_alone(&done, "spiffe://acme.test/agent/builder");
    assert_eq!(who(&builder), "spiffe://acme.test/agent/builder");
    builder.json(&["task", "list"]);

    // The refusal is recorded, because a thief can learn the agent of a stolen token from it.
    let history = operator.run(&["ledger", "export"]).stdout;
    let attested = |line: &&str| line.contains(r#""action":"svid.attest""#);
    let issued =
        |line: &&str| line.contains(r#""type":"svid_issued""#) && line.contains("join_token");
    assert_eq!(history.lines().filter(attested).count(), 3, "{history}");
    let shown = "was shown in place of `spiffe://acme.test/agent/builder`";
    let refused = |line: &&str| {
        attested(line) && line.contains(r#""outcome":"deny""#) && line.contains(shown)
    };
    assert_eq!(history.lines().filter(refused).count(), 1, "{history}");
    assert_eq!(history.lines().filter(issued).count(), 2, "{history}");

    // A certificate still names its holder when its key is damaged.
    fs::write(builder.identity().join("key.pem"), "damaged").expect("the key can be damaged");
    let done = login(&builder, &token_of_tester, &[]);
    assert_left_alone(&done, "spiffe://acme.test/agent/builder");

    let done = login(&builder, &token_of_tester, &["--replace"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(who(&builder), "spiffe://acme.test/agent/tester");
}

/// Shells leave an empty variable behind where a script meant to unset it.
#[test]
fn an_empty_variable_names_no_directory() {
    let installation = Installation::new();
    let broker = installation.start();
    register(&broker, "builder");
    let home = installation.scratch().join("home");
    let file = installation.scratch().join("token");
    fs::write(&file, token(&broker, "builder")).expect("the token's file");
    let file = file.to_str().expect("a path in UTF-8");
    let done = broker
        .operator()
        .command(&["login", "--join-token-file", file])
        .env("TASKPASS_IDENTITY", "")
        .env("HOME", &home)
        .output()
        .expect("taskpass starts");
    let complaint = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{complaint}");
    let builder = Cli::new(broker.address(), &home.join(".config/taskpass"));
    assert_eq!(who(&builder), "spiffe://acme.test/agent/builder");
}

/// Agents may read neither policies nor providers nor the ledger.
#[test]
fn a_refusal_names_no_command_that_the_caller_may_not_use() {
    let installation = Installation::new();
    let broker = installation.start();
    let agent = broker.agent("builder");
    let start = ["task", "start", "--purpose", "p", "--role", "no/such"];
    let (code, complaint) = agent.refused(&start);
    assert_eq!(code, 3, "{complaint}");
    let command = "operators find the reason in the broker's log and with `taskpass ledger export | grep deny`";
    assert!(complaint.contains(command), "{complaint}");
    assert!(!complaint.contains("try: "), "{complaint}");
    let history = broker.operator().run(&["ledger", "export"]).stdout;
    let reason = history.lines().find(|line| line.contains("deny"));
    assert!(
        reason.is_some_and(|line| line.contains("no/such")),
        "{history}"
    );

    let (code, complaint) = agent.refused(&["policy", "show"]);
    assert_eq!(code, 3, "{complaint}");
    assert!(complaint.contains("try: ask an operator"), "{complaint}");
}
