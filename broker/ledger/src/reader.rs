//! Reading an open ledger from any thread while the writer appends. Only durable entries are seen.

use std::{ops::Range, sync::Arc};

use crate::{
    Checkpoint, Error, Hash,
    cursor::{Cursor, Reach},
    shared::{Pin, Shared},
    tree::{self, range_root},
};

/// A view of an open ledger; cheap to clone.
#[derive(Debug, Clone)]
pub struct Reader {
    pub(crate) shared: Arc<Shared>,
}

impl Reader {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// How many entries are durable.
    pub fn size(&self) -> u64 {
        self.shared.state().edge.size()
    }

    /// The first entry that this machine keeps. The entries before it are in an archive.
    pub fn first(&self) -> u64 {
        self.shared.state().first
    }

    /// The first entry that can be read here: with an archive the first of all.
    pub fn first_readable(&self) -> u64 {
        self.shared.first_readable(&self.shared.state())
    }

    /// Keeps the entries from `index` on readable until the pin is dropped, also while archiving
    /// runs. Fails as [`Reader::require`] does.
    pub fn pin(&self, index: u64) -> Result<Pin, Error> {
        self.shared.pin(index)
    }

    /// Fails when the entries from `index` on cannot be read, since they are in an archive that
    /// this ledger does not know.
    pub fn require(&self, index: u64) -> Result<(), Error> {
        let first = self.first_readable();
        if index < first {
            return Err(Error::Archived { index, first });
        }
        Ok(())
    }

    /// The last checkpoint. It does not prove entries that are younger.
    pub fn checkpoint(&self) -> Arc<Checkpoint> {
        Arc::clone(&self.shared.state().checkpoint)
    }

    /// The bytes of one entry.
    pub fn entry(&self, index: u64) -> Result<Vec<u8>, Error> {
        self.within(index.saturating_add(1))?;
        let mut cursor = Cursor::new(&(index..index + 1));
        let found = cursor.next(|index| self.shared.locate(index, Reach::Entry))?;
        Ok(found.map(|(_, entry)| entry.to_vec()).unwrap_or_default())
    }

    /// The entries of a range in order, read as they are asked for.
    pub fn entries(&self, range: Range<u64>) -> Result<Entries, Error> {
        self.within(range.end)?;
        Ok(Entries {
            shared: Arc::clone(&self.shared),
            cursor: Cursor::new(&range),
        })
    }

    /// The root over all durable entries.
    pub fn root(&self) -> Result<Hash, Error> {
        self.root_at(self.size())
    }

    /// The root over the first `size` entries.
    pub fn root_at(&self, size: u64) -> Result<Hash, Error> {
        self.within(size)?;
        range_root(0, size, &mut |level, index| self.shared.node(level, index))
    }

    /// The proof that entry `index` is in the tree of `size` entries, leaf to root (RFC 6962,
    /// 2.1.1).
    pub fn inclusion_proof(&self, index: u64, size: u64) -> Result<Vec<Hash>, Error> {
        self.within(size)?;
        if index >= size {
            return Err(Error::OutOfRange { asked: index, size });
        }
        tree::inclusion_proof(index, size, &mut |level, index| {
            self.shared.node(level, index)
        })
    }

    /// The proof that the tree of `size` entries continues the one of `old` entries (RFC 6962,
    /// 2.1.2).
    pub fn consistency_proof(&self, old: u64, size: u64) -> Result<Vec<Hash>, Error> {
        self.within(size)?;
        if old > size {
            return Err(Error::OutOfRange { asked: old, size });
        }
        tree::consistency_proof(old, size, &mut |level, index| {
            self.shared.node(level, index)
        })
    }

    pub(crate) fn within(&self, size: u64) -> Result<(), Error> {
        let durable = self.size();
        if size <= durable {
            Ok(())
        } else {
            Err(Error::OutOfRange {
                asked: size,
                size: durable,
            })
        }
    }
}

/// Entries in order. As an iterator it copies each; [`Entries::next_entry`] borrows it.
#[derive(Debug)]
pub struct Entries {
    shared: Arc<Shared>,
    cursor: Cursor,
}

impl Entries {
    /// The next entry with its index, borrowed from the read buffer.
    pub fn next_entry(&mut self) -> Result<Option<(u64, &[u8])>, Error> {
        self.cursor
            .next(|index| self.shared.locate(index, Reach::Segment))
    }
}

impl Iterator for Entries {
    type Item = Result<(u64, Vec<u8>), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_entry()
            .map(|next| next.map(|(index, entry)| (index, entry.to_vec())))
            .transpose()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::try_from(self.cursor.left()).unwrap_or(usize::MAX);
        (left, Some(left))
    }
}
