//! Reads and hashes all segments of a ledger, on every core. Changes nothing.
//!
//! A start waits for this, so each core takes a segment at a time. The result is small: the
//! roots of full tiles, and single leaves only where a tile crosses the border of a segment or the
//! signed size.

use std::{
    collections::BTreeMap,
    num::NonZero,
    path::Path,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use crate::{
    Error, Hash, forest,
    scan::{Content, Scan, SegmentFile, read_segment},
    tiles::{Edge, FullTile, TILE_LEVELS, TILE_WIDTH, Tile},
    tree::leaf_hash,
};

/// Threads that hash at the same time; more of them wait for the disk.
const HASHERS_MAX: NonZero<usize> = NonZero::new(4).expect("not zero");

/// The hashed content of the segment files.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(crate) scan: Scan,
    /// The right edge over all readable entries.
    pub(crate) edge: Edge,
    /// The root over the signed entries; none when there are fewer.
    pub(crate) signed_root: Option<Hash>,
    /// The first entry that was hashed; the tree over those before it leads to the signed root.
    pub(crate) hashed_from: u64,
    /// Full tiles whose file is missing or has other hashes, lower levels first.
    pub(crate) wrong_tiles: Vec<(u32, u64)>,
    /// Wrong tiles over entries of which some are in an archive, made of the base and the rest.
    pub(crate) wrong_across: Vec<FullTile>,
    /// The first entry whose hash is not the one in its tile file.
    pub(crate) differs: Option<u64>,
}

/// One segment file, read and hashed.
#[derive(Debug)]
struct Hashed {
    content: Content,
    parts: Vec<Part>,
    compared: Compared,
}

/// A part of the bottom of the tree.
#[derive(Debug, Clone, Copy)]
enum Part {
    Leaf(Hash),
    /// The root of a full tile of leaves.
    Tile(Hash),
}

/// Tile files, compared with the entries.
#[derive(Debug, Default)]
struct Compared {
    wrong: Vec<(u32, u64)>,
    /// The first entry that differs, as the lowest level shows it.
    differs: Option<(u32, u64)>,
}

/// Reads and hashes everything from `base` on, which is the edge over the archived entries.
/// `signed` is the last checkpoint's size.
pub(crate) fn survey(ledger: &Path, signed: u64, base: Edge) -> Result<Survey, Error> {
    let files = SegmentFile::from(ledger, base.size())?;
    let cores = thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
    let hashers = cores.min(HASHERS_MAX).get().min(files.len());
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (done, inbox) = mpsc::channel();
        for _ in 0..hashers {
            let (to, files, next) = (done.clone(), &files, &next);
            let hasher = thread::Builder::new().name("ledger-hash".to_owned());
            let started = hasher.spawn_scoped(scope, move || hash_each(files, next, signed, &to));
            if started.is_err() {
                // Without another thread this one hashes: slow is better than not at all.
                hash_each(files, next, signed, &done);
            }
        }
        drop(done);
        let mut joined = Joined::new(ledger, signed, base);
        let mut early = BTreeMap::new();
        let mut wanted = 0;
        for (number, hashed) in inbox {
            early.insert(number, hashed);
            while let Some(hashed) = early.remove(&wanted) {
                if let Some(file) = files.get(wanted) {
                    joined.add(hashed?, file);
                }
                wanted += 1;
            }
        }
        Ok(joined.finish())
    })
}

/// Hashes one segment after another, until none is left or nothing listens any more.
fn hash_each(
    files: &[SegmentFile<'_>],
    next: &AtomicUsize,
    signed: u64,
    to: &mpsc::Sender<(usize, Result<Hashed, Error>)>,
) {
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let Some(file) = files.get(number) else {
            return;
        };
        if to.send((number, hash_segment(file, signed))).is_err() {
            return;
        }
    }
}

fn hash_segment(file: &SegmentFile<'_>, signed: u64) -> Result<Hashed, Error> {
    let mut leaves = Leaves {
        ledger: file.ledger,
        // The root over the signed entries is taken between two leaves of the tile that is open
        // then, so that tile is handed on in leaves.
        whole_until: signed - signed % TILE_WIDTH,
        next: file.first,
        open: Tile::default(),
        parts: Vec::new(),
        compared: Compared::default(),
    };
    let content = read_segment(file, signed, &mut |frame| {
        leaves.push(leaf_hash(frame.bytes));
    })?;
    leaves.end_tile();
    Ok(Hashed {
        content,
        parts: leaves.parts,
        compared: leaves.compared,
    })
}

/// Gathers the leaves of one segment into tiles.
struct Leaves<'a> {
    ledger: &'a Path,
    whole_until: u64,
    next: u64,
    open: Tile,
    parts: Vec<Part>,
    compared: Compared,
}

impl Leaves<'_> {
    fn push(&mut self, leaf: Hash) {
        let index = self.next;
        self.next += 1;
        let begins = index.is_multiple_of(TILE_WIDTH) && index < self.whole_until;
        if self.open.width() == 0 && !begins {
            self.parts.push(Part::Leaf(leaf));
            return;
        }
        if let Some(root) = self.open.push(leaf) {
            self.parts.push(Part::Tile(root));
            let tile = FullTile {
                level: 0,
                index: index / TILE_WIDTH,
                tile: std::mem::take(&mut self.open),
            };
            self.compared.compare(self.ledger, &tile);
        }
    }

    /// Hands on the leaves of a tile that the next segment goes on with.
    fn end_tile(&mut self) {
        let leaves = (0..self.open.width()).filter_map(|place| self.open.node(0, place));
        self.parts.extend(leaves.map(Part::Leaf));
    }
}

impl Compared {
    /// Compares a full tile with its file.
    fn compare(&mut self, ledger: &Path, full: &FullTile) {
        // Bytes are compared, since the hashes above them would have to be made first.
        let kept = forest::bytes(ledger, full.level, full.index).unwrap_or_default();
        let right = full.tile.bytes();
        if kept == right {
            return;
        }
        self.wrong.push((full.level, full.index));
        let ((kept, _), (right, _)) = (kept.as_chunks::<32>(), right.as_chunks::<32>());
        // A file that was cut off names no entry behind its end.
        let mut hashes = (0_u64..).zip(kept.iter().zip(right));
        let place = hashes.find(|(_, (kept, right))| kept != right);
        self.note(place.map(|(place, _)| {
            let hash = full.index * TILE_WIDTH + place;
            (full.level, hash << (TILE_LEVELS * full.level))
        }));
    }

    /// A lower level names the entry more exactly.
    fn note(&mut self, differs: Option<(u32, u64)>) {
        self.differs = [self.differs, differs].into_iter().flatten().min();
    }
}

/// The tree over the segments so far.
struct Joined<'a> {
    ledger: &'a Path,
    signed: u64,
    scan: Scan,
    /// How many entries are in an archive.
    archived: u64,
    edge: Edge,
    signed_root: Option<Hash>,
    compared: Compared,
    wrong_across: Vec<FullTile>,
    /// Whether the entries behind the last segment can be read.
    goes_on: bool,
}

impl<'a> Joined<'a> {
    fn new(ledger: &'a Path, signed: u64, edge: Edge) -> Self {
        Self {
            ledger,
            signed,
            scan: Scan::from(edge.size()),
            archived: edge.size(),
            signed_root: (signed == edge.size()).then(|| edge.root()),
            edge,
            wrong_across: Vec::new(),
            compared: Compared::default(),
            goes_on: true,
        }
    }

    fn add(&mut self, hashed: Hashed, file: &SegmentFile<'_>) {
        if !self.goes_on {
            return;
        }
        let before = self.scan.size();
        let added = self.scan.add(hashed.content, file, self.signed);
        self.goes_on = added.is_continue();
        if self.scan.size() == before {
            return;
        }
        self.compared.wrong.extend(hashed.compared.wrong);
        self.compared.note(hashed.compared.differs);
        let mut full = Vec::new();
        for part in hashed.parts {
            match part {
                Part::Leaf(leaf) => self.edge.push(leaf, &mut full),
                Part::Tile(root) => self.edge.push_tile(root, &mut full),
            }
            for tile in full.drain(..) {
                if tile.first_leaf() >= self.archived {
                    self.compared.compare(self.ledger, &tile);
                } else if forest::bytes(self.ledger, tile.level, tile.index)
                    .is_none_or(|kept| kept != tile.tile.bytes())
                {
                    self.wrong_across.push(tile);
                }
            }
            if self.edge.size() == self.signed {
                self.signed_root = Some(self.edge.root());
            }
        }
    }

    fn finish(self) -> Survey {
        let Compared { mut wrong, differs } = self.compared;
        wrong.sort_unstable();
        Survey {
            scan: self.scan.finish(self.ledger, self.signed),
            edge: self.edge,
            signed_root: self.signed_root,
            hashed_from: self.archived,
            wrong_tiles: wrong,
            wrong_across: self.wrong_across,
            differs: differs.map(|(_, entry)| entry),
        }
    }
}

#[cfg(test)]
mod tests;
