//! Walks over entries by index, across segment files, with one buffer.

use std::path::{Path, PathBuf};

use crate::{
    Error,
    scan::damaged_since,
    segment::{FrameReader, Next, Segment},
};

/// The place to start reading for an entry.
#[derive(Debug)]
pub(crate) struct Place {
    path: PathBuf,
    /// The entry that begins at `offset`; at or before the wanted one.
    index: u64,
    offset: u64,
    /// The place to stop reading: in the file, and by index.
    end: u64,
    next: u64,
}

/// How far a reader goes on from an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// To the end of its segment.
    Segment,
    /// To its own end.
    Entry,
}

/// Finds the place of an entry among segments in order.
pub(crate) fn locate(
    ledger: &Path,
    segments: &[Segment],
    wanted: u64,
    reach: Reach,
) -> Result<Place, Error> {
    let segment = Segment::holding(segments, wanted).filter(|found| wanted < found.next());
    let segment = segment.ok_or(Error::OutOfRange {
        asked: wanted,
        size: wanted,
    })?;
    Ok(place_in(segment, ledger, wanted, reach))
}

/// The place of an entry in its segment.
pub(crate) fn place_in(segment: &Segment, ledger: &Path, wanted: u64, reach: Reach) -> Place {
    let (index, offset) = segment.before(wanted);
    Place {
        path: segment.path(ledger),
        index,
        offset,
        end: match reach {
            Reach::Segment => segment.end,
            Reach::Entry => segment.block_end(wanted),
        },
        next: segment.next(),
    }
}

/// A position between two entries.
#[derive(Debug)]
pub(crate) struct Cursor {
    /// The open segment, its path, and the index at which reading it stops.
    open: Option<(FrameReader, PathBuf, u64)>,
    next: u64,
    end: u64,
}

impl Cursor {
    /// Stands before `range.start`. The caller has checked that the ledger has all of the range.
    pub(crate) const fn new(range: &std::ops::Range<u64>) -> Self {
        Self {
            open: None,
            next: range.start,
            end: range.end,
        }
    }

    /// How many entries are left.
    pub(crate) const fn left(&self) -> u64 {
        self.end.saturating_sub(self.next)
    }

    /// The index of the next entry, if there is one.
    pub(crate) fn position(&self) -> Option<u64> {
        (self.next < self.end).then_some(self.next)
    }

    /// The next entry and its index; calls `locate` at the beginning of each segment.
    pub(crate) fn next(
        &mut self,
        locate: impl FnOnce(u64) -> Result<Place, Error>,
    ) -> Result<Option<(u64, &[u8])>, Error> {
        if self.next >= self.end {
            return Ok(None);
        }
        let wanted = self.next;
        if self
            .open
            .as_ref()
            .is_none_or(|(_, _, next)| wanted >= *next)
        {
            self.open = None;
            self.open = Some(start(locate(wanted)?, wanted)?);
        }
        let Some((reader, path, _)) = &mut self.open else {
            return Ok(None);
        };
        self.next += 1;
        let offset = reader.position();
        match reader.next(wanted).map_err(Error::io("read", &*path))? {
            Next::Entry(frame) => Ok(Some((wanted, frame.bytes))),
            Next::Bad(bad) => Err(damaged_since(path, offset, wanted, Some(bad))),
            Next::End => Err(damaged_since(path, offset, wanted, None)),
        }
    }
}

/// Opens a segment and passes over the entries before the wanted one.
fn start(place: Place, wanted: u64) -> Result<(FrameReader, PathBuf, u64), Error> {
    let Place {
        path,
        index,
        offset,
        end,
        next,
    } = place;
    let mut reader =
        FrameReader::open(&path, offset, end).map_err(Error::io("open", path.as_path()))?;
    for passed in index..wanted {
        let offset = reader.position();
        match reader
            .next(passed)
            .map_err(Error::io("read", path.as_path()))?
        {
            Next::Entry(_) => {}
            Next::Bad(bad) => return Err(damaged_since(&path, offset, passed, Some(bad))),
            Next::End => return Err(damaged_since(&path, offset, passed, None)),
        }
    }
    Ok((reader, path, next))
}
