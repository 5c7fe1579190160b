//! Errors that tell the broker how to go on.

use std::time::Duration;

/// Why a provider could not carry out an order.
///
/// Texts are for people, one line, and never hold a secret; the broker shortens them before they
/// are recorded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// The back end fails, is slow or busy, perhaps for this role alone: try again later. It may
    /// have minted the thing or not.
    #[error("{message}")]
    Retryable {
        /// The failure, in words.
        message: String,
        /// How long to wait, if the back end tells.
        after: Option<Duration>,
    },
    /// The back end cannot be reached for any role: it takes no connection, TLS fails, it is
    /// sealed, or it says itself that it does not work. It may have minted the thing or not. Only a
    /// provider that can tell this from the failure of one role says so.
    #[error("{0}")]
    Unreachable(String),
    /// The agent of the order has used up its share of something at the back end that other agents
    /// need, too.
    #[error("{message}")]
    Exhausted {
        /// Names the share that the agent used up, and its limit.
        message: String,
        /// When some of it is free again.
        after: Duration,
    },
    /// The back end refused: trying again fails until an operator changes its permissions.
    #[error("{0}")]
    Denied(String),
    /// The provider's configuration cannot work: an operator must change it.
    #[error("{0}")]
    Misconfigured(String),
    /// The credential does not exist any more.
    #[error("{0}")]
    Gone(String),
    /// The provider can never do this.
    #[error("{0}")]
    Unsupported(String),
}

impl ProviderError {
    /// A [`ProviderError::Retryable`] without a hint how long to wait.
    pub fn retryable(message: impl Into<String>) -> Self {
        Self::Retryable {
            message: message.into(),
            after: None,
        }
    }

    /// Whether the back end failed, and trying again later can help.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Retryable { .. } | Self::Unreachable(_))
    }

    /// How long to wait before the next try, where it is known.
    pub const fn after(&self) -> Option<Duration> {
        match self {
            Self::Retryable { after, .. } => *after,
            Self::Exhausted { after, .. } => Some(*after),
            _ => None,
        }
    }

    /// Whether the error promises that [`crate::Provider::issue`] minted nothing.
    pub const fn nothing_was_minted(&self) -> bool {
        matches!(
            self,
            Self::Denied(_)
                | Self::Misconfigured(_)
                | Self::Unsupported(_)
                | Self::Exhausted { .. }
        )
    }

    /// One word for logs and metrics.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Retryable { .. } => "retryable",
            Self::Unreachable(_) => "unreachable",
            Self::Exhausted { .. } => "exhausted",
            Self::Denied(_) => "denied",
            Self::Misconfigured(_) => "misconfigured",
            Self::Gone(_) => "gone",
            Self::Unsupported(_) => "unsupported",
        }
    }
}
