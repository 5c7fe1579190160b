//! Verifying a history offline. Only the ledger's public key is trusted and, if there is one, an
//! older checkpoint kept elsewhere. Without an older checkpoint, a history that the holder of the
//! key replaced as a whole cannot be told from the true one.

mod directory;

use std::{
    io::{self, BufRead, Read},
    path::PathBuf,
};

pub use self::directory::{Directory, verify_dir};
use crate::{
    Checkpoint, Error, Hash, NoteError, VerifyingKey,
    line::{self, Content, Line},
    tree::{Frontier, consistency_holds, inclusion_root, leaf_hash},
};

/// Longer than any line of an export.
const LINE_BYTES_MAX: u64 = 512 * 1024;
/// How often progress is told.
const PROGRESS_EVERY: u64 = 4096;

/// The result of verifying.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The checkpoint that covers it.
    pub checkpoint: Checkpoint,
    /// How many entries were read and are proven to be in the ledger.
    pub entries: u64,
    /// Whether these are all entries or some.
    pub extent: Extent,
    /// The size of the older checkpoint that this history was proven to continue.
    pub continues: Option<u64>,
    /// Entries in a directory that are younger than its checkpoint: nothing proves them yet.
    pub unsigned: u64,
    /// The newest entry of a directory, signed or not.
    pub newest: Option<Vec<u8>>,
}

/// How much of the ledger was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Every entry: nothing is missing.
    Full,
    /// Every entry from this one on. The entries before it are in an archive that was not read.
    From(u64),
    /// Each entry is genuine. Whether the ledger has others cannot be told.
    Selection,
}

/// Why a history must not be trusted.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The input could not be read.
    #[error("cannot read line {line}")]
    Read {
        /// Counted from 1.
        line: u64,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// A line does not have its form, or does not fit the lines before.
    #[error("line {line}: {reason}")]
    Line {
        /// Counted from 1.
        line: u64,
        /// The mistake in it.
        reason: String,
    },
    /// The ledger has another entry at the index of a selected one.
    #[error(
        "line {line}: the proof of entry {index} does not hold: the entry, its index or the proof was changed"
    )]
    Proof {
        /// Counted from 1.
        line: u64,
        /// The entry.
        index: u64,
    },
    /// A single proof does not hold.
    #[error("the proof does not hold: this is not what the ledger has as entry {index}")]
    NotProven {
        /// The entry.
        index: u64,
    },
    /// The checkpoint is not by this ledger's key.
    #[error("the checkpoint cannot be trusted")]
    Checkpoint(#[source] NoteError),
    /// The input ends without a checkpoint.
    #[error("the export ends after line {line} without a checkpoint: it was cut off")]
    NoCheckpoint {
        /// The last line there is.
        line: u64,
    },
    /// There are fewer or more entries than were signed.
    #[error(
        "there are {found} entries, but the checkpoint is of {signed}: some were removed or added"
    )]
    Count {
        /// Entries read.
        found: u64,
        /// Entries signed or announced.
        signed: u64,
    },
    /// The entries are not the signed ones.
    #[error("the {size} entries do not lead to the signed root: at least one was changed")]
    Root {
        /// The checkpoint's size.
        size: u64,
    },
    /// The older checkpoint is of another ledger.
    #[error("the older checkpoint is of the ledger `{older}`, this is `{found}`")]
    OtherLedger {
        /// The older checkpoint's origin.
        older: String,
        /// This one's.
        found: String,
    },
    /// The history is shorter than it was once.
    #[error(
        "the older checkpoint has {older} entries, this history only {found}: entries were taken away"
    )]
    Shorter {
        /// The older checkpoint's size.
        older: u64,
        /// This one's.
        found: u64,
    },
    /// The history differs from the one of the older checkpoint.
    #[error(
        "this history does not continue the older checkpoint of {older} entries: it was replaced"
    )]
    Replaced {
        /// The older checkpoint's size.
        older: u64,
    },
    /// A selection without the proof that is needed to compare it with an older checkpoint.
    #[error(
        "the export has no consistency proof from {older} entries; export it again and name the older checkpoint"
    )]
    NoConsistency {
        /// The older checkpoint's size.
        older: u64,
    },
    /// The older checkpoint ends within an archive that was not read.
    #[error(
        "the older checkpoint of {older} entries ends in the archive, which has the entries before {first}; name it with `--archive DIR`"
    )]
    InArchive {
        /// The older checkpoint's size.
        older: u64,
        /// The first entry that was read.
        first: u64,
    },
    /// Archives were named for a ledger that has all of its entries itself.
    #[error(
        "`{ledger}` has all of its entries itself; verify the archive alone with `taskpass ledger verify DIR`"
    )]
    NothingArchived {
        /// The ledger's directory.
        ledger: PathBuf,
    },
    /// A tile on disk is not the one of these entries.
    #[error(
        "`{path}` does not have the hashes of the entries; delete it, and the next start makes it again"
    )]
    Tile {
        /// The file.
        path: PathBuf,
    },
    /// A directory could not be read, or is damaged.
    #[error(transparent)]
    Ledger(Error),
}

/// Verifies an export as it streams by, with the same little memory for any length.
///
/// Detects each changed, removed, added, moved or doubled entry of a full export. Of a selection it
/// proves each entry. Calls `progress` now and then with the number of entries so far.
pub fn verify_export(
    reader: impl BufRead,
    key: &VerifyingKey,
    older: Option<&Checkpoint>,
    progress: &mut dyn FnMut(u64),
) -> Result<Verified, VerifyError> {
    let mut lines = Lines::new(reader);
    let mut export = Export::new(older);
    while let Some((number, text)) = lines.next()? {
        let line = line::parse(text).map_err(|reason| at(number, reason))?;
        if let Some((note, selected)) = export.take(number, line)? {
            let checkpoint = Checkpoint::open(&note, key).map_err(VerifyError::Checkpoint)?;
            if lines.next()?.is_some() {
                return Err(at(number + 1, "something follows the checkpoint"));
            }
            progress(export.entries);
            return export.conclude(checkpoint, selected);
        }
        if export.entries.is_multiple_of(PROGRESS_EVERY) {
            progress(export.entries);
        }
    }
    Err(VerifyError::NoCheckpoint { line: lines.number })
}

/// Checks the older checkpoint against the root that this history had at its size.
fn continues(
    older: &Checkpoint,
    checkpoint: &Checkpoint,
    root: Option<Hash>,
) -> Result<u64, VerifyError> {
    if older.origin() != checkpoint.origin() {
        return Err(VerifyError::OtherLedger {
            older: older.origin().to_owned(),
            found: checkpoint.origin().to_owned(),
        });
    }
    if older.size() > checkpoint.size() {
        return Err(VerifyError::Shorter {
            older: older.size(),
            found: checkpoint.size(),
        });
    }
    match root {
        Some(root) if root == *older.root() => Ok(older.size()),
        Some(_) => Err(VerifyError::Replaced {
            older: older.size(),
        }),
        None => Err(VerifyError::NoConsistency {
            older: older.size(),
        }),
    }
}

fn at(line: u64, reason: &str) -> VerifyError {
    VerifyError::Line {
        line,
        reason: reason.to_owned(),
    }
}

/// The part of an export that was read.
struct Export<'a> {
    older: Option<&'a Checkpoint>,
    older_root: Option<Hash>,
    entries: u64,
    tree: Frontier,
    /// Of a selection: the tree that all proofs so far lead to, and the last index.
    proven: Option<(u64, Hash, u64)>,
    consistency: Option<Consistency>,
}

struct Consistency {
    from: u64,
    root: Hash,
    proof: Vec<Hash>,
}

impl<'a> Export<'a> {
    fn new(older: Option<&'a Checkpoint>) -> Self {
        let mut export = Self {
            older,
            older_root: None,
            entries: 0,
            tree: Frontier::default(),
            proven: None,
            consistency: None,
        };
        export.mark();
        export
    }

    fn mark(&mut self) {
        if self.older.map(Checkpoint::size) == Some(self.tree.size()) {
            self.older_root = Some(self.tree.root());
        }
    }

    /// Takes one line; returns the note and the number of selected entries when it was the last.
    fn take(
        &mut self,
        number: u64,
        line: Line<'_>,
    ) -> Result<Option<(String, Option<u64>)>, VerifyError> {
        if self.consistency.is_some() && !matches!(line, Line::Checkpoint { .. }) {
            return Err(at(
                number,
                "something stands between the consistency proof and the checkpoint",
            ));
        }
        match line {
            Line::Entry { index, content } => self.next_entry(number, index, &content)?,
            Line::Proven {
                index,
                size,
                proof,
                content,
            } => self.proven_entry(number, index, size, &proof, &content)?,
            Line::Consistency { from, root, proof } => {
                self.consistency = Some(Consistency { from, root, proof });
            }
            Line::Checkpoint { note, selected } => return Ok(Some((note, selected))),
        }
        Ok(None)
    }

    fn next_entry(
        &mut self,
        number: u64,
        index: u64,
        content: &Content<'_>,
    ) -> Result<(), VerifyError> {
        if self.proven.is_some() {
            return Err(at(
                number,
                "an entry without proof stands among selected ones",
            ));
        }
        if index != self.entries {
            let reason = format!(
                "entry {index} stands where entry {} must be: some were removed, added or moved",
                self.entries
            );
            return Err(VerifyError::Line {
                line: number,
                reason,
            });
        }
        self.tree.push(leaf_hash(content.bytes()));
        self.entries += 1;
        self.mark();
        Ok(())
    }

    fn proven_entry(
        &mut self,
        number: u64,
        index: u64,
        size: u64,
        proof: &[Hash],
        content: &Content<'_>,
    ) -> Result<(), VerifyError> {
        let wrong = VerifyError::Proof {
            line: number,
            index,
        };
        let root = inclusion_root(&leaf_hash(content.bytes()), index, size, proof);
        let root = root.ok_or(wrong)?;
        if self.tree.size() > 0 {
            return Err(at(number, "a selected entry stands in a full export"));
        }
        if let Some((first_size, first_root, last)) = &self.proven {
            if *first_size != size {
                return Err(at(
                    number,
                    "its proof is for another checkpoint than the first one's",
                ));
            }
            if *first_root != root {
                return Err(VerifyError::Proof {
                    line: number,
                    index,
                });
            }
            if index <= *last {
                return Err(at(
                    number,
                    "the entry stands there twice or in the wrong order",
                ));
            }
        }
        self.proven = Some((size, root, index));
        self.entries += 1;
        Ok(())
    }

    /// Compares everything with the checkpoint.
    fn conclude(
        self,
        checkpoint: Checkpoint,
        selected: Option<u64>,
    ) -> Result<Verified, VerifyError> {
        let size = checkpoint.size();
        let announced = selected.unwrap_or(size);
        if self.entries != announced {
            return Err(VerifyError::Count {
                found: self.entries,
                signed: announced,
            });
        }
        let wrong = VerifyError::Root { size };
        let (extent, older_root) = match selected {
            None if self.proven.is_some() || self.tree.root() != *checkpoint.root() => {
                return Err(wrong);
            }
            None => (Extent::Full, self.older_root),
            Some(_) if self.tree.size() > 0 => return Err(wrong),
            Some(_) => {
                if let Some((proven_size, root, _)) = &self.proven
                    && (*proven_size != size || root != checkpoint.root())
                {
                    return Err(wrong);
                }
                (Extent::Selection, self.consistent_root(&checkpoint)?)
            }
        };
        if extent == Extent::Full {
            self.consistent_root(&checkpoint)?;
        }
        let continued = self
            .older
            .map(|older| continues(older, &checkpoint, older_root));
        Ok(Verified {
            continues: continued.transpose()?,
            checkpoint,
            entries: self.entries,
            extent,
            unsigned: 0,
            newest: None,
        })
    }

    /// The root that the consistency proof shows for the older checkpoint's size.
    fn consistent_root(&self, checkpoint: &Checkpoint) -> Result<Option<Hash>, VerifyError> {
        let Some(Consistency { from, root, proof }) = &self.consistency else {
            return Ok(None);
        };
        let new = (checkpoint.size(), checkpoint.root());
        if !consistency_holds((*from, root), new, proof) {
            return Err(VerifyError::Replaced { older: *from });
        }
        let asked = self.older.is_some_and(|older| older.size() == *from);
        Ok(asked.then_some(*root))
    }
}

/// Lines with their numbers, none of them longer than the limit, each ended by a newline.
struct Lines<R> {
    reader: R,
    buffer: Vec<u8>,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    const fn new(reader: R) -> Self {
        Self {
            reader,
            buffer: Vec::new(),
            number: 0,
        }
    }

    fn next(&mut self) -> Result<Option<(u64, &str)>, VerifyError> {
        self.buffer.clear();
        let line = self.number + 1;
        let read = (&mut self.reader)
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut self.buffer)
            .map_err(|source| VerifyError::Read { line, source })?;
        if read == 0 {
            return Ok(None);
        }
        self.number = line;
        let Some((b'\n', text)) = self.buffer.split_last() else {
            return Err(at(line, "the line is cut off or too long"));
        };
        match std::str::from_utf8(text) {
            Ok(text) => Ok(Some((line, text))),
            Err(_) => Err(at(line, "the line is not UTF-8")),
        }
    }
}

#[cfg(test)]
mod tests;
