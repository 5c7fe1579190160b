//! Tiles as of C2SP tlog-tiles: 256 hashes of one level in a file. A cache of the tree; entries are
//! the truth.

use std::path::{Path, PathBuf};

use crate::tree::{Hash, fold, node_hash};

/// Levels of the binary tree in a tile.
pub(crate) const TILE_LEVELS: u32 = 8;
/// Hashes in a full tile.
pub(crate) const TILE_WIDTH: u64 = 256;
/// Bytes of a full tile.
pub(crate) const TILE_BYTES: usize = 8192;

/// The path of a tile or entry bundle below the export's directory:
/// `tile/<level>/x001/x234/067[.p/<width>]`.
pub(crate) fn path(root: &Path, level: &str, index: u64, width: u64) -> PathBuf {
    let mut parts = vec![format!("{:03}", index % 1000)];
    let mut rest = index / 1000;
    while rest > 0 {
        parts.push(format!("x{:03}", rest % 1000));
        rest /= 1000;
    }
    let mut path = root.join("tile").join(level);
    for part in parts.iter().skip(1).rev() {
        path.push(part);
    }
    let name = parts.first().map_or("000", String::as_str);
    if width < TILE_WIDTH {
        path.push(format!("{name}.p"));
        path.push(width.to_string());
    } else {
        path.push(name);
    }
    path
}

/// The hashes of one tile and all complete subtrees above them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tile {
    /// `levels[h][i]` is the hash over `2^h` of the tile's hashes; at height 8 there is the tile's
    /// own root.
    levels: [Vec<Hash>; TILE_LEVELS as usize + 1],
}

impl Tile {
    /// Adds a hash on the right; returns the tile's root if that makes it full.
    pub(crate) fn push(&mut self, hash: Hash) -> Option<Hash> {
        let mut carry = Some(hash);
        for level in &mut self.levels {
            let Some(hash) = carry.take() else {
                break;
            };
            let left = if level.len() % 2 == 1 {
                level.last()
            } else {
                None
            };
            carry = left.map(|left| node_hash(left, &hash));
            level.push(hash);
        }
        self.root()
    }

    /// Hashes at the bottom.
    pub(crate) fn width(&self) -> u64 {
        self.levels.first().map_or(0, Vec::len) as u64
    }

    /// The hash over the whole tile, once it is full.
    pub(crate) fn root(&self) -> Option<Hash> {
        self.levels.last().and_then(|level| level.first()).copied()
    }

    /// A complete subtree of the tile.
    pub(crate) fn node(&self, height: u32, index: u64) -> Option<Hash> {
        let level = self.levels.get(usize::try_from(height).ok()?)?;
        level.get(usize::try_from(index).ok()?).copied()
    }

    /// The hashes at the bottom, as they are in the file.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.levels
            .first()
            .map_or_else(Vec::new, |hashes| hashes.concat())
    }

    /// A full tile from its file's content; none if it cannot be one. A file that was never synced
    /// may have a page of zeroes.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != TILE_BYTES {
            return None;
        }
        let mut tile = Self::default();
        let (hashes, _) = bytes.as_chunks::<32>();
        for hash in hashes {
            if hash.iter().all(|byte| *byte == 0) {
                return None;
            }
            tile.push(*hash);
        }
        Some(tile)
    }
}

/// The right edge of the tree: the partial tile of each level.
#[derive(Debug, Clone, Default)]
pub(crate) struct Edge {
    tiles: Vec<Tile>,
    size: u64,
}

/// A tile that has just become full.
#[derive(Debug)]
pub(crate) struct FullTile {
    pub(crate) level: u32,
    pub(crate) index: u64,
    pub(crate) tile: Tile,
}

impl FullTile {
    /// The first leaf below it.
    pub(crate) const fn first_leaf(&self) -> u64 {
        let shift = TILE_LEVELS * (self.level + 1);
        if shift >= u64::BITS {
            0
        } else {
            self.index << shift
        }
    }
}

impl Edge {
    /// The edge of `size` leaves from the hashes in its partial tiles, lowest level first; none if
    /// they are not as many as the size demands.
    pub(crate) fn of_tiles(size: u64, levels: &[Vec<Hash>]) -> Option<Self> {
        let mut tiles = Vec::new();
        for level in 0..u64::BITS / TILE_LEVELS {
            let place = usize::try_from(level).unwrap_or(usize::MAX);
            let hashes = levels.get(place).map_or(&[][..], Vec::as_slice);
            if hashes.len() as u64 != edge_width(size, level) {
                return None;
            }
            let mut tile = Tile::default();
            for hash in hashes {
                tile.push(*hash);
            }
            tiles.push(tile);
        }
        let fits = levels.len() <= tiles.len();
        fits.then_some(Self { tiles, size })
    }

    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf; full tiles leave the edge into `full`.
    pub(crate) fn push(&mut self, leaf: Hash, full: &mut Vec<FullTile>) {
        self.size += 1;
        self.carry(leaf, 0, full);
    }

    /// Adds a full tile of leaves by its root. The edge must end at a tile.
    pub(crate) fn push_tile(&mut self, root: Hash, full: &mut Vec<FullTile>) {
        debug_assert!(self.size.is_multiple_of(TILE_WIDTH), "a tile is open");
        self.size += TILE_WIDTH;
        if self.tiles.is_empty() {
            self.tiles.push(Tile::default());
        }
        self.carry(root, 1, full);
    }

    fn carry(&mut self, hash: Hash, from: u32, full: &mut Vec<FullTile>) {
        let mut carry = hash;
        let mut index = self.size >> (TILE_LEVELS * (from + 1));
        for level in from.. {
            let place = usize::try_from(level).unwrap_or(usize::MAX);
            if place >= self.tiles.len() {
                self.tiles.push(Tile::default());
            }
            let Some(tile) = self.tiles.get_mut(place) else {
                return;
            };
            let Some(root) = tile.push(carry) else {
                return;
            };
            full.push(FullTile {
                level,
                index: index.saturating_sub(1),
                tile: std::mem::take(tile),
            });
            index >>= TILE_LEVELS;
            carry = root;
        }
    }

    /// The complete subtree `(level, index)`, if it is on the edge; none if it is in a full tile.
    pub(crate) fn node(&self, level: u32, index: u64) -> Option<Hash> {
        let (tile_level, height) = (level / TILE_LEVELS, level % TILE_LEVELS);
        let per_tile = TILE_LEVELS - height;
        let tile = self.tiles.get(usize::try_from(tile_level).ok()?)?;
        let full = self.full_tiles(tile_level);
        if index >> per_tile != full {
            return None;
        }
        tile.node(height, index & ((1 << per_tile) - 1))
    }

    /// The partial tiles: level, index in the level, and the tile.
    pub(crate) fn partial(&self) -> impl Iterator<Item = (u32, u64, &Tile)> {
        let tiles = (0_u32..).zip(&self.tiles);
        tiles
            .filter(|(_, tile)| tile.width() > 0)
            .map(|(level, tile)| (level, self.full_tiles(level), tile))
    }

    /// The root over all leaves.
    pub(crate) fn root(&self) -> Hash {
        let mut subtrees = Vec::new();
        for level in (0..u64::BITS)
            .rev()
            .filter(|level| self.size >> level & 1 == 1)
        {
            // INVARIANT: the subtrees of the size's own bits are never in full tiles.
            subtrees.extend(self.node(level, (self.size >> level) - 1));
        }
        fold(&subtrees)
    }

    /// How many full tiles there are at a level.
    pub(crate) const fn full_tiles(&self, tile_level: u32) -> u64 {
        full_tiles(self.size, tile_level)
    }
}

/// How many hashes the partial tile of a level has in a tree of `size` leaves.
pub(crate) const fn edge_width(size: u64, tile_level: u32) -> u64 {
    let shift = TILE_LEVELS * tile_level;
    if shift >= u64::BITS {
        0
    } else {
        (size >> shift) % TILE_WIDTH
    }
}

/// How many full tiles of a level a tree of `size` leaves has.
pub(crate) const fn full_tiles(size: u64, tile_level: u32) -> u64 {
    let shift = TILE_LEVELS * (tile_level + 1);
    if shift >= u64::BITS { 0 } else { size >> shift }
}

#[cfg(test)]
mod tests;
