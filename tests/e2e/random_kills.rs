//! Fifty kills at random moments under load: whatever was acknowledged stays true, and nothing is alive that the
//! ledger does not know of. `make torture` has a thousand of them.

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

/// The witness of all the above must see what it is there for, and not be content with a number: what is alive and unknown
/// is not made up for by something on record that has died early.
#[test]
fn the_witness_sees_a_lease_that_nobody_knows() {
    let world = World::new();
    let broker = world.start();
    let agent = broker.agent("ci");
    let task = World::task(&agent, &["vault-main/cert"]);
    let drawn = World::draw(
        &agent,
        &task,
        "vault-main/cert",
        &["common_name=ci.acme.test"],
    );
    let operator = broker.operator();
    let history = History::verified(&world.installation, &operator, "one.jsonl");
    let unseen = || untracked(&world.bao, &history, &history.live_credentials());
    assert_eq!(unseen(), Vec::<String>::new());

    let known = text(&drawn["data"], "serial_number");
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
