//! What the engine and the reconcilers ask of a store. No trace of files or of a particular database.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use taskpass_core::{
    Agent, AgentName, Anchor, Credential, CredentialId, Identity, InvalidValue, JoinToken,
    JoinTokenId, ProviderName, SpiffeId, SvidState, Task, TaskId, TaskState, Timestamp, limits,
};

use crate::{Batch, CommitError, Committed, StoreError};

/// Guarded, ordered, durable state.
///
/// Reads see every commit that was acknowledged before they began, and nothing that is not durable.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync {
    /// Commits all events or none. Guards are checked and events admitted at the writer, in ledger order, so a race
    /// has one winner. When this returns `Ok`, the events survive a power cut.
    ///
    /// A [`Event::TaskEnding`](taskpass_core::Event::TaskEnding) brings along the end of every task below it and the
    /// revoking of all their credentials, in the same batch.
    ///
    /// Dropping the future does not take the batch back: it may still be committed.
    async fn commit(&self, batch: Batch) -> Result<Committed, CommitError>;

    /// The agent of this name.
    async fn agent(&self, name: &AgentName) -> Result<Option<Arc<Agent>>, StoreError>;
    /// A join token; used ones are told apart for 24 hours, expired ones are forgotten 24 hours after their end.
    async fn join_token(&self, id: JoinTokenId)
    -> Result<Option<Arc<JoinTokenRecord>>, StoreError>;
    /// The SVID with this serial, an agent's or an operator's, if it counts: on record, neither superseded nor
    /// expired, and its task is open.
    async fn svid(&self, serial: &str) -> Result<Option<Arc<SvidRecord>>, StoreError>;
    /// The task, whatever its state.
    async fn task(&self, id: TaskId) -> Result<Option<Arc<Task>>, StoreError>;
    /// The credential, whatever its state.
    async fn credential(&self, id: CredentialId) -> Result<Option<Arc<Credential>>, StoreError>;
    /// All credentials of one task in any state, by id, which is the order of their making.
    async fn credentials_of_task(&self, task: TaskId) -> Result<Vec<Arc<Credential>>, StoreError>;
    /// All anchors of one task in any state, by id.
    async fn anchors_of_task(&self, task: TaskId) -> Result<Vec<Arc<Anchor>>, StoreError>;
    /// The tasks below this one, at any depth, that have not ended; parents before children.
    async fn descendants(&self, task: TaskId) -> Result<Vec<TaskId>, StoreError>;
    /// What the caller made with this idempotency key in the last 24 hours.
    async fn idempotent(
        &self,
        caller: &SpiffeId,
        key: &str,
    ) -> Result<Option<IdempotencyRecord>, StoreError>;

    /// What the agent holds.
    async fn usage_of_agent(&self, name: &AgentName) -> Result<Usage, StoreError>;
    /// Live credentials of the task and of everything below it.
    async fn live_in_task(&self, id: TaskId) -> Result<u32, StoreError>;
    /// What is held at the provider.
    async fn usage_of_provider(&self, name: &ProviderName) -> Result<ProviderUsage, StoreError>;

    /// What is to be taken back at `now`; at most `limit` credentials of each provider, so that one with many hides no
    /// other.
    async fn revocations(&self, now: Timestamp, limit: usize) -> Result<Revocations, StoreError>;
    /// What else reconcilers have to do at `now`; at most `limit` of each kind.
    async fn work(&self, now: Timestamp, limit: usize) -> Result<Work, StoreError>;
    /// All open tasks, oldest first.
    async fn open_tasks(&self) -> Result<Vec<Arc<Task>>, StoreError>;

    /// Agents by name.
    async fn list_agents(&self, page: &Page) -> Result<Listing<Arc<Agent>>, StoreError>;
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
    /// Ledger indexes, from `from` upwards, of the entries about the task, its credentials, anchors and SVIDs, and
    /// of the decisions that name it.
    async fn entries_of_task(
        &self,
        task: TaskId,
        from: u64,
        limit: usize,
    ) -> Result<Vec<u64>, StoreError>;

    /// The ledger index of the first entry recorded at `time` or later; the ledger's size when there is none.
    async fn first_index_since(&self, time: Timestamp) -> Result<u64, StoreError>;

    /// Signs a checkpoint over everything that is durable now, if there is none yet; otherwise one is signed within a
    /// second of an append. For exports that must not lack the last second.
    async fn seal(&self) -> Result<(), StoreError>;

    /// The number of durable ledger entries, after each batch: wakes reconcilers.
    fn changes(&self) -> tokio::sync::watch::Receiver<u64>;
}

/// A join token and whether it was used up.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct JoinTokenRecord {
    /// The token.
    pub token: JoinToken,
    /// Whether an SVID was issued for it.
    pub used: bool,
}

/// An SVID on record, whoever holds it. A certificate that is not on record does not count, whoever signed it.
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
    /// The ledger index of the entry that recorded it.
    pub entry: u64,
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

/// What a request with an idempotency key made.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "kind", content = "id", rename_all = "snake_case")]
pub enum Subject {
    /// An agent was registered.
    Agent(AgentName),
    /// A task was started.
    Task(TaskId),
    /// A credential was asked for.
    Credential(CredentialId),
    /// A join token was made.
    JoinToken(JoinTokenId),
    /// A credential was to be extended.
    Renewal {
        /// The credential.
        credential: CredentialId,
        /// Until when it lives since; `None` as long as the provider has not done it.
        expires_at: Option<Timestamp>,
    },
}

/// A request that was done already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyRecord {
    /// SHA-256 of the request, as it was given.
    pub request_sha256: String,
    /// What it made.
    pub subject: Subject,
}

/// What an agent holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Its open tasks.
    pub open_tasks: u32,
    /// Its credentials that have not reached a final state.
    pub live_credentials: u32,
    /// Its join tokens that are neither used nor expired.
    pub join_tokens: u32,
}

/// What is held at one provider.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProviderUsage {
    /// Credentials that have not reached a final state, those being revoked included.
    pub live_credentials: u32,
    /// Credentials that are being revoked.
    pub revoking: u32,
}

/// What is to be taken back now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revocations {
    /// By provider and task, what is due longest first. Of more than fit, those that are due longest and those that have just become due: where a
    /// provider is down the first wait, and must not hide the others.
    pub due: Vec<DueRevocation>,
    /// When the next retry after `now` comes; `None` when there is none.
    pub next: Option<Timestamp>,
}

/// What is to be revoked of one task at one provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueRevocation {
    /// The provider.
    pub provider: ProviderName,
    /// The task.
    pub task: TaskId,
    /// The credentials. None where it is about anchors alone: those of an ending task without live credentials.
    pub credentials: Vec<CredentialId>,
    /// How often revoking the one of them failed that was tried least; 0 where one was never tried.
    pub attempts: u32,
}

/// What reconcilers have to do beside revoking.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Work {
    /// Open tasks whose deadline has come, the most overdue first.
    pub overdue_tasks: Vec<TaskId>,
    /// Ending tasks under which nothing is alive any more: credentials and children final, anchors gone.
    pub ending_tasks: Vec<TaskId>,
    /// Active credentials whose own end has come.
    pub expired_credentials: Vec<CredentialId>,
    /// Credentials between intent and outcome, oldest first. Those not in flight in this process were interrupted.
    pub interrupted: Vec<CredentialId>,
    /// When the next deadline or expiry after `now` comes; `None` when there is none.
    pub next: Option<Timestamp>,
}

/// Which part of a listing is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    size: usize,
    token: Option<String>,
}

impl Page {
    /// `size` rows (0: [`limits::PAGE_ROWS_DEFAULT`]; at most [`limits::PAGE_ROWS_MAX`]) after the page that gave
    /// `token`, or from the start when it is empty.
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

    /// Where to go on.
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

/// Which tasks to list; what is `None` does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskFilter {
    /// Only those of this agent.
    pub agent: Option<AgentName>,
    /// Only those in this state.
    pub state: Option<TaskState>,
}

/// Which credentials to list; what is `None` or `false` does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CredentialFilter {
    /// Only those of this task.
    pub task: Option<TaskId>,
    /// Only those of this agent.
    pub agent: Option<AgentName>,
    /// Only those that have not reached a final state.
    pub live: bool,
}
