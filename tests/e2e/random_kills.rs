//! Fifty kills at random moments under load: whatever was acknowledged stays true, and nothing is alive that the
//! ledger does not know of. `make torture` has a thousand of them.

use taskpass_tests::{Told, kills::Kills};

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
