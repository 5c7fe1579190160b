//! The form of signed notes as of C2SP signed-note v1: text, a blank line, signature lines. The
//! parser is strict. The keys in `key.rs` sign and verify.

use base64::{Engine, engine::general_purpose::STANDARD};

/// The longest note that is read: sixteen of the largest post-quantum signatures fit.
pub const NOTE_BYTES_MAX: usize = 128 * 1024;
/// The most signatures a note may carry; the standard asks for at least 16.
pub const SIGNATURES_MAX: usize = 64;

const SIGNATURE_PREFIX: &str = "\u{2014} ";

/// A note, checkpoint, key or proof that cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// It does not follow the form of its standard.
    #[error("{what} is malformed: {reason}")]
    Malformed {
        /// A note, a checkpoint, a key or a proof.
        what: &'static str,
        /// The rule it breaks.
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

/// The error about a text that does not follow the form of its standard.
pub const fn malformed(what: &'static str, reason: &'static str) -> NoteError {
    NoteError::Malformed { what, reason }
}

/// A note that has the right form. Its signatures are not verified: the keys do that.
#[derive(Debug, Clone, Copy)]
pub struct Note<'a> {
    text: &'a str,
    lines: &'a str,
}

/// One signature line.
#[derive(Debug)]
pub struct Signature<'a> {
    /// The name of the key.
    pub name: &'a str,
    /// The id of the key.
    pub key_id: [u8; 4],
    /// The signature itself.
    pub bytes: Vec<u8>,
}

impl<'a> Note<'a> {
    /// Checks everything but the form of the signature lines.
    pub fn parse(note: &'a str) -> Result<Self, NoteError> {
        let (text, lines) = split(note)?;
        Ok(Self { text, lines })
    }

    /// The signed text, with its last newline.
    pub const fn text(&self) -> &'a str {
        self.text
    }

    /// The signatures, in the order of their lines.
    pub fn signatures(&self) -> impl Iterator<Item = Result<Signature<'a>, NoteError>> {
        self.lines.lines().map(parse_signature)
    }
}

/// The note of `text`, which ends in a newline, with one signature.
pub fn format(text: &str, signature: &Signature<'_>) -> String {
    let mut bytes = signature.key_id.to_vec();
    bytes.extend_from_slice(&signature.bytes);
    let encoded = STANDARD.encode(bytes);
    format!("{text}\n{SIGNATURE_PREFIX}{} {encoded}\n", signature.name)
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

fn parse_signature(line: &str) -> Result<Signature<'_>, NoteError> {
    let bad = || malformed("the note", "a signature line has the wrong form");
    let parts = line
        .strip_prefix(SIGNATURE_PREFIX)
        .and_then(|rest| rest.split_once(' '))
        .filter(|(name, _)| is_key_name(name));
    let (name, encoded) = parts.ok_or_else(bad)?;
    let decoded = STANDARD.decode(encoded).ok().ok_or_else(bad)?;
    match decoded.split_first_chunk() {
        Some((key_id, bytes)) if !bytes.is_empty() => Ok(Signature {
            name,
            key_id: *key_id,
            bytes: bytes.to_vec(),
        }),
        _ => Err(bad()),
    }
}

/// Whether a name may stand in a signature line.
pub fn is_key_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && !name
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || c == '+')
}

#[cfg(test)]
mod tests;
