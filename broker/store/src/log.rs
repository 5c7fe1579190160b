//! The port to the log, where the truth is kept: batches of entries in one total order.
//!
//! [`LocalLog`] keeps it in the ledger's files, [`MemoryLog`] in memory. Several brokers may share
//! a log one day. The port therefore reports the entries of other brokers, and refuses an append
//! that another broker's append has overtaken. Nothing above the port knows files.

mod local;
mod memory;

use std::{error::Error, fmt, sync::Arc};

use taskpass_core::Timestamp;

pub use self::memory::MemoryLog;
pub(crate) use self::{local::LocalLog, memory::InMemory};
use crate::{Priority, entry};

/// How much of the log a reader has: the index of the next entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position(pub(crate) u64);

/// The log. Every call blocks; only the sequencer calls.
pub(crate) trait Log: fmt::Debug + Send {
    /// Waits for the right to append. The turn brings the entries that other brokers appended
    /// behind `known`.
    fn turn(&mut self, known: Position) -> Result<Turn, LogError>;

    /// Appends behind all entries that the turn showed. The entries are durable when this returns
    /// `Ok`, and none of them is in the log when it returns an error, except after
    /// [`LogError::Broken`].
    fn append(&mut self, turn: Turn, batch: &Sealed, priority: Priority) -> Result<(), LogError>;

    /// Some of the entries behind `known`, without a turn; none at the log's end.
    fn news(&mut self, known: Position) -> Result<Vec<Sealed>, LogError>;

    /// Signs everything that was appended, where the log is signed.
    fn sign(&mut self) -> Result<(), LogError>;

    /// Whether entries were appended that are not signed yet.
    fn is_unsigned(&self) -> bool;

    /// The entries, for reading on any thread.
    fn entries(&self) -> Arc<dyn Entries>;
}

/// The right to append next.
#[derive(Debug)]
pub(crate) struct Turn {
    /// The log's clock.
    pub(crate) now: Timestamp,
    /// The entries that other brokers appended meanwhile.
    pub(crate) news: Vec<Sealed>,
    /// Where the log ends for the holder of this turn.
    end: Position,
}

/// Entries that stand one behind the other.
#[derive(Debug, Clone)]
pub(crate) struct Sealed {
    first: u64,
    bytes: Vec<u8>,
    /// Where each entry ends in `bytes`.
    ends: Vec<usize>,
}

impl Sealed {
    /// No entries yet; the first will have the index `first`.
    pub(crate) const fn new(first: u64) -> Self {
        Self {
            first,
            bytes: Vec::new(),
            ends: Vec::new(),
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The position of a reader that has these entries and all before.
    pub(crate) const fn end(&self) -> Position {
        Position(self.first + self.ends.len() as u64)
    }

    /// Adds an event, with the time of its entry.
    pub(crate) fn push(&mut self, stamp: &str, event: &[u8]) {
        entry::frame(stamp, event, &mut self.bytes);
        self.ends.push(self.bytes.len());
    }

    /// Adds an entry as it stands in the log.
    pub(crate) fn push_entry(&mut self, entry: &[u8]) {
        self.bytes.extend_from_slice(entry);
        self.ends.push(self.bytes.len());
    }

    /// Keeps the first `len` entries.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.ends.truncate(len);
        self.bytes.truncate(self.ends.last().copied().unwrap_or(0));
    }

    /// The entries with their indexes.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let entries = starts.zip(&self.ends).map(|(from, to)| {
            // INVARIANT: ends rise and lie within the bytes.
            self.bytes.get(from..*to).unwrap_or_default()
        });
        (self.first..).zip(entries)
    }

    pub(crate) fn last(&self) -> Option<&[u8]> {
        let to = self.ends.last()?;
        let from = self.ends.iter().rev().nth(1).copied().unwrap_or(0);
        self.bytes.get(from..*to)
    }
}

/// Entries of a log, one by one, while others append.
pub(crate) trait Entries: fmt::Debug + Send + Sync {
    /// How many entries are durable.
    fn size(&self) -> u64;
    /// The first entry that can be read; the entries before it are in an archive.
    fn first(&self) -> u64;
    /// The bytes of one entry.
    fn entry(&self, index: u64) -> Result<Vec<u8>, LogError>;
    /// The same, and fails unless it is the entry that was signed.
    fn genuine(&self, index: u64) -> Result<Vec<u8>, LogError> {
        self.entry(index)
    }
    /// Whether reading waits for a disk or a network.
    fn blocks(&self) -> bool;
}

/// Why the log failed. Display prints the log's own reason, since callers pass it on to people.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// There is no room. Revocations and refusals may use a reserve.
    #[error("the disk of the ledger is full")]
    Full,
    /// The batch or an entry is larger than the log takes.
    #[error("{0}")]
    TooLarge(String),
    /// Another broker appended first; the batch must be decided again behind its entries.
    #[error("another broker appended first")]
    Overtaken,
    /// Whether the batch was appended is unknown, or nothing is taken any more. The log must be
    /// opened again.
    #[error("{0}")]
    Broken(Box<dyn Error + Send + Sync>),
    /// An entry cannot be read.
    #[error("{reason}")]
    Unreadable { index: u64, reason: String },
    /// The log cannot be signed.
    #[error("{0}")]
    Unsigned(String),
}
