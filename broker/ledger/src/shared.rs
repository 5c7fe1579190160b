//! The part that the writer and all readers of an open ledger share: the durable state, and a cache
//! of tiles.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use crate::{
    Checkpoint, Error,
    attached::Attached,
    cursor::{self, Place, Reach},
    forest::{self, Forest},
    scan::DamageAt,
    segment::Segment,
    tiles::{Edge, FullTile, TILE_LEVELS, Tile, edge_width},
    tree::Hash,
};

/// Tiles kept in memory; one takes 16 KiB with its inner hashes.
const CACHED_TILES: usize = 64;

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) ledger: PathBuf,
    /// Where the segments are that this machine does not keep.
    pub(crate) archive: Option<Attached>,
    state: RwLock<State>,
    /// Most recently used first.
    cache: Mutex<VecDeque<(u32, u64, Arc<Tile>)>>,
    /// From which entries on readers need the ledger's own segments, and how many readers do.
    pins: Mutex<BTreeMap<u64, usize>>,
    /// The first damage that was found while the ledger was in use.
    pub(crate) damage: OnceLock<DamageAt>,
}

/// The durable part of the ledger.
#[derive(Debug)]
pub(crate) struct State {
    /// The first entry that this machine keeps.
    pub(crate) first: u64,
    pub(crate) segments: Vec<Segment>,
    /// Segments before `first` that a pinned reader still needs. Their copies are in an archive.
    pub(crate) leaving: Vec<Segment>,
    pub(crate) edge: Edge,
    pub(crate) checkpoint: Arc<Checkpoint>,
}

impl Shared {
    pub(crate) fn new(ledger: PathBuf, archive: Option<Attached>, state: State) -> Self {
        Self {
            ledger,
            archive,
            state: RwLock::new(state),
            cache: Mutex::new(VecDeque::with_capacity(CACHED_TILES + 1)),
            pins: Mutex::default(),
            damage: OnceLock::new(),
        }
    }

    // A panic under these locks can only come from want of memory; the state is then as good as
    // before.
    pub(crate) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the facts about a segment that opening did not read.
    pub(crate) fn now_read(&self, read: Segment) -> Result<(), Error> {
        let mut state = self.state_mut();
        let known = state.segments.iter_mut().find(|it| it.first == read.first);
        // It may have gone to the archive meanwhile, or it is the last one.
        let Some(known) = known.filter(|it| it.is_unread()) else {
            return Ok(());
        };
        if read.end != known.end {
            let reason = "the segment has entries of the next one";
            return Err(
                DamageAt::new(read.path(&self.ledger), read.end, read.next(), reason).into(),
            );
        }
        *known = read;
        Ok(())
    }

    pub(crate) fn locate(&self, index: u64, reach: Reach) -> Result<Place, Error> {
        let first = {
            let state = self.state();
            if index >= state.first {
                return cursor::locate(&self.ledger, &state.segments, index, reach);
            }
            if let Ok(place) = cursor::locate(&self.ledger, &state.leaving, index, reach) {
                return Ok(place);
            }
            state.first
        };
        let archive = self.archive.as_ref();
        let archive = archive.ok_or(Error::Archived { index, first })?;
        archive.locate(index, first, reach, &|leaf| self.node(0, leaf))
    }

    /// The first entry that can be read: with an archive the first of all.
    pub(crate) fn first_readable(&self, state: &State) -> u64 {
        match self.archive {
            Some(_) => 0,
            None => state.first,
        }
    }

    /// Keeps the segments from `index` on until the pin is dropped.
    pub(crate) fn pin(self: &Arc<Self>, index: u64) -> Result<Pin, Error> {
        // The lock is held until the pin is there, so that archiving finds it or has ended.
        let state = self.state();
        let first = self.first_readable(&state);
        if index < first {
            return Err(Error::Archived { index, first });
        }
        // The archive has the entries before the first segment.
        let from = index.max(state.first);
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        *pins.entry(from).or_default() += 1;
        let shared = Arc::clone(self);
        Ok(Pin { shared, from })
    }

    /// The first entry that a pinned reader needs.
    pub(crate) fn pinned(&self) -> Option<u64> {
        let pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        pins.keys().next().copied()
    }

    /// The right edge over the first `size` entries.
    pub(crate) fn edge_at(&self, size: u64) -> Result<Edge, Error> {
        let mut tiles = Vec::new();
        for level in 0..u64::BITS / TILE_LEVELS {
            let width = edge_width(size, level);
            let end = size >> (TILE_LEVELS * level);
            let hashes = (end - width..end).map(|index| self.node(TILE_LEVELS * level, index));
            tiles.push(hashes.collect::<Result<Vec<_>, _>>()?);
        }
        // INVARIANT: each level has the width that the size demands.
        Edge::of_tiles(size, &tiles).ok_or(Error::OutOfRange { asked: size, size })
    }

    /// Keeps tiles that have just become full, in memory and in their files.
    pub(crate) fn keep(&self, full: Vec<FullTile>) {
        for tile in full {
            forest::write(&self.ledger, &tile);
            self.remember(tile.level, tile.index, Arc::new(tile.tile));
        }
    }

    /// A complete subtree, from the edge or a tile.
    pub(crate) fn node(&self, level: u32, index: u64) -> Result<Hash, Error> {
        if let Some(hash) = self.state().edge.node(level, index) {
            return Ok(hash);
        }
        let height = level % TILE_LEVELS;
        let per_tile = TILE_LEVELS - height;
        let tile = self.tile(level / TILE_LEVELS, index >> per_tile)?;
        // INVARIANT: full tiles have all their nodes.
        tile.node(height, index & ((1 << per_tile) - 1))
            .ok_or_else(|| Error::OutOfRange {
                asked: index << level,
                size: self.state().edge.size(),
            })
    }

    /// A full tile that agrees with the tile above it, and through that with the edge, which was
    /// compared with a signed root.
    pub(crate) fn tile(&self, level: u32, index: u64) -> Result<Arc<Tile>, Error> {
        if let Some(tile) = self.recall(level, index) {
            return Ok(tile);
        }
        let expected = self.node(TILE_LEVELS * (level + 1), index)?;
        let tile = match forest::read(&self.ledger, level, index) {
            Some(tile) if tile.root() == Some(expected) => tile,
            _ => self.rebuild(level, index, expected)?,
        };
        let tile = Arc::new(tile);
        self.remember(level, index, Arc::clone(&tile));
        Ok(tile)
    }

    fn rebuild(&self, level: u32, index: u64, expected: Hash) -> Result<Tile, Error> {
        let first = index << (TILE_LEVELS * (level + 1));
        let (mut segments, kept, size) = {
            let state = self.state();
            (state.segments.clone(), state.first, state.edge.size())
        };
        if first < kept
            && let Some(archive) = &self.archive
        {
            segments.splice(0..0, archive.listed(kept)?);
        }
        // The tiles below save the entries. A tile below may be wrong as well; then the entries
        // decide.
        let mut failed = None;
        for trusted in [size, 0] {
            let mut forest = Forest {
                ledger: &self.ledger,
                segments: &segments,
                trusted,
                keeps: false,
                rebuilt: 0,
            };
            let tile = match forest.made_of_those_below(level, index) {
                Ok(tile) if tile.root() == Some(expected) => tile,
                made => {
                    failed = made.err();
                    continue;
                }
            };
            let full = FullTile { level, index, tile };
            forest::write(&self.ledger, &full);
            tracing::warn!(
                level,
                index,
                "a tile was missing or wrong and was made again"
            );
            return Ok(full.tile);
        }
        if first < kept && self.archive.is_none() {
            return Err(Error::Archived {
                index: first,
                first: kept,
            });
        }
        if let Some(error) = failed {
            return Err(error);
        }
        let reason = "an entry from here on is not the one that was signed";
        Err(DamageAt::of_entry(&self.ledger, &segments, first, reason).into())
    }

    fn recall(&self, level: u32, index: u64) -> Option<Arc<Tile>> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let place = cache
            .iter()
            .position(|(l, i, _)| (*l, *i) == (level, index))?;
        let found = cache.remove(place)?;
        let tile = Arc::clone(&found.2);
        cache.push_front(found);
        Some(tile)
    }

    fn remember(&self, level: u32, index: u64, tile: Arc<Tile>) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.push_front((level, index, tile));
        cache.truncate(CACHED_TILES);
    }
}

/// Keeps the ledger's own segments from an entry on: archiving deletes them only in a later run.
#[derive(Debug)]
pub struct Pin {
    shared: Arc<Shared>,
    from: u64,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let pins = &self.shared.pins;
        let mut pins = pins.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(readers) = pins.get_mut(&self.from) {
            *readers = readers.saturating_sub(1);
            if *readers == 0 {
                pins.remove(&self.from);
            }
        }
    }
}
