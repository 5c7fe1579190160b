//! Where a ledger begins whose old segments are in an archive: the right edge of the tree over the
//! entries before, signed.
//!
//! A start needs nothing else of the archived entries. The hashes of the others go on from the
//! edge, and must lead to the signed root. The signature is there because the edge alone proves no
//! permission: another program could delete segments and call them archived.
//!
//! ```text
//! taskpass ledger base v1
//! taskpass/acme.test          the ledger's origin
//! 70000                       how many entries are archived
//! 0 <base64>                  the hashes of each partial tile, lowest level first
//! 1 <base64>
//!
//! — taskpass/acme.test …      the signature, as of C2SP signed-note
//! ```

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use taskpass_files::{Access, replace};
use taskpass_ledger_verify::{
    Signer,
    checkpoint::parse_decimal,
    note::{NOTE_BYTES_MAX, malformed},
};

use crate::{Error, Hash, NoteError, SigningKey, VerifyingKey, tiles::Edge};

/// No checkpoint begins with this line, since it is no origin of a ledger.
const FIRST_LINE: &str = "taskpass ledger base v1";

/// The signed edge over the archived entries.
#[derive(Debug, Clone)]
pub(crate) struct Base {
    edge: Edge,
    note: String,
}

impl Base {
    /// Where a ledger or an archive keeps it.
    pub(crate) fn path(directory: &Path) -> PathBuf {
        directory.join("base")
    }

    pub(crate) fn sign(edge: Edge, key: &SigningKey) -> Self {
        let origin = key.verifying_key().name();
        let mut text = format!("{FIRST_LINE}\n{origin}\n{}\n", edge.size());
        for (level, _, tile) in edge.partial() {
            text += &format!("{level} {}\n", STANDARD.encode(tile.bytes()));
        }
        let note = key.sign(&text);
        Self { edge, note }
    }

    /// Reads a signed base; strict in its form.
    pub(crate) fn parse(note: &str, key: &VerifyingKey) -> Result<Self, NoteError> {
        let bad = |reason| malformed("the base", reason);
        let mut lines = key.verify(note)?.lines();
        if lines.next() != Some(FIRST_LINE) {
            return Err(bad("it does not begin with `taskpass ledger base v1`"));
        }
        let origin = lines.next().unwrap_or_default();
        if origin != key.name() {
            return Err(NoteError::WrongOrigin {
                expected: key.name().to_owned(),
                found: taskpass_core::excerpt(origin),
            });
        }
        let size = lines.next().and_then(parse_decimal).filter(|it| *it > 0);
        let size = size.ok_or_else(|| bad("the third line is not a number of entries"))?;
        let levels = levels(lines).ok_or_else(|| bad("a line does not have a level's hashes"))?;
        let edge = Edge::of_tiles(size, &levels)
            .ok_or_else(|| bad("it has other hashes than its number of entries demands"))?;
        Ok(Self {
            edge,
            note: note.to_owned(),
        })
    }

    /// Reads the base of a directory; none if nothing before it is archived.
    pub(crate) fn read(directory: &Path, key: &VerifyingKey) -> Result<Option<Self>, Error> {
        let path = Self::path(directory);
        let file = match fs::File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(Error::io("open", &path))?,
        };
        let mut note = String::new();
        match file
            .take(NOTE_BYTES_MAX as u64 + 1)
            .read_to_string(&mut note)
        {
            // The text is no note then, and is refused as such.
            Err(e) if e.kind() == io::ErrorKind::InvalidData => note.clear(),
            read => {
                read.map_err(Error::io("read", &path))?;
            }
        }
        match Self::parse(&note, key) {
            Ok(base) => Ok(Some(base)),
            Err(source) => Err(Error::Base { path, source }),
        }
    }

    /// Puts it into a directory, durably.
    pub(crate) fn store(&self, directory: &Path) -> Result<(), Error> {
        replace(
            &Self::path(directory),
            self.note.as_bytes(),
            Access::Private,
        )
        .map_err(|e| Error::io(e.action, e.path)(e.source))
    }

    /// How many entries are archived.
    pub(crate) const fn size(&self) -> u64 {
        self.edge.size()
    }

    pub(crate) const fn edge(&self) -> &Edge {
        &self.edge
    }

    pub(crate) fn into_edge(self) -> Edge {
        self.edge
    }
}

/// The hashes of each level; a level without a line has none.
fn levels<'a>(lines: impl Iterator<Item = &'a str>) -> Option<Vec<Vec<Hash>>> {
    let mut levels: Vec<Vec<Hash>> = Vec::new();
    for line in lines {
        let (level, encoded) = line.split_once(' ')?;
        let level = usize::try_from(parse_decimal(level)?).ok()?;
        if level < levels.len() || level >= 8 {
            return None;
        }
        let bytes = STANDARD.decode(encoded).ok()?;
        let (hashes, rest) = bytes.as_chunks::<32>();
        if hashes.is_empty() || !rest.is_empty() {
            return None;
        }
        levels.resize(level, Vec::new());
        levels.push(hashes.to_vec());
    }
    Some(levels)
}

#[cfg(test)]
mod tests;
