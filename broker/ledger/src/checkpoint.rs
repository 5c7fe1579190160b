//! Checkpoints as of C2SP tlog-checkpoint v1: origin, size and root of the tree, in a signed note.

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{
    key::{SigningKey, VerifyingKey},
    note::{self, NoteError, malformed},
    tree::Hash,
};

const EXTENSION_LINES_MAX: usize = 16;

/// A tree head whose signature was verified, or that was signed here. There is no other way to have one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    origin: String,
    size: u64,
    root: Hash,
    note: String,
}

impl Checkpoint {
    /// Reads a note and verifies that `key` signed it and that it is about the ledger the key is named after.
    pub fn open(note: &str, key: &VerifyingKey) -> Result<Self, NoteError> {
        let text = note::verify(note, key)?;
        let (origin, size, root) = parse(text)?;
        if origin != key.name() {
            return Err(NoteError::WrongOrigin {
                expected: key.name().to_owned(),
                found: taskpass_core::excerpt(origin),
            });
        }
        Ok(Self {
            origin: origin.to_owned(),
            size,
            root,
            note: note.to_owned(),
        })
    }

    pub(crate) fn sign(size: u64, root: Hash, key: &SigningKey) -> Self {
        let origin = key.verifying_key().name().to_owned();
        let text = format!("{origin}\n{size}\n{}\n", STANDARD.encode(root));
        let note = note::sign(&text, key);
        Self {
            origin,
            size,
            root,
            note,
        }
    }

    /// Whose tree it is: `taskpass/<trust domain>`.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// How many entries the tree has.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The root of the tree.
    pub const fn root(&self) -> &Hash {
        &self.root
    }

    /// The signed note, as it is stored and sent.
    pub fn note(&self) -> &str {
        &self.note
    }
}

fn parse(text: &str) -> Result<(&str, u64, Hash), NoteError> {
    let bad = |reason| malformed("the checkpoint", reason);
    let mut lines = text.lines();
    let origin = lines.next().filter(|line| !line.is_empty());
    let origin = origin.ok_or_else(|| bad("the origin is missing"))?;
    let size = lines.next().and_then(parse_decimal);
    let size = size.ok_or_else(|| bad("the second line is not a tree size"))?;
    let root = lines.next().and_then(parse_hash);
    let root = root.ok_or_else(|| bad("the third line is not a SHA-256 hash in base64"))?;
    let extensions: Vec<&str> = lines.collect();
    if extensions.len() > EXTENSION_LINES_MAX || extensions.iter().any(|line| line.is_empty()) {
        return Err(bad("too many or empty extension lines"));
    }
    Ok((origin, size, root))
}

/// A number in ASCII digits without leading zeroes.
pub(crate) fn parse_decimal(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let canonical = text == "0" || !text.starts_with('0');
    (digits && canonical).then(|| text.parse().ok()).flatten()
}

/// A hash in canonical base64.
pub(crate) fn parse_hash(text: &str) -> Option<Hash> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests;
