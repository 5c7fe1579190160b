use taskpass_core::Digest;

use super::*;
use crate::{Checkpoint, testing::SigningKey};

const ORIGIN: &str = "taskpass/acme.test";
const TIME: &str = "2026-11-22T10:00:00.000Z";

fn key() -> SigningKey {
    SigningKey::from_seed(ORIGIN, &[7; 32])
}

fn digest(root: &str) -> Hash {
    *Digest::of(root.as_bytes()).bytes()
}

#[test]
fn the_roots_read_back_as_they_were_signed() {
    let (key, time) = (key(), TIME.parse().unwrap());
    let (one, two) = (digest("one"), digest("two"));
    let note = SignedRoots::sign(&[one, two], time, &key);
    let text = format!("taskpass roots v1\n{ORIGIN}\n{TIME}\n");
    assert!(note.starts_with(&text), "{note}");
    let opened = SignedRoots::open(&note, key.verifying_key()).unwrap();
    assert_eq!(opened.time(), time);
    assert!(opened.has(&one) && opened.has(&two));
    assert!(!opened.has(&digest("three")));
}

#[test]
fn neither_another_key_nor_another_text_counts() {
    let (key, time) = (key(), TIME.parse().unwrap());
    let note = SignedRoots::sign(&[digest("one")], time, &key);
    let other = SigningKey::from_seed(ORIGIN, &[8; 32]);
    let refused = SignedRoots::open(&note, other.verifying_key());
    assert!(matches!(refused, Err(NoteError::NotSigned { .. })));
    let [was, is] = ["one", "two"].map(|root| STANDARD.encode(digest(root)));
    let changed = note.replace(&was, &is);
    let refused = SignedRoots::open(&changed, key.verifying_key());
    assert!(matches!(refused, Err(NoteError::BadSignature { .. })));
}

/// The ledger's key signs both, and neither may pass for the other.
#[test]
fn a_checkpoint_is_no_list_of_roots_and_no_list_of_roots_is_a_checkpoint() {
    let (key, time) = (key(), TIME.parse().unwrap());
    let checkpoint = Checkpoint::sign(1, [5; 32], &key);
    let refused = SignedRoots::open(checkpoint.note(), key.verifying_key());
    assert!(matches!(refused, Err(NoteError::Malformed { .. })));
    let roots = SignedRoots::sign(&[digest("one")], time, &key);
    assert!(Checkpoint::open(&roots, key.verifying_key()).is_err());
}

#[test]
fn malformed_lists_are_refused_even_when_signed() {
    let key = key();
    let root = STANDARD.encode([5; 32]);
    let many = format!("{root}\n").repeat(ROOTS_MAX + 1);
    for text in [
        format!("taskpass roots v2\n{ORIGIN}\n{TIME}\n{root}\n"),
        format!("{FIRST_LINE}\n{ORIGIN}\n"),
        format!("{FIRST_LINE}\n{ORIGIN}\n{TIME}\n"),
        format!("{FIRST_LINE}\n{ORIGIN}\n1\n{root}\n"),
        format!("{FIRST_LINE}\n{ORIGIN}\n2026-11-22T12:00:00+02:00\n{root}\n"),
        format!(
            "{FIRST_LINE}\n{ORIGIN}\n{TIME}\n{}\n",
            STANDARD.encode([5; 31])
        ),
        format!("{FIRST_LINE}\n{ORIGIN}\n{TIME}\n{root}\n\n{root}\n"),
        format!("{FIRST_LINE}\n{ORIGIN}\n{TIME}\n{many}"),
    ] {
        let refused = SignedRoots::open(&key.sign(&text), key.verifying_key());
        assert!(
            matches!(refused, Err(NoteError::Malformed { .. })),
            "{text:?} {refused:?}"
        );
    }
    let other = format!("{FIRST_LINE}\ntaskpass/other.test\n{TIME}\n{root}\n");
    let refused = SignedRoots::open(&key.sign(&other), key.verifying_key());
    assert!(matches!(refused, Err(NoteError::WrongOrigin { .. })));
}
