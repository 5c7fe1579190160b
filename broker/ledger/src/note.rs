//! Signed notes as of C2SP signed-note v1: text, a blank line, signature lines. Strict in what it reads.
//!
//! Only Ed25519 (type 0x01) is made and checked here; signatures of other keys, such as those of witnesses, are
//! carried along unread.

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::key::{SigningKey, VerifyingKey};

/// The longest note that is read: sixteen of the largest post-quantum signatures fit.
pub(crate) const NOTE_BYTES_MAX: usize = 128 * 1024;
/// The most signatures a note may carry; the standard asks for at least 16.
pub(crate) const SIGNATURES_MAX: usize = 64;

const SIGNATURE_PREFIX: &str = "\u{2014} ";

/// A note, checkpoint or key that is not what it must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// It does not follow the form of its standard.
    #[error("{what} is malformed: {reason}")]
    Malformed {
        /// A note, a checkpoint, a key or a proof.
        what: &'static str,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// The key did not sign it.
    #[error("the note carries no signature by `{key}`; check that this is the ledger's key")]
    NotSigned {
        /// Name and id of the key that was expected.
        key: String,
    },
    /// The signature does not belong to the text.
    #[error("the signature by `{key}` does not belong to this text: one of them was changed")]
    BadSignature {
        /// Name and id of the key.
        key: String,
    },
    /// It is about another ledger.
    #[error("the checkpoint is of the ledger `{found}`, not of `{expected}`")]
    WrongOrigin {
        /// The origin that was expected.
        expected: String,
        /// The origin it names.
        found: String,
    },
}

pub(crate) const fn malformed(what: &'static str, reason: &'static str) -> NoteError {
    NoteError::Malformed { what, reason }
}

/// Signs `text`, which must end in a newline.
pub(crate) fn sign(text: &str, key: &SigningKey) -> String {
    let mut signature = key.verifying_key().id().to_vec();
    signature.extend_from_slice(&key.sign(text.as_bytes()));
    let encoded = STANDARD.encode(signature);
    format!(
        "{text}\n{SIGNATURE_PREFIX}{} {encoded}\n",
        key.verifying_key().name()
    )
}

/// The text of a note that `key` signed, with its last newline.
pub(crate) fn verify<'a>(note: &'a str, key: &VerifyingKey) -> Result<&'a str, NoteError> {
    let (text, signatures) = split(note)?;
    let mut signed = false;
    for line in signatures.lines() {
        let (name, signature) = parse_signature(line)?;
        if name != key.name() {
            continue;
        }
        let Some((id, bytes)) = signature.split_at_checked(4) else {
            continue;
        };
        if id != key.id() {
            continue;
        }
        if !key.verifies(text.as_bytes(), bytes) {
            return Err(NoteError::BadSignature { key: key.label() });
        }
        signed = true;
    }
    if signed {
        Ok(text)
    } else {
        Err(NoteError::NotSigned { key: key.label() })
    }
}

fn split(note: &str) -> Result<(&str, &str), NoteError> {
    if note.len() > NOTE_BYTES_MAX {
        return Err(malformed("the note", "it is longer than 128 KiB"));
    }
    if note.chars().any(|c| c.is_ascii_control() && c != '\n') {
        return Err(malformed("the note", "it holds control characters"));
    }
    if !note.ends_with('\n') {
        return Err(malformed("the note", "its last line has no newline"));
    }
    let Some((text, signatures)) = note.rsplit_once("\n\n") else {
        return Err(malformed(
            "the note",
            "there is no blank line before signatures",
        ));
    };
    let text = note.get(..=text.len()).unwrap_or_default();
    if signatures.lines().count() > SIGNATURES_MAX {
        return Err(malformed("the note", "it carries more than 64 signatures"));
    }
    Ok((text, signatures))
}

/// Name and bytes of one signature line.
fn parse_signature(line: &str) -> Result<(&str, Vec<u8>), NoteError> {
    line.strip_prefix(SIGNATURE_PREFIX)
        .and_then(|rest| rest.split_once(' '))
        .filter(|(name, _)| is_key_name(name))
        .and_then(|(name, encoded)| Some((name, STANDARD.decode(encoded).ok()?)))
        .filter(|(_, signature)| signature.len() > 4)
        .ok_or_else(|| malformed("the note", "a signature line has the wrong form"))
}

/// Whether a name may stand in a signature line.
pub(crate) fn is_key_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && !name
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || c == '+')
}

#[cfg(test)]
mod tests;
