//! The part that the writer and all readers of an open ledger share: the durable state, and a cache
//! of tiles.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use crate::{
    Checkpoint, Error,
    cursor::{self, Place},
    forest::{self, Forest},
    scan::DamageAt,
    segment::Segment,
    tiles::{Edge, FullTile, TILE_LEVELS, Tile},
    tree::Hash,
};

/// Tiles kept in memory; one takes 16 KiB with its inner hashes.
const CACHED_TILES: usize = 64;

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) ledger: PathBuf,
    state: RwLock<State>,
    /// Most recently used first.
    cache: Mutex<VecDeque<(u32, u64, Arc<Tile>)>>,
}

/// The durable part of the ledger.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) segments: Vec<Segment>,
    pub(crate) edge: Edge,
    pub(crate) checkpoint: Arc<Checkpoint>,
}

impl Shared {
    pub(crate) fn new(ledger: PathBuf, state: State) -> Self {
        Self {
            ledger,
            state: RwLock::new(state),
            cache: Mutex::new(VecDeque::with_capacity(CACHED_TILES + 1)),
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

    pub(crate) fn locate(&self, index: u64) -> Option<Place> {
        cursor::locate(&self.ledger, &self.state().segments, index)
    }

    pub(crate) fn locate_one(&self, index: u64) -> Option<Place> {
        cursor::locate_one(&self.ledger, &self.state().segments, index)
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
    fn tile(&self, level: u32, index: u64) -> Result<Arc<Tile>, Error> {
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
        let segments = self.state().segments.clone();
        let mut forest = Forest {
            ledger: &self.ledger,
            segments: &segments,
            trusted: 0,
            keeps: false,
            rebuilt: 0,
        };
        let tile = forest.full(level, index)?;
        if tile.root() == Some(expected) {
            let full = FullTile { level, index, tile };
            forest::write(&self.ledger, &full);
            tracing::warn!(
                level,
                index,
                "a tile was missing or wrong and was made again"
            );
            return Ok(full.tile);
        }
        let first = index << (TILE_LEVELS * (level + 1));
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
