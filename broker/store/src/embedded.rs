//! The store of a broker that runs alone: ledger and index in one directory.

mod open;
mod read;

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, mpsc},
    thread::JoinHandle,
};

use parking_lot::Mutex;
use taskpass_core::Clock;
use taskpass_ledger::{Checkpoint, Damage, Reader, disk::Disk, disk::SystemDisk};
use tokio::sync::{Semaphore, oneshot, watch};

use crate::{
    BATCH_EVENTS_MAX, Batch, CommitError, Committed, StoreError,
    applier::{Progress, Wanted},
    entry,
    index::Index,
    writer::{Message, Request, Shared},
};

pub use self::open::{IndexReport, OpenReport};
pub(crate) use self::read::{one_page, place};

/// Events that may wait for the writer, over all batches.
const QUEUE_EVENTS_MAX: usize = 16_384;

/// Where an [`EmbeddedStore`] is and how it opens.
#[derive(Debug, Clone)]
pub struct Config {
    /// The directory that holds `ledger/` and `index/`; made when it is not there.
    pub dir: PathBuf,
    /// Bytes the index may keep in memory.
    pub index_cache_bytes: u64,
    /// What to do when the ledger is damaged.
    pub damage: Damage,
    /// Where the ledger's files are; anything but the system's disk is for tests.
    pub disk: Arc<dyn Disk>,
}

impl Config {
    /// In `dir`, with 32 MiB of cache; damage is refused.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            index_cache_bytes: 32 * 1024 * 1024,
            damage: Damage::Refuse,
            disk: Arc::new(SystemDisk),
        }
    }
}

/// A [`Store`](crate::Store) on local files. Dropping it finishes what is queued and waits for its two threads;
/// prefer [`EmbeddedStore::close`].
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    index: Arc<Index>,
    progress: watch::Receiver<Progress>,
    wanted: Arc<Wanted>,
    reader: Reader,
    clock: Arc<dyn Clock>,
    room: Arc<Semaphore>,
    inbox: mpsc::Sender<Message>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedStore")
            .field("entries", &*self.shared.size.borrow())
            .finish_non_exhaustive()
    }
}

impl EmbeddedStore {
    /// The ledger, for export and proofs.
    pub fn ledger_reader(&self) -> Reader {
        self.reader.clone()
    }

    /// Events that wait for the writer.
    pub fn queued_events(&self) -> usize {
        QUEUE_EVENTS_MAX.saturating_sub(self.room.available_permits())
    }

    /// The last signed head of the ledger.
    pub fn latest_checkpoint(&self) -> Arc<Checkpoint> {
        self.reader.checkpoint()
    }

    /// Ends when the files must be opened anew: the ledger takes no more entries, since after a failed sync nobody
    /// knows what is on the disk, or a full disk, on which the index failed or could not be opened, has room again. The
    /// process should then end, so that it is started again.
    pub async fn broken(&self) {
        let mut broken = self.shared.broken.subscribe();
        // INVARIANT: `shared` holds the sender, so waiting cannot fail while `self` lives.
        let _closed = broken.wait_for(|broken| *broken).await;
    }

    /// Takes no more commits, finishes those that are queued, signs the ledger and flushes the index.
    pub async fn close(&self) -> Result<(), StoreError> {
        let threads = self.stop();
        let joined = tokio::task::spawn_blocking(move || join(threads)).await;
        joined.map_err(|e| StoreError::Index(e.to_string()))?
    }

    fn stop(&self) -> Vec<JoinHandle<()>> {
        self.room.close();
        self.wanted.close();
        // The writer may be gone already; then there is nothing to tell it.
        drop(self.inbox.send(Message::Close));
        std::mem::take(&mut *self.threads.lock())
    }

    async fn submit(&self, batch: Batch) -> Result<Committed, CommitError> {
        let closed = || CommitError::Unavailable("it is closed".to_owned());
        if batch.events.len() > BATCH_EVENTS_MAX {
            return Err(CommitError::TooLarge(format!(
                "a batch has at most {BATCH_EVENTS_MAX} events, not {}",
                batch.events.len()
            )));
        }
        let json = batch
            .events
            .iter()
            .map(entry::encode)
            .collect::<Result<Vec<_>, _>>()?;
        let events = u32::try_from(json.len().max(1)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(events).await;
        let Ok(room) = room else { return Err(closed()) };
        let (reply, outcome) = oneshot::channel();
        let request = Request {
            batch,
            json,
            reply,
            room,
        };
        if self.inbox.send(Message::Commit(request)).is_err() {
            return Err(closed());
        }
        outcome.await.unwrap_or_else(|_| Err(closed()))
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        if join(self.stop()).is_err() {
            tracing::error!("a thread of the store panicked; restart the broker");
        }
    }
}

/// Waits for threads that were told to stop.
fn join(threads: Vec<JoinHandle<()>>) -> Result<(), StoreError> {
    let mut outcome = Ok(());
    for thread in threads {
        if thread.join().is_err() {
            outcome = Err(StoreError::Index(
                "a thread of the store panicked".to_owned(),
            ));
        }
    }
    outcome
}

#[cfg(test)]
mod tests;
