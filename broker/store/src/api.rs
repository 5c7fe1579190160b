//! The questions that the engine and the reconcilers ask of a store. No trace of files or of a
//! particular database.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use async_trait::async_trait;
use taskpass_core::{
    Agent, AgentName, Anchor, Credential, CredentialId, Identity, InvalidValue, JoinToken,
    JoinTokenId, OperatorName, ProviderName, RecordedRoot, RootNumber, SpiffeId, SvidOrigin,
    SvidState, Task, TaskId, TaskState, Timestamp, limits,
};

use crate::{Batch, CommitError, Committed, Guard, IdempotencyRecord, InOrder, StoreError};

/// Guarded, ordered, durable state.
///
/// Reads see every commit that was acknowledged before they began, and nothing that is not durable.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync {
    /// Commits all events or none. The store checks guards and admits events in the order of the
    /// log, so a race has one winner. When this returns `Ok`, the events survive a power cut.
    ///
    /// A [`Event::TaskEnding`](taskpass_core::Event::TaskEnding) brings along the end of every task
    /// below it and the revoking of all their credentials, in the same batch.
    ///
    /// Dropping the future does not take the batch back: it may still be committed.
    async fn commit(&self, batch: Batch) -> Result<Committed, CommitError>;

    /// The same, and returns once the batch is in order: each guard held, each event was admitted,
    /// and every batch that is sent from now on is decided behind it. It can still be lost, by a
    /// power cut or by a log that does not take it; [`InOrder::durable`] tells. No reader sees it
    /// before it is durable.
    async fn commit_in_order(&self, batch: Batch) -> Result<InOrder, CommitError>;

    /// Whether all these conditions hold for what is durable now.
    async fn holds(&self, guards: &[Guard]) -> Result<bool, StoreError>;

    /// The agent of this name.
    async fn agent(&self, name: &AgentName) -> Result<Option<Arc<Agent>>, StoreError>;
    /// A join token. The store forgets it 24 hours after its end, whether it was used or not.
    async fn join_token(&self, id: JoinTokenId)
    -> Result<Option<Arc<JoinTokenRecord>>, StoreError>;
    /// The SVID with this serial, an agent's or an operator's, if it counts: on record, neither
    /// superseded nor expired, and its task is open.
    async fn svid(&self, serial: &str) -> Result<Option<Arc<SvidRecord>>, StoreError>;
    /// The SVID with this serial, an agent's or an operator's, if another one of the same identity
    /// took its place and it has not expired.
    async fn superseded_svid(
        &self,
        serial: &str,
    ) -> Result<Option<Arc<SupersededSvid>>, StoreError>;
    /// What hangs on a root, and counts now.
    async fn root_use(&self, root: RootNumber) -> Result<RootUse, StoreError>;
    /// Every root that the ledger names, retired ones too. The ledgers of earlier versions name the
    /// first one from its first step on.
    async fn recorded_roots(&self) -> Result<BTreeMap<RootNumber, RecordedRoot>, StoreError>;
    /// How many SVIDs of a holder count, used or not.
    async fn svids_of(&self, holder: &Identity) -> Result<usize, StoreError>;
    /// The task, in any state.
    async fn task(&self, id: TaskId) -> Result<Option<Arc<Task>>, StoreError>;
    /// The credential, in any state.
    async fn credential(&self, id: CredentialId) -> Result<Option<Arc<Credential>>, StoreError>;
    /// All credentials of one task in any state, by id, which is the order of their intents.
    async fn credentials_of_task(&self, task: TaskId) -> Result<Vec<Arc<Credential>>, StoreError>;
    /// All anchors of one task in any state, by id.
    async fn anchors_of_task(&self, task: TaskId) -> Result<Vec<Arc<Anchor>>, StoreError>;
    /// The tasks below this one, at any depth, that have not ended; parents before children.
    async fn descendants(&self, task: TaskId) -> Result<Vec<TaskId>, StoreError>;
    /// The thing that the caller made with this idempotency key in the last 24 hours.
    async fn idempotent(
        &self,
        caller: &SpiffeId,
        key: &str,
    ) -> Result<Option<IdempotencyRecord>, StoreError>;

    /// Counts the agent's open tasks, live credentials and join tokens.
    async fn usage_of_agent(&self, name: &AgentName) -> Result<Usage, StoreError>;
    /// The agent's open tasks, oldest first.
    async fn open_tasks_of_agent(&self, name: &AgentName) -> Result<Vec<TaskId>, StoreError>;
    /// Live credentials of the task and of everything below it.
    async fn live_in_task(&self, id: TaskId) -> Result<u32, StoreError>;
    /// Counts the live credentials at the provider.
    async fn usage_of_provider(&self, name: &ProviderName) -> Result<ProviderUsage, StoreError>;

    /// The revocations that are due at `now`; at most `limit` credentials of each provider, so that
    /// a provider with many hides no other.
    async fn revocations(&self, now: Timestamp, limit: usize) -> Result<Revocations, StoreError>;
    /// The other work of reconcilers at `now`; at most `limit` of each kind.
    async fn work(&self, now: Timestamp, limit: usize) -> Result<Work, StoreError>;
    /// All open tasks, oldest first.
    async fn open_tasks(&self) -> Result<Vec<Arc<Task>>, StoreError>;

    /// Agents by name.
    async fn list_agents(&self, page: &Page) -> Result<Listing<Arc<Agent>>, StoreError>;
    /// Join tokens that are remembered, newest first: of one agent, or of all.
    async fn list_join_tokens(
        &self,
        agent: Option<&AgentName>,
        page: &Page,
    ) -> Result<Listing<Arc<JoinTokenRecord>>, StoreError>;
    /// Tasks, newest first.
    async fn list_tasks(
        &self,
        filter: &TaskFilter,
        page: &Page,
    ) -> Result<Listing<Arc<Task>>, StoreError>;
    /// Credentials, newest first.
    async fn list_credentials(
        &self,
        filter: &CredentialFilter,
        page: &Page,
    ) -> Result<Listing<Arc<Credential>>, StoreError>;
    /// Positions in the log, from `from` upwards, of the entries about the task, its credentials,
    /// anchors and SVIDs, and of the decisions that name it.
    async fn entries_of_task(
        &self,
        task: TaskId,
        from: u64,
        limit: usize,
    ) -> Result<Vec<u64>, StoreError>;

    /// The position in the log of the first entry recorded at `time` or later; the log's size when
    /// there is none.
    async fn first_index_since(&self, time: Timestamp) -> Result<u64, StoreError>;

    /// Signs a checkpoint over everything that is durable now, if there is none yet. Without this
    /// call the store signs one within a second of an append; an export must not lack that last
    /// second.
    async fn seal(&self) -> Result<(), StoreError>;

    /// The time of the newest entry; the epoch where there is none.
    fn last_time(&self) -> Timestamp;

    /// The number of durable entries, after each batch: wakes reconcilers.
    fn changes(&self) -> tokio::sync::watch::Receiver<u64>;
}

/// A join token, and whether it was used.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct JoinTokenRecord {
    /// The token.
    pub token: JoinToken,
    /// Whether an SVID was issued for it.
    pub used: bool,
    /// Whether it was withdrawn.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withdrawn: bool,
}

/// Where a join token stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinTokenState {
    /// It can be used.
    Unused,
    /// An SVID was issued for it.
    Used,
    /// It was withdrawn.
    Withdrawn,
    /// It was not used until its end.
    Expired,
}

impl JoinTokenRecord {
    /// Where the token stands at `now`.
    pub fn state(&self, now: Timestamp) -> JoinTokenState {
        if self.used {
            JoinTokenState::Used
        } else if self.withdrawn {
            JoinTokenState::Withdrawn
        } else if self.token.expires_at <= now {
            JoinTokenState::Expired
        } else {
            JoinTokenState::Unused
        }
    }
}

/// An SVID on record, of any holder. A certificate that is not on record does not count, even if
/// our own authority signed it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SvidRecord {
    /// The certificate's serial number as 32 hex digits.
    pub serial: String,
    /// The identity in the certificate.
    pub holder: Identity,
    /// SHA-256 of the public key (SubjectPublicKeyInfo), in hex.
    pub key_sha256: String,
    /// Until when it is valid.
    pub not_after: Timestamp,
    /// Whether it was used already.
    pub state: SvidState,
    /// The position in the log of the entry that recorded it.
    pub entry: u64,
    /// How its holder came to it; absent where an earlier version recorded it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<SvidOrigin>,
    /// When; absent where an earlier version recorded it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recorded_at: Option<Timestamp>,
    /// The root that its chain ends in.
    #[serde(default, skip_serializing_if = "RootNumber::is_first")]
    pub root: RootNumber,
}

/// The things that hang on one root, and count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RootUse {
    /// Agents with an SVID under it.
    pub agents: BTreeSet<AgentName>,
    /// Tasks with an SVID under it.
    pub tasks: BTreeSet<TaskId>,
    /// Operators with an SVID under it, each with the end of the longest.
    pub operators: BTreeMap<OperatorName, Timestamp>,
    /// Unused join tokens that carry its fingerprint.
    pub join_tokens: u32,
    /// When the last of all these ends by itself.
    pub last_end: Timestamp,
}

impl RootUse {
    /// Whether nothing hangs on it.
    pub fn is_empty(&self) -> bool {
        self.agents.is_empty()
            && self.tasks.is_empty()
            && self.operators.is_empty()
            && self.join_tokens == 0
    }
}

/// An SVID that another one of the same identity took the place of.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SupersededSvid {
    /// Its record as it was.
    pub svid: SvidRecord,
    /// Whether its use is on record.
    pub noticed: bool,
}

/// How many agents stand where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AgentCounts {
    /// Agents that may work.
    pub active: u64,
    /// Agents that are stopped.
    pub frozen: u64,
    /// Agents that are stopped for good.
    pub retired: u64,
}

impl SvidRecord {
    /// The task it is bound to, if any.
    pub(crate) const fn task(&self) -> Option<TaskId> {
        match &self.holder {
            Identity::AgentTask(_, task) => Some(*task),
            Identity::Agent(_) | Identity::Operator(_) | Identity::Broker(_) => None,
        }
    }
}

/// Counts of an agent's open tasks, live credentials and join tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Its open tasks.
    pub open_tasks: u32,
    /// Its credentials that have not reached a final state.
    pub live_credentials: u32,
    /// Its join tokens that are neither used nor expired.
    pub join_tokens: u32,
}

/// Counts of the live credentials at one provider.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProviderUsage {
    /// Credentials that have not reached a final state, including revoking ones.
    pub live_credentials: u32,
    /// Credentials that are being revoked.
    pub revoking: u32,
}

/// Revocations that are due now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revocations {
    /// Grouped by provider and task, the longest due first. If more are due than fit, half of the
    /// room is for the longest due and half for the newest: while a provider is down the old ones
    /// wait, and must not hide the new ones.
    pub due: Vec<DueRevocation>,
    /// When the next retry after `now` comes; `None` when there is none.
    pub next: Option<Timestamp>,
}

/// Things of one task to revoke at one provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueRevocation {
    /// The provider.
    pub provider: ProviderName,
    /// The task.
    pub task: TaskId,
    /// Its agent.
    pub agent: AgentName,
    /// The credentials. Empty where only anchors of an ending task without live credentials are
    /// left to revoke.
    pub credentials: Vec<CredentialId>,
    /// How often revoking failed, for the credential that was tried least; 0 where one was
    /// never tried.
    pub attempts: u32,
}

/// The work of reconcilers besides revoking.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Work {
    /// Open tasks past their deadline, the most overdue first.
    pub overdue_tasks: Vec<TaskId>,
    /// Ending tasks with final credentials and children only, and without live anchors.
    pub ending_tasks: Vec<TaskId>,
    /// Active credentials past their own end.
    pub expired_credentials: Vec<CredentialId>,
    /// Credentials between intent and outcome, oldest first. Unless this process is calling the
    /// provider for one, its outcome is unknown.
    pub interrupted: Vec<CredentialId>,
    /// When the next deadline or expiry after `now` comes; `None` when there is none.
    pub next: Option<Timestamp>,
}

/// The part of a listing that a caller asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    size: usize,
    token: Option<String>,
}

impl Page {
    /// `size` rows (0: [`limits::PAGE_ROWS_DEFAULT`]; at most [`limits::PAGE_ROWS_MAX`]) after the
    /// page that gave `token`, or from the start when it is empty.
    pub fn new(size: usize, token: &str) -> Result<Self, InvalidValue> {
        if size > limits::PAGE_ROWS_MAX {
            return Err(InvalidValue::new(format!(
                "a page has at most {} rows, not `{size}`",
                limits::PAGE_ROWS_MAX
            )));
        }
        if token.len() > limits::NAME_BYTES_MAX || token.chars().any(char::is_control) {
            return Err(InvalidValue::new(
                "the page token is not one that a listing gave; start again without it",
            ));
        }
        Ok(Self {
            size: if size == 0 {
                limits::PAGE_ROWS_DEFAULT
            } else {
                size
            },
            token: (!token.is_empty()).then(|| token.to_owned()),
        })
    }

    /// The first page of the largest size.
    pub const fn first() -> Self {
        Self {
            size: limits::PAGE_ROWS_MAX,
            token: None,
        }
    }

    /// Rows at most.
    pub const fn size(&self) -> usize {
        self.size
    }

    /// Where the listing goes on.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }
}

/// One page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// Gives the next page; `None` when this was the last.
    pub next: Option<String>,
}

/// Which tasks to list; a field that is `None` leaves all in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskFilter {
    /// Only this agent's.
    pub agent: Option<AgentName>,
    /// Only tasks in this state.
    pub state: Option<TaskState>,
}

/// Which credentials to list; a field that is `None` or `false` leaves all in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CredentialFilter {
    /// Only this task's.
    pub task: Option<TaskId>,
    /// Only this agent's.
    pub agent: Option<AgentName>,
    /// Only credentials that have not reached a final state.
    pub live: bool,
}
