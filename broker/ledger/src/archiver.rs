//! Moves old segments of an open ledger to an archive, in an order that loses nothing.
//!
//! [`Archiver::copy`] copies whole segments, makes the copies durable, reads them back and compares
//! each entry with the tree. Only a [`Copied`] lets [`Archiver::forget`] go on: it signs the edge
//! over the entries that leave, as the ledger's new beginning, and then deletes their segments.
//! Both can be repeated after a crash at any place.
//!
//! No copy is deleted on the word of a path. Links and mounts can make the ledger itself look like
//! its archive, so [`Copied`] has the numbers of the files that were compared.
//!
//! An archive is a ledger's directory of its own: `segments/`, a `checkpoint` over its entries, the
//! public key in `ledger.vkey`, and `base` when it does not begin with the first entry.

mod error;
mod place;
mod removal;

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use rustix::fs::{Advice, fadvise, syncfs};
use taskpass_files::{Access, Draft, create_dir_all, replace};

pub use self::{error::ArchiveError, removal::Forgotten};
use self::{
    place::{FileId, Place, refuse_own_place},
    removal::Copy,
};
use crate::{
    Checkpoint, Error, Hash, SigningKey, attached,
    base::Base,
    checkpoint::{self, checkpoint_path},
    forest, scan,
    segment::{self, Segment},
    shared::Shared,
    tiles::{TILE_LEVELS, full_tiles},
};

/// Bytes copied at once.
const COPY_BYTES: usize = 1024 * 1024;
/// Segments that one call copies, so that the names of all fit into one entry of the ledger.
const SEGMENTS_MAX: usize = 256;

/// How far copying is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copying {
    /// Bytes that were copied and read back.
    pub done: u64,
    /// Bytes that are to be.
    pub total: u64,
}

/// Whether a directory had an archive of this ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// It has one since now.
    Now,
    /// It had one before.
    Before,
}

/// Segments that are in an archive and were compared there with the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    first: u64,
    next: u64,
    root: Hash,
    segments: Vec<String>,
    copies: Vec<Copy>,
    bytes: u64,
    archive: PathBuf,
}

impl Copied {
    /// The first entry in them.
    pub const fn first(&self) -> u64 {
        self.first
    }

    /// The first entry behind them.
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// The root of the tree over all entries before `next`.
    pub const fn root(&self) -> &Hash {
        &self.root
    }

    /// The names of their files.
    pub fn segments(&self) -> &[String] {
        &self.segments
    }

    /// Their length on disk.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The archive.
    pub fn archive(&self) -> &Path {
        &self.archive
    }
}

/// Moves old segments to an archive. Belongs to an open [`Ledger`](crate::Ledger).
#[derive(Debug, Clone)]
pub struct Archiver {
    shared: Arc<Shared>,
    key: Arc<SigningKey>,
    /// The ledger's lock, for as long as it is open.
    lock: Weak<File>,
}

impl Archiver {
    pub(crate) const fn new(shared: Arc<Shared>, key: Arc<SigningKey>, lock: Weak<File>) -> Self {
        Self { shared, key, lock }
    }

    /// The ledger's directory.
    pub fn ledger(&self) -> &Path {
        &self.shared.ledger
    }

    /// The entries at which the ledger can be cut, in order: each is the first of a segment, and
    /// everything before it is signed.
    pub fn cuts(&self) -> Vec<u64> {
        let state = self.shared.state();
        let signed = state.checkpoint.size();
        let firsts = state.segments.iter().skip(1).map(|segment| segment.first);
        firsts.filter(|first| *first <= signed).collect()
    }

    /// Makes an archive in a directory that has none. It goes on with the first entry that the
    /// ledger has.
    ///
    /// Only for a person who named the directory: an empty one may be the place of a volume that is
    /// not mounted.
    pub fn begin(&self, archive: &Path) -> Result<Begun, ArchiveError> {
        let _open = self.lock.upgrade().ok_or(ArchiveError::Closed)?;
        let own = self.shared.ledger.as_path();
        // Before anything is made: a directory that is there may be the ledger's own by a link.
        refuse_own_place(archive, own)?;
        create_dir_all(&segment::directory(archive))?;
        Place::open(archive, own)?;
        let keyed = self.is_ours(archive)?;
        let first = self.shared.state().first;
        let has_checkpoint = checkpoint_path(archive).symlink_metadata().is_ok();
        let empty = !has_checkpoint && scan::list(archive)?.is_empty();
        if empty && first > 0 {
            let edge = self.shared.edge_at(first)?;
            let root = edge.root();
            Base::sign(edge, &self.key).store(archive)?;
            self.sign_archive(archive, first, root)?;
        }
        if !keyed {
            let line = format!("{}\n", self.key.verifying_key());
            let vkey = archive.join("ledger.vkey");
            replace(&vkey, line.as_bytes(), Access::Private)?;
        }
        match empty && (first > 0 || !keyed) {
            true => Ok(Begun::Now),
            false => Ok(Begun::Before),
        }
    }

    /// Fails unless the directory has an archive that this ledger can go on with: of its key, up to
    /// its first entry, and with all segments that it signed.
    pub fn require_begun(&self, archive: &Path) -> Result<(), ArchiveError> {
        let first = self.shared.state().first;
        self.begun(archive, first).map(drop)
    }

    /// Copies the segments before `cut`, which is one of [`Archiver::cuts`], and compares the
    /// copies with the tree. Takes the oldest ones if they are very many. `None` when nothing is
    /// left to be copied.
    pub fn copy(
        &self,
        cut: u64,
        archive: &Path,
        progress: &mut dyn FnMut(Copying),
    ) -> Result<Option<Copied>, ArchiveError> {
        let _open = self.lock.upgrade().ok_or(ArchiveError::Closed)?;
        let segments: Vec<Segment> = {
            let state = self.shared.state();
            let old = state.segments.iter().filter(|it| it.next() <= cut);
            old.take(SEGMENTS_MAX).cloned().collect()
        };
        let (Some(oldest), Some(newest)) = (segments.first(), segments.last()) else {
            return Ok(None);
        };
        let (first, next) = (oldest.first, newest.next());
        let root = self.shared.edge_at(next)?.root();
        let place = self.begun(archive, first)?;
        let bytes = segments.iter().map(|segment| segment.end).sum();
        let mut done = 0;
        let mut copies = Vec::new();
        for segment in &segments {
            let copy = self.copy_segment(segment, archive, &place, &mut |more| {
                done += more;
                progress(Copying {
                    done: done / 2,
                    total: bytes,
                });
            })?;
            copies.push(copy);
        }
        self.sign_archive(archive, next, root)?;
        self.keep_tiles(first, next)?;
        Ok(Some(Copied {
            first,
            next,
            root,
            segments: segments
                .iter()
                .map(|segment| segment::file_name(segment.first))
                .collect(),
            copies,
            bytes,
            archive: archive.to_owned(),
        }))
    }

    /// Opens the archive if it reaches the entry `first` and has what it signed.
    fn begun(&self, archive: &Path, first: u64) -> Result<Place, ArchiveError> {
        let path = archive.to_owned();
        let place = Place::open(archive, &self.shared.ledger)?;
        let (Some(place), true) = (place, self.is_ours(archive)?) else {
            return Err(ArchiveError::NotBegun { path });
        };
        let key = self.key.verifying_key();
        let there = scan::list(archive)?;
        let begins = Base::read(archive, key)?.map_or(0, |base| base.size());
        // A run before this one may have been killed behind its copies: then the checkpoint is
        // older than they are.
        let signed = checkpoint::read(&checkpoint_path(archive), key);
        let ends = match signed {
            Ok(checkpoint) => checkpoint.size(),
            Err(_) if first > 0 && there.is_empty() => {
                return Err(ArchiveError::NotBegun { path });
            }
            Err(_) => begins,
        };
        if ends < first {
            return Err(ArchiveError::Gap { path, ends, first });
        }
        match place.lost(&there, begins, ends)? {
            Some(index) => Err(ArchiveError::Lost { path, ends, index }),
            None => Ok(place),
        }
    }

    /// Whether the archive has this ledger's key; false when it has none.
    fn is_ours(&self, archive: &Path) -> Result<bool, ArchiveError> {
        let vkey = archive.join("ledger.vkey");
        match std::fs::read_to_string(&vkey) {
            Ok(found) if found == format!("{}\n", self.key.verifying_key()) => Ok(true),
            Ok(_) => Err(ArchiveError::OtherLedger { path: vkey }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(Error::io("read", vkey)(e).into()),
        }
    }

    /// Copies one segment and compares the copy with the tree. `progress` hears of each byte twice.
    fn copy_segment(
        &self,
        segment: &Segment,
        archive: &Path,
        place: &Place,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Copy, ArchiveError> {
        let path = place.path_of(segment.first);
        if let Some(there) = place.segment(segment.first)? {
            let compared = self.compare(there, segment, archive)?;
            let copy = compared.map_err(|source| ArchiveError::Foreign { path, source })?;
            progress(segment.end * 2);
            return Ok(copy);
        }
        self.write_copy(segment, &path, progress)?;
        let written = place.segment(segment.first)?;
        let Some(written) = written else {
            return Err(ArchiveError::Exchanged { path });
        };
        // The copy is compared as the disk has it, where the file system lets go of its pages.
        if let Err(error) = fadvise(&written, 0, None, Advice::DontNeed) {
            tracing::debug!(%error, path = %path.display(), "the copy is compared from memory");
        }
        let compared = self.compare(written, segment, archive)?;
        let copy = compared.map_err(|source| ArchiveError::NotCopied { path, source })?;
        progress(segment.end);
        Ok(copy)
    }

    /// Compares an open copy with the tree, unless it is the original. The inner error is the
    /// difference.
    fn compare(
        &self,
        copy: File,
        segment: &Segment,
        archive: &Path,
    ) -> Result<Result<Copy, Box<Error>>, ArchiveError> {
        let path = Segment::empty(segment.first).path(archive);
        let id = FileId::of_open(&copy, &path)?;
        if FileId::of_original(&self.shared.ledger, segment.first)? == Some(id) {
            return Err(ArchiveError::Original { path });
        }
        // A copy that another program made may be in memory alone.
        copy.sync_all().map_err(Error::io("sync", &path))?;
        let leaf = |index| self.shared.node(0, index);
        let compared = attached::hash_open(copy, segment, archive, &leaf);
        let (first, next) = (segment.first, segment.next());
        Ok(compared.map(|_| Copy { first, next, id }).map_err(Box::new))
    }

    fn write_copy(
        &self,
        segment: &Segment,
        path: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), ArchiveError> {
        let source = segment.path(&self.shared.ledger);
        let from = File::open(&source).map_err(Error::io("open", &source))?;
        // Room that is set aside behind the last entry stays here.
        let mut from = from.take(segment.end);
        let mut draft = Draft::begin(path, Access::Private)?;
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            let read = from.read(&mut buffer).map_err(Error::io("read", &source))?;
            if read == 0 {
                break;
            }
            let chunk = buffer.get(..read).unwrap_or_default();
            draft.write_all(chunk).map_err(Error::io("write", path))?;
            progress(read as u64);
        }
        draft.replace()?;
        Ok(())
    }

    /// Signs the tree that the archive ends with, so that it can be verified by itself.
    fn sign_archive(&self, archive: &Path, next: u64, root: Hash) -> Result<(), ArchiveError> {
        let path = checkpoint_path(archive);
        let key = self.key.as_ref();
        let there = checkpoint::read(&path, key.verifying_key());
        if there.is_ok_and(|checkpoint| checkpoint.size() >= next) {
            return Ok(());
        }
        let checkpoint = Checkpoint::sign(next, root, key);
        Ok(replace(
            &path,
            checkpoint.note().as_bytes(),
            Access::Private,
        )?)
    }

    /// Makes the tiles over the entries durable, which cannot be made again here without their
    /// segments.
    fn keep_tiles(&self, first: u64, next: u64) -> Result<(), ArchiveError> {
        let ledger = self.shared.ledger.as_path();
        for level in 0..u64::BITS / TILE_LEVELS {
            for index in full_tiles(first, level)..full_tiles(next, level) {
                let tile = self.shared.tile(level, index)?;
                let bytes = tile.bytes();
                if forest::bytes(ledger, level, index).is_none_or(|kept| kept != bytes) {
                    forest::store(ledger, level, index, &bytes)
                        .map_err(Error::io("write", forest::file(ledger, level, index)))?;
                }
            }
        }
        let volume = File::open(ledger).map_err(Error::io("open", ledger))?;
        syncfs(&volume)
            .map_err(io::Error::from)
            .map_err(Error::io("sync", ledger))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
