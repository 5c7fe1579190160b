//! Evidence as the caller shows it: read from the wire, not yet verified.

use std::fmt;

use taskpass_core::EvidenceKind;

use super::JoinTokenText;

/// The evidence that an agent shows to prove its identity.
#[derive(Debug)]
pub enum Evidence {
    /// A join token.
    JoinToken(JoinTokenText),
}

impl Evidence {
    /// Which attestor verifies it.
    pub const fn kind(&self) -> EvidenceKind {
        match self {
            Self::JoinToken(_) => EvidenceKind::JoinToken,
        }
    }
}

/// For the log and the ledger: names the evidence without its secret.
impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::JoinToken(token) => write!(f, "{} `{}`", self.kind(), token.id),
        }
    }
}
