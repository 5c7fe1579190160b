//! The index: current records and history in sled, derived from the ledger and never trusted more than it.
//!
//! One tree with key prefixes, one writer. sled's own `flush` does not reach the platter (it calls
//! `sync_file_range`), so its file is synchronised here after each flush; and sled panics on some damage, so every
//! call is caught. What is written carries its position in the ledger and the hash of the last entry, in the same
//! atomic batch; an index that does not fit the ledger is moved aside and built again.

mod keys;
mod load;
mod read;
mod write;

use std::{
    fs::{DirEntry, File},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock, statvfs};
use serde::{Deserialize, Serialize};
use taskpass_core::{Digest, Timestamp, TrustDomain};
use taskpass_ledger::Reader;

pub(crate) use self::{read::Owner, write::Portion};

/// Room that is set aside behind the index, some times what the ledger's reserve makes it grow.
const RESERVE_BYTES: u64 = 16 * 1024 * 1024;
/// What opening an index writes beside its records, and beside sled's table of pages.
const OPENING_BYTES: u64 = 4 * 1024 * 1024;
/// How often, and with which pause, the lock of an index that was just closed is looked at.
const LOCK_LOOKS: u32 = 200;
const LOCK_PAUSE: Duration = Duration::from_millis(10);
/// The layout below; another one is built again.
const FORMAT: u32 = 5;

/// Why the index did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(crate) struct IndexError(pub(crate) String);

/// How far the index is, in itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Meta {
    pub(crate) format: u32,
    /// The ledger it belongs to.
    pub(crate) origin: String,
    /// How many entries it has seen.
    pub(crate) position: u64,
    /// SHA-256 of the last of them.
    pub(crate) entry_sha256: String,
    /// The time of the last of them.
    pub(crate) time: Timestamp,
    pub(crate) trust_domain: Option<TrustDomain>,
}

/// The index of a store.
#[derive(Debug)]
pub(crate) struct Index {
    /// `None` where it could not be opened: then it knows nothing, and what is alive is served from memory.
    db: Option<sled::Db>,
    /// Whether only room was missing to open it.
    waits_for_room: bool,
    path: PathBuf,
    origin: String,
}

impl Index {
    /// Opens or makes the index in `path`.
    pub(crate) fn open(path: &Path, cache_bytes: u64, origin: &str) -> Result<Self, IndexError> {
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(cache_bytes)
            .flush_every_ms(None);
        await_lock(path);
        let index = Self {
            db: Some(guarded(|| config.open())?),
            waits_for_room: false,
            path: path.to_owned(),
            origin: origin.to_owned(),
        };
        index.reserve();
        Ok(index)
    }

    /// In place of one that cannot be opened. Its files are not touched.
    pub(crate) fn absent(path: &Path, origin: &str, waits_for_room: bool) -> Self {
        Self {
            db: None,
            waits_for_room,
            path: path.to_owned(),
            origin: origin.to_owned(),
        }
    }

    fn db(&self) -> Result<&sled::Db, IndexError> {
        let absent = || IndexError("it could not be opened".to_owned());
        self.db.as_ref().ok_or_else(absent)
    }

    /// Sets room aside behind what sled has written, so that on a full disk the index can follow what the ledger's
    /// own reserve still takes. Without the room it works all the same, until the disk is full.
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

    /// Whether it would work if it were opened anew, as soon as there is room.
    pub(crate) fn lacks_room(&self) -> bool {
        self.waits_for_room || !self.has_room()
    }

    /// Whether the disk has room for another index like this one, and for what is set aside with it, twice over. One
    /// that is not open may only have to be opened; even so it wants far more than that, since whoever fills a disk
    /// may go on, and the ledger sets its own reserve aside first.
    pub(crate) fn has_room(&self) -> bool {
        let size = match &self.db {
            Some(db) => db.size_on_disk().unwrap_or(u64::MAX),
            None => opening_bytes(&self.path),
        };
        let wanted = size.saturating_add(RESERVE_BYTES).saturating_mul(2);
        free_bytes(&self.path).is_ok_and(|free| free >= wanted)
    }

    /// How far it is; `None` when it is new. Fails when it does not belong to this ledger.
    pub(crate) fn checked_meta(&self, ledger: &Reader) -> Result<Option<Meta>, IndexError> {
        let Some(bytes) = self.get(keys::META)? else {
            return Ok(None);
        };
        let meta: Meta = parse(&bytes)?;
        if meta.format != FORMAT {
            return Err(IndexError(format!(
                "it has format {}, not {FORMAT}",
                meta.format
            )));
        }
        if meta.origin != self.origin {
            return Err(IndexError(format!(
                "it belongs to the ledger `{}`",
                meta.origin
            )));
        }
        let Some(last) = meta.position.checked_sub(1) else {
            return Err(IndexError("its position is missing".to_owned()));
        };
        if meta.position > ledger.size() {
            return Err(IndexError(format!(
                "it has seen {} entries and the ledger has {}",
                meta.position,
                ledger.size()
            )));
        }
        let entry = ledger
            .entry(last)
            .map_err(|e| IndexError(format!("its last entry cannot be read: {e}")))?;
        if Digest::of(&entry).to_string() != meta.entry_sha256 {
            return Err(IndexError("its last entry is not the ledger's".to_owned()));
        }
        Ok(Some(meta))
    }

    /// Makes everything written so far durable.
    pub(crate) fn flush(&self) -> Result<(), IndexError> {
        let db = self.db()?;
        guarded(|| db.flush())?;
        let sync = || -> io::Result<()> {
            File::open(self.path.join("db"))?.sync_data()?;
            let blobs = self.path.join("blobs");
            if blobs.is_dir() {
                for file in blobs.read_dir()? {
                    match File::open(file?.path()) {
                        // What is written again under another name is erased in the background.
                        Err(gone) if gone.kind() == io::ErrorKind::NotFound => {}
                        blob => blob?.sync_data()?,
                    }
                }
                File::open(blobs)?.sync_all()?;
            }
            File::open(&self.path)?.sync_all()
        };
        sync().map_err(|e| IndexError(format!("cannot sync `{}`: {e}", self.path.display())))?;
        self.reserve();
        Ok(())
    }

    fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<sled::IVec>, IndexError> {
        let db = self.db()?;
        guarded(|| db.get(key))
    }
}

/// Whether the disk is so full that an index had better not be opened in `path`: sled writes when it is, and a write
/// that fails then leaves a sound index damaged.
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

/// How much may be written in `path`, or beside it where it does not exist; nothing where no file can be made.
fn free_bytes(path: &Path) -> io::Result<u64> {
    let beside = |_| statvfs(path.parent().unwrap_or(path));
    let disk = statvfs(path).or_else(beside)?;
    let takes_files = disk.f_files == 0 || disk.f_favail > 0;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    Ok(if takes_files { free } else { 0 })
}

/// Waits a moment for sled's lock on an index. Whoever opens it has the ledger's lock already, so it can only be held by
/// background work of an index that was just closed.
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
            // Let go of with the file.
            return;
        }
        std::thread::sleep(LOCK_PAUSE);
    }
}

/// Runs a call into sled; its panics become errors, since they mean damage and the ledger is unharmed.
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
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, IndexError> {
    serde_json::from_slice(bytes).map_err(|e| IndexError(format!("a record cannot be read: {e}")))
}
