//! Keeps the index up with the log, behind the sequencer, and makes it durable now and then.
//!
//! A crash loses the records since the last flush, and the next start replays them from the log.
//! When the index fails, live records stay available from memory; history is not available until
//! the next start builds the index again.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender},
    },
    time::Duration,
};

use taskpass_core::Clock;
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::{
    imager::Imager,
    index::{Comparison, Index, IndexError},
    portion::{self, Portion},
    shared::Shared,
};

/// Records written in one batch. sled lets no reader in while it applies one, and keeps a copy of
/// every page that it changes until the end of the batch, so it must be short.
const BATCH_CHANGES: usize = 256;
/// How long a batch waits for more while no reader asks for history. Each batch makes sled write
/// whole buffers through the file system, which costs the ledger's next `fdatasync` more than it
/// costs the index.
const GATHER_FOR: Duration = Duration::from_millis(200);
/// Records after which the index is flushed, however little time has passed.
pub(crate) const FLUSH_CHANGES: usize = 50_000;
/// Time after which the index is flushed.
const FLUSH_AFTER: Duration = Duration::from_secs(1);
/// A pause is so many times as long as the comparison before it: callers that connect again after
/// a start have the cores.
const COMPARE_PAUSES: u32 = 400;
const COMPARE_PAUSE_MAX: Duration = Duration::from_secs(2);
/// Changes that wait for the comparison at most; then it makes no pauses.
const HELD_CHANGES_MAX: usize = 8192;
/// How often a full disk is looked at.
const LOOK_FOR_ROOM: Duration = Duration::from_secs(1);

/// Messages to the thread of the index.
#[derive(Debug)]
pub(crate) enum ToIndex {
    /// The changes of some entries. The room of their events is given back once the index has
    /// them, so
    /// that memory stays bounded however far the index is behind.
    Portion(Portion, Option<OwnedSemaphorePermit>),
    /// A reader waits for the index to be so far.
    Wanted(u64),
    /// Nothing follows.
    Close,
}

/// How far the index is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    /// Entries that can be read from it.
    pub(crate) applied: u64,
    /// Why it goes no further.
    pub(crate) failed: Option<Arc<str>>,
}

/// The sequencer's way to the index.
#[derive(Debug)]
pub(crate) enum Feed {
    /// A thread writes it later.
    Behind(Sender<ToIndex>),
    /// It is written at once.
    Here {
        index: Arc<Index>,
        progress: watch::Sender<Progress>,
    },
}

impl Feed {
    /// Hands a portion to the index. Readers already see it in the state; a reader of history waits
    /// for the index.
    pub(crate) fn hand_on(&self, portion: Portion, room: Option<OwnedSemaphorePermit>) {
        let outcome = match self {
            Self::Behind(thread) => {
                let sent = thread.send(ToIndex::Portion(portion, room));
                sent.map_err(|_closed| "its thread is gone".to_owned())
            }
            Self::Here { index, progress } => {
                let written = portion::write(std::slice::from_ref(&portion), index);
                progress.send_modify(|progress| match &written {
                    Ok(()) => progress.applied = portion.head.position,
                    Err(error) => progress.failed = Some(error.to_string().into()),
                });
                written.map_err(|error| error.to_string())
            }
        };
        if let Err(error) = outcome {
            tracing::error!(
                error,
                "the index has stopped; restart the broker to build it again"
            );
        }
    }
}

impl Drop for Feed {
    /// Also after a panic of the sequencer: the thread of the index must not wait for it.
    fn drop(&mut self) {
        match self {
            Self::Behind(thread) => drop(thread.send(ToIndex::Close)),
            Self::Here { .. } => {}
        }
    }
}

/// The thread of the index.
#[derive(Debug)]
pub(crate) struct Applier {
    index: Arc<Index>,
    clock: Arc<dyn Clock>,
    progress: watch::Sender<Progress>,
    shared: Arc<Shared>,
    /// `None` once the store closes.
    imager: Option<Imager>,
    /// Set where the start had its records from an image.
    uncompared: Option<Comparison>,
    /// Messages that came while the rows were compared.
    held: VecDeque<ToIndex>,
    /// How far readers want the index to be.
    wanted: u64,
    is_closed: bool,
}

impl Applier {
    pub(crate) fn new(
        index: Arc<Index>,
        clock: Arc<dyn Clock>,
        progress: watch::Sender<Progress>,
        imager: Imager,
        uncompared: Option<Comparison>,
    ) -> Self {
        Self {
            index,
            clock,
            progress,
            shared: imager.shared(),
            imager: Some(imager),
            uncompared,
            held: VecDeque::new(),
            wanted: 0,
            is_closed: false,
        }
    }

    /// Works until the sequencer is gone.
    pub(crate) fn run(mut self, inbox: &Receiver<ToIndex>) {
        if self.progress.borrow().failed.is_none()
            && let Err(error) = self.compare(inbox).and_then(|()| self.apply(inbox))
        {
            tracing::error!(%error, "the index of history failed; restart the broker to build it again");
            self.progress
                .send_modify(|progress| progress.failed = Some(error.to_string().into()));
        }
        // After a failure the store may have been closed already, by a message that was held.
        let mut held = self.held.drain(..);
        self.is_closed |= held.any(|message| matches!(message, ToIndex::Close));
        drop(held);
        if !self.is_closed {
            self.discard(inbox);
        }
    }

    /// Without an index: drops portions, so that no commit waits for room in the queue. Where the
    /// index failed only because the disk was full, the process ends as soon as there is room; the
    /// next start builds the index without a person.
    fn discard(&self, inbox: &Receiver<ToIndex>) {
        let mut was_full = self.index.lacks_room();
        let mut looked_at = self.clock.monotonic();
        loop {
            match inbox.recv_timeout(LOOK_FOR_ROOM) {
                Ok(ToIndex::Portion(..) | ToIndex::Wanted(_)) | Err(RecvTimeoutError::Timeout) => {}
                Ok(ToIndex::Close) | Err(RecvTimeoutError::Disconnected) => return,
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

    /// Compares the rows that the start did not read, before anything is written over them. Takes
    /// its time, unless someone waits for the index.
    fn compare(&mut self, inbox: &Receiver<ToIndex>) -> Result<(), IndexError> {
        let Some(mut comparison) = self.uncompared.take() else {
            return Ok(());
        };
        let (mut held, mut is_closing) = (0, false);
        while !comparison.ended() {
            let began = self.clock.monotonic();
            comparison.step(&self.index)?;
            let took = self.clock.monotonic().saturating_sub(began);
            let is_wanted = self.wanted > self.progress.borrow().applied;
            let mut pause = (took * COMPARE_PAUSES).min(COMPARE_PAUSE_MAX);
            while held < HELD_CHANGES_MAX && !is_wanted && !is_closing {
                let waited = self.clock.monotonic();
                match inbox.recv_timeout(pause) {
                    Ok(ToIndex::Wanted(position)) => {
                        self.wanted = self.wanted.max(position);
                        break;
                    }
                    Ok(message) => {
                        match &message {
                            ToIndex::Portion(portion, _) => held += portion.changes.len(),
                            ToIndex::Wanted(_) | ToIndex::Close => is_closing = true,
                        }
                        self.held.push_back(message);
                    }
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => is_closing = true,
                }
                pause = pause.saturating_sub(self.clock.monotonic().saturating_sub(waited));
            }
        }
        if comparison.fits(&self.index) {
            return Ok(());
        }
        // The next start reads the rows, finds the same and builds the index again.
        self.imager.take().into_iter().for_each(Imager::discard);
        self.shared.broken.send_replace(true);
        Err(IndexError(
            "its records are not those that this broker wrote".to_owned(),
        ))
    }

    /// The next message, of those that were held first.
    fn receive(
        &mut self,
        inbox: &Receiver<ToIndex>,
        patience: Duration,
    ) -> Result<ToIndex, RecvTimeoutError> {
        match self.held.pop_front() {
            Some(message) => Ok(message),
            None => inbox.recv_timeout(patience),
        }
    }

    fn apply(&mut self, inbox: &Receiver<ToIndex>) -> Result<(), IndexError> {
        let mut dirty = 0;
        let mut flushed_at = None;
        loop {
            let pause = if dirty == 0 {
                Duration::MAX
            } else {
                FLUSH_AFTER
            };
            match self.receive(inbox, pause) {
                Ok(ToIndex::Portion(first, room)) => {
                    // The rooms are given back when the portions are written.
                    let (portions, _rooms) = self.gather(first, room, inbox);
                    dirty += self.write(&portions)?;
                    if flushed_at.is_none() {
                        // Until then a crash leaves a new index empty, which looks like an index
                        // that was lost.
                        self.index.flush()?;
                        (dirty, flushed_at) = (0, Some(self.clock.monotonic()));
                    }
                    self.show(&portions);
                }
                Ok(ToIndex::Wanted(position)) => self.wanted = self.wanted.max(position),
                Ok(ToIndex::Close) | Err(RecvTimeoutError::Disconnected) => self.is_closed = true,
                Err(RecvTimeoutError::Timeout) => {
                    self.index.flush()?;
                    dirty = 0;
                }
            }
            if self.is_closed {
                self.index.flush()?;
                // The sequencer is gone, so the index has all that the image has.
                self.imager.take().into_iter().for_each(Imager::close);
                return Ok(());
            }
            let now = self.clock.monotonic();
            let is_due = flushed_at.is_some_and(|at| now.saturating_sub(at) >= FLUSH_AFTER);
            if dirty >= FLUSH_CHANGES || (dirty > 0 && is_due) {
                self.index.flush()?;
                (dirty, flushed_at) = (0, Some(now));
                let applied = self.progress.borrow().applied;
                if let Some(imager) = &mut self.imager {
                    imager.make_when_due(applied);
                }
            }
        }
    }

    /// Portions that come within a moment. It does not wait while a reader does.
    fn gather(
        &mut self,
        first: Portion,
        room: Option<OwnedSemaphorePermit>,
        inbox: &Receiver<ToIndex>,
    ) -> (Vec<Portion>, Vec<OwnedSemaphorePermit>) {
        let applied = self.progress.borrow().applied;
        let began = self.clock.monotonic();
        let mut changes = first.changes.len();
        let mut portions = vec![first];
        let mut rooms = Vec::from_iter(room);
        while changes < BATCH_CHANGES {
            let waited = self.clock.monotonic().saturating_sub(began);
            let patience = if self.wanted > applied {
                Duration::ZERO
            } else {
                GATHER_FOR.saturating_sub(waited)
            };
            match self.receive(inbox, patience) {
                Ok(ToIndex::Portion(portion, room)) => {
                    changes += portion.changes.len();
                    portions.push(portion);
                    rooms.extend(room);
                }
                Ok(ToIndex::Wanted(position)) => self.wanted = self.wanted.max(position),
                Err(RecvTimeoutError::Timeout) => break,
                Ok(ToIndex::Close) | Err(RecvTimeoutError::Disconnected) => {
                    self.is_closed = true;
                    break;
                }
            }
        }
        (portions, rooms)
    }

    fn write(&self, portions: &[Portion]) -> Result<usize, IndexError> {
        let changes: usize = portions.iter().map(|portion| portion.changes.len()).sum();
        portion::write(portions, &self.index)?;
        Ok(changes.max(1))
    }

    fn show(&self, portions: &[Portion]) {
        if let Some(last) = portions.last() {
            self.progress
                .send_modify(|progress| progress.applied = last.head.position);
        }
    }
}
