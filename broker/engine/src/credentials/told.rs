//! What an agent is told when a provider fails. A provider's own words name hosts, accounts and
//! paths of the installation, and engines put connection strings into them. An attacker may control
//! an agent, so these words go to the log, the ledger and operators only.

use taskpass_core::{Credential, CredentialId};
use taskpass_provider::ProviderError;

use crate::Call;

use super::read::CredentialView;

/// Where the words of a provider may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    /// An agent learns the kind of a failure.
    Agent,
    /// An operator reads the words.
    Operator,
}

impl Reader {
    /// The reader of the answer to a call.
    pub(crate) const fn of(call: &Call) -> Self {
        match call.agent() {
            Some(_) => Self::Agent,
            None => Self::Operator,
        }
    }

    /// The last failure of a revocation.
    pub(crate) fn failure(self, words: &str) -> String {
        match self {
            Self::Agent => "the provider did not do it; the broker tries again".to_owned(),
            Self::Operator => words.to_owned(),
        }
    }

    /// A view without words that are not for the reader.
    pub(crate) fn view(self, mut view: CredentialView) -> CredentialView {
        let has_words = |c: &Credential| {
            c.revocation
                .as_ref()
                .is_some_and(|r| r.last_error.is_some())
        };
        if self == Self::Agent && has_words(&view.credential) {
            let credential = std::sync::Arc::make_mut(&mut view.credential);
            if let Some(revocation) = &mut credential.revocation {
                revocation.last_error = revocation.last_error.take().map(|e| self.failure(&e));
            }
        }
        view
    }
}

/// The failure of a provider as its agent is told; the log has the words under the id of the
/// request.
pub(super) fn told(credential: CredentialId, error: ProviderError) -> ProviderError {
    const WHY: &str = "operators find the reason in the broker's log, by the id of this request";
    tracing::warn!(%credential, kind = error.kind(), %error, "a provider failed");
    match error {
        ProviderError::Retryable { after, .. } => ProviderError::Retryable {
            message: format!(
                "it gave no usable answer, or cannot do it now; try again later; {WHY}"
            ),
            after,
        },
        ProviderError::Unreachable(_) => {
            ProviderError::Unreachable(format!("it cannot be reached; try again later; {WHY}"))
        }
        // These words are about the agent itself, and name what it can do.
        exhausted @ ProviderError::Exhausted { .. } => exhausted,
        ProviderError::Denied(_) => ProviderError::Denied(format!("it refuses the broker; {WHY}")),
        ProviderError::Misconfigured(_) => {
            ProviderError::Misconfigured(format!("its configuration cannot work; {WHY}"))
        }
        ProviderError::Unsupported(_) => {
            ProviderError::Unsupported(format!("it cannot do this; {WHY}"))
        }
        ProviderError::Gone(words) => ProviderError::Gone(words),
    }
}
