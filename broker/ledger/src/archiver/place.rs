//! The directory of an archive, opened so that no link leads back to the ledger.
//!
//! An archive that is the ledger under another name has the right content in every file. Only the
//! numbers of device and file tell a copy from its original.

use std::{
    fs::{self, File, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

use super::ArchiveError;
use crate::{
    Error,
    segment::{self, Segment},
};

/// What tells one file from every other, whatever its path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    file: u64,
}

impl FileId {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            file: metadata.ino(),
        }
    }

    pub(super) fn of_open(file: &File, path: &Path) -> Result<Self, ArchiveError> {
        let metadata = file.metadata().map_err(Error::io("read", path))?;
        Ok(Self::of(&metadata))
    }

    /// The file of one of the ledger's own segments; none when the segment is gone.
    pub(super) fn of_original(ledger: &Path, first: u64) -> Result<Option<Self>, ArchiveError> {
        let path = Segment::empty(first).path(ledger);
        match path.symlink_metadata() {
            Ok(metadata) => Ok(Some(Self::of(&metadata))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("read", path)(e).into()),
        }
    }
}

/// The segments of an archive, in a directory that is not the ledger's.
#[derive(Debug)]
pub(super) struct Place {
    segments: File,
    path: PathBuf,
}

impl Place {
    /// None when the archive or its `segments/` is not there.
    pub(super) fn open(archive: &Path, ledger: &Path) -> Result<Option<Self>, ArchiveError> {
        refuse_own_place(archive, ledger)?;
        let path = segment::directory(archive);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let segments = match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(opened) => File::from(opened),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(ArchiveError::NotPlain { path }),
            Err(e) => return Err(Error::io("open", path)(e.into()).into()),
        };
        let theirs = FileId::of_open(&segments, &path)?;
        for own in [ledger.to_owned(), segment::directory(ledger)] {
            let metadata = fs::metadata(&own).map_err(Error::io("read", &own))?;
            if FileId::of(&metadata) == theirs {
                return Err(ArchiveError::OwnPlace { path });
            }
        }
        Ok(Some(Self { segments, path }))
    }

    /// The path of a segment, for messages and for writing it.
    pub(super) fn path_of(&self, first: u64) -> PathBuf {
        self.path.join(segment::file_name(first))
    }

    /// Opens a segment in this directory, wherever the path leads by now; none when it is not
    /// there.
    pub(super) fn segment(&self, first: u64) -> Result<Option<File>, ArchiveError> {
        // A pipe would hold the thread without NONBLOCK.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let name = segment::file_name(first);
        let path = self.path_of(first);
        let file = match rustix::fs::openat(&self.segments, name, flags, Mode::empty()) {
            Ok(opened) => File::from(opened),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => return Err(ArchiveError::NotPlain { path }),
            Err(e) => return Err(Error::io("open", path)(e.into()).into()),
        };
        let metadata = file.metadata().map_err(Error::io("read", &path))?;
        match metadata.is_file() {
            true => Ok(Some(file)),
            false => Err(ArchiveError::NotPlain { path }),
        }
    }

    /// The first entry between `begins` and `ends` that the files do not have, as far as their
    /// names and their last entries tell. `firsts` are the names.
    pub(super) fn lost(
        &self,
        firsts: &[u64],
        begins: u64,
        ends: u64,
    ) -> Result<Option<u64>, ArchiveError> {
        let mut expected = begins;
        let mut firsts = firsts.iter().copied().filter(|it| *it < ends).peekable();
        while let Some(first) = firsts.next() {
            let next = firsts.peek().copied().unwrap_or(ends);
            if first != expected || !self.ends_before(first, next)? {
                return Ok(Some(expected));
            }
            expected = next;
        }
        Ok((expected < ends).then_some(expected))
    }

    /// Whether the last entry of a segment is the one before `next`.
    fn ends_before(&self, first: u64, next: u64) -> Result<bool, ArchiveError> {
        let Some(file) = self.segment(first)? else {
            return Ok(false);
        };
        let ends = segment::ends_before(&file, next);
        Ok(ends.map_err(Error::io("read", self.path_of(first)))?)
    }
}

/// Refuses an archive that is the ledger's directory, lies in it, or lies around it.
pub(super) fn refuse_own_place(archive: &Path, ledger: &Path) -> Result<(), ArchiveError> {
    let resolved = |path: &Path| {
        path.canonicalize()
            .unwrap_or_else(|_missing| path.to_owned())
    };
    let (to, own) = (resolved(archive), resolved(ledger));
    let ids = [archive, ledger].map(|path| fs::metadata(path).ok().as_ref().map(FileId::of));
    let same = matches!(ids, [Some(to), Some(own)] if to == own);
    if same || to.starts_with(&own) || own.starts_with(&to) {
        return Err(ArchiveError::OwnPlace {
            path: archive.to_owned(),
        });
    }
    Ok(())
}
