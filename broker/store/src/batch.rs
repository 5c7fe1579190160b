//! Batches of events, and the conditions under which they are committed.

use std::{fmt, pin::Pin};

use taskpass_core::{
    AgentName, AnchorId, AnchorKey, CredentialId, CredentialState, Event, ProviderName, SpiffeId,
    TaskId, Timestamp,
};

use crate::CommitError;

/// Events that one batch may bring, before the store adds the events that follow from them.
pub const BATCH_EVENTS_MAX: usize = 4096;

/// How urgent room on the disk is for a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Priority {
    /// For new tasks, credentials and identities; refused first when the disk fills up.
    #[default]
    Normal,
    /// A person reads something. It may use a small part of the reserve.
    Reading,
    /// Revokes, ends or refuses. The ledger keeps a reserve of room for these.
    Reserved,
}

/// Events that happen together or not at all, and the conditions under which they may.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// The events, in this order; at most [`BATCH_EVENTS_MAX`].
    pub events: Vec<Event>,
    /// The conditions that must hold just before the first event.
    pub guards: Vec<Guard>,
    /// How urgent it is.
    pub priority: Priority,
}

impl Batch {
    /// A batch of normal priority without guards.
    pub fn new(events: impl IntoIterator<Item = Event>) -> Self {
        Self {
            events: events.into_iter().collect(),
            guards: Vec::new(),
            priority: Priority::Normal,
        }
    }

    /// A batch that may use the reserved room, without guards.
    pub fn reserved(events: impl IntoIterator<Item = Event>) -> Self {
        Self {
            priority: Priority::Reserved,
            ..Self::new(events)
        }
    }

    /// Adds a condition.
    #[must_use]
    pub fn guard(mut self, guard: Guard) -> Self {
        self.guards.push(guard);
        self
    }
}

/// A condition, checked in the order of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guard {
    /// The agent is registered, and neither frozen nor retired.
    AgentActive(AgentName),
    /// The task is open and its deadline lies ahead.
    TaskOpen(TaskId),
    /// The agent has fewer open tasks than this.
    AgentOpenTasksBelow(AgentName, u32),
    /// The agent has fewer live credentials than this, over all its tasks.
    AgentLiveCredentialsBelow(AgentName, u32),
    /// The task and each task above it hold fewer live credentials, with everything below them,
    /// than their own `max_credentials`.
    TaskCredentialsWithin(TaskId),
    /// No more credentials are live than policy was told when it decided.
    LiveCredentialsAtMost {
        /// The agent.
        agent: AgentName,
        /// Live credentials of the agent.
        of_agent: u64,
        /// The task. It may be about to start.
        task: TaskId,
        /// Live credentials of the task and all below it.
        in_task: u64,
    },
    /// The agent has fewer join tokens than this that are neither used nor expired.
    JoinTokensBelow(AgentName, u32),
    /// The SVID with this serial counts: known, neither superseded nor expired, its task open.
    SvidLive(String),
    /// One more idempotency key of the caller may be remembered.
    IdempotencyKeysWithin {
        /// The caller that uses the key; an agent's tasks count with the agent.
        caller: SpiffeId,
        /// The task that the request names. It may hold as many keys as its caller has left, so
        /// that no task takes all keys from the others.
        task: Option<TaskId>,
        /// Keys of the caller that are remembered at a time.
        limit: u32,
    },
    /// No anchor of the task at the provider that can have this key is about to be revoked for a
    /// credential in doubt. A credential that is issued through such an anchor would die with it.
    NothingInDoubt(TaskId, ProviderName, Option<AnchorKey>),
    /// This anchor of the task at the provider is live, and has exactly this key.
    AnchorLive {
        /// The anchor.
        anchor: AnchorId,
        /// Its task.
        task: TaskId,
        /// Its provider.
        provider: ProviderName,
        /// Its key.
        key: Option<AnchorKey>,
    },
    /// The credential is in one of these states.
    CredentialState(CredentialId, &'static [CredentialState]),
}

/// A batch that is in order and may not be durable yet. Dropping it does not take the batch back.
pub struct InOrder(Pin<Box<dyn Future<Output = Result<Committed, CommitError>> + Send>>);

impl InOrder {
    /// In order; `durable` ends when it is durable, or cannot be any more.
    pub fn new(
        durable: impl Future<Output = Result<Committed, CommitError>> + Send + 'static,
    ) -> Self {
        Self(Box::pin(durable))
    }

    /// Returns once the batch is durable. After an error it is not in the log, except possibly
    /// after [`CommitError::Unavailable`].
    pub async fn durable(self) -> Result<Committed, CommitError> {
        self.0.await
    }
}

impl fmt::Debug for InOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InOrder")
    }
}

/// A batch that is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The position in the log of the first event.
    pub first_index: u64,
    /// The time that the log gives all of the batch's events.
    pub time: Timestamp,
}
