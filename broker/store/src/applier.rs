//! Keeps the index up with the ledger, behind the writer's back, and makes it durable now and then.
//!
//! Losing what was written since the last flush costs nothing but replaying it. When the index fails, what is alive
//! stays available from memory; history is not until the next start, which builds the index again.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use taskpass_core::Clock;
use tokio::sync::watch;

use crate::index::{Index, IndexError, Portion};

/// Records written in one batch. sled lets nobody read while it applies one, so it must be short.
const BATCH_CHANGES: usize = 512;
/// Records after which the index is flushed, whatever the time.
pub(crate) const FLUSH_CHANGES: usize = 50_000;
/// Time after which the index is flushed.
const FLUSH_AFTER: Duration = Duration::from_secs(1);

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
        // The writer must not wait for an index that is out of order.
        while inbox.recv().is_ok() {}
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
        self.index.write(&portions)?;
        if let Some(last) = portions.last() {
            self.progress
                .send_modify(|progress| progress.applied = last.position);
        }
        Ok(changes.max(1))
    }
}
