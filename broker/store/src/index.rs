//! The index: current records and history as rows of a [`History`], derived from the ledger.
//!
//! Every write carries its position in the ledger and the hash of the last entry, in the same
//! atomic batch. A start compares both with the ledger, and builds an index that does not fit
//! again. The same batch seals the records that a start loads, so that a start notices a record
//! that another program wrote, changed or took out.
//!
//! Ids have a fixed length and sort by time; names end before the byte that follows them.
//! Credentials and anchors stand under their task, so that a start reads everything alive in one go
//! along the disk. A look-up by their own id finds the task first. Each table of the state names
//! its rows itself.

mod compare;
mod load;
mod read;
mod rows;
mod seal;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use ring::hmac;
use serde::{Deserialize, Serialize};
use taskpass_core::{Digest, TaskId, Timestamp, TrustDomain};

use self::seal::Seal;
pub(crate) use self::{
    compare::Comparison,
    load::{LiveRows, loading_threads},
    read::{Listed, id_in, parsed},
    rows::{Rows, Value, record},
};
pub(crate) use crate::history::IndexError;
use crate::{
    history::{AbsentHistory, Batch, History, MemoryHistory, SledHistory},
    log::Entries,
};

/// The layout of the rows; an index of another layout is built again.
pub(crate) const FORMAT: u32 = 6;
/// Where the index keeps how far it is.
const META: &[u8] = b"m";
/// Entries that are listed under one key.
const ENTRIES_PER_KEY: usize = 128;

/// How far the index is, in itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Meta {
    format: u32,
    /// The ledger it belongs to.
    origin: String,
    /// How many entries it has seen.
    pub(crate) position: u64,
    /// SHA-256 of the last of them.
    entry_sha256: String,
    /// The time of the last of them.
    pub(crate) time: Timestamp,
    pub(crate) trust_domain: Option<TrustDomain>,
    /// Binds all of this and the records that are alive to the ledger's key. Earlier formats had
    /// none.
    #[serde(default)]
    seal: String,
    /// The tally in the seal, masked; absent where an earlier version wrote it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    tally: String,
    /// How many entries the ledger had when this index was begun. An image belongs to one index.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) begun_at: u64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks with a reference"
)]
const fn is_zero(entries: &u64) -> bool {
    *entries == 0
}

/// How far the index is once it has the rows that go with this.
#[derive(Debug)]
pub(crate) struct Head {
    /// How many entries it has seen then.
    pub(crate) position: u64,
    /// The last of them.
    pub(crate) last: Digest,
    /// The time of the last of them.
    pub(crate) time: Timestamp,
    pub(crate) trust_domain: Option<TrustDomain>,
}

/// The index of a store.
#[derive(Debug)]
pub(crate) struct Index {
    history: Box<dyn History>,
    origin: String,
    /// `None` for an index that no start reads.
    seal: Option<Seal>,
    /// See [`Meta`].
    begun_at: AtomicU64,
}

impl Index {
    /// Opens or makes the index in `path`. `key` seals its records.
    pub(crate) fn open(
        path: &Path,
        cache_bytes: u64,
        origin: &str,
        key: &hmac::Key,
    ) -> Result<Self, IndexError> {
        let history = SledHistory::open(path, cache_bytes)?;
        Ok(Self {
            seal: Some(Seal::new(key)),
            ..Self::over(history, origin)
        })
    }

    /// In place of an index in `path` that cannot be opened.
    pub(crate) fn absent(path: &Path, origin: &str) -> Self {
        Self::over(AbsentHistory::new(path), origin)
    }

    /// In memory.
    pub(crate) fn in_memory() -> Self {
        Self::over(MemoryHistory::default(), "memory")
    }

    fn over(history: impl History + 'static, origin: &str) -> Self {
        Self {
            history: Box::new(history),
            origin: origin.to_owned(),
            seal: None,
            begun_at: AtomicU64::new(0),
        }
    }

    /// A new index begins with a ledger of so many entries; an older one goes on from there.
    pub(crate) fn begins_at(&self, entries: u64) {
        self.begun_at.store(entries, Ordering::Relaxed);
    }

    /// How many entries the ledger had when this index was begun.
    pub(crate) fn begun_at(&self) -> u64 {
        self.begun_at.load(Ordering::Relaxed)
    }

    /// Whether nothing but room keeps it from working.
    pub(crate) fn lacks_room(&self) -> bool {
        self.history.lacks_room()
    }

    /// Whether there is room for another index like this one.
    pub(crate) fn has_room(&self) -> bool {
        self.history.has_room()
    }

    /// Makes everything written so far durable.
    pub(crate) fn flush(&self) -> Result<(), IndexError> {
        self.history.flush()
    }

    /// How far it is; `None` when it is new. Fails when it does not belong to this ledger.
    pub(crate) fn checked_meta(&self, ledger: &dyn Entries) -> Result<Option<Meta>, IndexError> {
        let Some(bytes) = self.get(META)? else {
            return Ok(None);
        };
        let meta: Meta = rows::parse(&bytes)?;
        let Meta {
            format, position, ..
        } = meta;
        if format != FORMAT {
            return Err(IndexError(format!("it has format {format}, not {FORMAT}")));
        }
        if meta.origin != self.origin {
            return Err(IndexError(format!(
                "it belongs to the ledger `{}`",
                meta.origin
            )));
        }
        let Some(last) = position.checked_sub(1) else {
            return Err(IndexError("its position is missing".to_owned()));
        };
        let size = ledger.size();
        if position > size {
            return Err(IndexError(format!(
                "it has seen {position} entries and the ledger has {size}"
            )));
        }
        let entry = ledger
            .genuine(last)
            .map_err(|e| IndexError(format!("its last entry cannot be read: {e}")))?;
        if Digest::of(&entry).to_string() != meta.entry_sha256 {
            return Err(IndexError("its last entry is not the ledger's".to_owned()));
        }
        self.begins_at(meta.begun_at);
        Ok(Some(meta))
    }

    /// Reads the records that a start loads, and counts them for the seal.
    pub(crate) const fn live_rows(&self) -> LiveRows<'_> {
        LiveRows::new(self)
    }

    /// Whether `meta` seals exactly the records that were loaded. From here on
    /// the seal follows them.
    pub(crate) fn accept(&self, meta: &Meta, loaded: &LiveRows<'_>) -> Result<bool, IndexError> {
        let Some(seal) = &self.seal else {
            return Ok(true);
        };
        let tally = loaded.tally();
        let is_genuine = seal.of(&unsealed(meta)?, tally) == meta.seal;
        if is_genuine {
            seal.begin_at(tally);
        }
        Ok(is_genuine)
    }

    /// Goes on with the tally that stands in `meta`, without reading the records: the state does not
    /// come from them. Returns whether this broker wrote `meta`.
    pub(crate) fn accept_unread(&self, meta: &Meta) -> Result<bool, IndexError> {
        let (Some(seal), Ok(masked)) = (&self.seal, meta.tally.parse()) else {
            return Ok(false);
        };
        let tally = seal.mask(masked, &meta.seal);
        let is_genuine = seal.of(&unsealed(meta)?, tally) == meta.seal;
        if is_genuine {
            seal.begin_at(tally);
        }
        Ok(is_genuine)
    }

    /// Writes rows, which entries are about which task, and how far the index is with them, in one
    /// atomic batch.
    pub(crate) fn write(
        &self,
        rows: Rows<'_>,
        about: &BTreeMap<TaskId, Vec<u64>>,
        head: &Head,
    ) -> Result<(), IndexError> {
        let rows = rows.into_rows()?;
        let mut meta = Meta {
            format: FORMAT,
            origin: self.origin.clone(),
            position: head.position,
            entry_sha256: head.last.to_string(),
            time: head.time,
            trust_domain: head.trust_domain.clone(),
            seal: String::new(),
            tally: String::new(),
            begun_at: self.begun_at.load(Ordering::Relaxed),
        };
        let tally = match &self.seal {
            None => None,
            Some(seal) => {
                let tally = seal.after(&rows, self.history.as_ref())?;
                meta.seal = seal.of(&unsealed(&meta)?, tally);
                meta.tally = seal.mask(tally, &meta.seal).to_string();
                Some(tally)
            }
        };
        let rows = rows.into_iter().map(|row| (row.key, row.value));
        let mut batch: Batch = rows.collect();
        for (task, indexes) in about {
            for run in indexes.chunks(ENTRIES_PER_KEY) {
                let bytes: Vec<u8> = run.iter().flat_map(|index| index.to_be_bytes()).collect();
                let first = run.first().copied().unwrap_or_default();
                batch.push((entry_key(*task, first), Some(bytes)));
            }
        }
        batch.push((META.to_vec(), Some(rows::json(&meta)?)));
        self.history.write(batch)?;
        if let (Some(seal), Some(tally)) = (&self.seal, tally) {
            seal.begin_at(tally);
        }
        Ok(())
    }
}

/// The sealed part of `meta`: all but the seal and what follows from it.
fn unsealed(meta: &Meta) -> Result<Vec<u8>, IndexError> {
    rows::json(&Meta {
        seal: String::new(),
        tally: String::new(),
        ..meta.clone()
    })
}

/// Where all entries about a task are listed: this and an entry's index, big-endian. The value
/// lists that entry and some that follow.
fn entry_key(task: TaskId, index: u64) -> Vec<u8> {
    let mut key = format!("e/{task}/").into_bytes();
    key.extend_from_slice(&index.to_be_bytes());
    key
}
