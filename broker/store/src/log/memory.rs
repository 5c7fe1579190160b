//! The log in memory: for tests and simulations. Several stores may share one.

use std::{fmt, sync::Arc};

use parking_lot::RwLock;
use taskpass_core::Clock;

use super::{Entries, Log, LogError, Position, Sealed, Turn};
use crate::Priority;

/// Entries in memory. A clone is the same log. It outlives the stores over it, as a disk outlives a
/// broker: a test of a crash drops a store and opens another one over the same log, or over a copy
/// of its entries.
#[derive(Clone, Default)]
pub struct MemoryLog {
    entries: Arc<RwLock<Vec<Vec<u8>>>>,
}

impl MemoryLog {
    /// A log of these entries.
    pub fn new(entries: Vec<Vec<u8>>) -> Self {
        Self {
            entries: Arc::new(RwLock::new(entries)),
        }
    }

    /// The entries from `from` on.
    pub fn since(&self, from: usize) -> Vec<Vec<u8>> {
        let entries = self.entries.read();
        entries.get(from..).unwrap_or_default().to_vec()
    }
}

impl fmt::Debug for MemoryLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLog")
            .field("entries", &self.size())
            .finish_non_exhaustive()
    }
}

/// A store's access to a log in memory.
#[derive(Debug)]
pub(crate) struct InMemory {
    log: MemoryLog,
    clock: Arc<dyn Clock>,
}

impl InMemory {
    pub(crate) fn new(log: MemoryLog, clock: Arc<dyn Clock>) -> Self {
        Self { log, clock }
    }
}

impl Log for InMemory {
    fn turn(&mut self, known: Position) -> Result<Turn, LogError> {
        let news = self.news(known)?;
        let end = news.last().map_or(known, Sealed::end);
        Ok(Turn {
            now: self.clock.now(),
            news,
            end,
        })
    }

    fn append(&mut self, turn: Turn, batch: &Sealed, _priority: Priority) -> Result<(), LogError> {
        let mut entries = self.log.entries.write();
        if entries.len() as u64 != turn.end.0 {
            return Err(LogError::Overtaken);
        }
        entries.extend(batch.iter().map(|(_, entry)| entry.to_vec()));
        Ok(())
    }

    fn news(&mut self, known: Position) -> Result<Vec<Sealed>, LogError> {
        let Position(first) = known;
        let mut news = Sealed::new(first);
        let from = usize::try_from(first).unwrap_or(usize::MAX);
        for entry in self.log.entries.read().iter().skip(from) {
            news.push_entry(entry);
        }
        Ok(Some(news)
            .filter(|news| !news.is_empty())
            .into_iter()
            .collect())
    }

    fn sign(&mut self) -> Result<(), LogError> {
        Ok(())
    }

    fn is_unsigned(&self) -> bool {
        false
    }

    fn entries(&self) -> Arc<dyn Entries> {
        Arc::new(self.log.clone())
    }
}

impl Entries for MemoryLog {
    fn size(&self) -> u64 {
        self.entries.read().len() as u64
    }

    fn first(&self) -> u64 {
        0
    }

    fn entry(&self, index: u64) -> Result<Vec<u8>, LogError> {
        let entries = self.entries.read();
        let entry = usize::try_from(index).ok().and_then(|at| entries.get(at));
        entry.cloned().ok_or_else(|| LogError::Unreadable {
            index,
            reason: format!("there are only {} entries", entries.len()),
        })
    }

    fn blocks(&self) -> bool {
        false
    }
}
