//! The words of Taskpass as types that cannot be wrong.
//!
//! Each value is parsed once, at the edge, and then trusted: identifiers, names, SPIFFE IDs, times,
//! scopes, secrets, the records of agents, tasks and credentials, and the [`Event`]s that the
//! ledger keeps. This crate does no I/O; it reaches the wall clock and the system's randomness only
//! in [`SystemClock`] and [`SystemEntropy`].
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
mod budget;
mod clock;
mod credential;
mod decision;
mod digest;
mod entropy;
mod event;
mod evidence;
mod handle;
mod id;
pub mod limits;
mod name;
mod role;
mod root;
#[cfg(feature = "schema")]
mod schema;
mod scope;
mod secret;
mod share;
mod spiffe_id;
mod task;
mod text;
mod timestamp;
mod variable;

pub use agent::{Agent, AgentChange, AgentState, JoinToken, Labels, Svid, SvidOrigin, SvidState};
pub use anchor::{Anchor, AnchorKey, AnchorState};
pub use budget::Budget;
#[cfg(feature = "failpoints")]
pub use clock::ShiftedClock;
pub use clock::{
    CLOCK_DISAGREEMENT_MAX, Clock, ClockDoubt, ClockMark, DOWNTIME_MAX, ManualClock, MarkError,
    SystemClock, TrustedClock,
};
pub use credential::{
    Credential, CredentialIntent, CredentialState, Minting, Revocation, RevocationClass,
    RevokeCause, ShownState,
};
pub use decision::{DecisionRecord, Outcome, Repeated};
pub use digest::{Digest, hex, same_in_constant_time, sha256_hex};
pub use entropy::{Entropy, EntropyError, SeededEntropy, SystemEntropy};
pub use event::{
    Actor, AgentStep, AnchorStep, CredentialStep, Event, IdempotencyKey, InstallationStep,
    JoinTokenStep, OperatorOrigin, SvidStep, TaskStep, Topic,
};
pub use evidence::{EvidenceKind, EvidenceRecord};
pub use handle::Handle;
pub use id::{AnchorId, CredentialId, JoinTokenId, TaskId};
pub use name::{AgentName, LabelKey, OperatorName, Owner, ProviderName, RoleName, Text};
pub use role::{Impact, ParamRule, RoleSpec, ScopeError};
pub use root::{RecordedRoot, RootCertificate, RootNumber, RootStage};
pub use scope::{ParamName, Scope};
pub use secret::{Secret, SecretFields};
pub use share::Share;
pub use spiffe_id::{Identity, SpiffeId, TrustDomain};
pub use task::{EndCause, Requester, Task, TaskState};
pub use timestamp::{Timestamp, Ttl};
pub use variable::EnvName;

/// A value that does not follow the rules of its type. The message names the value and the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidValue(pub(crate) String);

impl InvalidValue {
    /// A refusal for the person who made the mistake: one line, the offending value in backticks.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// An error with its sources, on one line.
pub fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// Whether `c` can begin a new line: control characters, and Unicode's separators of lines and
/// paragraphs, which are not among them.
fn breaks_line(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Whether a reader cannot see `c`, although it can begin a line, change the order of other
/// characters, or make two equal-looking texts differ: control characters, separators of lines and
/// paragraphs, and format characters (Unicode general category Cf, as of version 17). An agent
/// could hide what it asks for from the person who reads its purpose.
pub fn is_hidden(c: char) -> bool {
    breaks_line(c)
        || matches!(c,
            '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}'
            | '\u{890}'..='\u{891}' | '\u{8e2}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}' | '\u{2066}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}'
            | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0001}' | '\u{e0020}'..='\u{e007f}')
}

/// Shortens a caller's input to 80 characters on one line before it goes into an error text.
pub fn excerpt(input: &str) -> String {
    const EXCERPT_CHARS_MAX: usize = 80;
    let mut shown: String = input
        .chars()
        .take(EXCERPT_CHARS_MAX)
        .map(|c| if is_hidden(c) { '?' } else { c })
        .collect();
    if input.chars().nth(EXCERPT_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}
