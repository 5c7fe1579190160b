//! Makes the data directory in `broker/store/tests/fixtures/`: a ledger and an index of the present
//! version, with every record that a broker and an OpenBao can produce within a minute.
//!
//! ```text
//! cargo run -p taskpass-tests --all-features --example ledger_fixture DIR
//! ```
//!
//! Creates `DIR` with `ledger/`, `index/` and `ledger.vkey`. The last broker is killed in the
//! middle of its work.

use std::{fs, path::Path};

use serde_json::Value;
use taskpass_tests::{Broker, Cli, World, eventually, witness::text};

const CONFIG: &str = "vault-main/config";
const CERT: &str = "vault-main/cert";
const STATIC: &str = "vault-main/static";
/// A role that OpenBao refuses.
const REFUSED: &str = "vault-main/refused";
const NAME: &[&str] = &["common_name=ci.test"];

fn main() {
    let out = std::env::args_os().nth(1).expect("a directory to make");
    let mut world = World::new();
    world.installation.configure(
        r#"
  [[provider.role]]
  name = "refused"
  type = "dynamic"
  path = "pki/issue/nothing"
  method = "write"
  policies = ["cert"]
  max_ttl = "15m"
  impact = 1
"#,
    );
    world.installation.expect_error("stuck");

    let broker = world.start();
    ended_tasks(&world, &broker);
    identities(&broker);
    broker.stop();

    operator_again(&world);
    let broker = world.start();
    live_tasks(&broker);
    broker.kill();

    interrupted(&mut world);
    keep(&world, Path::new(&out));
}

fn start(agent: &Cli, more: &[&str]) -> String {
    let args = ["task", "start", "--purpose", "a fixture"];
    let started = agent.json(&[&args[..], more].concat());
    text(&started, "task_id").to_owned()
}

/// Waits for an event by reading the ledger's file, because each request to the broker would record
/// a decision.
fn wait_recorded(world: &World, kind: &str, field: &str, id: &str) {
    let segment = "data/ledger/segments/00000000000000000000.seg";
    let segment = world.installation.home().join(segment);
    let event = format!(r#"{{"type":"{kind}","{field}":"{id}""#);
    eventually(&event, || {
        let bytes = fs::read(&segment).expect("the ledger can be read");
        let mut windows = bytes.windows(event.len());
        windows
            .any(|window| window == event.as_bytes())
            .then_some(())
    });
}

fn id(issued: &Value) -> &str {
    text(issued, "credential_id")
}

/// One task for each way to end, and credentials that end in each way.
fn ended_tasks(world: &World, broker: &Broker<'_>) {
    let agent = broker.agent("builder");
    let roles = [
        "--role", CONFIG, "--role", CERT, "--role", STATIC, "--role", REFUSED,
    ];
    let done = start(&agent, &[&roles[..], &["--label", "kind=fixture"]].concat());
    for role in [CONFIG, STATIC] {
        World::issue(&agent, &done, role, &[]);
    }
    World::issue(&agent, &done, CERT, NAME);
    agent.refused(&["credential", "issue", "--task", &done, "--role", REFUSED]);
    let revoked = World::issue(&agent, &done, CONFIG, &[]);
    agent.json(&["credential", "revoke", id(&revoked)]);
    let short = [
        "credential",
        "issue",
        "--task",
        &done,
        "--role",
        CONFIG,
        "--ttl",
        "2s",
    ];
    let short = agent.json(&short);
    let renewed = World::issue(&agent, &done, CONFIG, &[]);
    agent.json(&["credential", "renew", id(&renewed)]);
    wait_recorded(world, "credential_expired", "credential", id(&short));
    agent.json(&["task", "end", &done]);

    let cancelled = start(&agent, &["--role", CONFIG]);
    World::issue(&agent, &cancelled, CONFIG, &[]);
    agent.json(&["task", "end", "--cancel", &cancelled]);
    let late = start(&agent, &["--role", CONFIG, "--ttl", "5s"]);
    let silent = start(&agent, &["--role", CONFIG, "--heartbeat", "5s"]);
    World::issue(&agent, &silent, CONFIG, &[]);
    let parent = start(&agent, &["--role", CONFIG]);
    let child = start(&agent, &["--role", CONFIG, "--parent", &parent]);
    World::issue(&agent, &child, CONFIG, &[]);
    agent.json(&["task", "end", &parent]);
    for task in [&late, &silent, &child] {
        wait_recorded(world, "task_ended", "task", task);
    }
    agent.refused(&["agent", "list"]);
    agent.refused(&[
        "task",
        "start",
        "--purpose",
        "none",
        "--role",
        "vault-main/none",
    ]);
}

/// Join tokens that are used, unused and expired; SVIDs that are renewed, superseded and pending.
fn identities(broker: &Broker<'_>) {
    let operator = broker.operator();
    operator.json(&[
        "agent",
        "register",
        "reader",
        "--owner",
        "bob@acme.test",
        "--team",
        "ci",
    ]);
    operator.json(&["agent", "token", "reader"]);
    operator.json(&["agent", "token", "reader", "--ttl", "1m"]);
    let agent = broker.attested("builder");
    agent.json(&["svid", "renew"]);
    agent.json(&["task", "list"]);
    agent.json(&["svid", "renew"]);
    operator.json(&["svid", "renew"]);
    operator.json(&["agent", "list"]);
}

/// The index is lost. The operator loses its identity, and the broker's machine issues it another.
fn operator_again(world: &World) {
    let index = world.installation.home().join("data/index");
    fs::remove_dir_all(index).expect("the index can be removed");
    let config = world.installation.home().join("taskpass.toml");
    let dir = world.installation.scratch().join("operator-again");
    let (config, dir) = (config.display().to_string(), dir.display().to_string());
    let made = [
        "operator", "issue", "admin", "--config", &config, "--dir", &dir,
    ];
    let done = world.installation.daemon(&made);
    assert!(done.status.success(), "{done:?}");
}

/// Open tasks, some of them delegated, with live credentials.
fn live_tasks(broker: &Broker<'_>) {
    let agent = broker.attested("builder");
    let top = start(&agent, &["--role", CONFIG, "--role", CERT, "--ttl", "2h"]);
    let below = start(&agent, &["--role", CONFIG, "--parent", &top]);
    World::issue(&agent, &top, CERT, NAME);
    let renewed = World::issue(&agent, &below, CONFIG, &[]);
    agent.json(&["credential", "renew", id(&renewed)]);
    World::issue(&agent, &below, CONFIG, &[]);
}

/// OpenBao is down: revocations fail, and renewals and issues have no outcome when the broker is
/// killed.
fn interrupted(world: &mut World) {
    let broker = world.start();
    let agent = broker.attested("builder");
    let task = start(&agent, &["--role", CONFIG]);
    let kept = World::issue(&agent, &task, CONFIG, &[]);
    let revoking = World::issue(&agent, &task, CONFIG, &[]);
    let ending = start(&agent, &["--role", CONFIG]);
    World::issue(&agent, &ending, CONFIG, &[]);
    broker.kill();
    let broker = world
        .installation
        .start_with(&[("TASKPASS_FAILPOINT", "renew.intended")]);
    let agent = broker.attested("builder");
    world.bao.kill();
    agent.json(&["credential", "revoke", id(&revoking)]);
    agent.json(&["task", "end", &ending]);
    wait_recorded(world, "revoke_failed", "credential", id(&revoking));
    agent.refused(&["credential", "renew", id(&kept)]);
    broker.wait_killed();

    let broker = world
        .installation
        .start_with(&[("TASKPASS_FAILPOINT", "issue.intended")]);
    let agent = broker.attested("builder");
    let fresh = start(&agent, &["--role", CONFIG]);
    agent.refused(&["credential", "issue", "--task", &fresh, "--role", CONFIG]);
    broker.wait_killed();
}

fn keep(world: &World, out: &Path) {
    fs::create_dir_all(out).expect("the directory can be made");
    let home = world.installation.home();
    for name in ["ledger", "index"] {
        copy(&home.join("data").join(name), &out.join(name));
    }
    fs::copy(home.join("operator/ledger.vkey"), out.join("ledger.vkey")).expect("the key");
    fs::copy(home.join("data/ledger.key"), out.join("ledger.key")).expect("the signing key");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory can be made");
    for entry in fs::read_dir(from).expect("a directory can be read") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("its type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a file can be copied");
        }
    }
}
