//! A ledger too large to be hashed before the broker serves, with damage in it: the broker goes on
//! revoking, issues nothing, says so everywhere, and does not start like that again.

use std::{fs::File, os::unix::fs::FileExt as _, path::PathBuf, sync::Arc};

use taskpass_core::{DecisionRecord, Event, Outcome, SystemClock};
use taskpass_ledger::SigningKey;
use taskpass_store::{Batch, Config, LogStore, Store as _};
use taskpass_tests::{Installation, World, eventually};

use crate::support::{health_of_issuing, receipt, runtime, text};

/// A place in the first segment, among the entries that `enlarge` adds.
const PLACE: u64 = 1024 * 1024;

/// Adds nine megabytes of refusals, more than a start hashes first.
fn enlarge(installation: &Installation) {
    let data = installation.home().join("data");
    let key = SigningKey::load("taskpass/acme.test", &data.join("ledger.key"));
    let clock = Arc::new(SystemClock::new());
    let config = Config {
        // The start reads the last one.
        segment_bytes: 4 * 1024 * 1024,
        ..Config::new(data)
    };
    let opened = LogStore::open(&config, key.expect("the key"), clock);
    let store = opened.expect("the store opens").store;
    let decision = DecisionRecord {
        principal: "spiffe://acme.test/agent/builder".to_owned(),
        action: "credential.issue".to_owned(),
        resource: "role vault-main/config".to_owned(),
        outcome: Outcome::Deny,
        reason: "x".repeat(30_000),
        policy_set: "0".repeat(64),
        policies: Vec::new(),
        errors: Vec::new(),
        input_sha256: "0".repeat(64),
        duration_us: 60,
    };
    let refused = Event::Decided {
        decision,
        repeated: None,
    };
    runtime().block_on(async {
        for _ in 0..30 {
            let batch = Batch::new(vec![refused.clone(); 10]);
            store.commit(batch).await.expect("they are taken");
        }
        store.close().await.expect("the store closes");
    });
}

fn segment(installation: &Installation) -> PathBuf {
    let first = "data/ledger/segments/00000000000000000000.seg";
    installation.home().join(first)
}

/// Changes one byte, or changes it back.
fn flip(installation: &Installation) {
    let file = File::options()
        .read(true)
        .write(true)
        .open(segment(installation))
        .expect("the segment");
    let mut byte = [0];
    file.read_exact_at(&mut byte, PLACE).expect("a byte");
    file.write_all_at(&[byte[0] ^ 1], PLACE)
        .expect("it can be written");
}

/// `taskpassd` with its configuration: whether it did well, and all it said.
fn taskpassd(installation: &Installation, command: &str) -> (bool, String) {
    let config = installation.home().join("taskpass.toml");
    let config = config.to_str().expect("a path in UTF-8");
    let done = installation.daemon(&[command, "--config", config]);
    let said = String::from_utf8([done.stdout, done.stderr].concat());
    (done.status.success(), said.expect("text"))
}

#[test]
fn damage_in_a_large_ledger_stops_issuing_and_not_revoking() {
    let mut world = World::new();
    world.installation.expect_error("the ledger is damaged");
    let broker = world.start();
    let agent = broker.agent("builder");
    let task = World::task(&agent, &["vault-main/config"]);
    let token = World::issue(&agent, &task, "vault-main/config", &[]);
    broker.stop();
    enlarge(&world.installation);

    // Without damage the broker serves at once, and says when it has hashed all.
    let broker = world.start();
    eventually("every entry is hashed", || {
        let done = "every entry of the ledger was hashed";
        broker.log().contains(done).then_some(())
    });
    assert_eq!(health_of_issuing(&broker), Some(1));
    broker.stop();

    flip(&world.installation);
    let broker = world.start();
    let agent = agent.through(broker.address());
    eventually("health says that it does not issue", || {
        (health_of_issuing(&broker) == Some(2)).then_some(())
    });
    for request in [
        &[
            "task",
            "start",
            "--purpose",
            "x",
            "--role",
            "vault-main/config",
        ][..],
        &[
            "credential",
            "issue",
            "--task",
            &task,
            "--role",
            "vault-main/config",
        ],
        &["credential", "renew", text(&token, "credential_id")],
        &["svid", "renew"],
    ] {
        let (_, why) = agent.refused(request);
        assert!(
            why.contains("the broker's ledger is damaged"),
            "{request:?}: {why}"
        );
    }
    let (_, said) = taskpassd(&world.installation, "doctor");
    assert!(said.contains("[warn] reconciler ledger: failed "), "{said}");
    assert!(said.contains("[fail] ledger: "), "{said}");
    let ended = agent.json(&["task", "end", &task]);
    assert_eq!(text(receipt(&ended, &token), "state"), "revoked_verified");
    assert!(world.bao.task_tokens().is_empty());
    broker.stop();

    // It is known now, so the next start hashes everything first.
    let (started, said) = taskpassd(&world.installation, "run");
    assert!(!started, "{said}");
    assert!(said.contains("the ledger is damaged at entry"), "{said}");

    flip(&world.installation);
    let broker = world.start();
    let agent = agent.through(broker.address());
    let task = World::task(&agent, &["vault-main/config"]);
    World::issue(&agent, &task, "vault-main/config", &[]);
    broker.stop();
}
