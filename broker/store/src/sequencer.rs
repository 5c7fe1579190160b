//! The one place that appends: it takes a turn of the log, decides in order, appends once, and then
//! tells callers, readers and the index.
//!
//! It decides on a state that runs ahead of the log and is undone when the append fails. Readers
//! have a copy that only ever holds durable records. Replies wait for the append, and refusals do
//! too: they may rest on an earlier decision of the same group. Only a caller that asked for it
//! learns earlier that its batch is in order, and then has to reckon with its loss. It has no
//! thread of its own: the writer's thread drives it, or the caller itself.

use std::{mem, sync::Arc, time::Duration};

use taskpass_core::{Clock, Digest, Timestamp, with_sources};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use crate::{
    Batch, CommitError, Committed, Priority,
    applier::{Feed, Progress},
    decider::{Decider, Group, Leavers, Mark},
    entry,
    index::Head,
    log::{Log, LogError, Position, Sealed},
    past::Past,
    portion::{Portion, replayed},
    shared::Shared,
    state::Change,
};

/// How often records that have lost their meaning are removed from memory.
pub(crate) const PRUNE_EVERY: Duration = Duration::from_secs(10);
/// How often a group is decided again because another broker appended first.
const TURNS_MAX: u32 = 16;

/// A batch on its way, with its events already written as JSON.
#[derive(Debug)]
pub(crate) struct Request {
    batch: Batch,
    json: Vec<Vec<u8>>,
    reply: oneshot::Sender<Result<Committed, CommitError>>,
    /// Is told once the batch is in order, where the caller asked.
    ordered: Option<oneshot::Sender<()>>,
    rooms: Option<Rooms>,
}

/// Room that the events of a batch take.
#[derive(Debug)]
pub(crate) struct Rooms {
    /// In the queue, given back with the reply.
    pub(crate) room: OwnedSemaphorePermit,
    /// Among the events that the index does not have, given back once it has them.
    pub(crate) unindexed: OwnedSemaphorePermit,
}

/// Receives the outcome of a batch.
pub(crate) type Reply = oneshot::Receiver<Result<Committed, CommitError>>;

impl Request {
    pub(crate) fn new(batch: Batch, json: Vec<Vec<u8>>, rooms: Option<Rooms>) -> (Self, Reply) {
        let (reply, outcome) = oneshot::channel();
        let request = Self {
            batch,
            json,
            reply,
            ordered: None,
            rooms,
        };
        (request, outcome)
    }

    /// Tells, before the outcome, when the batch is in order. Without an order the outcome is known
    /// once the other end is dropped.
    pub(crate) fn tell_order(&mut self) -> oneshot::Receiver<()> {
        let (ordered, told) = oneshot::channel();
        self.ordered = Some(ordered);
        told
    }

    /// Decides on it. A caller that goes on once its batch is in order goes on now.
    fn decide(&mut self, ahead: &mut Decider<Past>, now: Timestamp, group: &mut Group) -> Outcome {
        let outcome = ahead.decide(&self.batch, &self.json, now, group);
        if outcome.is_ok()
            && let Some(ordered) = self.ordered.take()
        {
            // A caller that has gone changes nothing.
            let _told = ordered.send(());
        }
        outcome
    }

    pub(crate) const fn events(&self) -> usize {
        self.json.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.json.iter().map(Vec::len).sum()
    }

    /// Replies, and returns the room that a committed batch takes until the index has it. A caller
    /// that has gone changes nothing: the batch stays committed.
    fn answer(self, outcome: Result<Committed, CommitError>) -> Option<OwnedSemaphorePermit> {
        let is_committed = outcome.is_ok();
        let (room, unindexed) = self
            .rooms
            .map(|rooms| (rooms.room, rooms.unindexed))
            .unzip();
        drop(room);
        drop(self.reply.send(outcome));
        unindexed.filter(|_| is_committed)
    }
}

/// The batch's events as JSON.
pub(crate) fn encode(batch: &Batch) -> Result<Vec<Vec<u8>>, CommitError> {
    batch.events.iter().map(entry::encode).collect()
}

#[derive(Debug)]
pub(crate) struct Sequencer {
    /// The state after everything decided so far, and the ids that left it.
    ahead: Decider<Past>,
    shared: Arc<Shared>,
    log: Box<dyn Log>,
    clock: Arc<dyn Clock>,
    index: Feed,
    progress: watch::Receiver<Progress>,
    /// Changes of pruning that are not passed on yet.
    pruned: Vec<Change>,
    pruned_at: Timestamp,
    /// The monotonic time of the first entry that no checkpoint signs.
    unsigned_since: Option<Duration>,
}

impl Sequencer {
    pub(crate) fn new(
        ahead: Decider<Past>,
        shared: Arc<Shared>,
        log: Box<dyn Log>,
        clock: Arc<dyn Clock>,
        index: Feed,
        progress: watch::Receiver<Progress>,
    ) -> Self {
        // Entries that a crash left unsigned are signed soon.
        let unsigned_since = log.is_unsigned().then(|| clock.monotonic());
        Self {
            ahead,
            shared,
            log,
            clock,
            index,
            progress,
            pruned: Vec::new(),
            pruned_at: Timestamp::EPOCH,
            unsigned_since,
        }
    }

    /// Commits one batch now.
    pub(crate) fn commit(
        &mut self,
        batch: Batch,
        json: Vec<Vec<u8>>,
    ) -> Result<Committed, CommitError> {
        let (request, mut outcome) = Request::new(batch, json, None);
        self.process(vec![request]);
        // INVARIANT: `process` answers every request before it returns.
        let unanswered = || CommitError::Unavailable("it is closed".to_owned());
        outcome.try_recv().unwrap_or_else(|_| Err(unanswered()))
    }

    /// How long entries have been waiting for a checkpoint.
    pub(crate) fn unsigned_for(&self) -> Option<Duration> {
        let since = self.unsigned_since?;
        Some(self.clock.monotonic().saturating_sub(since))
    }

    /// Signs all entries, if they are not signed yet. After a failure it is tried again a while
    /// later.
    pub(crate) fn sign(&mut self) -> Result<(), LogError> {
        if self.unsigned_since.is_some() {
            self.unsigned_since = Some(self.clock.monotonic());
            self.log.sign()?;
            self.unsigned_since = None;
        }
        Ok(())
    }

    /// Decides on each request in order, makes them durable together, and replies.
    pub(crate) fn process(&mut self, mut requests: Vec<Request>) {
        self.ahead.past.indexed(self.progress.borrow().applied);
        self.prune();
        for _ in 0..TURNS_MAX {
            match self.append(&mut requests) {
                Ok((group, outcomes)) => return self.appended(group, requests, outcomes),
                // No request is answered yet. The next turn shows the entries that the other broker
                // appended.
                Err(LogError::Overtaken) => {}
                Err(error) => return self.refused(requests, error),
            }
        }
        self.refused(requests, LogError::Overtaken);
    }

    /// Decides and appends within one turn. Afterwards the state is where the log is.
    fn append(&mut self, requests: &mut [Request]) -> Result<(Group, Vec<Outcome>), LogError> {
        let known = Position(self.ahead.state.next());
        let mut turn = self.log.turn(known)?;
        for news in mem::take(&mut turn.news) {
            self.follow(&news)?;
        }
        let mut group = Group::new(self.ahead.state.next());
        let outcomes: Vec<_> = requests
            .iter_mut()
            .map(|request| request.decide(&mut self.ahead, turn.now, &mut group))
            .collect();
        if group.entries.is_empty() {
            return Ok((group, outcomes));
        }
        let priority = least(requests);
        match self.log.append(turn, &group.entries, priority) {
            Ok(()) => Ok((group, outcomes)),
            Err(error) => {
                self.ahead.undo(&mut group, &Mark::default());
                Err(error)
            }
        }
    }

    /// Shows a durable group to readers, replies, and hands the group to the index. Callers do not
    /// wait for the index.
    fn appended(&mut self, group: Group, requests: Vec<Request>, outcomes: Vec<Outcome>) {
        let portion = self.portion(group);
        if let Some(portion) = &portion {
            self.publish(&portion.changes);
        }
        let mut room: Option<OwnedSemaphorePermit> = None;
        for (request, outcome) in requests.into_iter().zip(outcomes) {
            let Some(more) = request.answer(outcome) else {
                continue;
            };
            match &mut room {
                Some(room) => room.merge(more),
                None => room = Some(more),
            }
        }
        if let Some(portion) = portion {
            self.index.hand_on(portion, room);
        }
    }

    /// The changes of a group, behind the changes of the pruning before it; `None` when the group
    /// has no entries.
    fn portion(&mut self, group: Group) -> Option<Portion> {
        let last = group.entries.last().map(Digest::of)?;
        let mut changes = mem::take(&mut self.pruned);
        changes.extend(group.changes);
        Some(Portion {
            head: Head {
                position: self.ahead.state.next(),
                last,
                time: self.ahead.state.last_time(),
                trust_domain: self.ahead.state.trust_domain().cloned(),
            },
            changes,
            ended: group.ended,
            about: group.about,
        })
    }

    fn publish(&mut self, changes: &[Change]) {
        self.unsigned_since
            .get_or_insert_with(|| self.clock.monotonic());
        {
            let mut state = self.shared.state.write();
            for change in changes {
                state.set(change);
            }
        }
        self.shared.tell(self.ahead.state.next());
    }

    /// Applies the entries that another broker appended.
    fn follow(&mut self, news: &Sealed) -> Result<(), LogError> {
        let mut portion = replayed(&mut self.ahead.state, news, Timestamp::MAX)?;
        for change in &portion.changes {
            self.ahead.past.note(change, portion.head.position);
        }
        portion.changes.splice(0..0, mem::take(&mut self.pruned));
        self.publish(&portion.changes);
        self.index.hand_on(portion, None);
        Ok(())
    }

    /// After a failed append: without room, batches of higher priority are tried without the
    /// others; a group that was too large is tried batch by batch.
    fn refused(&mut self, requests: Vec<Request>, error: LogError) {
        let together = requests.len() > 1;
        let error = match error {
            LogError::Full => return self.refused_for_room(requests),
            LogError::TooLarge(_) if together => {
                for request in requests {
                    self.process(vec![request]);
                }
                return;
            }
            LogError::TooLarge(reason) => CommitError::TooLarge(reason),
            LogError::Overtaken => CommitError::Unavailable(error.to_string()),
            LogError::Broken(_) | LogError::Unreadable { .. } | LogError::Unsigned(_) => {
                self.broken(&error);
                CommitError::Unavailable(error.to_string())
            }
        };
        for request in requests {
            request.answer(Err(error.clone()));
        }
    }

    fn refused_for_room(&mut self, requests: Vec<Request>) {
        let least = least(&requests);
        let (higher, lowest): (Vec<_>, Vec<_>) = requests
            .into_iter()
            .partition(|request| request.batch.priority > least);
        for request in lowest {
            request.answer(Err(CommitError::DiskFull));
        }
        if !higher.is_empty() {
            self.process(higher);
        }
    }

    fn broken(&self, error: &LogError) {
        if !*self.shared.broken.borrow() {
            let error = match error {
                LogError::Broken(source) => with_sources(source.as_ref()),
                LogError::Full
                | LogError::TooLarge(_)
                | LogError::Overtaken
                | LogError::Unreadable { .. }
                | LogError::Unsigned(_) => error.to_string(),
            };
            tracing::error!(error, "the ledger takes no entries");
            self.shared.broken.send_replace(true);
        }
    }

    fn prune(&mut self) {
        // A record that a clock in doubt calls over may still count.
        if self.clock.doubt().is_some() {
            return;
        }
        let now = self.clock.now().max(self.ahead.state.last_time());
        if now.since(self.pruned_at) < PRUNE_EVERY {
            return;
        }
        self.pruned_at = now;
        for change in self.ahead.state.stale(now) {
            self.ahead.state.set(&change);
            self.pruned.push(change);
        }
    }
}

/// The lowest priority of a group, which is that of the whole.
fn least(requests: &[Request]) -> Priority {
    let priorities = requests.iter().map(|request| request.batch.priority);
    priorities.min().unwrap_or_default()
}

/// The decision on one request.
type Outcome = Result<Committed, CommitError>;
