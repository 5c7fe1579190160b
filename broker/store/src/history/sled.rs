//! History in sled, on local files.
//!
//! sled's own `flush` does not reach the platter (it calls `sync_file_range`), so this module
//! synchronises sled's files after each flush. sled panics on some damage, so every call into it is
//! caught.

use std::{
    fs::{DirEntry, File},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock, statvfs};

use super::{Batch, History, IndexError, Order, Visit};

/// Room that is set aside behind the index: several times its growth by the entries that fit into
/// the ledger's reserve.
const RESERVE_BYTES: u64 = 16 * 1024 * 1024;
/// Bytes that opening an index writes beside its records, and beside sled's table of pages.
const OPENING_BYTES: u64 = 4 * 1024 * 1024;
/// How often, and with which pause, the lock of an index that was just closed is looked at.
const LOCK_LOOKS: u32 = 200;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// One tree of a sled database.
#[derive(Debug)]
pub(crate) struct SledHistory {
    db: sled::Db,
    path: PathBuf,
}

impl SledHistory {
    /// Opens or makes the database in `path`.
    pub(crate) fn open(path: &Path, cache_bytes: u64) -> Result<Self, IndexError> {
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(cache_bytes)
            .flush_every_ms(None);
        await_lock(path);
        let history = Self {
            db: guarded(|| config.open())?,
            path: path.to_owned(),
        };
        history.reserve();
        Ok(history)
    }

    /// Sets room aside behind sled's own bytes, so that on a full disk the index can follow the
    /// entries that the ledger's own reserve still takes. Without that room the index works until
    /// the disk is full.
    fn reserve(&self) {
        let set_aside = || -> io::Result<()> {
            let file = File::options().write(true).open(self.path.join("db"))?;
            let end = file.metadata()?.len();
            fallocate(&file, FallocateFlags::KEEP_SIZE, end, RESERVE_BYTES).map_err(io::Error::from)
        };
        if let Err(error) = set_aside() {
            tracing::debug!(%error, "no room could be set aside for the index");
        }
    }

    fn sync(&self) -> io::Result<()> {
        File::open(self.path.join("db"))?.sync_data()?;
        let blobs = self.path.join("blobs");
        if blobs.is_dir() {
            for file in blobs.read_dir()? {
                match File::open(file?.path()) {
                    // sled writes a blob again under another name, and erases this one in the
                    // background.
                    Err(gone) if gone.kind() == io::ErrorKind::NotFound => {}
                    blob => blob?.sync_data()?,
                }
            }
            File::open(blobs)?.sync_all()?;
        }
        File::open(&self.path)?.sync_all()
    }
}

impl History for SledHistory {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        let found = guarded(|| self.db.get(key))?;
        Ok(found.map(|value| value.to_vec()))
    }

    fn walk(
        &self,
        from: &[u8],
        to: &[u8],
        order: Order,
        visit: &mut Visit<'_>,
    ) -> Result<(), IndexError> {
        let mut rows = guarded(|| Ok(self.db.range(from..to)))?;
        loop {
            let next = match order {
                Order::Forward => guarded(|| rows.next().transpose()),
                Order::Backward => guarded(|| rows.next_back().transpose()),
            };
            let Some((key, value)) = next? else {
                return Ok(());
            };
            if visit(&key, &value)?.is_break() {
                return Ok(());
            }
        }
    }

    fn write(&self, rows: Batch) -> Result<(), IndexError> {
        let mut batch = sled::Batch::default();
        for (key, value) in rows {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        guarded(|| self.db.apply_batch(batch))
    }

    fn flush(&self) -> Result<(), IndexError> {
        guarded(|| self.db.flush())?;
        self.sync()
            .map_err(|e| IndexError(format!("cannot sync `{}`: {e}", self.path.display())))?;
        self.reserve();
        Ok(())
    }

    fn lacks_room(&self) -> bool {
        !self.has_room()
    }

    fn has_room(&self) -> bool {
        has_room(&self.path, self.db.size_on_disk().unwrap_or(u64::MAX))
    }
}

/// Stands in place of an index that cannot be opened, and does not touch its files. Live records
/// are served from memory meanwhile.
#[derive(Debug)]
pub(crate) struct AbsentHistory {
    path: PathBuf,
    waits_for_room: bool,
}

impl AbsentHistory {
    /// For an index in `path`.
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            waits_for_room: is_full(path),
        }
    }
}

fn absent<T>() -> Result<T, IndexError> {
    Err(IndexError("it could not be opened".to_owned()))
}

impl History for AbsentHistory {
    fn get(&self, _key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        absent()
    }

    fn walk(
        &self,
        _from: &[u8],
        _to: &[u8],
        _order: Order,
        _visit: &mut Visit<'_>,
    ) -> Result<(), IndexError> {
        absent()
    }

    fn write(&self, _rows: Batch) -> Result<(), IndexError> {
        absent()
    }

    fn flush(&self) -> Result<(), IndexError> {
        absent()
    }

    fn lacks_room(&self) -> bool {
        self.waits_for_room || !self.has_room()
    }

    fn has_room(&self) -> bool {
        has_room(&self.path, opening_bytes(&self.path))
    }

    fn is_absent(&self) -> bool {
        true
    }
}

/// Whether the disk has room for another file of `bytes` and for the reserve beside it, twice
/// over. An index may only have to be opened, which takes less. It asks for as much all the same,
/// since the disk may fill up further and the ledger sets its own reserve aside first.
pub(crate) fn has_room(path: &Path, bytes: u64) -> bool {
    let wanted = bytes.saturating_add(RESERVE_BYTES).saturating_mul(2);
    free_bytes(path).is_ok_and(|free| free >= wanted)
}

/// Whether the disk is so full that an index had better not be opened in `path`: sled writes when
/// it opens, and a write that fails then leaves a sound index damaged.
pub(crate) fn is_full(path: &Path) -> bool {
    free_bytes(path).is_ok_and(|free| free < opening_bytes(path))
}

/// sled writes its table of pages as `snap.…`, the new one before the old one goes.
fn opening_bytes(path: &Path) -> u64 {
    let is_table = |entry: &DirEntry| entry.file_name().as_encoded_bytes().starts_with(b"snap.");
    let entries = path.read_dir().into_iter().flatten().flatten();
    let tables = entries.filter(is_table).filter_map(|e| e.metadata().ok());
    let bytes = tables.fold(0_u64, |sum, table| sum.saturating_add(table.len()));
    bytes.saturating_mul(2).saturating_add(OPENING_BYTES)
}

/// How much may be written in `path`, or beside it where it does not exist; nothing where no file
/// can be made.
fn free_bytes(path: &Path) -> io::Result<u64> {
    let beside = |_| statvfs(path.parent().unwrap_or(path));
    let disk = statvfs(path).or_else(beside)?;
    let takes_files = disk.f_files == 0 || disk.f_favail > 0;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    Ok(if takes_files { free } else { 0 })
}

/// Waits a moment for sled's lock on an index. The opening broker holds the ledger's lock already,
/// so only background work of an index that was just closed can hold sled's.
#[expect(
    clippy::disallowed_methods,
    reason = "opening blocks anyway, before there is anything to serve"
)]
fn await_lock(path: &Path) {
    let Ok(file) = File::open(path.join("db")) else {
        return;
    };
    for _ in 0..LOCK_LOOKS {
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            // Dropping the file unlocks it.
            return;
        }
        std::thread::sleep(LOCK_PAUSE);
    }
}

/// Runs a call into sled. Its panics become errors: they mean that the index is damaged, and the
/// ledger is unharmed.
fn guarded<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, IndexError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|e| IndexError(one_line(&e.to_string()))),
        Err(panic) => {
            let said = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no reason given");
            Err(IndexError(format!("it is damaged: {}", one_line(said))))
        }
    }
}

fn one_line(text: &str) -> String {
    text.chars()
        .take(taskpass_core::limits::ERROR_TEXT_CHARS_MAX)
        .map(|c| if taskpass_core::is_hidden(c) { ' ' } else { c })
        .collect()
}
