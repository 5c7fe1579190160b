//! Moves old segments of an open ledger to an archive, in an order that loses nothing.
//!
//! [`Archiver::copy`] copies whole segments, makes the copies durable, reads them back and compares
//! each entry with the tree. Only a [`Copied`] lets [`Archiver::forget`] go on: it signs the edge
//! over the entries that leave, as the ledger's new beginning, and then deletes their segments.
//! Both can be repeated after a crash at any place.
//!
//! An archive is a ledger's directory of its own: `segments/`, a `checkpoint` over its entries, the
//! public key in `ledger.vkey`, and `base` when it does not begin with the first entry.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use rustix::fs::{Advice, fadvise, syncfs};
use taskpass_files::{Access, Draft, create_dir_all, replace, sync_dir};

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

/// Why segments did not go to an archive.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The ledger was closed.
    #[error("the ledger was closed meanwhile; run it again")]
    Closed,
    /// The archive would lie around or within the ledger.
    #[error("`{path}` is the ledger's own place; name a directory elsewhere, best on another disk")]
    OwnPlace {
        /// The directory that was named.
        path: PathBuf,
    },
    /// The directory has the archive of another ledger.
    #[error("`{path}` is of another ledger; name another directory")]
    OtherLedger {
        /// Its key.
        path: PathBuf,
    },
    /// The archive would not be in one piece.
    #[error(
        "the archive `{path}` ends before entry {ends}, and this ledger goes on at entry {first}; name another directory"
    )]
    Gap {
        /// The archive.
        path: PathBuf,
        /// The first entry that the archive does not have.
        ends: u64,
        /// The first entry that would follow.
        first: u64,
    },
    /// The archive has another file under the name of a segment.
    #[error(
        "`{path}` is there already and is not this ledger's segment; move it away, or name another directory"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// How it differs.
        #[source]
        source: Box<Error>,
    },
    /// A copy is not what was copied. Nothing was deleted.
    #[error(
        "the copy `{path}` is not what was written, and nothing was deleted; check the disk of the archive"
    )]
    NotCopied {
        /// The copy.
        path: PathBuf,
        /// How it differs.
        #[source]
        source: Box<Error>,
    },
    /// The ledger or the archive could not be read or written.
    #[error(transparent)]
    Ledger(#[from] Error),
}

impl From<taskpass_files::Error> for ArchiveError {
    fn from(error: taskpass_files::Error) -> Self {
        Self::Ledger(Error::io(error.action, error.path)(error.source))
    }
}

/// How far copying is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copying {
    /// Bytes that were copied and read back.
    pub done: u64,
    /// Bytes that are to be.
    pub total: u64,
}

/// Segments that are in an archive and were compared there with the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    first: u64,
    next: u64,
    root: Hash,
    segments: Vec<String>,
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
        self.prepare(archive, first)?;
        let bytes = segments.iter().map(|segment| segment.end).sum();
        let mut done = 0;
        for segment in &segments {
            self.copy_segment(segment, archive, &mut |more| {
                done += more;
                progress(Copying {
                    done: done / 2,
                    total: bytes,
                });
            })?;
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
            bytes,
            archive: archive.to_owned(),
        }))
    }

    /// Lets the ledger begin behind the copied segments, and deletes them here. Returns how many
    /// files were deleted.
    pub fn forget(&self, copied: &Copied) -> Result<u64, ArchiveError> {
        let _open = self.lock.upgrade().ok_or(ArchiveError::Closed)?;
        let ledger = self.shared.ledger.as_path();
        if copied.next > self.shared.state().first {
            let base = Base::sign(self.shared.edge_at(copied.next)?, &self.key);
            base.store(ledger)?;
            let mut state = self.shared.state_mut();
            state.first = copied.next;
            state
                .segments
                .retain(|segment| segment.first >= copied.next);
        }
        Ok(remove_before(ledger, copied.next)?)
    }

    /// Makes the archive's directories, and says what an auditor has to know of it.
    fn prepare(&self, archive: &Path, first: u64) -> Result<(), ArchiveError> {
        let segments = segment::directory(archive);
        let own = self.shared.ledger.as_path();
        // Before anything is made: a directory that is there may be the ledger's own by a link.
        refuse_own_place(archive, own)?;
        create_dir_all(&segments)?;
        refuse_own_place(archive, own)?;
        let vkey = archive.join("ledger.vkey");
        let line = format!("{}\n", self.key.verifying_key());
        match std::fs::read_to_string(&vkey) {
            Ok(found) if found == line => {}
            Ok(_) => return Err(ArchiveError::OtherLedger { path: vkey }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                replace(&vkey, line.as_bytes(), Access::Private)?;
            }
            Err(e) => return Err(Error::io("read", vkey)(e).into()),
        }
        let there = scan::list(archive)?;
        if first > 0 && there.is_empty() {
            Base::sign(self.shared.edge_at(first)?, &self.key).store(archive)?;
        }
        // A run before this one may have been killed behind its copies: then the checkpoint is
        // older than they are.
        let ends = match checkpoint::read(&checkpoint_path(archive), self.key.verifying_key()) {
            Ok(checkpoint) => checkpoint.size(),
            Err(_) => there.first().copied().unwrap_or(first),
        };
        if ends < first {
            return Err(ArchiveError::Gap {
                path: archive.to_owned(),
                ends,
                first,
            });
        }
        Ok(())
    }

    /// Copies one segment and compares the copy with the tree. `progress` hears of each byte twice.
    fn copy_segment(
        &self,
        segment: &Segment,
        archive: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), ArchiveError> {
        let path = segment::directory(archive).join(segment::file_name(segment.first));
        let leaf = |index| self.shared.node(0, index);
        if path.symlink_metadata().is_ok() {
            attached::hash(segment, archive, &leaf).map_err(|source| ArchiveError::Foreign {
                path,
                source: Box::new(source),
            })?;
            progress(segment.end * 2);
            return Ok(());
        }
        self.write_copy(segment, &path, progress)?;
        attached::hash(segment, archive, &leaf).map_err(|source| ArchiveError::NotCopied {
            path,
            source: Box::new(source),
        })?;
        progress(segment.end);
        Ok(())
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
        // The copy is compared as the disk has it, where the file system lets go of its pages.
        let advised =
            File::open(path).and_then(|file| Ok(fadvise(&file, 0, None, Advice::DontNeed)?));
        if let Err(error) = advised {
            tracing::debug!(%error, path = %path.display(), "the copy is compared from memory");
        }
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

/// Refuses an archive that is the ledger's directory, lies in it, or lies around it.
fn refuse_own_place(archive: &Path, ledger: &Path) -> Result<(), ArchiveError> {
    let resolved = |path: &Path| {
        path.canonicalize()
            .unwrap_or_else(|_missing| path.to_owned())
    };
    let (to, own) = (resolved(archive), resolved(ledger));
    if to.starts_with(&own) || own.starts_with(&to) {
        return Err(ArchiveError::OwnPlace {
            path: archive.to_owned(),
        });
    }
    Ok(())
}

/// Deletes the segments whose entries are all before `first`; returns how many.
pub(crate) fn remove_before(ledger: &Path, first: u64) -> Result<u64, Error> {
    let failed = |e: taskpass_files::Error| Error::io(e.action, e.path)(e.source);
    let mut removed = 0;
    for old in scan::list(ledger)?.into_iter().filter(|it| *it < first) {
        taskpass_files::remove(&Segment::empty(old).path(ledger)).map_err(failed)?;
        removed += 1;
    }
    if removed > 0 {
        sync_dir(&segment::directory(ledger)).map_err(failed)?;
    }
    Ok(removed)
}

#[cfg(test)]
mod tests;
