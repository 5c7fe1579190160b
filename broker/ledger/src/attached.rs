//! The archive of a ledger, for reading old entries from.
//!
//! A start does not look at the archive. When a caller asks for an entry, the ledger reads and
//! hashes the entry's whole segment, and each entry must have the hash that the tree has. So the
//! ledger believes an entry of an archive as it believes an entry of its own segments.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    Error, Hash,
    cursor::{Place, Reach, place_in},
    genuine::NOT_SIGNED,
    scan::{self, Content, SegmentFile, read_open_segment},
    segment::Segment,
    tree::leaf_hash,
};

#[derive(Debug)]
pub(crate) struct Attached {
    directory: Arc<Path>,
    /// The segments that were hashed since the start.
    hashed: Mutex<BTreeMap<u64, Segment>>,
}

impl Attached {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self {
            directory: directory.into(),
            hashed: Mutex::default(),
        }
    }

    /// The place of an entry. `first` is the first entry that the ledger itself keeps, and `leaf`
    /// the hash that the tree has of an entry.
    pub(crate) fn locate(
        &self,
        index: u64,
        first: u64,
        reach: Reach,
        leaf: &dyn Fn(u64) -> Result<Hash, Error>,
    ) -> Result<Place, Error> {
        let mut hashed = self.hashed.lock().unwrap_or_else(PoisonError::into_inner);
        let known = hashed.range(..=index).next_back();
        if let Some((_, segment)) = known.filter(|(_, segment)| index < segment.next()) {
            return Ok(place_in(segment, &self.directory, index, reach));
        }
        let listed = self.listed(first)?;
        let holding = Segment::holding(&listed, index);
        let listed = holding.ok_or_else(|| Error::NotInArchive {
            path: self.directory.to_path_buf(),
            index,
        })?;
        let segment = hash(listed, &self.directory, leaf)?.in_archive(&self.directory);
        let place = place_in(&segment, &self.directory, index, reach);
        hashed.insert(segment.first, segment);
        Ok(place)
    }

    /// The segments by the names of their files; nothing of them was read. A gap between two of
    /// them shows when the first one is hashed.
    pub(crate) fn listed(&self, first: u64) -> Result<Vec<Segment>, Error> {
        let mut firsts = scan::list(&self.directory)?;
        firsts.retain(|it| *it < first);
        let ends = firsts.iter().skip(1).copied().chain([first]);
        let listed = firsts.iter().zip(ends).map(|(begin, end)| {
            let path = Segment::empty(*begin).path(&self.directory);
            let bytes = fs::metadata(&path).map_err(Error::io("read", &path))?;
            Ok(Segment::unread(*begin, end, bytes.len()).in_archive(&self.directory))
        });
        listed.collect()
    }
}

/// Reads a segment in `directory` and compares each entry with the tree. It must have exactly the
/// entries that `expected` has.
pub(crate) fn hash(
    expected: &Segment,
    directory: &Path,
    leaf: &dyn Fn(u64) -> Result<Hash, Error>,
) -> Result<Segment, Error> {
    let path = Segment::empty(expected.first).path(directory);
    let file = fs::File::open(&path).map_err(Error::io("read", path))?;
    hash_open(file, expected, directory, leaf)
}

/// The same of a file that is open already; `directory` is for messages alone.
pub(crate) fn hash_open(
    opened: fs::File,
    expected: &Segment,
    directory: &Path,
    leaf: &dyn Fn(u64) -> Result<Hash, Error>,
) -> Result<Segment, Error> {
    let file = SegmentFile {
        ledger: directory,
        first: expected.first,
        is_last: false,
    };
    let damaged = |offset, index, reason: &str| Error::DamagedArchive {
        segment: file.path(),
        offset,
        index,
        reason: reason.to_owned(),
    };
    let mut failed = None;
    let mut offset = crate::segment::HEADER_BYTES;
    let content = read_open_segment(opened, &file, 0, &mut |frame| {
        if failed.is_none() && frame.index < expected.next() {
            match leaf(frame.index) {
                Ok(signed) if signed == leaf_hash(frame.bytes) => {}
                Ok(_) => failed = Some(damaged(offset, frame.index, NOT_SIGNED)),
                Err(error) => failed = Some(error),
            }
        }
        offset += frame.disk_bytes() as u64;
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    match content {
        Content::Headless => Err(damaged(0, expected.first, "the segment's header is wrong")),
        Content::Entries(found, Some(bad)) => Err(damaged(found.end, found.next(), bad.reason())),
        Content::Entries(found, None) if found.next() != expected.next() => {
            let reason = match found.next() < expected.next() {
                true => "the entries from here on are missing",
                false => "the segment has entries of the next one",
            };
            let index = found.next().min(expected.next());
            Err(damaged(found.end, index, reason))
        }
        Content::Entries(found, None) => Ok(found),
    }
}
