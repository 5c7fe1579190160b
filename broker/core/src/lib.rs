//! The words of Taskpass as types that cannot be wrong.
//!
//! Everything here is parsed once, at the edge, and then trusted: identifiers, names, SPIFFE IDs, times,
//! scopes, secrets, the records of agents, tasks and credentials, and the [`Event`]s that the ledger keeps.
//! No I/O happens in this crate; the wall clock and the system's randomness are reachable only through
//! [`Clock`] and [`Entropy`].
//!
//! ```
//! use taskpass_core::{Identity, TrustDomain};
//!
//! let domain: TrustDomain = "acme.test".parse()?;
//! let id = Identity::parse("spiffe://acme.test/agent/builder", &domain)?;
//! assert_eq!(id.agent().map(|name| name.as_str()), Some("builder"));
//! # Ok::<(), taskpass_core::InvalidValue>(())
//! ```

mod agent;
mod anchor;
mod clock;
mod credential;
mod decision;
mod digest;
mod entropy;
mod event;
mod handle;
mod id;
pub mod limits;
mod name;
mod role;
mod scope;
mod secret;
mod spiffe_id;
mod task;
mod timestamp;

pub use agent::{Agent, JoinToken, Labels, Svid, SvidState};
pub use anchor::{Anchor, AnchorState};
#[cfg(feature = "failpoints")]
pub use clock::ShiftedClock;
pub use clock::{Clock, ManualClock, SystemClock};
pub use credential::{Credential, CredentialState, Revocation, RevocationClass, RevokeCause};
pub use decision::{DecisionRecord, Outcome};
pub use digest::{Digest, hex, same_in_constant_time, sha256_hex};
pub use entropy::{Entropy, EntropyError, SeededEntropy, SystemEntropy};
pub use event::{Actor, Event, IdempotencyKey};
pub use handle::Handle;
pub use id::{AnchorId, CredentialId, JoinTokenId, TaskId};
pub use name::{AgentName, LabelKey, OperatorName, Owner, ProviderName, RoleName, Text};
pub use role::{Impact, ParamRule, RoleSpec, ScopeError};
pub use scope::{ParamName, Scope};
pub use secret::{Secret, SecretFields};
pub use spiffe_id::{Identity, SpiffeId, TrustDomain};
pub use task::{EndCause, Requester, Task, TaskState};
pub use timestamp::{Timestamp, Ttl};

/// A value that does not follow the rules of its type. The message names the value and the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidValue(pub(crate) String);

impl InvalidValue {
    /// A refusal in the words of the person who will read it: one line, the offending value in backticks.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// Whether `c` can begin a new line or change how others are shown: control characters, and the separators of lines and
/// paragraphs, which Unicode does not count among them.
pub fn breaks_line(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Shortens what a stranger sent to 80 characters before it goes into an error text, and keeps it on one line.
pub fn excerpt(input: &str) -> String {
    const EXCERPT_CHARS_MAX: usize = 80;
    let mut shown: String = input
        .chars()
        .take(EXCERPT_CHARS_MAX)
        .map(|c| if breaks_line(c) { '?' } else { c })
        .collect();
    if input.chars().nth(EXCERPT_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}
