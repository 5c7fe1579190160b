//! The roots of an installation's trust bundle, signed with its ledger's key.
//!
//! A client that slept while the root was replaced knows no root that signed the new one. The
//! ledger's key stays, and says which roots are the installation's. A checkpoint says nothing about
//! the server that shows it: a server of another installation can show it, too.
//!
//! ```text
//! taskpass roots v1
//! taskpass/acme.test          the ledger's origin
//! 2026-11-22T10:00:00.000Z    when it was signed
//! <base64>                    SHA-256 of each root's public key (SubjectPublicKeyInfo)
//!
//! — taskpass/acme.test …      the signature, as of C2SP signed-note
//! ```

use base64::{Engine, engine::general_purpose::STANDARD};
use taskpass_core::{Timestamp, excerpt};

use crate::{Hash, NoteError, Signer, VerifyingKey, checkpoint::parse_hash, note::malformed};

/// No checkpoint begins with this line, since it is no origin of a ledger.
const FIRST_LINE: &str = "taskpass roots v1";
/// A replacement has three roots at most.
const ROOTS_MAX: usize = 16;

/// The roots in a note with a verified signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedRoots {
    time: Timestamp,
    keys: Vec<Hash>,
}

impl SignedRoots {
    /// The note about roots with these public keys, signed by `key`.
    pub fn sign(keys: &[Hash], time: Timestamp, key: &impl Signer) -> String {
        let origin = key.verifying_key().name();
        let mut text = format!("{FIRST_LINE}\n{origin}\n{time}\n");
        for root in keys {
            text += &format!("{}\n", STANDARD.encode(root));
        }
        key.sign(&text)
    }

    /// Reads a note. Verifies that `key` signed it and that it is about the ledger that the key is
    /// named after.
    pub fn open(note: &str, key: &VerifyingKey) -> Result<Self, NoteError> {
        let bad = |reason| malformed("the list of roots", reason);
        let mut lines = key.verify(note)?.lines();
        if lines.next() != Some(FIRST_LINE) {
            return Err(bad("it does not begin with `taskpass roots v1`"));
        }
        let origin = lines.next().unwrap_or_default();
        if origin != key.name() {
            return Err(NoteError::WrongOrigin {
                expected: key.name().to_owned(),
                found: excerpt(origin),
            });
        }
        let time = lines.next().and_then(parse_time);
        let time = time.ok_or_else(|| bad("the third line is not a time"))?;
        let keys: Option<Vec<Hash>> = lines.map(parse_hash).collect();
        let keys = keys.filter(|keys| (1..=ROOTS_MAX).contains(&keys.len()));
        let keys = keys.ok_or_else(|| bad("the rest is not 1 to 16 hashes in base64"))?;
        Ok(Self { time, keys })
    }

    /// When it was signed, as the broker's clock had it.
    pub const fn time(&self) -> Timestamp {
        self.time
    }

    /// Whether the public key with this SHA-256 is that of a root.
    pub fn has(&self, key: &Hash) -> bool {
        self.keys.contains(key)
    }
}

/// A time as it is signed: in UTC, with milliseconds.
fn parse_time(text: &str) -> Option<Timestamp> {
    let time: Timestamp = text.parse().ok()?;
    (time.to_string() == text).then_some(time)
}

#[cfg(test)]
mod tests;
