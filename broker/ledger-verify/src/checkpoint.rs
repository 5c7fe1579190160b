//! Checkpoints as of C2SP tlog-checkpoint v1: origin, size and root of the tree, in a signed note.

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{
    VerifyingKey,
    note::{NoteError, malformed},
    tree::{Hash, consistency_holds},
};

const EXTENSION_LINES_MAX: usize = 16;

/// The private half of a ledger's key.
pub trait Signer {
    /// The public half.
    fn verifying_key(&self) -> &VerifyingKey;

    /// The note of `text`, which ends in a newline, signed by this key.
    fn sign(&self, text: &str) -> String;
}

/// A tree head that was signed here, or that was read with a verified signature. It cannot be made
/// in another way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    origin: String,
    size: u64,
    root: Hash,
    note: String,
}

impl Checkpoint {
    /// Reads a note. Verifies that `key` signed it and that it is about the ledger that the key is
    /// named after.
    pub fn open(note: &str, key: &VerifyingKey) -> Result<Self, NoteError> {
        let text = key.verify(note)?;
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

    /// The tree of `size` entries with `root`, signed by `key`.
    pub fn sign(size: u64, root: Hash, key: &impl Signer) -> Self {
        let origin = key.verifying_key().name().to_owned();
        let text = format!("{origin}\n{size}\n{}\n", STANDARD.encode(root));
        let note = key.sign(&text);
        Self {
            origin,
            size,
            root,
            note,
        }
    }

    /// The ledger it is about: `taskpass/<trust domain>`.
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

    /// Whether `proof` shows that the tree of this checkpoint continues the tree of `older`. Both
    /// must be of one ledger.
    pub fn continues(&self, older: &Self, proof: &[Hash]) -> bool {
        self.origin == older.origin
            && consistency_holds((older.size, &older.root), (self.size, &self.root), proof)
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
pub fn parse_decimal(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let canonical = text == "0" || !text.starts_with('0');
    (digits && canonical).then(|| text.parse().ok()).flatten()
}

/// A hash in canonical base64.
pub fn parse_hash(text: &str) -> Option<Hash> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests;
