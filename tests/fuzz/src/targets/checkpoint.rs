//! Checkpoints, lists of roots and verifier keys. The first byte chooses: the note as it is, a text that gets a
//! valid signature, or a key.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use taskpass_ledger::{Checkpoint, SignedRoots, VerifyingKey};

use crate::{fixtures, input, wording::one_line};

pub(crate) fn run(data: &[u8]) {
    let (what, rest) = input::choice(data);
    let Some(text) = input::text(rest) else {
        return;
    };
    match what % 3 {
        0 => note(text),
        1 => note(&sign(text)),
        _ => vkey(text),
    }
}

/// The text with a signature by the ledger's key.
pub(crate) fn sign(text: &str) -> String {
    let key = &fixtures::history().key;
    let signature = [
        key.id().as_slice(),
        &fixtures::ledger_signature(text.as_bytes()),
    ]
    .concat();
    format!(
        "{text}\n\u{2014} {} {}\n",
        key.name(),
        STANDARD.encode(signature)
    )
}

fn note(note: &str) {
    match Checkpoint::open(note, &fixtures::history().key) {
        Ok(checkpoint) => {
            assert_eq!(checkpoint.note(), note);
            assert_eq!(checkpoint.origin(), fixtures::ORIGIN);
            let root = STANDARD.encode(checkpoint.root());
            let head = format!("{}\n{}\n{root}\n", fixtures::ORIGIN, checkpoint.size());
            assert!(note.starts_with(&head));
        }
        Err(error) => drop(one_line(error, 1000)),
    }
    roots(note);
}

fn roots(note: &str) {
    match SignedRoots::open(note, &fixtures::history().key) {
        Ok(roots) => {
            let head = format!(
                "taskpass roots v1\n{}\n{}\n",
                fixtures::ORIGIN,
                roots.time()
            );
            assert!(note.starts_with(&head));
            assert!(Checkpoint::open(note, &fixtures::history().key).is_err());
        }
        Err(error) => drop(one_line(error, 1000)),
    }
}

fn vkey(text: &str) {
    match text.parse::<VerifyingKey>() {
        Ok(key) => assert_eq!(key.to_string(), text),
        Err(error) => drop(one_line(error, 1000)),
    }
}
