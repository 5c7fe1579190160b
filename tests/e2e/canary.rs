//! Secrets stay where they belong. The search looks for every secret in every place that must not
//! hold it, in every encoding that programs use.

mod dumps;
mod faults;

use std::fs;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};
use taskpass_tests::{Cli, Ministack, Search, World};

use crate::support::{end, export, text};

#[test]
fn the_search_finds_each_spelling() {
    let secret = "s.Zm9v/+&=\"canary";
    for padding in ["", "x", "yy", "zzz"] {
        let around = format!("{padding}{secret}{padding}");
        let hex: String = around.bytes().map(|b| format!("{b:02X}")).collect();
        let url: String = around
            .bytes()
            .map(|b| {
                if b.is_ascii_alphanumeric() || b == b'.' {
                    char::from(b).to_string()
                } else {
                    format!("%{b:02X}")
                }
            })
            .collect();
        for spelt in [
            around.clone(),
            json!({ "token": around }).to_string(),
            STANDARD_NO_PAD.encode(&around),
            URL_SAFE_NO_PAD.encode(&around),
            hex,
            url,
            format!("{:?}", around.as_bytes()),
        ] {
            let mut search = Search::default();
            search.secret("the canary", secret);
            search.place("here", &spelt);
            assert_eq!(search.hits(), ["the canary in here"], "{spelt}");
        }
    }
}

#[test]
fn no_secret_is_anywhere_but_where_it_belongs() {
    let world = World::new();
    let aws = Ministack::start();
    world.installation.configure(&aws.provider("aws-prod"));
    let canary = json!({ "data": { "answer": "canary-of-the-static-secret/+=%\"x" } });
    world
        .bao
        .call("POST", "secret/data/ci", Some(canary))
        .expect("the secret can be written");
    let mut search = Search::default();
    let broker = world.installation.start_with(&[("TASKPASS_LOG", "trace")]);
    let operator = broker.operator();
    operator.json(&["agent", "register", "builder", "--owner", "alice@acme.test"]);
    let join_token = text(&operator.json(&["agent", "token", "builder"]), "join_token").to_owned();
    search.secret(
        "the join token",
        join_token.split('.').nth(2).expect("its secret"),
    );
    let agent = Cli::new(
        broker.address(),
        &world.installation.scratch().join("agent-builder"),
    );
    note(
        &mut search,
        "login",
        &agent.run_with(&["-o", "json", "login", "--join-token", "-"], &join_token),
    );
    note(
        &mut search,
        "login again",
        &agent.run_with(&["login", "--join-token", "-"], &join_token),
    );
    note(
        &mut search,
        "login with the token as an argument",
        &agent.run(&["login", "--join-token", &join_token]),
    );
    let damaged = join_token.replace("tp1.", "tp9.");
    note(
        &mut search,
        "login with a damaged token",
        &agent.run_with(&["login", "--join-token", "-"], &damaged),
    );

    let roles = [
        "vault-main/config",
        "vault-main/cert",
        "vault-main/static",
        "aws-prod/reader",
    ];
    let task = World::task(&agent, &roles);
    let issued = issue_all(&mut search, &agent, &task);
    ask_everything(&mut search, &operator, &agent, &task, &issued);
    let ended = end(&agent, &task);
    search.place("task end", ended.to_string());
    let all = export(&world.installation, &operator, "canary.jsonl", &[]);
    let part = export(
        &world.installation,
        &operator,
        "canary-task.jsonl",
        &["--task", &task],
    );
    let log = broker.log();
    let home = world.installation.home();
    let config = home.join("taskpass.toml").display().to_string();
    for args in [
        ["doctor", "--config", &config, "-o", "json"].as_slice(),
        &["config", "check", "--config", &config],
    ] {
        let done = world.installation.daemon(args);
        search.place(args[0], [done.stdout, done.stderr].concat());
    }
    broker.stop();

    search.place("the broker's log", log);
    search.place("the export", fs::read(all).expect("the export"));
    search.place(
        "the export of the task",
        fs::read(part).expect("the export"),
    );
    search.secret("the broker's Vault token", &world.bao.broker_token());
    for secret in aws.secrets() {
        search.secret("the broker's AWS keys", &secret);
    }
    search.installation(&world.installation, &[agent.identity().to_owned()]);
    let secrets = search.secrets();
    assert!(secrets > 25, "only {secrets} secrets were collected");
    for part in ["/data/ledger/", "/data/index/"] {
        assert!(search.places().any(|name| name.contains(part)), "{part}");
    }
    assert_eq!(search.hits(), Vec::<String>::new());
}

/// Issues one credential of each role and adds every field as a secret.
fn issue_all(search: &mut Search, agent: &Cli, task: &str) -> Vec<String> {
    let mut ids = Vec::new();
    for (role, scope) in [
        ("vault-main/config", None),
        ("vault-main/cert", Some("common_name=ci.acme.test")),
        ("vault-main/static", None),
        ("aws-prod/reader", Some("bucket=artifacts")),
    ] {
        let scope: Vec<&str> = scope.into_iter().collect();
        let issued = World::issue(agent, task, role, &scope);
        let data = issued["data"].as_object().expect("the parts of the secret");
        let before = search.secrets();
        for (field, value) in data {
            search.secret(&format!("{role} {field}"), value.as_str().expect("a text"));
        }
        assert!(search.secrets() > before, "{role} gave no secret");
        ids.push(text(&issued, "credential_id").to_owned());
    }
    ids
}

/// Runs every command that must not show a secret, and some that fail.
fn ask_everything(search: &mut Search, operator: &Cli, agent: &Cli, task: &str, issued: &[String]) {
    let first = issued[0].as_str();
    for args in [
        ["agent", "list"].as_slice(),
        &["agent", "show", "builder"],
        &["task", "list"],
        &["task", "show", task],
        &["credential", "list"],
        &["credential", "show", first],
        &["provider", "list"],
        &["provider", "show", "vault-main"],
        &["provider", "check", "vault-main"],
        &["provider", "check", "aws-prod"],
        &["policy", "show"],
        &["ledger", "checkpoint"],
        &["ledger", "prove", "5"],
        &["svid", "show"],
        &["doctor"],
    ] {
        let done = operator.run(&[&["-o", "json"], args].concat());
        assert_eq!(done.code, 0, "{args:?}: {}", done.stderr);
        note(search, &format!("operator {args:?}"), &done);
    }
    for args in [
        ["credential", "renew", first].as_slice(),
        &["credential", "revoke", first],
        &["task", "heartbeat", task],
        &["svid", "show"],
        &["svid", "renew"],
        &["agent", "list"],
        &[
            "credential",
            "issue",
            "--task",
            task,
            "--role",
            "aws-prod/reader",
            "--scope",
            "bucket=*",
        ],
        &[
            "credential",
            "issue",
            "--task",
            task,
            "--role",
            "vault-main/none",
        ],
        &["credential", "renew", first],
        &[
            "run",
            "--purpose",
            "quiet",
            "--role",
            "vault-main/config",
            "--",
            "true",
        ],
    ] {
        note(
            search,
            &format!("agent {args:?}"),
            &agent.run(&[&["-o", "json"], args].concat()),
        );
    }
}

fn note(search: &mut Search, name: &str, done: &taskpass_tests::Output) {
    search.place(name, format!("{}{}", done.stdout, done.stderr));
}

/// The search must find the secrets of a value in the outputs that show them on purpose. Otherwise
/// its silence elsewhere proves nothing.
#[test]
fn the_search_sees_a_secret_in_the_reply_that_shows_it() {
    let world = World::new();
    let broker = world.start();
    let agent = broker.agent("builder");
    let task = World::task(&agent, &["vault-main/cert"]);
    let issued: Value = World::issue(
        &agent,
        &task,
        "vault-main/cert",
        &["common_name=ci.acme.test"],
    );
    let mut search = Search::default();
    search.secret("the private key", text(&issued["data"], "private_key"));
    search.place("the reply", issued.to_string());
    assert_eq!(search.hits(), ["the private key in the reply"]);
}
