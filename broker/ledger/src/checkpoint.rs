//! Checkpoints as of C2SP tlog-checkpoint v1: origin, size and root of the tree, in a signed note.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{
    Error,
    disk::{Disk, write_all_at},
    key::{SigningKey, VerifyingKey},
    note::{NOTE_BYTES_MAX, NoteError, malformed},
    tree::Hash,
};

const EXTENSION_LINES_MAX: usize = 16;
/// Room for the next checkpoint: it can be written on a full disk.
const SPARE_BYTES: u64 = 4096;

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

    pub(crate) fn sign(size: u64, root: Hash, key: &SigningKey) -> Self {
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

    /// The signed note, as it is stored and sent.
    pub fn note(&self) -> &str {
        &self.note
    }
}

/// Where a ledger keeps its checkpoint.
pub(crate) fn checkpoint_path(ledger: &Path) -> PathBuf {
    ledger.join("checkpoint")
}

/// Replaces the checkpoint file atomically. It is written to the file that the call before this one
/// made and set room aside for.
pub(crate) fn store(disk: &dyn Disk, ledger: &Path, checkpoint: &Checkpoint) -> Result<(), Error> {
    let spare = ledger.join("checkpoint.next");
    let file = match disk.open(&spare) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => disk.create(&spare),
        result => result,
    };
    let file = file.map_err(Error::io("create", &spare))?;
    let note = checkpoint.note().as_bytes();
    write_all_at(file.as_ref(), note, 0).map_err(Error::io("write", &spare))?;
    file.set_len(note.len() as u64)
        .map_err(Error::io("cut", &spare))?;
    file.sync_data().map_err(Error::io("sync", &spare))?;
    let path = checkpoint_path(ledger);
    disk.rename(&spare, &path)
        .map_err(Error::io("replace", &path))?;
    disk.sync_dir(ledger).map_err(Error::io("sync", ledger))?;
    let next = disk
        .create(&spare)
        .and_then(|file| file.allocate(SPARE_BYTES));
    if let Err(error) = next {
        tracing::debug!(%error, "no room was set aside for the next checkpoint");
    }
    Ok(())
}

/// Reads and verifies the checkpoint file of a ledger that has entries.
pub(crate) fn read(path: &Path, key: &VerifyingKey) -> Result<Checkpoint, Error> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(Error::Damaged {
                segment: path.to_owned(),
                offset: 0,
                index: 0,
                reason: "the checkpoint is missing".to_owned(),
            });
        }
        file => file.map_err(Error::io("open", path))?,
    };
    let mut note = String::new();
    match file
        .take(NOTE_BYTES_MAX as u64 + 1)
        .read_to_string(&mut note)
    {
        Err(e) if e.kind() == io::ErrorKind::InvalidData => note.clear(),
        result => {
            result.map_err(Error::io("read", path))?;
        }
    }
    Checkpoint::open(&note, key).map_err(|source| Error::Checkpoint {
        path: path.to_owned(),
        source,
    })
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
