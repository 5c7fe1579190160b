//! The segment file that grows: it keeps room ahead of writing, and is put back after a failed
//! write.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    Error,
    disk::{Disk, DiskFile, is_full, write_all_at},
    segment::{self, HEADER_BYTES, Segment},
};

/// Once a segment has grown to this, the next batch begins a new one, unless a configuration says
/// otherwise.
pub const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// Room that only [`Priority::Reserved`] may use: some ten thousand records of revocations.
pub(crate) const RESERVE_BYTES: u64 = 8 * 1024 * 1024;
/// The part of the reserve that [`Priority::Reading`] may use: people can look at a broker with a
/// full disk some thousand times, and no reader uses up the room for revocations.
pub(crate) const READING_BYTES: u64 = 1024 * 1024;
/// Room is taken in steps of this size.
const AHEAD_BYTES: u64 = 8 * 1024 * 1024;

/// Whether an entry may use the room that is kept back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Refused on a full disk.
    Normal,
    /// Records that a person read something. It may use 1 MiB of the reserve.
    Reading,
    /// Records revocations and refusals. It may use the reserve of 8 MiB, so that a full disk stops
    /// issuing and not revoking.
    Reserved,
}

/// How an operation failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The file is as it was.
    Clean(Error),
    /// The content of the disk is not known. Nothing may be appended before it is read again.
    Unknown(Error),
}

#[derive(Debug)]
pub(crate) struct Tail {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    /// Where the next entry goes.
    end: u64,
    /// Up to where writing needs no further room.
    allocated: u64,
    /// Whether the file system can set room aside; without that there is no reserve.
    reserves: bool,
}

impl Tail {
    /// Opens the last segment of an existing ledger.
    pub(crate) fn open(
        disk: &Arc<dyn Disk>,
        ledger: &Path,
        segment: &Segment,
    ) -> Result<Self, Error> {
        let path = segment.path(ledger);
        let file = disk.open(&path).map_err(Error::io("open", &path))?;
        let allocated = file.allocated().map_err(Error::io("inspect", &path))?;
        let mut tail = Self {
            file,
            path,
            end: segment.end,
            allocated: allocated.max(segment.end),
            reserves: true,
        };
        tail.restore_reserve();
        Ok(tail)
    }

    /// Makes a new segment. It gets its name only after its header is durable and its reserve is
    /// set aside.
    pub(crate) fn create(disk: &Arc<dyn Disk>, ledger: &Path, first: u64) -> Result<Self, Failure> {
        let directory = segment::directory(ledger);
        let path = directory.join(segment::file_name(first));
        let unnamed = path.with_extension("seg.tmp");
        let clean = |e| Failure::Clean(Error::io("create", path.as_path())(e));
        match disk.remove(&unnamed) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(clean(e)),
            _ => {}
        }
        let made = disk.create(&unnamed).and_then(|file| {
            let tail = Self {
                file,
                path: path.clone(),
                end: HEADER_BYTES,
                allocated: 0,
                reserves: true,
            };
            tail.begin(first)
        });
        let tail = match made.and_then(|tail| disk.rename(&unnamed, &path).map(|()| tail)) {
            Ok(tail) => tail,
            Err(e) => {
                if let Err(error) = disk.remove(&unnamed) {
                    tracing::debug!(%error, "an unfinished segment is left over until the next try");
                }
                return Err(clean(e));
            }
        };
        // The new name may or may not survive a power cut now, so nothing may go to the old segment
        // any more.
        disk.sync_dir(&directory)
            .map_err(|e| Failure::Unknown(Error::io("sync", directory.as_path())(e)))?;
        Ok(tail)
    }

    fn begin(mut self, first: u64) -> io::Result<Self> {
        self.reserve(HEADER_BYTES + RESERVE_BYTES)?;
        write_all_at(self.file.as_ref(), &segment::header(first), 0)?;
        self.file.sync_data()?;
        Ok(self)
    }

    pub(crate) const fn end(&self) -> u64 {
        self.end
    }

    /// Writes a batch and makes it durable, or puts the file back to its state before.
    pub(crate) fn append(&mut self, bytes: &[u8], priority: Priority) -> Result<(), Failure> {
        self.make_room(bytes.len() as u64, priority)
            .map_err(|e| Failure::Clean(Error::io("set room aside in", &self.path)(e)))?;
        if let Err(e) = write_all_at(self.file.as_ref(), bytes, self.end) {
            let error = Error::io("append to", &self.path)(e);
            let restored = self
                .file
                .set_len(self.end)
                .and_then(|()| self.file.sync_data());
            if let Err(e) = restored {
                tracing::debug!(%error, "why the append failed");
                return Err(Failure::Unknown(Error::io(
                    "undo a failed append to",
                    &self.path,
                )(e)));
            }
            self.allocated = self.end;
            self.restore_reserve();
            return Err(Failure::Clean(error));
        }
        if let Err(e) = self.file.sync_data() {
            // The kernel may have dropped the pages, and reports it only once: only reading anew
            // can tell.
            if let Err(error) = self.file.set_len(self.end) {
                tracing::debug!(%error, "the unsynced batch could not be cut off");
            }
            return Err(Failure::Unknown(Error::io("sync", &self.path)(e)));
        }
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// Frees room that is not needed any more because a new segment has its own.
    pub(crate) fn finish(self) {
        if let Err(error) = self.file.set_len(self.end) {
            tracing::debug!(%error, path = %self.path.display(), "unused room was not given back");
        }
    }

    fn make_room(&mut self, bytes: u64, priority: Priority) -> io::Result<()> {
        let end = self.end + bytes;
        let kept = match priority {
            Priority::Normal => return self.reserve(end + RESERVE_BYTES),
            Priority::Reading => RESERVE_BYTES - READING_BYTES,
            Priority::Reserved => 0,
        };
        match self.reserve(end + RESERVE_BYTES) {
            Err(e) if is_full(&e) && end + kept > self.allocated => {
                self.file.allocate(end + kept)?;
                self.allocated = end + kept;
                Ok(())
            }
            Err(e) if is_full(&e) => Ok(()),
            result => result,
        }
    }

    /// Makes sure that there is room up to `end`; takes more than that while there is plenty.
    fn reserve(&mut self, end: u64) -> io::Result<()> {
        if end <= self.allocated || !self.reserves {
            return Ok(());
        }
        let mut target = end + AHEAD_BYTES;
        let mut result = self.file.allocate(target);
        if result.as_ref().is_err_and(is_full) {
            target = end;
            result = self.file.allocate(target);
        }
        match result {
            Err(e) if e.kind() == io::ErrorKind::Unsupported => {
                tracing::warn!(path = %self.path.display(), "this file system cannot set room aside: a full disk will also stop the recording of revocations");
                self.reserves = false;
                Ok(())
            }
            Ok(()) => {
                self.allocated = target;
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    fn restore_reserve(&mut self) {
        if let Err(error) = self.reserve(self.end + RESERVE_BYTES) {
            tracing::warn!(%error, path = %self.path.display(), "no reserve for revocations could be set aside");
        }
    }
}
