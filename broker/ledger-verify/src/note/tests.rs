use super::*;
use crate::{Signer, testing::SigningKey};

const TEXT: &str = "If you think cryptography is the answer to your problem,\n\
                    then you don't know what your problem is.\n";
/// The note that the tests of Go's `sumdb/note` publish for this text and [`go_key`].
const NOTE: &str = "If you think cryptography is the answer to your problem,\n\
                    then you don't know what your problem is.\n\n\
                    \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
const SEED_BASE64: &str = "gQoUAtUUbI2E8kQzMPVAgOv5juF9nHT2JS/F1ccoMXM=";

fn go_key() -> SigningKey {
    let seed: [u8; 32] = STANDARD.decode(SEED_BASE64).unwrap().try_into().unwrap();
    SigningKey::from_seed("PeterNeumann", &seed)
}

#[test]
fn signing_gives_the_published_note() {
    assert_eq!(go_key().sign(TEXT), NOTE);
    assert_eq!(go_key().verifying_key().verify(NOTE), Ok(TEXT));
}

#[test]
fn every_flipped_bit_of_a_note_is_noticed() {
    let key = go_key();
    for place in 0..NOTE.len() {
        for bit in 0..8 {
            let mut bytes = NOTE.as_bytes().to_vec();
            bytes[place] ^= 1 << bit;
            if let Ok(note) = String::from_utf8(bytes) {
                assert!(key.verifying_key().verify(&note).is_err(), "{place} {bit}");
            }
        }
    }
}

#[test]
fn signatures_of_others_are_carried_along() {
    let key = go_key();
    let other = SigningKey::from_seed("witness.test", &[3; 32]);
    let cosigned = other.sign(TEXT);
    let line = cosigned.lines().last().unwrap();
    let note = format!("{NOTE}{line}\n");
    assert_eq!(key.verifying_key().verify(&note), Ok(TEXT));
    assert_eq!(other.verifying_key().verify(&note), Ok(TEXT));
    let missing = other.verifying_key().verify(NOTE);
    assert!(matches!(missing, Err(NoteError::NotSigned { .. })));
}

#[test]
fn a_second_signature_by_the_same_key_must_be_good_too() {
    let key = go_key();
    let forged = key.sign("another text\n");
    let note = format!("{NOTE}{}\n", forged.lines().last().unwrap());
    let refused = key.verifying_key().verify(&note);
    assert!(matches!(refused, Err(NoteError::BadSignature { .. })));
}

#[test]
fn malformed_and_oversized_notes_are_refused() {
    let key = go_key();
    let signature = NOTE.lines().last().unwrap();
    let many = format!("{TEXT}\n{}", format!("{signature}\n").repeat(65));
    let long = format!("{}\n\n{signature}\n", "x".repeat(NOTE_BYTES_MAX));
    let carriage = NOTE.replace("problem,\n", "problem,\r\n");
    let unended = NOTE.trim_end();
    for note in ["", "\n", "text\n", &many, &long, &carriage, unended] {
        let refused = key.verifying_key().verify(note);
        assert!(
            matches!(refused, Err(NoteError::Malformed { .. })),
            "{refused:?}"
        );
    }
}
