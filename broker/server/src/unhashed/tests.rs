use std::{fs, path::Path};

use taskpass_core::{ManualClock, SeededEntropy, Timestamp};
use taskpass_ledger::{Ledger, Options, Priority, SigningKey};

use super::*;

/// A ledger of small segments, opened as a large one is.
fn open(dir: &Path) -> Ledger {
    let file = dir.join("ledger.key");
    let key = match file.exists() {
        true => SigningKey::load("taskpass/acme.test", &file),
        false => SigningKey::generate("taskpass/acme.test", &file, &SeededEntropy::new(1)),
    };
    let options = Options {
        segment_bytes: 20_000,
        hash_first_bytes: 0,
        ..Options::new(key.unwrap())
    };
    Ledger::open(&dir.join("ledger"), options).unwrap().0
}

fn filled(dir: &Path) {
    let mut ledger = open(dir);
    for n in 0..30 {
        let entry = format!("{{\"n\":{n}}}{}", " ".repeat(60));
        let entries = vec![entry.as_bytes(); 100];
        ledger.append_batch(&entries, Priority::Normal).unwrap();
    }
    ledger.checkpoint_now().unwrap();
}

fn hashing(ledger: &Ledger) -> LedgerHashing {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(0)));
    let (health, _service) = tonic_health::server::health_reporter();
    LedgerHashing::new(ledger.unhashed(), clock, Issuing::new(health))
}

#[tokio::test]
async fn it_goes_on_until_every_entry_was_hashed() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let ledger = open(dir.path());
    let mut hashing = hashing(&ledger);
    let mut rounds = 0;
    while hashing.unhashed.is_some() {
        assert!(matches!(hashing.round().await, Round::Done(_)));
        rounds += 1;
    }
    assert!(rounds > 5, "{rounds}");
    assert!(matches!(hashing.round().await, Round::Done(DONE)));
    assert_eq!(ledger.reader().damage(), None);
}

#[tokio::test]
async fn damage_is_a_failure_of_every_later_round() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let first = dir.path().join("ledger/segments/00000000000000000000.seg");
    let mut bytes = fs::read(&first).unwrap();
    bytes[1000] ^= 1;
    fs::write(&first, bytes).unwrap();
    let ledger = open(dir.path());
    let mut hashing = hashing(&ledger);
    for _ in 0..3 {
        let Round::Failed { message, .. } = hashing.round().await else {
            panic!("it was not noticed");
        };
        assert!(message.contains("the ledger is damaged at entry"));
        assert!(message.contains("nothing is issued"));
    }
}

#[tokio::test]
async fn a_disk_that_does_not_answer_is_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let ledger = open(dir.path());
    let mut hashing = hashing(&ledger);
    let (there, hidden) = (
        dir.path().join("ledger/segments"),
        dir.path().join("hidden"),
    );
    fs::rename(&there, &hidden).unwrap();
    let failed = hashing.round().await;
    assert!(matches!(failed, Round::Failed { pause: RETRY, .. }));
    fs::rename(&hidden, &there).unwrap();
    assert!(matches!(hashing.round().await, Round::Done(_)));
}
