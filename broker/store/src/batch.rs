//! What is committed, and under which conditions.

use taskpass_core::{
    AgentName, CredentialId, CredentialState, Event, ProviderName, SpiffeId, TaskId, Timestamp,
};

/// Events one batch may bring, before the store adds what follows from them.
pub const BATCH_EVENTS_MAX: usize = 4096;

/// How urgent room on the disk is for a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Priority {
    /// Gives something new; refused first when the disk fills up.
    #[default]
    Normal,
    /// Takes something away: revoking and ending. The ledger keeps a reserve for these.
    Reserved,
}

/// Events that happen together or not at all, and the conditions under which they may.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// What happens, in this order; at most [`BATCH_EVENTS_MAX`].
    pub events: Vec<Event>,
    /// What must hold just before the first event.
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

    /// A batch that takes something away, without guards.
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

/// A condition that the writer checks in ledger order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guard {
    /// The task is open and its deadline lies ahead.
    TaskOpen(TaskId),
    /// The agent has fewer open tasks than this.
    AgentOpenTasksBelow(AgentName, u32),
    /// The agent has fewer live credentials than this, over all its tasks.
    AgentLiveCredentialsBelow(AgentName, u32),
    /// The task and each task above it hold fewer live credentials, with everything below them, than their own
    /// `max_credentials`.
    TaskCredentialsWithin(TaskId),
    /// The agent has fewer tokens than this that are neither used nor expired.
    JoinTokensBelow(AgentName, u32),
    /// The SVID with this serial counts: known, neither superseded nor expired, its task open.
    SvidLive(String),
    /// One more idempotency key of the caller may be remembered.
    IdempotencyKeysWithin {
        /// Whose key it is; an agent's tasks count with it.
        caller: SpiffeId,
        /// The task that the request names. It may hold as many keys as its caller has left, and no more: none of
        /// them takes all from the others.
        task: Option<TaskId>,
        /// Keys of the caller that are remembered at a time.
        limit: u32,
    },
    /// The task has no session at the provider that is about to be ended for a credential whose outcome is unknown:
    /// whatever is drawn with it meanwhile would die with it.
    NothingInDoubt(TaskId, ProviderName),
    /// The credential is in one of these states.
    CredentialState(CredentialId, &'static [CredentialState]),
}

/// A batch that is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The ledger index of the first event.
    pub first_index: u64,
    /// The time the ledger gives all of the batch's events.
    pub time: Timestamp,
}
