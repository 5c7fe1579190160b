//! Full tiles, made from the tile files below them that can be trusted, else from entries.
//!
//! Tile files are a cache and never synced. Each is compared with the hash in the tile above it
//! whenever it is read, and with the entries when these are hashed.

use std::{
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
};

use crate::{
    Error,
    cursor::{Cursor, Reach, locate},
    segment::Segment,
    tiles::{self, FullTile, TILE_LEVELS, TILE_WIDTH, Tile},
    tree::leaf_hash,
};

/// Makes tiles for one state of the ledger.
#[derive(Debug)]
pub(crate) struct Forest<'a> {
    pub(crate) ledger: &'a Path,
    pub(crate) segments: &'a [Segment],
    /// Tile files that end at or before this entry are read; later tiles are made anew.
    pub(crate) trusted: u64,
    /// Whether tiles that were made anew are written to their files.
    pub(crate) keeps: bool,
    /// How many tiles were made anew.
    pub(crate) rebuilt: u64,
}

impl Forest<'_> {
    /// Makes a full tile again and writes its file. The tiles below it are right.
    pub(crate) fn remake(&mut self, level: u32, index: u64) -> Result<(), Error> {
        let first = index * TILE_WIDTH;
        let tile = self.tile_of(level, first..first + TILE_WIDTH)?;
        write(self.ledger, &FullTile { level, index, tile });
        self.rebuilt += 1;
        Ok(())
    }

    /// A full tile made of the level below it, without its own file.
    pub(crate) fn made_of_those_below(&mut self, level: u32, index: u64) -> Result<Tile, Error> {
        let first = index * TILE_WIDTH;
        self.tile_of(level, first..first + TILE_WIDTH)
    }

    /// A full tile, from its file if that can be trusted.
    pub(crate) fn full(&mut self, level: u32, index: u64) -> Result<Tile, Error> {
        let covered = self.trusted >> (TILE_LEVELS * (level + 1));
        if index < covered
            && let Some(tile) = read(self.ledger, level, index)
        {
            return Ok(tile);
        }
        let first = index * TILE_WIDTH;
        let tile = self.tile_of(level, first..first + TILE_WIDTH)?;
        self.rebuilt += 1;
        if !self.keeps {
            return Ok(tile);
        }
        let full = FullTile { level, index, tile };
        write(self.ledger, &full);
        Ok(full.tile)
    }

    /// The tile over some hashes of a level, each made from the level below.
    fn tile_of(&mut self, level: u32, hashes: Range<u64>) -> Result<Tile, Error> {
        let mut tile = Tile::default();
        let Some(below) = level.checked_sub(1) else {
            let mut cursor = Cursor::new(&hashes);
            let place = |index| locate(self.ledger, self.segments, index, Reach::Segment);
            while let Some((_, entry)) = cursor.next(place)? {
                tile.push(leaf_hash(entry));
            }
            return Ok(tile);
        };
        for index in hashes {
            // INVARIANT: `full` returns full tiles, and full tiles have a root.
            if let Some(root) = self.full(below, index)?.root() {
                tile.push(root);
            }
        }
        Ok(tile)
    }
}

/// Where a full tile is kept.
pub(crate) fn file(ledger: &Path, level: u32, index: u64) -> PathBuf {
    tiles::path(ledger, &level.to_string(), index, TILE_WIDTH)
}

/// A tile's file, if it is there and whole.
pub(crate) fn read(ledger: &Path, level: u32, index: u64) -> Option<Tile> {
    Tile::from_bytes(&bytes(ledger, level, index)?)
}

/// The content of a tile's file, if it is there.
pub(crate) fn bytes(ledger: &Path, level: u32, index: u64) -> Option<Vec<u8>> {
    fs::read(file(ledger, level, index)).ok()
}

/// Keeps a full tile. A failure does no harm: the tile is made again from the entries when it is
/// needed.
pub(crate) fn write(ledger: &Path, full: &FullTile) {
    let path = file(ledger, full.level, full.index);
    if let Err(error) = store(ledger, full.level, full.index, &full.tile.bytes()) {
        tracing::warn!(path = %path.display(), %error, "a tile could not be kept; proofs will be slower until it is made again");
    }
}

/// Writes the file of a full tile; nothing makes it durable.
pub(crate) fn store(ledger: &Path, level: u32, index: u64, bytes: &[u8]) -> io::Result<()> {
    let path = file(ledger, level, index);
    match fs::write(&path, bytes) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&path, bytes)
        }
        written => written,
    }
}
