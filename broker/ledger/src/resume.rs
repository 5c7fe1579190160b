//! Opening a large ledger without hashing all of it first.
//!
//! The checkpoint signs a root. The root follows from the tile files and from the last entries, which
//! are in no full tile. If they lead to the signed root, the tiles are those of the signed entries:
//! SHA-256 lets no other hashes lead there. The tree is known then, and the ledger believes an entry
//! once it was compared with the tree. A replay compares each entry that it reads, and
//! [`Unhashed`](crate::Unhashed) compares all others while the ledger is in use.
//!
//! If the files differ from this in any way, the survey hashes all entries and names the damage.

use std::{
    fs::{self, File},
    path::Path,
    thread,
};

use crate::{
    Checkpoint, Error, Hash, forest,
    scan::{self, Scan, SegmentFile},
    segment::{self, FrameReader, Segment},
    survey::Survey,
    tiles::{Edge, TILE_LEVELS, TILE_WIDTH, edge_width, full_tiles},
    tree::leaf_hash,
};

/// The ledger behind `base`, with the entries from the last signed full tile on hashed. `None` when
/// the files hold no more than `hash_first_bytes`, or when the survey has to look at them.
pub(crate) fn resume(
    ledger: &Path,
    signed: &Checkpoint,
    base: u64,
    hash_first_bytes: u64,
) -> Result<Option<Survey>, Error> {
    let floor = full_tiles(signed.size(), 0) * TILE_WIDTH;
    let files = SegmentFile::from(ledger, base)?;
    let split = files.partition_point(|file| file.first <= floor);
    let Some(split) = split.checked_sub(1).filter(|_| floor > base) else {
        return Ok(None);
    };
    let (before, behind) = files.split_at(split);
    let Some(unread) = unread(before, behind, base)? else {
        return Ok(None);
    };
    let mut bytes: u64 = unread.iter().map(|segment| segment.end).sum();
    for file in behind {
        bytes += length(file)?;
    }
    if bytes <= hash_first_bytes {
        return Ok(None);
    }
    let (edge, read) = thread::scope(|scope| {
        // The tiles and the last segment take about as long.
        let name = "ledger-tiles".to_owned();
        let tiles = thread::Builder::new().name(name);
        let tiles = tiles.spawn_scoped(scope, || edge_over_tiles(ledger, floor));
        let read = read(ledger, behind, floor, signed.size());
        let edge = match tiles {
            Ok(tiles) => tiles.join().unwrap_or_default(),
            Err(_) => edge_over_tiles(ledger, floor),
        };
        (edge, read)
    });
    let (scan, leaves) = read?;
    let edge = edge.filter(|edge| scan.damage.is_none() && has_tiles_across(ledger, edge, base));
    let Some(edge) = edge else {
        return Ok(None);
    };
    Ok(joined(ledger, signed, edge, &leaves).map(|survey| Survey {
        scan: Scan {
            first: base,
            segments: [unread, scan.segments].concat(),
            ..scan
        },
        ..survey
    }))
}

/// The segments that are not read, by the names of their files. `None` when one is missing, is no
/// segment, or does not end where the next one begins.
fn unread(
    before: &[SegmentFile<'_>],
    behind: &[SegmentFile<'_>],
    base: u64,
) -> Result<Option<Vec<Segment>>, Error> {
    let mut expected = base;
    let mut found = Vec::new();
    let ends = before.iter().chain(behind).skip(1).map(|file| file.first);
    for (file, next) in before.iter().zip(ends) {
        let path = file.path();
        let read = |e| Error::io("read", path.as_path())(e);
        let opened = File::open(&path).map_err(read)?;
        let end = opened.metadata().map_err(read)?.len();
        let ends = segment::ends_before(&opened, next).map_err(read)?;
        let begins = FrameReader::over(opened, 0, end).header_is(file.first);
        if file.first != expected || !begins.map_err(read)? || !ends {
            return Ok(None);
        }
        found.push(Segment::unread(file.first, next, end));
        expected = next;
    }
    let goes_on = behind.first().is_some_and(|file| file.first == expected);
    Ok(goes_on.then_some(found))
}

fn length(file: &SegmentFile<'_>) -> Result<u64, Error> {
    let path = file.path();
    let found = fs::metadata(&path).map_err(Error::io("read", path))?;
    Ok(found.len())
}

/// Reads the last segments, and hashes their entries from `floor` on.
fn read(
    ledger: &Path,
    files: &[SegmentFile<'_>],
    floor: u64,
    signed: u64,
) -> Result<(Scan, Vec<Hash>), Error> {
    let first = files.first().map_or(floor, |file| file.first);
    let mut leaves = Vec::new();
    let scan = scan::scan(ledger, files, first, signed, &mut |frame| {
        if frame.index >= floor {
            leaves.push(leaf_hash(frame.bytes));
        }
    })?;
    Ok((scan, leaves))
}

/// The right edge over the first `size` entries, which fill their tiles, as the tile files have it.
fn edge_over_tiles(ledger: &Path, size: u64) -> Option<Edge> {
    let mut levels = vec![Vec::new()];
    for level in 1..u64::BITS / TILE_LEVELS {
        let end = full_tiles(size, level - 1);
        let roots = (end - edge_width(size, level)..end)
            .map(|index| forest::read(ledger, level - 1, index)?.root());
        levels.push(roots.collect::<Option<_>>()?);
    }
    Edge::of_tiles(size, &levels)
}

/// Whether the tiles are right that some archived entries and some kept ones share. They cannot be
/// made again from the kept ones alone: the survey makes them with the base.
fn has_tiles_across(ledger: &Path, edge: &Edge, base: u64) -> bool {
    (0..u64::BITS / TILE_LEVELS - 1).all(|level| {
        let index = full_tiles(base, level);
        if edge_width(base, level) == 0 || index >= edge.full_tiles(level) {
            return true;
        }
        let above = TILE_LEVELS * (level + 1);
        let expected = edge.node(above, index).or_else(|| {
            let parent = forest::read(ledger, level + 1, index / TILE_WIDTH)?;
            parent.node(0, index % TILE_WIDTH)
        });
        let tile = forest::read(ledger, level, index);
        expected.is_some() && tile.and_then(|tile| tile.root()) == expected
    })
}

/// Adds the hashed leaves to the edge. `None` unless they lead to the signed root.
fn joined(ledger: &Path, signed: &Checkpoint, mut edge: Edge, leaves: &[Hash]) -> Option<Survey> {
    let hashed_from = edge.size();
    let mut signed_root = (signed.size() == edge.size()).then(|| edge.root());
    let mut full = Vec::new();
    for leaf in leaves {
        edge.push(*leaf, &mut full);
        if edge.size() == signed.size() {
            signed_root = Some(edge.root());
        }
    }
    // Tile files behind the checkpoint are a cache like the others.
    full.retain(|it| forest::bytes(ledger, it.level, it.index) != Some(it.tile.bytes()));
    let mut wrong_tiles: Vec<_> = full.iter().map(|it| (it.level, it.index)).collect();
    wrong_tiles.sort_unstable();
    (signed_root == Some(*signed.root())).then(|| Survey {
        scan: Scan::from(hashed_from),
        edge,
        signed_root,
        hashed_from,
        wrong_tiles,
        wrong_across: Vec::new(),
        differs: None,
    })
}

#[cfg(test)]
mod tests;
