//! Keeps the index up with the ledger, behind the writer's back, and makes it durable now and then.
//!
//! Losing what was written since the last flush costs nothing but replaying it. When the index fails, what is alive
//! stays available from memory; history is not until the next start, which builds the index again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender},
    },
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use taskpass_core::Clock;
use tokio::sync::watch;

use crate::{
    index::{Index, IndexError, Portion},
    writer::Shared,
};

/// Records written in one batch. sled lets nobody read while it applies one, and keeps a copy of every page that it
/// changes until the end of the batch, so it must be short.
const BATCH_CHANGES: usize = 256;
/// How long a batch waits for more when nobody reads history. Each batch makes sled write whole buffers through the
/// file system, which costs the ledger's next `fdatasync` more than it costs the index.
const GATHER_FOR: Duration = Duration::from_millis(200);
/// Records after which the index is flushed, whatever the time.
pub(crate) const FLUSH_CHANGES: usize = 50_000;
/// Time after which the index is flushed.
const FLUSH_AFTER: Duration = Duration::from_secs(1);

/// How often a full disk is looked at.
const LOOK_FOR_ROOM: Duration = Duration::from_secs(1);
/// Changes that may wait for the index; the writer waits when there are more, so that memory stays bounded.
const BACKLOG_CHANGES_MAX: usize = 65_536;

/// How much waits for the index.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    changes: Mutex<usize>,
    less: Condvar,
    /// Nobody works it off any more.
    abandoned: AtomicBool,
}

impl Backlog {
    /// Waits for room and takes it. One portion always fits.
    pub(crate) fn add(&self, changes: usize) {
        let mut waiting = self.changes.lock();
        while *waiting >= BACKLOG_CHANGES_MAX && !self.abandoned.load(Ordering::SeqCst) {
            self.less.wait(&mut waiting);
        }
        *waiting = waiting.saturating_add(changes);
    }

    fn remove(&self, changes: usize) {
        let mut waiting = self.changes.lock();
        *waiting = waiting.saturating_sub(changes);
        self.less.notify_all();
    }
}

/// What the thread of the index is sent.
#[derive(Debug)]
pub(crate) enum ToIndex {
    Portion(Portion),
    /// Somebody reads what is not in the index yet.
    Wanted,
}

/// How far readers want the index to be.
#[derive(Debug)]
pub(crate) struct Wanted {
    position: AtomicU64,
    applier: Mutex<Option<Sender<ToIndex>>>,
}

impl Wanted {
    pub(crate) fn new(applier: Sender<ToIndex>) -> Self {
        Self {
            position: AtomicU64::new(0),
            applier: Mutex::new(Some(applier)),
        }
    }

    /// Lets the index go up to `position` without waiting for more.
    pub(crate) fn ask(&self, position: u64) {
        if self.position.fetch_max(position, Ordering::SeqCst) >= position {
            // Somebody has asked for it.
            return;
        }
        if let Some(applier) = &*self.applier.lock() {
            // Where the thread is gone, `Progress` says so.
            drop(applier.send(ToIndex::Wanted));
        }
    }

    /// Asks no more, so that the thread ends with the writer.
    pub(crate) fn close(&self) {
        self.applier.lock().take();
    }

    fn is_beyond(&self, position: u64) -> bool {
        self.position.load(Ordering::SeqCst) > position
    }
}

/// How far the index is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    /// Entries that can be read from it.
    pub(crate) applied: u64,
    /// Why it goes no further.
    pub(crate) failed: Option<Arc<str>>,
}

#[derive(Debug)]
pub(crate) struct Applier {
    pub(crate) index: Arc<Index>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) progress: watch::Sender<Progress>,
    pub(crate) backlog: Arc<Backlog>,
    pub(crate) wanted: Arc<Wanted>,
    pub(crate) shared: Arc<Shared>,
}

impl Drop for Applier {
    /// Also after a panic: the writer must never wait for a thread that is gone.
    fn drop(&mut self) {
        let _waiting = self.backlog.changes.lock();
        self.backlog.abandoned.store(true, Ordering::SeqCst);
        self.backlog.less.notify_all();
    }
}

impl Applier {
    /// Works until the writer is gone.
    pub(crate) fn run(self, inbox: &Receiver<ToIndex>) {
        if self.progress.borrow().failed.is_none()
            && let Err(error) = self.apply(inbox)
        {
            tracing::error!(%error, "the index of history failed; restart the broker to build it again");
            self.progress
                .send_modify(|progress| progress.failed = Some(error.to_string().into()));
        }
        self.discard(inbox);
    }

    /// Without an index. The writer must not wait for it. Where it was only room that was missing, the process ends as
    /// soon as there is some, so that it is started again and builds the index without a person.
    fn discard(&self, inbox: &Receiver<ToIndex>) {
        let mut was_full = self.index.lacks_room();
        let mut looked_at = self.clock.monotonic();
        loop {
            match inbox.recv_timeout(LOOK_FOR_ROOM) {
                Ok(ToIndex::Portion(portion)) => self.backlog.remove(portion.changes.len()),
                Ok(ToIndex::Wanted) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let now = self.clock.monotonic();
            if now.saturating_sub(looked_at) >= LOOK_FOR_ROOM {
                looked_at = now;
                let has_room = self.index.has_room();
                if was_full && has_room {
                    tracing::warn!("there is room for the index of history again");
                    self.shared.broken.send_replace(true);
                }
                was_full |= !has_room;
            }
        }
    }

    fn apply(&self, inbox: &Receiver<ToIndex>) -> Result<(), IndexError> {
        let mut dirty = 0;
        let mut flushed_at = None;
        loop {
            let pause = if dirty == 0 {
                Duration::MAX
            } else {
                FLUSH_AFTER
            };
            match inbox.recv_timeout(pause) {
                Ok(ToIndex::Portion(first)) => {
                    let portions = self.gather(first, inbox);
                    dirty += self.write(&portions)?;
                    if flushed_at.is_none() {
                        // Until then a crash leaves a new index empty, which looks like one that was lost.
                        self.index.flush()?;
                        (dirty, flushed_at) = (0, Some(self.clock.monotonic()));
                    }
                    self.show(&portions);
                }
                Ok(ToIndex::Wanted) => {}
                Err(RecvTimeoutError::Timeout) => {
                    self.index.flush()?;
                    dirty = 0;
                }
                Err(RecvTimeoutError::Disconnected) => return self.index.flush(),
            }
            let now = self.clock.monotonic();
            let is_due = flushed_at.is_some_and(|at| now.saturating_sub(at) >= FLUSH_AFTER);
            if dirty >= FLUSH_CHANGES || (dirty > 0 && is_due) {
                self.index.flush()?;
                (dirty, flushed_at) = (0, Some(now));
            }
        }
    }

    /// What comes within a moment, unless a reader waits.
    fn gather(&self, first: Portion, inbox: &Receiver<ToIndex>) -> Vec<Portion> {
        let applied = self.progress.borrow().applied;
        let began = self.clock.monotonic();
        let mut changes = first.changes.len();
        let mut portions = vec![first];
        while changes < BATCH_CHANGES {
            let waited = self.clock.monotonic().saturating_sub(began);
            let patience = if self.wanted.is_beyond(applied) {
                Duration::ZERO
            } else {
                GATHER_FOR.saturating_sub(waited)
            };
            match inbox.recv_timeout(patience) {
                Ok(ToIndex::Portion(portion)) => {
                    changes += portion.changes.len();
                    portions.push(portion);
                }
                Ok(ToIndex::Wanted) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        portions
    }

    fn write(&self, portions: &[Portion]) -> Result<usize, IndexError> {
        let changes: usize = portions.iter().map(|portion| portion.changes.len()).sum();
        let written = self.index.write(portions);
        self.backlog.remove(changes);
        written?;
        Ok(changes.max(1))
    }

    fn show(&self, portions: &[Portion]) {
        if let Some(last) = portions.last() {
            self.progress
                .send_modify(|progress| progress.applied = last.position);
        }
    }
}
