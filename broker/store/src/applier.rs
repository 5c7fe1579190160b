//! Keeps the index up with the ledger, behind the writer's back, and makes it durable now and then.
//!
//! Losing what was written since the last flush costs nothing but replaying it. When the index fails, what is alive
//! stays available from memory; history is not until the next start, which builds the index again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
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
    pub(crate) fn run(self, inbox: &Receiver<Portion>) {
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
    fn discard(&self, inbox: &Receiver<Portion>) {
        let mut was_full = false;
        let mut looked_at = self.clock.monotonic();
        loop {
            match inbox.recv_timeout(LOOK_FOR_ROOM) {
                Ok(portion) => self.backlog.remove(portion.changes.len()),
                Err(RecvTimeoutError::Timeout) => {}
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

    fn apply(&self, inbox: &Receiver<Portion>) -> Result<(), IndexError> {
        let mut dirty = 0;
        let mut flushed_at = self.clock.monotonic();
        loop {
            let pause = if dirty == 0 {
                Duration::MAX
            } else {
                FLUSH_AFTER
            };
            match inbox.recv_timeout(pause) {
                Ok(first) => dirty += self.write(first, inbox)?,
                Err(RecvTimeoutError::Timeout) => {
                    self.index.flush()?;
                    dirty = 0;
                }
                Err(RecvTimeoutError::Disconnected) => return self.index.flush(),
            }
            let now = self.clock.monotonic();
            if dirty >= FLUSH_CHANGES || now.saturating_sub(flushed_at) >= FLUSH_AFTER {
                self.index.flush()?;
                (dirty, flushed_at) = (0, now);
            }
        }
    }

    fn write(&self, first: Portion, inbox: &Receiver<Portion>) -> Result<usize, IndexError> {
        let mut changes = first.changes.len();
        let mut portions = vec![first];
        while changes < BATCH_CHANGES {
            let Ok(portion) = inbox.try_recv() else { break };
            changes += portion.changes.len();
            portions.push(portion);
        }
        let written = self.index.write(&portions);
        self.backlog.remove(changes);
        written?;
        if let Some(last) = portions.last() {
            self.progress
                .send_modify(|progress| progress.applied = last.position);
        }
        Ok(changes.max(1))
    }
}
