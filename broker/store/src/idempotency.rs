//! What the broker remembers of requests with an idempotency key.

use taskpass_core::{AgentName, CredentialId, JoinTokenId, TaskId, Timestamp};

/// The thing that a request with an idempotency key made.
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
    /// A credential was to be renewed.
    Renewal {
        /// The credential.
        credential: CredentialId,
        /// Until when it lives since then; `None` as long as the provider has not renewed
        /// it.
        expires_at: Option<Timestamp>,
    },
}

/// A request that was done already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyRecord {
    /// SHA-256 of the request.
    pub request_sha256: String,
    /// The thing that it made.
    pub subject: Subject,
}
