//! The one writer: gathers what is pending, decides in order, appends once, then tells everybody.
//!
//! It decides on a state that runs ahead of the ledger and is taken back when the append fails. Readers have a copy
//! that only ever holds what is durable. Replies wait for the append, refusals too, since they may rest on what was
//! decided just before in the same group.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender},
    },
    time::Duration,
};

use parking_lot::RwLock;
use taskpass_core::{Clock, Digest, Timestamp};
use taskpass_ledger::Ledger;
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use crate::{
    Batch, CommitError, Committed, Priority,
    applier::{Backlog, Progress, ToIndex},
    decider::{Decider, Group, Mark},
    index::Portion,
    past::Past,
    state::{Change, State},
};

/// Events appended together at most, before what follows from them.
const GROUP_EVENTS_MAX: usize = 8192;
/// Bytes of JSON appended together at most, before what follows from them.
const GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A checkpoint is at most this much younger than the entries it signs.
const CHECKPOINT_AFTER: Duration = Duration::from_secs(1);
/// How often what has lost its meaning is taken out of memory.
const PRUNE_EVERY: Duration = Duration::from_secs(10);

/// A batch on its way, with its events already written as JSON.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) batch: Batch,
    pub(crate) json: Vec<Vec<u8>>,
    pub(crate) reply: oneshot::Sender<Result<Committed, CommitError>>,
    /// Room in the queue, given back with the request.
    pub(crate) room: OwnedSemaphorePermit,
}

#[derive(Debug)]
pub(crate) enum Message {
    Commit(Request),
    /// Sign what is there, and say when that is done or why not.
    Seal(oneshot::Sender<Result<(), String>>),
    Close,
}

/// What readers see.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) state: RwLock<State>,
    pub(crate) size: watch::Sender<u64>,
    /// Whether the ledger has refused an append for good.
    pub(crate) broken: watch::Sender<bool>,
}

#[derive(Debug)]
pub(crate) struct Writer {
    /// The state after everything decided so far, and whoever has left it.
    pub(crate) ahead: Decider<Past>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) ledger: Ledger,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) applier: Sender<ToIndex>,
    pub(crate) backlog: Arc<Backlog>,
    pub(crate) progress: watch::Receiver<Progress>,
    /// What was pruned and not passed on yet.
    pub(crate) pruned: Vec<Change>,
    pub(crate) pruned_at: Timestamp,
    /// The monotonic time of the first entry that no checkpoint signs.
    pub(crate) unsigned_since: Option<Duration>,
}

impl Writer {
    /// Works until told to close or until nobody can commit any more; then signs what is there.
    pub(crate) fn run(mut self, inbox: &Receiver<Message>) {
        loop {
            let next = match inbox.recv_timeout(self.pause()) {
                Ok(Message::Commit(first)) => {
                    let (requests, next) = gather(first, inbox);
                    self.process(requests);
                    next
                }
                Ok(other) => Some(other),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => Some(Message::Close),
            };
            match next {
                // What is left here was sent after closing; its sender learns that nobody answers.
                Some(Message::Close) => break,
                Some(Message::Seal(reply)) => drop(reply.send(self.checkpoint())),
                Some(Message::Commit(request)) => self.process(vec![request]),
                None => {}
            }
            if self.pause().is_zero() {
                self.checkpoint_when_due();
            }
        }
        self.checkpoint_when_due();
    }

    /// How long nothing needs to be done.
    fn pause(&self) -> Duration {
        match self.unsigned_since {
            None => PRUNE_EVERY,
            Some(since) => {
                let waited = self.clock.monotonic().saturating_sub(since);
                CHECKPOINT_AFTER.saturating_sub(waited)
            }
        }
    }

    fn checkpoint_when_due(&mut self) {
        if let Err(error) = self.checkpoint() {
            // Entries are safe without it; only proofs wait. Tried again after the next pause.
            self.unsigned_since = Some(self.clock.monotonic());
            tracing::warn!(error, "a checkpoint of the ledger could not be written");
        }
    }

    /// Signs all entries, if they are not signed yet.
    fn checkpoint(&mut self) -> Result<(), String> {
        if self.unsigned_since.is_some() {
            self.ledger.checkpoint_now().map_err(|e| chain(&e))?;
            self.unsigned_since = None;
        }
        Ok(())
    }

    /// Decides on each request in order, makes them durable together, and replies.
    pub(crate) fn process(&mut self, requests: Vec<Request>) {
        self.ahead.past.indexed(self.progress.borrow().applied);
        self.prune();
        let mut group = Group::new(self.ahead.state.next());
        let now = self.clock.now();
        let outcomes: Vec<_> = requests
            .iter()
            .map(|request| {
                self.ahead
                    .decide(&request.batch, &request.json, now, &mut group)
            })
            .collect();
        match self.append(&group, &requests) {
            Ok(()) => {
                let changes = self.publish(&mut group);
                for (request, outcome) in requests.into_iter().zip(outcomes) {
                    answer(request, outcome);
                }
                // Whoever waits for an answer does not wait for the thread of the index to wake up.
                self.hand_on(group, changes);
            }
            Err(error) => {
                self.ahead.undo(&mut group, &Mark::default());
                self.refused(requests, &error);
            }
        }
    }

    fn append(&mut self, group: &Group, requests: &[Request]) -> Result<(), CommitError> {
        if group.is_empty() {
            return Ok(());
        }
        let releases = requests
            .iter()
            .all(|r| r.batch.priority == Priority::Reserved);
        let priority = if releases {
            taskpass_ledger::Priority::Reserved
        } else {
            taskpass_ledger::Priority::Normal
        };
        let appended = self.ledger.append_batch(&group.entries(), priority);
        let range = appended.map_err(|error| match error {
            taskpass_ledger::Error::DiskFull { .. } => CommitError::DiskFull,
            taskpass_ledger::Error::BatchTooLarge { .. }
            | taskpass_ledger::Error::EntryTooLarge { .. } => {
                CommitError::TooLarge(error.to_string())
            }
            other => {
                if !*self.shared.broken.borrow() {
                    tracing::error!(error = chain(&other), "the ledger takes no entries");
                    self.shared.broken.send_replace(true);
                }
                CommitError::Unavailable(other.to_string())
            }
        })?;
        // INVARIANT: this thread alone appends, so the ledger is where the state says.
        debug_assert_eq!(range.start, group.first());
        Ok(())
    }

    /// After a failed append: what takes something away is tried alone, and what was too much together, one by one.
    fn refused(&mut self, requests: Vec<Request>, error: &CommitError) {
        let together = requests.len() > 1;
        match error {
            CommitError::DiskFull => {
                let (release, normal): (Vec<_>, Vec<_>) = requests
                    .into_iter()
                    .partition(|r| r.batch.priority == Priority::Reserved);
                let mixed = !normal.is_empty();
                for request in normal {
                    answer(request, Err(CommitError::DiskFull));
                }
                if mixed && !release.is_empty() {
                    self.process(release);
                } else {
                    for request in release {
                        answer(request, Err(CommitError::DiskFull));
                    }
                }
            }
            CommitError::TooLarge(_) if together => {
                for request in requests {
                    self.process(vec![request]);
                }
            }
            _ => {
                for request in requests {
                    answer(request, Err(error.clone()));
                }
            }
        }
    }

    fn prune(&mut self) {
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

    /// Shows readers what is durable.
    fn publish(&mut self, group: &mut Group) -> Vec<Change> {
        if group.is_empty() {
            return Vec::new();
        }
        self.unsigned_since
            .get_or_insert_with(|| self.clock.monotonic());
        let mut changes = std::mem::take(&mut self.pruned);
        changes.append(&mut group.changes);
        {
            let mut state = self.shared.state.write();
            for change in &changes {
                state.set(change);
            }
        }
        self.shared.size.send_replace(self.ahead.state.next());
        changes
    }

    /// Hands to the index what readers see already: they wait for it where they ask for history.
    fn hand_on(&self, group: Group, changes: Vec<Change>) {
        let Some(last) = group.last_entry().map(Digest::of) else {
            return;
        };
        let Group { ended, about, .. } = group;
        let portion = Portion {
            position: self.ahead.state.next(),
            last,
            time: self.ahead.state.last_time(),
            trust_domain: self.ahead.state.trust_domain().cloned(),
            changes,
            ended,
            about,
        };
        self.backlog.add(portion.changes.len());
        if self.applier.send(ToIndex::Portion(portion)).is_err() {
            tracing::error!("the index has stopped; restart the broker to build it again");
        }
    }
}

/// What is pending, up to the limits of one group, and a message of another kind that came behind it.
fn gather(first: Request, inbox: &Receiver<Message>) -> (Vec<Request>, Option<Message>) {
    let mut events = first.batch.events.len();
    let mut bytes = size(&first);
    let mut requests = vec![first];
    while events < GROUP_EVENTS_MAX && bytes < GROUP_BYTES_MAX {
        match inbox.try_recv() {
            Ok(Message::Commit(request)) => {
                events += request.batch.events.len();
                bytes += size(&request);
                requests.push(request);
            }
            Ok(other) => return (requests, Some(other)),
            Err(_) => break,
        }
    }
    (requests, None)
}

fn size(request: &Request) -> usize {
    request.json.iter().map(Vec::len).sum()
}

fn answer(request: Request, outcome: Result<Committed, CommitError>) {
    let Request { reply, room, .. } = request;
    drop(room);
    // Whoever asked may have gone; what was committed stays committed.
    drop(reply.send(outcome));
}

/// An error with its sources, for the log.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}
