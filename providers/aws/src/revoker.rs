//! The one writer of a role's deny list in this process.
//!
//! Revocations that arrive during a write go out together with the next one (group commit), so a
//! thousand tasks that end at once cost a handful of IAM writes. Every write begins with a read: it
//! keeps the ids that another broker added, and puts back ids that were removed. IAM has no
//! conditional write, so two brokers can still overwrite each other. The loser's ids come back with
//! its next write, which the proof of a revocation and [`RoleDenyList::refresh`] both cause.
//!
//! **Time.** If an id left the list too early, sessions that were called dead would live again. So
//! an id leaves only if IAM's clock agrees with ours, as told in the answer to the read. If IAM
//! tells no time, every id stays.

use std::{collections::BTreeMap, sync::Arc};

use taskpass_core::{AgentName, Clock, Share, TaskId, Timestamp};
use taskpass_provider::ProviderError;
use tokio::sync::Mutex;

use crate::{
    deny_list::{CLOCK_MARGIN, DenyList, Mark, Windows},
    iam::{Found, PolicyStore, Room},
    share::{ListShares, Reservation},
};

/// The fixed parts of the policy do not fit into less.
pub(crate) const POLICY_CHARACTERS_MIN: usize = 1024;

/// The deny list of one IAM role.
#[derive(Debug)]
pub(crate) struct RoleDenyList {
    role: String,
    store: Arc<dyn PolicyStore>,
    clock: Arc<dyn Clock>,
    characters_max: usize,
    shares: ListShares,
    queue: parking_lot::Mutex<Queue>,
    state: Mutex<State>,
}

/// The list after a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Written {
    /// Windows that deny more than exact ids; none unless the list overflowed.
    pub(crate) windows: Windows,
    /// The time of the write by both clocks.
    pub(crate) at: Moment,
}

/// A moment by two clocks that may differ: ours, and AWS's, by which a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    /// It is not before this; the epoch if AWS did not tell its time.
    pub(crate) earliest: Timestamp,
    /// It is not after this, as far as the known clocks tell.
    pub(crate) latest: Timestamp,
}

impl Moment {
    fn new(ours: Timestamp, theirs: Option<Timestamp>) -> Self {
        Self {
            earliest: theirs.map_or(Timestamp::EPOCH, |theirs| theirs.min(ours)),
            latest: theirs.map_or(ours, |theirs| theirs.max(ours)),
        }
    }
}

#[derive(Debug, Default)]
struct Queue {
    /// Counts arrivals; an arrival is served by the first round that began after it.
    last: u64,
    waiting: BTreeMap<Mark, (AgentName, Timestamp)>,
}

#[derive(Debug, Default)]
struct State {
    list: DenyList,
    /// The document of our last write. While IAM shows the same, there is nothing to merge.
    written: Option<String>,
    /// The last round: the last arrival that it served, and its outcome.
    round: Option<(u64, Result<Written, ProviderError>)>,
}

impl RoleDenyList {
    pub(crate) fn new(
        role: String,
        store: Arc<dyn PolicyStore>,
        clock: Arc<dyn Clock>,
        characters_max: usize,
        share: Share,
    ) -> Self {
        Self {
            role,
            store,
            clock,
            characters_max,
            shares: ListShares::new(share, characters_max),
            queue: parking_lot::Mutex::default(),
            state: Mutex::default(),
        }
    }

    /// Counts a session of a task before it is minted, or says that its agent has too many that the
    /// list might have to deny.
    pub(crate) fn reserve<'a>(
        &'a self,
        agent: &'a AgentName,
        task: TaskId,
        session_end: Timestamp,
    ) -> Result<Reservation<'a>, ProviderError> {
        self.shares
            .reserve(agent, task, session_end, self.clock.now())
    }

    /// Returns once the role's policy denies all `marks` of an agent, each until the end of its
    /// last session.
    pub(crate) async fn deny(
        &self,
        agent: &AgentName,
        marks: &[(Mark, Timestamp)],
    ) -> Result<Written, ProviderError> {
        let arrival = {
            let mut queue = self.queue.lock();
            for (mark, session_end) in marks {
                self.shares.count(agent, *mark, *session_end);
                let waiting = queue.waiting.entry(*mark);
                let (_, end) = waiting.or_insert_with(|| (agent.clone(), *session_end));
                *end = (*end).max(*session_end);
            }
            queue.last += 1;
            queue.last
        };
        let mut state = self.state.lock().await;
        if let Some((served, outcome)) = &state.round
            && *served >= arrival
        {
            return outcome.clone();
        }
        self.round(&mut state).await
    }

    /// Prunes the list, and repairs changes by others.
    pub(crate) async fn refresh(&self) -> Result<Written, ProviderError> {
        self.round(&mut *self.state.lock().await).await
    }

    /// Reads the policy and says how large it is. Changes nothing.
    pub(crate) async fn inspect(&self) -> Result<String, ProviderError> {
        Ok(match self.store.read(&self.role).await?.document {
            Some(document) => {
                format!(
                    "{} of at most {} characters",
                    document.len(),
                    self.characters_max
                )
            }
            None => "can be read; nothing was revoked so far".to_owned(),
        })
    }

    /// The time by both clocks. Changes nothing.
    pub(crate) async fn time(&self) -> Result<Moment, ProviderError> {
        let found = self.store.read(&self.role).await?;
        Ok(Moment::new(self.clock.now(), found.at))
    }

    /// Windows of time on the list after the last write.
    pub(crate) async fn windows(&self) -> Windows {
        self.state.lock().await.list.windows()
    }

    async fn round(&self, state: &mut State) -> Result<Written, ProviderError> {
        let found = match self.store.read(&self.role).await {
            Ok(found) => found,
            Err(error) => {
                // The marks stay in the queue for the next round.
                state.round = Some((self.queue.lock().last, Err(error.clone())));
                return Err(error);
            }
        };
        let at = Moment::new(self.clock.now(), found.at);
        let served = {
            let mut queue = self.queue.lock();
            for (mark, (agent, end)) in std::mem::take(&mut queue.waiting) {
                // From here on they are on the list, so a round that is cancelled loses none of
                // them.
                state.list.add(&agent, mark, end, at.latest);
            }
            queue.last
        };
        let outcome = self.synchronise(state, found, at).await;
        self.shares.set_unattributed(state.list.unattributed());
        state.round = Some((served, outcome.clone()));
        outcome
    }

    async fn synchronise(
        &self,
        state: &mut State,
        Found {
            document: found, ..
        }: Found,
        at: Moment,
    ) -> Result<Written, ProviderError> {
        let ours = found.is_some() && found == state.written;
        let list = &mut state.list;
        if let Some(document) = &found
            && !ours
            && !list.merge(document, at.latest)
        {
            tracing::warn!(role = %self.role, "the deny list was replaced by text that is no policy document; it is written again");
        }
        if !ours {
            for (agent, mark, until) in list.attributed() {
                self.shares.count(agent, mark, until.minus(CLOCK_MARGIN));
            }
        }
        list.prune(at.earliest);
        if found.is_none() && list.is_empty(at.earliest) {
            let windows = Windows::default();
            return Ok(Written { windows, at });
        }
        let mut characters_max = self.characters_max;
        loop {
            let before = list.windows();
            let document = list.document(at.earliest, characters_max);
            let windows = list.windows();
            if windows.all > before.all {
                tracing::warn!(
                    role = %self.role,
                    windows = windows.all,
                    of_any_agent = windows.of_any_agent,
                    "the deny list overflowed: other tasks of the same agents that began in the same windows of time must have sessions issued again"
                );
            }
            let written = Written { windows, at };
            let unchanged = match &found {
                Some(found) if ours => *found == document,
                Some(found) => same_document(found, &document),
                None => false,
            };
            if unchanged {
                return Ok(written);
            }
            if self.store.write(&self.role, &document).await? == Room::Enough {
                state.written = Some(document);
                return Ok(written);
            }
            // The role's own policies leave less room than configured.
            if characters_max <= POLICY_CHARACTERS_MIN {
                return Err(ProviderError::Misconfigured(format!(
                    "the inline policies of role `{}` leave no room for {POLICY_CHARACTERS_MIN} characters of deny list; shorten them, or make them managed policies",
                    self.role
                )));
            }
            characters_max = (characters_max / 2).max(POLICY_CHARACTERS_MIN);
            self.shares.shrink(characters_max);
            tracing::warn!(role = %self.role, characters_max, "the role's policies leave less room than configured; the deny list is folded");
        }
    }
}

/// IAM may return a document with other white space or another order of keys than it was given.
fn same_document(one: &str, other: &str) -> bool {
    let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
    one == other || matches!((parse(one), parse(other)), (Some(one), Some(other)) if one == other)
}
