//! Access for operators when no operator has any: an administrator of the broker's machine issues
//! an identity while the broker is stopped.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use serde_json::Value;
use taskpass_tests::{Broker, Cli, Installation};

use crate::support::{History, text};

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
