//! A disk that fails on command, for tests of the ledger and of the store.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use super::{Disk, DiskFile, SystemDisk};

/// The machine's file system with a made-up amount of room and failures on command.
///
/// Clones share their faults, so a test keeps one and gives the other away.
#[derive(Debug, Clone, Default)]
pub struct FaultyDisk {
    faults: Arc<Mutex<Faults>>,
    syncs_go_on: Arc<Condvar>,
}

#[derive(Debug, Default)]
struct Faults {
    /// Bytes left; none for no limit.
    free: Option<u64>,
    /// How much each file holds of the room.
    held: HashMap<PathBuf, u64>,
    syncs_to_fail: u32,
    cuts_to_fail: u32,
    /// The next write takes so many bytes, the one after it fails.
    short_write: Option<usize>,
    write_to_fail: bool,
    syncs: u64,
    syncs_held: bool,
}

/// Lets no `fdatasync` begin while it lives.
#[derive(Debug)]
#[must_use = "syncs go on once it is dropped"]
pub struct HeldSyncs(FaultyDisk);

impl Drop for HeldSyncs {
    fn drop(&mut self) {
        self.0.faults().syncs_held = false;
        self.0.syncs_go_on.notify_all();
    }
}

impl FaultyDisk {
    /// Limits the room for all further allocations; none lifts the limit.
    pub fn set_free(&self, bytes: Option<u64>) {
        self.faults().free = bytes;
    }

    /// Makes the next `times` calls of `fdatasync` fail.
    pub fn fail_syncs(&self, times: u32) {
        self.faults().syncs_to_fail = times;
    }

    /// Makes calls of `fdatasync` wait.
    pub fn hold_syncs(&self) -> HeldSyncs {
        self.faults().syncs_held = true;
        HeldSyncs(self.clone())
    }

    /// Makes the next `times` truncations fail.
    pub fn fail_cuts(&self, times: u32) {
        self.faults().cuts_to_fail = times;
    }

    /// Makes the next write stop after `bytes` bytes, with an input/output error.
    pub fn cut_write_short(&self, bytes: usize) {
        self.faults().short_write = Some(bytes);
    }

    /// How many times `fdatasync` was called with success.
    pub fn syncs(&self) -> u64 {
        self.faults().syncs
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wrap(&self, path: &Path, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(FaultyFile {
            disk: self.clone(),
            path: path.to_owned(),
            file,
        })
    }
}

impl Disk for FaultyDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.wrap(path, SystemDisk.create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.wrap(path, SystemDisk.open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        SystemDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut faults = self.faults();
        let held = faults.held.remove(path).unwrap_or(0);
        faults.free = faults.free.map(|free| free + held);
        SystemDisk.remove(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        SystemDisk.sync_dir(path)
    }
}

#[derive(Debug)]
struct FaultyFile {
    disk: FaultyDisk,
    /// The name under which it was opened; room is counted by it, renamed or not.
    path: PathBuf,
    file: Box<dyn DiskFile>,
}

impl Faults {
    /// Takes room so that `path` holds `end` bytes; says how far it got.
    fn take(&mut self, path: &Path, end: u64) -> u64 {
        let held = self.held.get(path).copied().unwrap_or(0);
        let wanted = end.saturating_sub(held);
        let granted = wanted.min(self.free.unwrap_or(u64::MAX));
        self.free = self.free.map(|free| free - granted);
        self.held.insert(path.to_owned(), held + granted);
        held + granted
    }
}

impl DiskFile for FaultyFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut faults = self.disk.faults();
        if std::mem::take(&mut faults.write_to_fail) {
            return Err(io::Error::from_raw_os_error(5));
        }
        let mut taken = bytes.len();
        if let Some(short) = faults.short_write.take() {
            taken = taken.min(short);
            faults.write_to_fail = true;
        }
        let end = faults.take(&self.path, offset + taken as u64);
        if end <= offset && taken > 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let room = usize::try_from(end - offset).unwrap_or(usize::MAX);
        let taken = taken.min(room);
        self.file
            .write_at(bytes.get(..taken).unwrap_or_default(), offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        let faults = self.disk.faults();
        let going_on = self.disk.syncs_go_on.wait_while(faults, |f| f.syncs_held);
        let mut faults = going_on.unwrap_or_else(PoisonError::into_inner);
        if faults.syncs_to_fail > 0 {
            faults.syncs_to_fail -= 1;
            return Err(io::Error::from_raw_os_error(5));
        }
        faults.syncs += 1;
        drop(faults);
        self.file.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut faults = self.disk.faults();
        if faults.cuts_to_fail > 0 {
            faults.cuts_to_fail -= 1;
            return Err(io::Error::from_raw_os_error(5));
        }
        let held = faults.held.get(&self.path).copied().unwrap_or(0);
        faults.held.insert(self.path.clone(), held.min(len));
        faults.free = faults.free.map(|free| free + held.saturating_sub(len));
        drop(faults);
        self.file.set_len(len)
    }

    fn allocate(&self, end: u64) -> io::Result<()> {
        let mut faults = self.disk.faults();
        let held = faults.held.get(&self.path).copied().unwrap_or(0);
        if faults
            .free
            .is_some_and(|free| free < end.saturating_sub(held))
        {
            return Err(io::ErrorKind::StorageFull.into());
        }
        faults.take(&self.path, end);
        drop(faults);
        self.file.allocate(end)
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(self
            .disk
            .faults()
            .held
            .get(&self.path)
            .copied()
            .unwrap_or(0))
    }
}
