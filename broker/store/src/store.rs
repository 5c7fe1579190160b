//! The one store: state in memory, history in the index, truth in a log.
//!
//! With local files a thread drives the sequencer and another one keeps the index. In memory both
//! work within the call that commits, with the same code.

mod open;
mod read;

use std::{
    fmt, mem,
    path::PathBuf,
    sync::{Arc, mpsc},
    thread::JoinHandle,
};

use parking_lot::Mutex;
use taskpass_core::{Clock, Timestamp};
use taskpass_ledger::{Damage, SEGMENT_BYTES, disk::Disk, disk::SystemDisk};
use tokio::sync::{Semaphore, oneshot, watch};

pub use self::open::{IndexReport, OpenReport, Opened, indexes_set_aside};
use crate::{
    AgentCounts, BATCH_EVENTS_MAX, Batch, CommitError, Committed, InOrder, StoreError,
    applier::{Progress, ToIndex},
    index::Index,
    log::Entries,
    sequencer::{self, Reply, Request, Rooms, Sequencer},
    shared::Shared,
    writer::Message,
};

/// Events that may wait for the sequencer, over all batches.
const QUEUE_EVENTS_MAX: usize = 16_384;
/// Events that may wait for the sequencer or for the index, over all batches: memory stays bounded
/// however far the index is behind.
const UNINDEXED_EVENTS_MAX: usize = 32_768;

/// Where a [`LogStore`] on local files is, and how it opens.
#[derive(Debug, Clone)]
pub struct Config {
    /// The directory that holds `ledger/` and `index/`; made when it is not there.
    pub dir: PathBuf,
    /// Bytes the index may keep in memory.
    pub index_cache_bytes: u64,
    /// The treatment of a damaged ledger.
    pub damage: Damage,
    /// Where the ledger's files are; anything but the system's disk is for tests.
    pub disk: Arc<dyn Disk>,
    /// The archive of the ledger's old segments, to read them from.
    pub archive: Option<PathBuf>,
    /// The size at which a segment of the ledger is full.
    pub segment_bytes: u64,
}

impl Config {
    /// In `dir`, with 32 MiB of cache; damage is refused.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            index_cache_bytes: 32 * 1024 * 1024,
            damage: Damage::Refuse,
            disk: Arc::new(SystemDisk),
            archive: None,
            segment_bytes: SEGMENT_BYTES,
        }
    }
}

/// A [`Store`](crate::Store) over a log. Dropping it finishes the queued commits and waits for its
/// threads; prefer [`LogStore::close`].
pub struct LogStore {
    shared: Arc<Shared>,
    index: Arc<Index>,
    progress: watch::Receiver<Progress>,
    entries: Arc<dyn Entries>,
    clock: Arc<dyn Clock>,
    commits: Commits,
}

/// The way of a batch to the sequencer.
#[derive(Debug)]
enum Commits {
    /// The caller drives the sequencer.
    Here(Box<Mutex<Sequencer>>),
    /// A thread does.
    Queued(Queue),
}

#[derive(Debug)]
struct Queue {
    /// Room among the events that wait for the sequencer.
    room: Arc<Semaphore>,
    /// Room among the events that the index does not have.
    unindexed: Arc<Semaphore>,
    inbox: mpsc::Sender<Message>,
    index: mpsc::Sender<ToIndex>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl fmt::Debug for LogStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogStore")
            .field("entries", &self.shared.state.read().next())
            .finish_non_exhaustive()
    }
}

impl LogStore {
    /// How many entries are durable.
    pub fn size(&self) -> u64 {
        self.entries.size()
    }

    /// How many agents stand where.
    pub fn agent_counts(&self) -> AgentCounts {
        self.shared.state.read().agent_counts()
    }

    /// How many tasks are open. Costs no more with many than with few.
    pub fn open_task_count(&self) -> usize {
        self.shared.state.read().open_task_count()
    }

    /// The earliest time since which a credential waits to be revoked. Costs no more with many
    /// credentials than with few.
    pub fn oldest_revocation(&self) -> Option<Timestamp> {
        self.shared.state.read().oldest_revocation()
    }

    /// Events that wait for the sequencer.
    pub fn queued_events(&self) -> usize {
        match &self.commits {
            Commits::Here(_) => 0,
            Commits::Queued(queue) => {
                QUEUE_EVENTS_MAX.saturating_sub(queue.room.available_permits())
            }
        }
    }

    /// Ends when the store must be opened anew, for either of two reasons. After a failed sync the
    /// content of the disk is unknown, so the log takes no more entries. Or a disk was so full that
    /// the index failed or could not be opened, and has room again. The process should then end, so
    /// that it is started again.
    pub async fn broken(&self) {
        let mut broken = self.shared.broken.subscribe();
        // INVARIANT: `shared` holds the sender, so waiting cannot fail while `self` lives.
        let _closed = broken.wait_for(|broken| *broken).await;
    }

    /// Makes the index durable with everything that the log has by now. Afterwards no start needs
    /// the entries before, unless the index is lost.
    pub async fn flush_index(&self) -> Result<(), StoreError> {
        self.history(Index::flush).await
    }

    /// Takes no more commits, finishes the queued ones, signs the log and flushes the index.
    pub async fn close(&self) -> Result<(), StoreError> {
        let threads = self.stop();
        let joined = tokio::task::spawn_blocking(move || join(threads)).await;
        joined.map_err(|e| StoreError::Index(e.to_string()))?
    }

    fn stop(&self) -> Vec<JoinHandle<()>> {
        match &self.commits {
            Commits::Here(_) => Vec::new(),
            Commits::Queued(queue) => {
                queue.room.close();
                queue.unindexed.close();
                // The writer may be gone already; then there is nothing to tell it.
                drop(queue.inbox.send(Message::Close));
                mem::take(&mut *queue.threads.lock())
            }
        }
    }

    async fn submit(&self, batch: Batch) -> Result<Committed, CommitError> {
        let json = Self::checked(&batch)?;
        match &self.commits {
            Commits::Here(sequencer) => sequencer.lock().commit(batch, json),
            Commits::Queued(queue) => {
                let (request, outcome) = queue.request(batch, json).await?;
                queue.send(request)?;
                outcome.await.unwrap_or_else(|_| Err(closed()))
            }
        }
    }

    /// Submits a batch, and returns once it is in order.
    async fn submit_in_order(&self, batch: Batch) -> Result<InOrder, CommitError> {
        let json = Self::checked(&batch)?;
        let queue = match &self.commits {
            Commits::Here(sequencer) => {
                let committed = sequencer.lock().commit(batch, json)?;
                return Ok(InOrder::new(std::future::ready(Ok(committed))));
            }
            Commits::Queued(queue) => queue,
        };
        let (mut request, outcome) = queue.request(batch, json).await?;
        let ordered = request.tell_order();
        queue.send(request)?;
        let durable = async { outcome.await.unwrap_or_else(|_| Err(closed())) };
        if ordered.await.is_ok() {
            return Ok(InOrder::new(durable));
        }
        // It was refused, or the store was closed.
        let committed = durable.await?;
        Ok(InOrder::new(std::future::ready(Ok(committed))))
    }

    /// The events of a batch as JSON, unless they are too many or too large.
    fn checked(batch: &Batch) -> Result<Vec<Vec<u8>>, CommitError> {
        if batch.events.len() > BATCH_EVENTS_MAX {
            return Err(CommitError::TooLarge(format!(
                "a batch has at most {BATCH_EVENTS_MAX} events, not {}",
                batch.events.len()
            )));
        }
        sequencer::encode(batch)
    }

    async fn sign(&self) -> Result<(), StoreError> {
        match &self.commits {
            Commits::Here(sequencer) => {
                let signed = sequencer.lock().sign();
                signed.map_err(|error| StoreError::Seal(error.to_string()))
            }
            Commits::Queued(queue) => {
                let (reply, outcome) = oneshot::channel();
                let sent = queue.inbox.send(Message::Seal(reply));
                sent.map_err(|_closed| StoreError::Closed)?;
                match outcome.await {
                    Ok(signed) => signed.map_err(StoreError::Seal),
                    Err(_) => Err(StoreError::Closed),
                }
            }
        }
    }
}

impl Queue {
    /// A request with room in the queue, and its outcome.
    async fn request(
        &self,
        batch: Batch,
        json: Vec<Vec<u8>>,
    ) -> Result<(Request, Reply), CommitError> {
        let events = u32::try_from(json.len().max(1)).unwrap_or(u32::MAX);
        let acquire = |from: &Arc<Semaphore>| Arc::clone(from).acquire_many_owned(events);
        let (Ok(unindexed), Ok(room)) = (acquire(&self.unindexed).await, acquire(&self.room).await)
        else {
            return Err(closed());
        };
        Ok(Request::new(batch, json, Some(Rooms { room, unindexed })))
    }

    fn send(&self, request: Request) -> Result<(), CommitError> {
        let sent = self.inbox.send(Message::Commit(request));
        sent.map_err(|_closed| closed())
    }
}

fn closed() -> CommitError {
    CommitError::Unavailable("it is closed".to_owned())
}

impl Drop for LogStore {
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
