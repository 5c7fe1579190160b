//! Proofs of single entries as of C2SP tlog-proof v1, each a text by itself, `*.tlog-proof`.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use taskpass_ledger_verify::{
    checkpoint::{parse_decimal, parse_hash},
    note::{NOTE_BYTES_MAX, malformed},
};

use crate::{
    Checkpoint, Error, Hash, NoteError, Reader, VerifyingKey,
    tree::{PROOF_HASHES_MAX, inclusion_root, leaf_hash},
    verify::VerifyError,
};

const FIRST_LINE: &str = "c2sp.org/tlog-proof@v1";
const EXTRA_BYTES_MAX: usize = 128 * 1024;

/// A proof that an entry is in the ledger. It proves nothing before [`ProofFile::verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProofFile {
    index: u64,
    extra: Option<Vec<u8>>,
    hashes: Vec<Hash>,
    note: String,
}

impl ProofFile {
    /// The proof of an entry that `checkpoint` covers.
    pub fn new(reader: &Reader, checkpoint: &Checkpoint, index: u64) -> Result<Self, Error> {
        Ok(Self {
            index,
            extra: None,
            hashes: reader.inclusion_proof(index, checkpoint.size())?,
            note: checkpoint.note().to_owned(),
        })
    }

    /// Reads a proof; strict in its form.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let bad = |reason| malformed("the proof", reason);
        if text.len() > NOTE_BYTES_MAX + EXTRA_BYTES_MAX + PROOF_HASHES_MAX * 64 {
            return Err(bad("it is too long"));
        }
        let (head, note) = text
            .split_once("\n\n")
            .ok_or_else(|| bad("there is no blank line before the checkpoint"))?;
        let mut lines = head.split('\n').peekable();
        if lines.next() != Some(FIRST_LINE) {
            return Err(bad("it does not begin with `c2sp.org/tlog-proof@v1`"));
        }
        let extra = match lines.next_if(|line| line.starts_with("extra ")) {
            Some(line) => {
                let encoded = line.strip_prefix("extra ").unwrap_or_default();
                let decoded = STANDARD.decode(encoded).ok();
                Some(decoded.ok_or_else(|| bad("the extra data is not base64"))?)
            }
            None => None,
        };
        let index = lines
            .next()
            .and_then(|line| parse_decimal(line.strip_prefix("index ")?))
            .ok_or_else(|| bad("there is no line `index N`"))?;
        let mut hashes = Vec::new();
        for line in lines {
            if hashes.len() == PROOF_HASHES_MAX {
                return Err(bad("it has more hashes than any tree"));
            }
            hashes.push(
                parse_hash(line).ok_or_else(|| bad("a line is not a SHA-256 hash in base64"))?,
            );
        }
        Ok(Self {
            index,
            extra,
            hashes,
            note: note.to_owned(),
        })
    }

    /// The index of its entry.
    pub const fn index(&self) -> u64 {
        self.index
    }

    /// Data that came with the proof. It is not signed and must not be trusted.
    pub fn extra(&self) -> Option<&[u8]> {
        self.extra.as_deref()
    }

    /// Verifies that the ledger of `key` has `entry` at this index; returns the checkpoint that
    /// covers it.
    pub fn verify(&self, entry: &[u8], key: &VerifyingKey) -> Result<Checkpoint, VerifyError> {
        let checkpoint = Checkpoint::open(&self.note, key).map_err(VerifyError::Checkpoint)?;
        let leaf = leaf_hash(entry);
        let root = inclusion_root(&leaf, self.index, checkpoint.size(), &self.hashes);
        if root.as_ref() == Some(checkpoint.root()) {
            Ok(checkpoint)
        } else {
            Err(VerifyError::NotProven { index: self.index })
        }
    }
}

impl fmt::Display for ProofFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{FIRST_LINE}")?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", STANDARD.encode(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        for hash in &self.hashes {
            writeln!(f, "{}", STANDARD.encode(hash))?;
        }
        write!(f, "\n{}", self.note)
    }
}

#[cfg(test)]
mod tests;
