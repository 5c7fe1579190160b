//! Errors that tell the broker how to go on.

use std::time::Duration;

/// Why a provider could not carry out an order.
///
/// Texts are for people, one line, and never hold a secret; the broker shortens them before they
/// are recorded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// The back end is down, slow or busy: try again later. It may have minted the thing or not.
    #[error("{message}")]
    Retryable {
        /// The failure, in words.
        message: String,
        /// How long to wait, if the back end tells.
        after: Option<Duration>,
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

    /// Whether trying again later can help.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Retryable { .. })
    }

    /// Whether the error promises that [`crate::Provider::issue`] minted nothing.
    pub const fn nothing_was_minted(&self) -> bool {
        matches!(
            self,
            Self::Denied(_) | Self::Misconfigured(_) | Self::Unsupported(_)
        )
    }

    /// One word for logs and metrics.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Retryable { .. } => "retryable",
            Self::Denied(_) => "denied",
            Self::Misconfigured(_) => "misconfigured",
            Self::Gone(_) => "gone",
            Self::Unsupported(_) => "unsupported",
        }
    }
}
