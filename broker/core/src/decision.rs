//! Decisions with their provenance, as the ledger keeps them.

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// Whether the request may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Go on.
    Allow,
    /// Refused.
    Deny,
}

/// One decision: it shows an auditor the caller, the action, the policies that decided, and the
/// facts that they saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionRecord {
    /// The caller's SPIFFE ID.
    pub principal: String,
    /// The action, as policies spell it, such as `credential.issue`.
    pub action: String,
    /// The resource, in words: a role, a task, an agent.
    pub resource: String,
    /// Whether the request may go on.
    pub outcome: Outcome,
    /// Why, in one sentence.
    pub reason: String,
    /// SHA-256 of the policy set, in hex.
    pub policy_set: String,
    /// The policies that decided.
    pub policies: Vec<String>,
    /// Errors of policies; any of them is a deny.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
    /// SHA-256 of the request's canonical JSON, in hex.
    pub input_sha256: String,
    /// How long deciding took.
    pub duration_us: u64,
}

/// Things of one kind that one entry of the ledger stands for, since an entry for each would let a
/// caller fill the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repeated {
    /// How many.
    pub times: u64,
    /// When the first of them happened.
    pub first: Timestamp,
    /// When the last of them happened.
    pub last: Timestamp,
}
