//! The only mapping from the engine's errors to gRPC: a reason with its code, and details that say
//! which field is wrong or when to try again.

use std::{borrow::Cow, collections::HashMap, fmt, time::Duration};

use taskpass_core::AgentState;
use taskpass_engine::{Error, Field};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::reason::Reason;

use crate::observe::request::RequestId;

/// The domain of every `ErrorInfo`.
const DOMAIN: &str = "taskpass";
/// The pause in a refusal when the broker knows no better one.
const RETRY_DEFAULT: Duration = Duration::from_secs(1);

/// Why a request is refused.
#[derive(Debug)]
pub(super) enum Refusal {
    /// A value cannot be read.
    Field {
        /// The name of its field.
        field: &'static str,
        /// The mistake in it.
        message: String,
    },
    /// The engine refuses or fails.
    Engine(Error),
}

impl Refusal {
    pub(super) fn field(field: &'static str, error: impl fmt::Display) -> Self {
        Self::Field {
            field,
            message: error.to_string(),
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Field { field, message } => bad_request(field, &message),
            Refusal::Engine(error) => of_engine(&error),
        }
    }
}

fn bad_request(field: impl Into<String>, message: &str) -> Status {
    let mut details = ErrorDetails::with_bad_request_violation(field, message);
    let reason = Reason::InvalidArgument;
    details.set_error_info(reason.as_str(), DOMAIN, of_request());
    Status::with_error_details(reason.code(), message, details)
}

/// The metadata of every refusal: the id of the request.
fn of_request() -> HashMap<String, String> {
    let id = RequestId::current().map(|id| ("request_id".to_owned(), id));
    id.into_iter().collect()
}

/// The name of a value in the messages of this API.
fn name_of(field: &Field) -> Cow<'static, str> {
    let name = match field {
        Field::Ttl => "ttl_seconds",
        Field::Heartbeat => "heartbeat_seconds",
        Field::Parent => "parent",
        Field::MaxCredentials => "max_credentials",
        Field::Scope => "scope",
        Field::ScopeParam(param) => return format!("scope.{param}").into(),
        Field::RoleScope => "roles.scope",
        Field::Evidence => "evidence",
        Field::Csr => "csr",
        Field::ConsistentWith => "consistent_with",
        Field::PageToken => "page.page_token",
        Field::Request => "request",
    };
    name.into()
}

/// Converts an error of the engine. Errors that are the broker's own fault are logged here, once.
fn of_engine(error: &Error) -> Status {
    let reason = classify(error);
    if matches!(reason.code(), Code::Internal | Code::Unavailable) {
        tracing::warn!(reason = reason.as_str(), error = %error.message(), "a request failed");
    }
    let mut metadata = of_request();
    let mut details = ErrorDetails::new();
    match error {
        Error::Invalid { field, message } => return bad_request(name_of(field), message),
        Error::Exhausted { retry_after, .. } | Error::CountsGrew { retry_after, .. } => {
            details.set_retry_info(Some(*retry_after));
        }
        Error::BudgetExceeded {
            budget,
            retry_after,
            ..
        } => {
            metadata.insert("budget".to_owned(), budget.to_string());
            metadata.insert("key".to_owned(), budget.key().to_owned());
            details.set_retry_info(Some(*retry_after));
        }
        Error::Provider { provider, source } => {
            metadata.insert("provider".to_owned(), provider.to_string());
            metadata.insert("kind".to_owned(), source.kind().to_owned());
            let retry = source.is_retryable().then_some(RETRY_DEFAULT);
            if let Some(after) = source.after().or(retry) {
                details.set_retry_info(Some(after));
            }
        }
        Error::AlreadyIssued { credential } => {
            metadata.insert("credential_id".to_owned(), credential.to_string());
        }
        Error::Denied { policies, .. } => {
            metadata.insert("policies".to_owned(), policies.join(","));
        }
        Error::DiskFull
        | Error::Store(_)
        | Error::ClockWentBack { .. }
        | Error::ClockInDoubt(_) => {
            details.set_retry_info(Some(RETRY_DEFAULT));
        }
        _ => {}
    }
    details.set_error_info(reason.as_str(), DOMAIN, metadata);
    Status::with_error_details(reason.code(), error.message(), details)
}

const fn classify(error: &Error) -> Reason {
    use taskpass_provider::ProviderError as P;
    match error {
        Error::Unauthenticated(_) => Reason::Unauthenticated,
        Error::Denied { .. } => Reason::Denied,
        Error::AgentNotActive {
            state: AgentState::Retired,
            ..
        } => Reason::AgentRetired,
        Error::AgentNotActive { .. } => Reason::AgentFrozen,
        Error::NotFound { .. } => Reason::NotFound,
        Error::Invalid { .. } => Reason::InvalidArgument,
        Error::AlreadyExists(_) => Reason::AlreadyExists,
        Error::AlreadyIssued { .. } => Reason::AlreadyIssued,
        Error::KeyReused => Reason::IdempotencyKeyReused,
        Error::TaskEnded(_) => Reason::TaskEnded,
        Error::Precondition(_) => Reason::FailedPrecondition,
        Error::Exhausted { .. } | Error::CountsGrew { .. } => Reason::LimitExceeded,
        Error::BudgetExceeded { .. } => Reason::BudgetExceeded,
        Error::Provider {
            source: P::Exhausted { .. },
            ..
        } => Reason::LimitExceeded,
        Error::Provider {
            source: P::Retryable { .. } | P::Unreachable(_),
            ..
        } => Reason::ProviderUnavailable,
        Error::Provider {
            source: P::Denied(_),
            ..
        } => Reason::ProviderDenied,
        Error::Provider {
            source: P::Misconfigured(_),
            ..
        } => Reason::ProviderMisconfigured,
        Error::Provider {
            source: P::Gone(_), ..
        } => Reason::ProviderGone,
        Error::Provider {
            source: P::Unsupported(_),
            ..
        } => Reason::ProviderUnsupported,
        Error::ClockInDoubt(_) => Reason::ClockInDoubt,
        Error::LedgerDamaged(_) => Reason::LedgerDamaged,
        Error::ClockWentBack { .. } => Reason::ClockWentBack,
        Error::DiskFull => Reason::DiskFull,
        Error::Store(_) => Reason::StoreUnavailable,
        Error::Ledger(_) => Reason::LedgerUnreadable,
        Error::Authority(_) => Reason::AuthorityFailed,
        Error::Entropy(_) => Reason::NoRandomness,
    }
}

#[cfg(test)]
mod tests {
    use taskpass_provider::ProviderError;

    use super::*;

    #[test]
    fn a_share_of_a_back_end_that_is_used_up_is_a_limit_with_a_time() {
        let after = Duration::from_secs(7);
        let message = "the share is used up".to_owned();
        for (source, code, wait) in [
            (
                ProviderError::Exhausted { message, after },
                Code::ResourceExhausted,
                Some(after),
            ),
            (
                ProviderError::Unreachable("connection refused".to_owned()),
                Code::Unavailable,
                Some(RETRY_DEFAULT),
            ),
            (
                ProviderError::Denied("no".to_owned()),
                Reason::ProviderDenied.code(),
                None,
            ),
        ] {
            let provider = "aws-prod".parse().unwrap();
            let status = of_engine(&Error::Provider { provider, source });
            assert_eq!(status.code(), code);
            let retry = status.get_details_retry_info();
            assert_eq!(retry.and_then(|info| info.retry_delay), wait);
        }
    }
}
