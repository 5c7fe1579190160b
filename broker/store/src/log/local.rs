//! The log in local files: the ledger of a broker that runs alone.

use std::sync::Arc;

use taskpass_core::{Clock, with_sources};
use taskpass_ledger::{Error, GenuineEntries, Ledger, Reader};

use super::{Entries, Log, LogError, Position, Sealed, Turn};
use crate::Priority;

/// Entries that one call to [`Log::news`] reads at most.
const NEWS_ENTRIES: u64 = 512;

/// The ledger in a directory. Its lock keeps every other broker away, so a turn never brings news.
#[derive(Debug)]
pub(crate) struct LocalLog {
    ledger: Ledger,
    reader: Reader,
    clock: Arc<dyn Clock>,
    /// Where the last call to [`Log::news`] stopped.
    following: Option<(u64, GenuineEntries)>,
}

impl LocalLog {
    pub(crate) fn new(ledger: Ledger, clock: Arc<dyn Clock>) -> Self {
        let reader = ledger.reader();
        Self {
            ledger,
            reader,
            clock,
            following: None,
        }
    }
}

impl Log for LocalLog {
    fn turn(&mut self, known: Position) -> Result<Turn, LogError> {
        Ok(Turn {
            now: self.clock.now(),
            news: Vec::new(),
            end: known,
        })
    }

    fn append(&mut self, turn: Turn, batch: &Sealed, priority: Priority) -> Result<(), LogError> {
        let priority = match priority {
            Priority::Normal => taskpass_ledger::Priority::Normal,
            Priority::Reading => taskpass_ledger::Priority::Reading,
            Priority::Reserved => taskpass_ledger::Priority::Reserved,
        };
        let entries: Vec<&[u8]> = batch.iter().map(|(_, entry)| entry).collect();
        let appended = self.ledger.append_batch(&entries, priority);
        let range = appended.map_err(|error| {
            if matches!(error, Error::DiskFull { .. }) {
                LogError::Full
            } else if matches!(
                error,
                Error::BatchTooLarge { .. } | Error::EntryTooLarge { .. }
            ) {
                LogError::TooLarge(error.to_string())
            } else {
                LogError::Broken(Box::new(error))
            }
        })?;
        // INVARIANT: only the holder of the lock appends, so the ledger ends where the turn says.
        debug_assert_eq!(range.start, turn.end.0);
        Ok(())
    }

    fn news(&mut self, known: Position) -> Result<Vec<Sealed>, LogError> {
        let Position(first) = known;
        let to = self.reader.size().min(first.saturating_add(NEWS_ENTRIES));
        if first >= to {
            return Ok(Vec::new());
        }
        let unreadable = |error: Error| LogError::Unreadable {
            index: first,
            reason: error.to_string(),
        };
        // The next call goes on where this one stops.
        let mut entries = match self.following.take() {
            Some((at, entries)) if at == first => entries,
            _ => {
                let rest = first..self.reader.size();
                self.reader.genuine_entries(rest).map_err(unreadable)?
            }
        };
        let mut news = Sealed::new(first);
        while news.end() < Position(to)
            && let Some((_, entry)) = entries.next_entry().map_err(unreadable)?
        {
            news.push_entry(entry);
        }
        let Position(end) = news.end();
        if end < self.reader.size() {
            self.following = Some((end, entries));
        }
        Ok(vec![news])
    }

    fn sign(&mut self) -> Result<(), LogError> {
        let signed = self.ledger.checkpoint_now();
        signed
            .map(drop)
            .map_err(|error| LogError::Unsigned(with_sources(&error)))
    }

    fn is_unsigned(&self) -> bool {
        self.reader.checkpoint().size() < self.reader.size()
    }

    fn entries(&self) -> Arc<dyn Entries> {
        Arc::new(self.reader.clone())
    }
}

impl Entries for Reader {
    fn size(&self) -> u64 {
        Self::size(self)
    }

    fn first(&self) -> u64 {
        self.first_readable()
    }

    fn entry(&self, index: u64) -> Result<Vec<u8>, LogError> {
        Self::entry(self, index).map_err(|error| LogError::Unreadable {
            index,
            reason: error.to_string(),
        })
    }

    fn genuine(&self, index: u64) -> Result<Vec<u8>, LogError> {
        let read = || {
            let mut entries = self.genuine_entries(index..index.saturating_add(1))?;
            let found = entries.next_entry()?;
            Ok(found.map(|(_, entry)| entry.to_vec()).unwrap_or_default())
        };
        read().map_err(|error: Error| LogError::Unreadable {
            index,
            reason: error.to_string(),
        })
    }

    fn blocks(&self) -> bool {
        true
    }
}
