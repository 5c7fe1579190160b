//! Verifying a ledger's directory, with the archives of its old segments or without them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Extent, PROGRESS_EVERY, Verified, VerifyError, continues};
use crate::{
    Checkpoint, Error, Hash, VerifyingKey,
    base::Base,
    checkpoint::{self, checkpoint_path},
    forest,
    scan::{self, SegmentFile},
    tiles::{Edge, FullTile, TILE_LEVELS, TILE_WIDTH},
    tree::leaf_hash,
};

/// The directory of a ledger, and the archives that have its old segments.
#[derive(Debug, Clone, Copy)]
pub struct Directory<'a> {
    /// The ledger's own directory.
    pub ledger: &'a Path,
    /// The archives, in any order. Without them the entries there are not verified.
    pub archives: &'a [PathBuf],
}

/// Verifies the directory of a ledger, also while a broker appends to it; changes nothing.
///
/// Every entry is hashed, and every tile file that is there is compared.
pub fn verify_dir(
    ledger: &Path,
    key: &VerifyingKey,
    older: Option<&Checkpoint>,
    progress: &mut dyn FnMut(u64),
) -> Result<Verified, VerifyError> {
    let archives = &[];
    Directory { ledger, archives }.verify(key, older, progress)
}

impl Directory<'_> {
    /// Verifies all entries that are there as one history. Changes nothing.
    pub fn verify(
        self,
        key: &VerifyingKey,
        older: Option<&Checkpoint>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Verified, VerifyError> {
        let path = checkpoint_path(self.ledger);
        let checkpoint = checkpoint::read(&path, key).map_err(VerifyError::Ledger)?;
        let history = self.history(key)?;
        let first = history.begin.size();
        let mut reading = Reading::new(self.ledger, &history, &checkpoint, older);
        let (files, signed) = (&history.files, checkpoint.size());
        let scan = scan::scan(self.ledger, files, first, signed, &mut |entry| {
            reading.take(entry.bytes);
            if reading.edge.size().is_multiple_of(PROGRESS_EVERY) {
                progress(reading.edge.size());
            }
        })
        .map_err(VerifyError::Ledger)?;
        progress(reading.edge.size());
        if let Some(damage) = scan.damage {
            let in_archive = history
                .base
                .as_ref()
                .is_some_and(|it| damage.index < it.size());
            let error = match in_archive && !self.archives.is_empty() {
                true => damage.in_archive(),
                false => damage.into(),
            };
            return Err(VerifyError::Ledger(error));
        }
        if reading.joins == Some(false) {
            return Err(VerifyError::Ledger(history.foreign(reading.differs)));
        }
        if reading.root.as_ref() != Some(checkpoint.root()) {
            return Err(VerifyError::Root { size: signed });
        }
        if let Some(path) = reading.wrong_tile {
            return Err(VerifyError::Tile { path });
        }
        let continued = match older {
            Some(older) if older.size() < first => {
                let older = older.size();
                return Err(VerifyError::InArchive { older, first });
            }
            Some(older) => Some(continues(older, &checkpoint, reading.older_root)?),
            None => None,
        };
        Ok(Verified {
            continues: continued,
            entries: signed.saturating_sub(first),
            extent: match first {
                0 => Extent::Full,
                first => Extent::From(first),
            },
            unsigned: reading.edge.size().saturating_sub(signed),
            newest: Some(reading.newest).filter(|entry| !entry.is_empty()),
            checkpoint,
        })
    }

    /// The segment files in the order of their entries, and the tree before them.
    fn history(&self, key: &VerifyingKey) -> Result<History<'_>, VerifyError> {
        // In this order: a broker that archives meanwhile replaces the base first, and deletes
        // only segments before the new one.
        let mut files = SegmentFile::all(self.ledger).map_err(VerifyError::Ledger)?;
        let base = Base::read(self.ledger, key).map_err(VerifyError::Ledger)?;
        let archived = base.as_ref().map_or(0, Base::size);
        // The segments before it are in an archive. They were not deleted yet, or came back.
        files.retain(|file| file.first >= archived);
        let begin = match (&base, self.archives.is_empty()) {
            (None, false) => {
                return Err(VerifyError::NothingArchived {
                    ledger: self.ledger.to_owned(),
                });
            }
            (None, true) => Edge::default(),
            (Some(base), true) => base.edge().clone(),
            (Some(_), false) => {
                let old = self.archived_files(archived)?;
                let begin = self.begin_of(&old, key)?;
                files.splice(0..0, old);
                begin
            }
        };
        Ok(History { files, begin, base })
    }

    /// The segment files of the archives, each once.
    fn archived_files(&self, before: u64) -> Result<Vec<SegmentFile<'_>>, VerifyError> {
        let mut files = Vec::new();
        for archive in self.archives {
            files.extend(SegmentFile::all(archive).map_err(VerifyError::Ledger)?);
        }
        files.retain(|file| file.first < before);
        files.sort_by_key(|file| file.first);
        files.dedup_by_key(|file| file.first);
        for file in &mut files {
            file.is_last = false;
        }
        Ok(files)
    }

    /// The tree before the oldest archived segment, from the archive that begins there.
    fn begin_of(&self, old: &[SegmentFile<'_>], key: &VerifyingKey) -> Result<Edge, VerifyError> {
        let Some(oldest) = old.first() else {
            let path = self.archives.first().cloned().unwrap_or_default();
            let index = 0;
            return Err(VerifyError::Ledger(Error::NotInArchive { path, index }));
        };
        if oldest.first == 0 {
            return Ok(Edge::default());
        }
        let base = Base::read(oldest.ledger, key).map_err(VerifyError::Ledger)?;
        match base.filter(|base| base.size() == oldest.first) {
            Some(base) => Ok(base.into_edge()),
            None => Err(VerifyError::Ledger(Error::NotInArchive {
                path: oldest.ledger.to_owned(),
                index: oldest.first - 1,
            })),
        }
    }
}

/// The files of one history.
struct History<'a> {
    files: Vec<SegmentFile<'a>>,
    /// The tree over the entries before them.
    begin: Edge,
    /// Where the ledger's own segments begin.
    base: Option<Base>,
}

impl History<'_> {
    /// The archive does not have the entries that were archived.
    fn foreign(&self, differs: Option<u64>) -> Error {
        let index = differs.unwrap_or_else(|| self.begin.size());
        let holding = self.files.iter().rev().find(|file| file.first <= index);
        let exactly = match differs {
            Some(_) => "the entry is not the one that was signed",
            None => "an entry from here on is not the one that was signed",
        };
        Error::DamagedArchive {
            segment: holding.map(SegmentFile::path).unwrap_or_default(),
            offset: 0,
            index,
            reason: exactly.to_owned(),
        }
    }
}

/// The tree over the entries so far.
struct Reading<'a> {
    ledger: &'a Path,
    edge: Edge,
    full: Vec<FullTile>,
    base: Option<&'a Base>,
    signed: u64,
    older: Option<u64>,
    root: Option<Hash>,
    older_root: Option<Hash>,
    /// Whether the archive leads to the edge that the ledger begins with.
    joins: Option<bool>,
    /// The first entry that is not the one in its tile.
    differs: Option<u64>,
    wrong_tile: Option<PathBuf>,
    newest: Vec<u8>,
}

impl<'a> Reading<'a> {
    fn new(
        ledger: &'a Path,
        history: &'a History<'_>,
        checkpoint: &Checkpoint,
        older: Option<&Checkpoint>,
    ) -> Self {
        let mut reading = Self {
            ledger,
            edge: history.begin.clone(),
            full: Vec::new(),
            base: history.base.as_ref(),
            signed: checkpoint.size(),
            older: older.map(Checkpoint::size),
            root: None,
            older_root: None,
            joins: None,
            differs: None,
            wrong_tile: None,
            newest: Vec::new(),
        };
        reading.mark();
        reading
    }

    fn take(&mut self, entry: &[u8]) {
        self.edge.push(leaf_hash(entry), &mut self.full);
        self.newest.clear();
        self.newest.extend_from_slice(entry);
        self.mark();
        for tile in std::mem::take(&mut self.full) {
            self.compare(&tile);
        }
    }

    fn mark(&mut self) {
        let size = self.edge.size();
        if size == self.signed {
            self.root = Some(self.edge.root());
        }
        if Some(size) == self.older {
            self.older_root = Some(self.edge.root());
        }
        if let Some(base) = self.base
            && size == base.size()
        {
            self.joins = Some(self.edge.root() == base.edge().root());
            self.differs = self
                .differs
                .or_else(|| first_difference(&self.edge, base.edge()));
        }
    }

    /// Compares a full tile with its file. A missing file, or one too young to be finished, is no
    /// matter.
    fn compare(&mut self, tile: &FullTile) {
        let covered = self.signed >> (TILE_LEVELS * (tile.level + 1));
        let path = forest::file(self.ledger, tile.level, tile.index);
        if tile.index >= covered {
            return;
        }
        let Ok(kept) = fs::read(&path) else {
            return;
        };
        let found = tile.tile.bytes();
        if kept == found {
            return;
        }
        if tile.level == 0 && self.differs.is_none() {
            let place = first_hash(&kept, &found);
            self.differs = place.map(|place| tile.index * TILE_WIDTH + place);
        }
        self.wrong_tile.get_or_insert(path);
    }
}

/// The first hash in which two tiles differ.
fn first_hash(one: &[u8], other: &[u8]) -> Option<u64> {
    let ((one, _), (other, _)) = (one.as_chunks::<32>(), other.as_chunks::<32>());
    let mut hashes = (0_u64..).zip(one.iter().zip(other));
    let place = hashes.find(|(_, (one, other))| one != other);
    place.map(|(place, _)| place)
}

/// The first entry in which the lowest tiles of two edges of one size differ.
fn first_difference(one: &Edge, other: &Edge) -> Option<u64> {
    let lowest = |edge: &Edge| {
        let mut partial = edge.partial();
        partial.find_map(|(level, index, tile)| (level == 0).then(|| (index, tile.bytes())))
    };
    let ((index, one), (_, other)) = (lowest(one)?, lowest(other)?);
    first_hash(&one, &other).map(|place| index * TILE_WIDTH + place)
}
