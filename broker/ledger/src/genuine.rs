//! Entries that are compared with the tree when they are read.
//!
//! The tree of an open ledger leads to the signed root. A checksum alone proves nothing against a
//! writer of the files, who mends it.
//!
//! Damage that is found while the ledger is in use leaves a mark: the file `damaged` beside the
//! segments. The next start hashes everything before it opens the ledger. Otherwise each restart
//! would trust a damaged ledger for a while.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use taskpass_files::{Access, replace};

use crate::{
    DamageAt, Error, Hash, Reader,
    cursor::{Cursor, Reach},
    segment::{FRAME_BYTES, Segment},
    shared::Shared,
    tiles::{TILE_WIDTH, Tile},
    tree::leaf_hash,
};

/// Entries that one [`Unhashed::step`] reads at most: a megabyte of ordinary ones.
const STEP_ENTRIES: u64 = 2048;

/// Why an entry is not believed.
pub(crate) const NOT_SIGNED: &str = "the entry is not the one that was signed";

/// Entries in order, each compared with the tree.
#[derive(Debug)]
pub struct GenuineEntries {
    shared: Arc<Shared>,
    cursor: Cursor,
    /// The tile of the last entry.
    tile: Option<(u64, Arc<Tile>)>,
}

impl GenuineEntries {
    pub(crate) const fn new(shared: Arc<Shared>, range: &Range<u64>) -> Self {
        Self {
            shared,
            cursor: Cursor::new(range),
            tile: None,
        }
    }

    /// The next entry with its index, borrowed from the read buffer. Fails where it is not the
    /// entry that the tree has.
    pub fn next_entry(&mut self) -> Result<Option<(u64, &[u8])>, Error> {
        let Some(index) = self.cursor.position() else {
            return Ok(None);
        };
        let expected = self.leaf(index)?;
        let shared = &self.shared;
        let next = self
            .cursor
            .next(|index| shared.locate(index, Reach::Segment))?;
        match next {
            Some((_, entry)) if leaf_hash(entry) != expected => {
                let state = shared.state();
                let at = DamageAt::of_entry(&shared.ledger, &state.segments, index, NOT_SIGNED);
                Err(at.into())
            }
            next => Ok(next),
        }
    }

    /// The hash that the tree has of an entry.
    fn leaf(&mut self, index: u64) -> Result<Hash, Error> {
        if let Some(leaf) = self.shared.state().edge.node(0, index) {
            return Ok(leaf);
        }
        let (number, place) = (index / TILE_WIDTH, index % TILE_WIDTH);
        let tile = match self.tile.take() {
            Some((there, tile)) if there == number => tile,
            _ => self.shared.tile(0, number)?,
        };
        let leaf = tile.node(0, place);
        self.tile = Some((number, tile));
        // INVARIANT: full tiles have all their hashes.
        leaf.ok_or(Error::OutOfRange {
            asked: index,
            size: index,
        })
    }
}

/// The entries that opening left unhashed. [`Unhashed::step`] compares them with the tree little by
/// little, on any thread, while the ledger is in use.
#[derive(Debug)]
pub struct Unhashed {
    shared: Arc<Shared>,
    next: u64,
    end: u64,
    /// The segment that is being read, as far as it was.
    reading: Option<(GenuineEntries, Segment)>,
    /// The first entry of the first segment that could not be read in this round.
    unreadable: Option<u64>,
}

impl Unhashed {
    pub(crate) const fn new(shared: Arc<Shared>, range: Range<u64>) -> Self {
        Self {
            shared,
            next: range.start,
            end: range.end,
            reading: None,
            unreadable: None,
        }
    }

    /// How many entries are left.
    pub fn left(&self) -> u64 {
        let next = self.unreadable.unwrap_or(self.next);
        self.end.saturating_sub(next)
    }

    /// Compares some more entries. [`Reader::damage`] says from then on where they differ. An error
    /// that is no damage may pass: later steps go on with the next segment, and come back.
    pub fn step(&mut self) -> Result<(), Error> {
        let stepped = self.read_on();
        let Err(error) = &stepped else {
            return stepped;
        };
        if let Some(at) = error.damage() {
            leave_mark(&self.shared.ledger, error);
            self.shared.damage.get_or_init(|| at);
        } else {
            self.unreadable.get_or_insert(self.next);
            self.next = self.behind_segment();
        }
        stepped
    }

    /// The ledger.
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.shared))
    }

    fn read_on(&mut self) -> Result<(), Error> {
        let Some((mut entries, mut segment)) = self.reading.take().or_else(|| self.begin()) else {
            return Ok(());
        };
        for _ in 0..STEP_ENTRIES {
            let Some((_, entry)) = entries.next_entry()? else {
                self.next = segment.next();
                return self.shared.now_read(segment);
            };
            segment.push(FRAME_BYTES + entry.len());
        }
        self.reading = Some((entries, segment));
        Ok(())
    }

    /// Begins with the next segment. Archiving compared the segments that have left meanwhile.
    fn begin(&mut self) -> Option<(GenuineEntries, Segment)> {
        if self.next >= self.end {
            self.next = self.unreadable.take()?;
        }
        let segment = {
            let state = self.shared.state();
            self.next = self.next.max(state.first);
            let segment = Segment::holding(&state.segments, self.next);
            segment.filter(|_| self.next < self.end)?.clone()
        };
        let range = segment.first..segment.next().min(self.end);
        let entries = GenuineEntries::new(Arc::clone(&self.shared), &range);
        Some((entries, Segment::empty(segment.first)))
    }

    /// The first entry behind the segment of the next one.
    fn behind_segment(&self) -> u64 {
        let state = self.shared.state();
        let segment = Segment::holding(&state.segments, self.next);
        segment.map_or(self.end, |segment| segment.next().max(self.next + 1))
    }
}

/// Says to the next start that it has to hash everything.
fn leave_mark(ledger: &Path, why: &Error) {
    let path = mark(ledger);
    if let Err(error) = replace(&path, format!("{why}\n").as_bytes(), Access::Private) {
        tracing::error!(%error, "that the ledger is damaged could not be written down; the next start may not know it at once");
    }
}

/// Where damage is noted that was found while the ledger was in use.
pub(crate) fn mark(ledger: &Path) -> PathBuf {
    ledger.join("damaged")
}

impl Reader {
    /// The entries of a range in order, each compared with the tree.
    pub fn genuine_entries(&self, range: Range<u64>) -> Result<GenuineEntries, Error> {
        self.within(range.end)?;
        Ok(GenuineEntries::new(Arc::clone(&self.shared), &range))
    }

    /// The first damage that was found while the ledger was in use, if any.
    pub fn damage(&self) -> Option<DamageAt> {
        self.shared.damage.get().cloned()
    }
}

#[cfg(test)]
mod tests;
