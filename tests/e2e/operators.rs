//! Access for operators when no operator has any: an administrator of the broker's machine issues
//! an identity while the broker is stopped.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use serde_json::Value;
use taskpass_tests::{Broker, Cli, Installation};

use crate::support::{History, text, time};

/// A second holder of the same key and certificate.
fn stolen(installation: &Installation) -> PathBuf {
    let to = installation.scratch().join("thief");
    fs::create_dir(&to).expect("a new directory");
    for name in ["svid.pem", "key.pem", "bundle.pem", "ledger.vkey"] {
        let from = installation.home().join("operator").join(name);
        fs::copy(from, to.join(name)).expect("the file can be copied");
    }
    to
}

fn issue(installation: &Installation, name: &str, dir: &Path) -> std::process::Output {
    let config = installation.home().join("taskpass.toml");
    let (config, dir) = (config.display().to_string(), dir.display().to_string());
    let args = ["operator", "issue", name, "--config", &config];
    installation.daemon(&[&args[..], &["--dir", &dir, "-o", "json"]].concat())
}

fn issued(installation: &Installation, name: &str, dir: &Path) -> Value {
    let done = issue(installation, name, dir);
    let complaint = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{complaint}");
    serde_json::from_slice(&done.stdout).expect("JSON")
}

fn cli(broker: &Broker<'_>, identity: &Path) -> Cli {
    Cli::new(broker.address(), identity)
}

fn does_not_count(cli: &Cli) {
    for args in [["agent", "list"].as_slice(), &["svid", "renew"]] {
        let (_, complaint) = cli.refused(args);
        assert!(complaint.contains("does not count"), "{complaint}");
        assert!(
            complaint.contains("taskpassd operator issue"),
            "{complaint}"
        );
    }
}

/// A thief that renews first locks the owner out. The machine's administrator issues the owner a
/// new identity, and the thief is locked out for good.
#[test]
fn a_locked_out_operator_gets_back_in_and_the_thief_does_not() {
    let installation = Installation::new();
    let broker = installation.start();
    let thief = stolen(&installation);
    cli(&broker, &thief).json(&["svid", "renew"]);
    cli(&broker, &thief).json(&["agent", "list"]);
    does_not_count(&broker.operator());
    broker.stop();

    let again = installation.scratch().join("again");
    let made = issued(&installation, "admin", &again);
    assert_eq!(
        text(&made, "spiffe_id"),
        "spiffe://acme.test/operator/admin"
    );
    let modes = |name: &str| fs::metadata(again.join(name)).expect(name).permissions();
    assert_eq!(modes("key.pem").mode() & 0o777, 0o600);
    assert_eq!(modes("").mode() & 0o777, 0o700);

    // The thief is refused before the owner uses the new identity, and afterwards.
    let broker = installation.start();
    does_not_count(&cli(&broker, &thief));
    let owner = cli(&broker, &again);
    let shown = owner.json(&["svid", "show"]);
    assert_eq!(shown["serial"], made["serial"]);
    owner.json(&["agent", "list"]);
    owner.json(&["svid", "renew"]);
    owner.json(&["agent", "list"]);
    does_not_count(&cli(&broker, &thief));

    let history = History::verified(&installation, &owner, "history.jsonl");
    let local: Vec<&Value> = history
        .of_type("operator_svid_issued")
        .filter(|event| event["local"] == true)
        .collect();
    assert_eq!(local.len(), 1, "{local:?}");
    assert_eq!(local[0]["serial"], made["serial"]);
    assert_eq!(text(local[0], "operator"), "admin");
    broker.stop();

    // The same holds when the index is rebuilt from the ledger.
    fs::remove_dir_all(installation.home().join("data/index")).expect("the index goes");
    let broker = installation.start();
    does_not_count(&cli(&broker, &thief));
    cli(&broker, &again).json(&["agent", "list"]);
}

#[test]
fn a_second_operator_has_the_rights_of_policy_and_takes_nothing_from_the_first() {
    let installation = Installation::new();
    let ann = installation.scratch().join("ann");
    issued(&installation, "ann", &ann);
    let broker = installation.start();
    let (code, complaint) = cli(&broker, &ann).refused(&["agent", "list"]);
    assert_eq!(code, 3, "{complaint}");
    broker.operator().json(&["agent", "list"]);
    broker.stop();

    installation.policy(
        "auditor.cedar",
        "@id(\"auditor.read\")\npermit (principal == Taskpass::Operator::\"ann\", \
         action in Taskpass::Action::\"read\", resource);\n",
    );
    let broker = installation.start();
    let auditor = cli(&broker, &ann);
    auditor.json(&["agent", "list"]);
    let register = ["agent", "register", "twin", "--owner", "eve@acme.test"];
    assert_eq!(auditor.refused(&register).0, 3);
    broker.operator().json(&register);
}

/// A running broker would not see an event that another process writes.
#[test]
fn an_operator_identity_is_not_issued_beside_a_running_broker_and_the_refusal_names_the_remedy() {
    let installation = Installation::new();
    let broker = installation.start();
    let dir = installation.scratch().join("again");
    let done = issue(&installation, "admin", &dir);
    let complaint = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(1), "{complaint}");
    assert!(
        complaint.contains("stop the broker, run this again, and start it"),
        "{complaint}"
    );
    assert!(!dir.exists() && done.stdout.is_empty());
    broker.operator().json(&["agent", "list"]);
    broker.kill();

    // It works after SIGKILL too, because the lock went with the process.
    issued(&installation, "admin", &dir);
    let broker = installation.start();
    cli(&broker, &dir).json(&["agent", "list"]);
    does_not_count(&broker.operator());
}

fn config(installation: &Installation) -> String {
    installation
        .home()
        .join("taskpass.toml")
        .display()
        .to_string()
}

/// Three weeks after it was made, an identity of 30 days is in the last third of its life.
#[test]
fn an_operators_identity_lives_for_30_days_and_renews_itself_when_it_is_used() {
    let installation = Installation::made_before(21 * 86_400);
    let ann = installation.scratch().join("ann");
    issued(&installation, "ann", &ann);
    let broker = installation.start();
    let operator = broker.operator();
    let made = operator.json(&["svid", "show"]);
    let lives = |shown: &Value| {
        let (from, until) = (time(shown, "not_before"), time(shown, "expires_at"));
        until.since(from).as_secs() / 86_400
    };
    assert_eq!(lives(&made), 30);
    operator.json(&["agent", "list"]);
    assert_eq!(operator.json(&["svid", "show"])["serial"], made["serial"]);
    broker.stop();

    // `ann` may read, and may not renew.
    installation.policy(
        "auditor.cedar",
        "@id(\"auditor.read\")\npermit (principal == Taskpass::Operator::\"ann\", \
         action in Taskpass::Action::\"read\", resource);\n\
         @id(\"ann.keeps\")\nforbid (principal == Taskpass::Operator::\"ann\", \
         action == Taskpass::Action::\"svid.renew\", resource);\n",
    );
    installation.let_pass();
    let broker = installation.start();
    let (operator, ann) = (broker.operator(), cli(&broker, &ann));
    operator.json(&["agent", "list"]);
    let renewed = operator.json(&["svid", "show"]);
    assert_ne!(renewed["serial"], made["serial"]);
    assert_eq!(lives(&renewed), 30);
    assert!(time(&renewed, "expires_at") > time(&made, "expires_at"));

    let before = ann.json(&["svid", "show"]);
    let listed = ann.run(&["agent", "list"]);
    assert_eq!(listed.code, 0, "{}", listed.stderr);
    let told = listed.stderr.matches("could not be renewed").count();
    assert_eq!(told, 1, "{}", listed.stderr);
    assert_eq!(ann.json(&["svid", "show"])["serial"], before["serial"]);
}

/// An identity of an earlier version lives for a year. It goes on, and its renewal has the life of
/// today, which ends sooner.
#[test]
fn an_identity_of_a_year_goes_on_and_is_renewed_for_30_days() {
    let installation = Installation::made_before(300 * 86_400);
    installation.edit(|text| format!("{text}\n[identity]\noperator_svid_ttl = \"365d\"\n"));
    let ann = installation.scratch().join("ann");
    let made = issued(&installation, "ann", &ann);
    installation.edit(|text| text.replace("operator_svid_ttl = \"365d\"", ""));
    installation.let_pass();
    let accepted = installation.accept_clock();
    assert!(accepted.status.success());
    let broker = installation.start();
    let ann = cli(&broker, &ann);
    ann.refused(&["agent", "list"]);
    let renewed = ann.json(&["svid", "show"]);
    assert_ne!(renewed["serial"], made["serial"]);
    assert!(time(&renewed, "expires_at") < time(&made, "expires_at"));
    ann.json(&["svid", "renew"]);
}

/// A stolen identity is ended while the broker runs.
#[test]
fn a_withdrawn_operator_is_out_at_once() {
    let mut installation = Installation::new();
    installation.expect_error("superseded");
    let broker = installation.start();
    broker.operator().json(&["agent", "list"]);
    let config = config(&installation);
    let withdraw = ["operator", "withdraw", "admin", "--config", &config];
    let words = [
        &withdraw[..],
        &["--reason", "the laptop is gone", "-o", "json"],
    ]
    .concat();
    let done = installation.daemon(&words);
    let complaint = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{complaint}");
    let answer: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert_eq!(answer["identities"], 1);
    does_not_count(&broker.operator());
    broker.stop();

    let again = installation.scratch().join("again");
    issued(&installation, "admin", &again);
    let broker = installation.start();
    let owner = cli(&broker, &again);
    owner.json(&["agent", "list"]);
    let history = History::verified(&installation, &owner, "withdrawn.jsonl");
    let withdrawn: Vec<&Value> = history.of_type("operator_withdrawn").collect();
    assert_eq!(text(withdrawn[0], "reason"), "the laptop is gone");
    let conflicts = history.of_type("identity_conflict");
    assert_eq!(
        conflicts.count(),
        1,
        "the use of a withdrawn identity is on record"
    );
}
