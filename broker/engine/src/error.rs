//! Why a use case refused or failed. The API turns each into one gRPC status; texts are for the
//! caller to read.

use std::{error::Error as StdError, time::Duration};

use taskpass_core::{
    AgentName, AgentState, Budget, ClockDoubt, CredentialId, EntropyError, ParamName, ProviderName,
    ScopeError, TaskId, Timestamp,
};
use taskpass_provider::ProviderError;
use taskpass_store::{GuardFailure, StoreError};

/// When a caller with a full quota should try again; ending a task frees it sooner.
const QUOTA_RETRY: Duration = Duration::from_secs(5);

/// When a caller should try again while a credential is in doubt.
const DOUBT_RETRY: Duration = Duration::from_secs(2);

/// When a caller should try again while other requests of its agent change the counts that policy
/// reads.
const COUNTS_RETRY: Duration = Duration::from_secs(1);

/// A value of a request that only the engine can refuse, since the decision needs state or
/// settings. Each front end gives it the name that its callers know it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// How long a task, a credential or a join token is to live.
    Ttl,
    /// How long a task may stay silent.
    Heartbeat,
    /// The delegating task.
    Parent,
    /// Live credentials of a task.
    MaxCredentials,
    /// The scope of a credential.
    Scope,
    /// One parameter of a scope.
    ScopeParam(ParamName),
    /// The scope that a task fixes for a role.
    RoleScope,
    /// The evidence of an agent that attests.
    Evidence,
    /// The certificate signing request of an agent that attests.
    Csr,
    /// The size of an earlier checkpoint.
    ConsistentWith,
    /// The token of a listing's next page.
    PageToken,
    /// The request as a whole.
    Request,
}

/// The cause of an error.
type Source = Box<dyn StdError + Send + Sync>;

/// An error of a use case. Messages are one line, without secrets, and name the remedy if it is
/// known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller did not prove its identity, or the identity no longer counts.
    #[error("{0}")]
    Unauthenticated(String),
    /// Policy, ownership or delegation rules refused.
    #[error("denied: {reason}")]
    Denied {
        /// Why.
        reason: String,
        /// Which policies or rules decided.
        policies: Vec<String>,
    },
    /// The calling agent is frozen or retired.
    #[error("agent `{agent}` is {}", not_active(.agent, *.state))]
    AgentNotActive {
        /// The agent.
        agent: AgentName,
        /// Its state.
        state: AgentState,
    },
    /// There is no such thing.
    #[error("{what} does not exist; {advice}")]
    NotFound {
        /// The thing that was looked for.
        what: String,
        /// The remedy.
        advice: &'static str,
    },
    /// A well-formed value is refused because of the state or the settings.
    #[error("{message}")]
    Invalid {
        /// Which value.
        field: Field,
        /// The mistake in it.
        message: String,
    },
    /// The name is taken.
    #[error("{0}")]
    AlreadyExists(String),
    /// The request was carried out before; the secret was in the first reply only.
    #[error(
        "credential `{credential}` was already issued for this idempotency key; revoke it and issue anew with another key"
    )]
    AlreadyIssued {
        /// The credential of the first request.
        credential: CredentialId,
    },
    /// The idempotency key belongs to a different request.
    #[error("the idempotency key was used for a different request; use a new key for each request")]
    KeyReused,
    /// The task no longer gives credentials.
    #[error("task `{0}` has ended; start a new one")]
    TaskEnded(TaskId),
    /// The thing is not in the state the request needs.
    #[error("{0}")]
    Precondition(String),
    /// A quota, a rate or a queue is full.
    #[error("{message}; try again in {retry_after:?}")]
    Exhausted {
        /// Which.
        message: String,
        /// When trying again makes sense.
        retry_after: Duration,
    },
    /// The calling agent has used up one of its budgets.
    #[error(
        "agent `{agent}` has used up its budget of {per_hour} {} in an hour (`{}`); there is room again in {retry_after:?}", .budget.unit(), .budget.key()
    )]
    BudgetExceeded {
        /// The agent.
        agent: AgentName,
        /// The budget.
        budget: Budget,
        /// How much it is in an hour.
        per_hour: u32,
        /// When there is room for this call.
        retry_after: Duration,
    },
    /// Policy decided on counts of live credentials that grew meanwhile.
    #[error("{message}; try again in {retry_after:?}")]
    CountsGrew {
        /// Whose.
        message: String,
        /// When trying again makes sense.
        retry_after: Duration,
    },
    /// The provider did not do it.
    #[error("provider `{provider}`")]
    Provider {
        /// The provider.
        provider: ProviderName,
        /// The provider's own words.
        #[source]
        source: ProviderError,
    },
    /// The wall clock is in doubt.
    #[error(
        "{0}; nothing is issued until the clock is right or a person runs `taskpassd clock accept` on the broker's machine"
    )]
    ClockInDoubt(ClockDoubt),
    /// The wall clock is behind the ledger.
    #[error(
        "the broker's clock says {clock}, but the ledger already has entries of {ledger}; nothing is issued until the clock has caught up, or a person runs `taskpassd clock accept` on the broker's machine"
    )]
    ClockWentBack {
        /// The wall clock.
        clock: Timestamp,
        /// The newest entry.
        ledger: Timestamp,
    },
    /// The ledger is damaged: the hash of an entry differs from the signed tree.
    #[error(
        "the broker's ledger is damaged: nothing is issued until a person has looked at it; revoking goes on"
    )]
    LedgerDamaged(#[source] Box<taskpass_ledger::Error>),
    /// The disk is full: nothing is issued, revoking goes on.
    #[error(
        "the broker's disk is full: nothing can be issued until there is room; revoking goes on"
    )]
    DiskFull,
    /// The store cannot be written or read.
    #[error("the broker's store is not available")]
    Store(#[source] Source),
    /// The authority could not sign.
    #[error("the broker's certificate authority failed")]
    Authority(#[source] Source),
    /// The ledger could not be read.
    #[error("the ledger cannot be read")]
    Ledger(#[source] Source),
    /// No randomness.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
}

impl Error {
    /// The error with its cause, in one line: for the caller and for the log.
    pub fn message(&self) -> String {
        match self.source() {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }

    pub(crate) fn authority(source: impl Into<Source>) -> Self {
        Self::Authority(source.into())
    }

    pub(crate) fn ledger(source: impl Into<Source>) -> Self {
        Self::Ledger(source.into())
    }

    /// The process ends while a provider is called; the next process finds out the outcome.
    pub(crate) fn stopping() -> Self {
        Self::Store("the broker is stopping; ask again".into())
    }

    /// A refused value.
    pub(crate) fn invalid(field: Field, error: impl std::fmt::Display) -> Self {
        Self::Invalid {
            field,
            message: error.to_string(),
        }
    }

    /// A scope parameter that its role does not take.
    pub(crate) fn scope(error: &ScopeError) -> Self {
        Self::invalid(Field::ScopeParam(error.param().clone()), error)
    }

    /// A condition that did not hold when the ledger was about to be written.
    pub(crate) fn from_guard(failure: &GuardFailure) -> Self {
        let message = failure.to_string();
        match failure {
            GuardFailure::AgentUnknown(name) => Self::NotFound {
                what: format!("agent `{name}`"),
                advice: "see `taskpass agent list`",
            },
            GuardFailure::AgentNotActive(agent, state) => Self::AgentNotActive {
                agent: agent.clone(),
                state: *state,
            },
            GuardFailure::TaskGone(id)
            | GuardFailure::TaskNotOpen(id, _)
            | GuardFailure::TaskOverdue(id) => Self::TaskEnded(*id),
            GuardFailure::OpenTasks { .. }
            | GuardFailure::AgentCredentials { .. }
            | GuardFailure::TaskCredentials { .. }
            | GuardFailure::JoinTokens { .. } => Self::Exhausted {
                message,
                retry_after: QUOTA_RETRY,
            },
            GuardFailure::MoreCredentials(_) => Self::CountsGrew {
                message,
                retry_after: COUNTS_RETRY,
            },
            GuardFailure::IdempotencyKeys { wait, .. }
            | GuardFailure::TaskIdempotencyKeys { wait, .. } => Self::Exhausted {
                message,
                retry_after: *wait,
            },
            GuardFailure::InDoubt { provider, .. }
            | GuardFailure::AnchorNotLive { provider, .. } => Self::Provider {
                provider: provider.clone(),
                source: ProviderError::Retryable {
                    message,
                    after: Some(DOUBT_RETRY),
                },
            },
            GuardFailure::JoinTokenUnknown(_)
            | GuardFailure::JoinTokenUsed(_)
            | GuardFailure::JoinTokenWithdrawn(_)
            | GuardFailure::JoinTokenExpired(_)
            | GuardFailure::SvidNotLive(_) => Self::Unauthenticated(message),
            GuardFailure::CredentialGone(id) => Self::no_credential(*id),
            GuardFailure::CredentialState(..) => Self::Precondition(message),
        }
    }

    /// There is no such task, or the caller may not know of it.
    pub(crate) fn no_task(id: TaskId) -> Self {
        Self::NotFound {
            what: format!("task `{id}`"),
            advice: "see `taskpass task list`",
        }
    }

    /// There is no such credential, or the caller may not know of it.
    pub(crate) fn no_credential(id: CredentialId) -> Self {
        Self::NotFound {
            what: format!("credential `{id}`"),
            advice: "see `taskpass credential list`",
        }
    }
}

/// The state of an agent that is refused, and the remedy.
fn not_active(agent: &AgentName, state: AgentState) -> String {
    match state {
        AgentState::Active => "active".to_owned(),
        AgentState::Frozen => format!(
            "frozen; an operator releases it with `taskpass agent release {agent}`, and then it logs in with a new join token"
        ),
        AgentState::Retired => {
            "retired for good; an operator registers another one with `taskpass agent register`"
                .to_owned()
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::PageToken(_) => Self::invalid(Field::PageToken, error),
            other => Self::Store(other.into()),
        }
    }
}
