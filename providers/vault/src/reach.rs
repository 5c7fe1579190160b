//! Whether a failed call was the role's or the server's: an engine that fails, because its database
//! is down, must not be taken for a Vault that nothing reaches.

use std::time::Duration;

use taskpass_provider::ProviderError;

use crate::vault::Vault;

/// How long the server has to tell its health. A server that works does so at once.
const HEALTH_WITHIN: Duration = Duration::from_secs(2);

/// The error of a failed call for a role; [`ProviderError::Unreachable`] if the server does not say
/// that it is up and unsealed. A server that says when to come again answers, and is not asked.
pub(crate) async fn judged(vault: &Vault, error: ProviderError) -> ProviderError {
    let ProviderError::Retryable {
        message,
        after: None,
    } = error
    else {
        return error;
    };
    let health = tokio::time::timeout(HEALTH_WITHIN, vault.health()).await;
    let is_up = match health {
        Ok(Ok(_report)) => true,
        // Something in front of Vault may hide its health. Then it cannot be told.
        Ok(Err(error)) => !error.is_retryable(),
        Err(_elapsed) => false,
    };
    if is_up {
        ProviderError::retryable(message)
    } else {
        ProviderError::Unreachable(message)
    }
}
