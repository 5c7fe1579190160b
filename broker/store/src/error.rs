//! Reasons for which a commit or a read does not happen.

use taskpass_core::{
    AgentName, AgentState, AnchorId, CredentialId, InvalidValue, JoinTokenId, ProviderName,
    RoleName, SpiffeId, TaskId, TaskState,
};

use crate::IdempotencyRecord;

/// Why a batch was not committed. Nothing of it happened, except possibly after
/// [`CommitError::Unavailable`].
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CommitError {
    /// A condition did not hold.
    #[error("{0}")]
    Guard(GuardFailure),
    /// The caller used this idempotency key before.
    #[error("the idempotency key was used before{}", if *.same_request { "" } else { ", for a different request; use a new key" })]
    Duplicate {
        /// The thing that was made then.
        record: IdempotencyRecord,
        /// Whether it is the same request again, rather than another one under the same key.
        same_request: bool,
    },
    /// An event does not fit the state.
    #[error("{0}")]
    Conflict(Conflict),
    /// The disk is full. Batches with [`Priority::Reserved`](crate::Priority::Reserved) may still
    /// go through.
    #[error("the disk of the ledger is full; free some space, revoking goes on meanwhile")]
    DiskFull,
    /// The log takes no entries, or the store is closed. Whether the batch is in the log shows
    /// after a restart.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// An event is larger than a ledger entry may be, or there are too many events.
    #[error("{0}")]
    TooLarge(String),
}

/// Which condition did not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GuardFailure {
    /// There is no such agent.
    #[error("agent `{0}` is not registered")]
    AgentUnknown(AgentName),
    /// The agent is frozen or retired.
    #[error("agent `{0}` is {state}", state = .1.as_str())]
    AgentNotActive(AgentName, AgentState),
    /// There is no such task, or it has ended.
    #[error("task `{0}` is not known or has ended")]
    TaskGone(TaskId),
    /// The task is not open.
    #[error("task `{0}` is {state}", state = .1.as_str())]
    TaskNotOpen(TaskId, TaskState),
    /// The task's deadline has passed.
    #[error("the deadline of task `{0}` has passed")]
    TaskOverdue(TaskId),
    /// The agent has as many open tasks as it may have.
    #[error("agent `{agent}` has {limit} open tasks or more; end one first")]
    OpenTasks {
        /// The agent.
        agent: AgentName,
        /// The limit.
        limit: u32,
    },
    /// The agent has as many live credentials as it may have.
    #[error("agent `{agent}` has {limit} live credentials or more; revoke one or end a task first")]
    AgentCredentials {
        /// The agent.
        agent: AgentName,
        /// The limit.
        limit: u32,
    },
    /// A task, with all below it, has as many live credentials as it may have.
    #[error("task `{task}` holds {limit} live credentials or more; revoke one first")]
    TaskCredentials {
        /// The task that has the limit: the task itself or a task above it.
        task: TaskId,
        /// The limit.
        limit: u32,
    },
    /// More credentials became live after policy had decided.
    #[error("other credentials of agent `{0}` were issued while policy decided")]
    MoreCredentials(AgentName),
    /// There is no such join token, or it was forgotten long after its end.
    #[error("join token `{0}` is not known")]
    JoinTokenUnknown(JoinTokenId),
    /// The join token was used.
    #[error("join token `{0}` was used already; make a new one")]
    JoinTokenUsed(JoinTokenId),
    /// The join token was withdrawn.
    #[error("join token `{0}` was withdrawn; make a new one")]
    JoinTokenWithdrawn(JoinTokenId),
    /// The join token has expired.
    #[error("join token `{0}` has expired; make a new one")]
    JoinTokenExpired(JoinTokenId),
    /// The agent has as many unused join tokens as it may have.
    #[error("agent `{agent}` has {limit} unused join tokens or more; let one expire first")]
    JoinTokens {
        /// The agent.
        agent: AgentName,
        /// The limit.
        limit: u32,
    },
    /// The SVID does not count.
    #[error("the SVID `{0}` is unknown, superseded or expired, or its task has ended")]
    SvidNotLive(String),
    /// The caller's share of idempotency keys is used up.
    #[error(
        "`{caller}` used {limit} idempotency keys or more within 24h that are remembered; send requests without a key until the oldest is forgotten, end tasks, which frees theirs, or have `limits.idempotency_keys_per_caller` raised"
    )]
    IdempotencyKeys {
        /// The caller.
        caller: SpiffeId,
        /// The limit.
        limit: u32,
        /// When the oldest is forgotten.
        wait: std::time::Duration,
    },
    /// The task holds as many idempotency keys as its caller has left for everything else.
    #[error(
        "task `{task}` holds as many idempotency keys as are left for all else of `{caller}`, {free}; send requests without a key, or end the task, which frees its keys"
    )]
    TaskIdempotencyKeys {
        /// The caller.
        caller: SpiffeId,
        /// The task.
        task: TaskId,
        /// The keys that are left.
        free: u32,
        /// When the caller's oldest is forgotten.
        wait: std::time::Duration,
    },
    /// An anchor of the task is about to be revoked.
    #[error(
        "an earlier credential of task `{task}` is in doubt, and its anchor at provider `{provider}` is being revoked"
    )]
    InDoubt {
        /// The task.
        task: TaskId,
        /// The provider.
        provider: ProviderName,
    },
    /// The anchor is not one of the task's at the provider with the key, or is gone.
    #[error("anchor `{anchor}` of provider `{provider}` is not a live one of the task")]
    AnchorNotLive {
        /// The anchor.
        anchor: AnchorId,
        /// The provider.
        provider: ProviderName,
    },
    /// There is no such credential, or its task has ended.
    #[error("credential `{0}` is not known or its task has ended")]
    CredentialGone(CredentialId),
    /// The credential is in another state.
    #[error("credential `{0}` is {1}")]
    CredentialState(CredentialId, &'static str),
}

/// How an event does not fit the state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// The name or id is taken.
    #[error("{0} exists already")]
    Exists(String),
    /// It is not known, or it has ended.
    #[error("{0} is not known or has ended")]
    Missing(String),
    /// The event cannot happen in this state.
    #[error("{what} is {state}, so {event} cannot follow")]
    WrongState {
        /// The thing that is in this state.
        what: String,
        /// Its state.
        state: &'static str,
        /// The event's type, as in the ledger.
        event: String,
    },
    /// A task would be wider than the one above it.
    #[error("the task would be wider than its parent `{parent}`: {wider}")]
    WiderThanParent {
        /// The parent.
        parent: TaskId,
        /// The respect.
        wider: Wider,
    },
    /// The event contradicts itself or the record it is about.
    #[error("{event} cannot be recorded: {reason}")]
    Invalid {
        /// The event's type, as in the ledger.
        event: String,
        /// Why.
        reason: String,
    },
}

/// The respect in which a task would be wider than its parent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Wider {
    /// The parent may not draw on this role.
    #[error("the parent may not draw on role `{0}`")]
    Role(RoleName),
    /// A parameter that the parent fixes for this role is free or different.
    #[error("a scope parameter that the parent fixes for role `{0}` is left free or different")]
    Scope(RoleName),
    /// It would end later.
    #[error("it would end after the parent")]
    Deadline,
    /// It could hold more credentials.
    #[error("it could hold more credentials than the parent")]
    MaxCredentials,
    /// There are too many delegations above it.
    #[error(
        "delegation goes no deeper than {}",
        taskpass_core::limits::TASK_DEPTH_MAX
    )]
    Depth,
    /// There are too many tasks under the topmost one.
    #[error(
        "there are {} tasks below the topmost one already",
        taskpass_core::limits::TASK_DESCENDANTS_MAX
    )]
    Descendants,
}

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// History cannot be read; live records still can. A restart with room on the disk builds the
    /// index again.
    #[error(
        "the index of history is out of order ({0}); see that the disk has room and restart the broker"
    )]
    Index(String),
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// The log could not be read.
    #[error("the ledger could not be read: {0}")]
    Ledger(String),
    /// The log could not be signed.
    #[error("a checkpoint of the ledger could not be written: {0}")]
    Seal(String),
    /// The page token is none of this listing's.
    #[error("the page token does not belong to this listing; start again without it")]
    PageToken(#[source] InvalidValue),
}

/// Why the store did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The ledger did not open.
    #[error("the ledger in `{dir}` did not open")]
    Ledger {
        /// Its directory.
        dir: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An entry of the ledger is not an event that this version knows, or cannot follow the entries
    /// before it.
    #[error("ledger entry {index} cannot be applied: {reason}")]
    Entry {
        /// Its index.
        index: u64,
        /// Why.
        reason: String,
    },
    /// The index cannot be used, and not all entries are here to build it again.
    #[error(
        "the index has to be built again ({reason}), and the ledger's entries before {first} are in an archive; name its directory as `[ledger] archive` in the configuration and start again"
    )]
    Archived {
        /// Why the index cannot be used.
        reason: String,
        /// The first entry that this machine keeps.
        first: u64,
    },
    /// The log could not be read.
    #[error("the log could not be read: {0}")]
    Log(String),
    /// The index opened, but cannot be read.
    #[error(
        "the index in `{path}` cannot be read: {reason}; move it aside, and it is built again from the ledger"
    )]
    Index {
        /// Where.
        path: String,
        /// Why.
        reason: String,
    },
    /// A thread could not be started.
    #[error("the store's threads could not be started")]
    Threads(#[source] std::io::Error),
}
