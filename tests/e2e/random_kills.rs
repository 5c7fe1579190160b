//! Fifty kills at random moments under load: acknowledged answers stay true, and nothing is alive
//! that is not on record. `make torture` does a thousand.

use serde_json::json;
use taskpass_tests::{
    History, Told, World,
    kills::Kills,
    witness::{text, untracked},
};

const KILLS: Kills = Kills {
    count: 50,
    seed: 20_261_122,
};

#[test]
fn nothing_that_was_acknowledged_is_lost_and_nothing_untracked_is_alive() {
    let journal = KILLS.survive(|| ());

    let issued = journal.count(|told| matches!(told, Told::Issued(_)));
    let receipts = journal.count(|told| matches!(told, Told::Receipt(..)));
    let renewed = journal.count(|told| matches!(told, Told::Renewed(..)));
    println!("acknowledged: {issued} credentials, {renewed} renewals, {receipts} receipts");
    assert!(
        issued > 50 && receipts > 20 && renewed > 0,
        "there was hardly any load"
    );
}

/// The witness must compare things, not numbers: a recorded lease that died early must not offset a
/// live lease that is not on record.
#[test]
fn the_witness_sees_a_lease_that_is_not_on_record() {
    let world = World::new();
    let broker = world.start();
    let agent = broker.agent("ci");
    let task = World::task(&agent, &["vault-main/cert"]);
    let issued = World::issue(
        &agent,
        &task,
        "vault-main/cert",
        &["common_name=ci.acme.test"],
    );
    let operator = broker.operator();
    let history = History::verified(&world.installation, &operator, "one.jsonl");
    let unseen = || untracked(&world.bao, &history, &history.live_credentials());
    assert_eq!(unseen(), Vec::<String>::new());

    let known = text(&issued["data"], "serial_number");
    let revoke = json!({"serial_number": known});
    world.bao.call("POST", "pki/revoke", Some(revoke)).unwrap();
    let body = json!({"common_name": "nobody.test"});
    let made = world.bao.call("POST", "pki/issue/ci", Some(body)).unwrap();
    let lease = made["lease_id"].as_str().unwrap();
    let seen = unseen();
    assert!(seen.len() == 1 && seen[0].contains(lease), "{seen:?}");

    let serial = made["data"]["serial_number"].as_str().unwrap();
    let revoke = json!({"serial_number": serial});
    world.bao.call("POST", "pki/revoke", Some(revoke)).unwrap();
    assert_eq!(unseen(), Vec::<String>::new(), "a record alone is nothing");
}
