//! What the broker asks of a provider, and what it gets back.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use taskpass_core::{
    AgentName, AnchorId, CredentialId, RevocationClass, RoleName, Scope, SecretFields, TaskId,
    Timestamp,
};

use crate::ProviderError;

/// Records a handle durably before the thing behind it may live long.
#[async_trait]
pub trait Anchors: Send + Sync {
    /// Returns once the handle is on disk. On error the provider must let go of the thing: revoke it, or leave it to
    /// its short life.
    async fn record(&self, handle: Value, expires_at: Timestamp)
    -> Result<AnchorId, ProviderError>;
}

/// Mint one credential.
#[derive(Debug, Clone)]
pub struct IssueOrder {
    /// The credential's name; becomes part of every deterministic name, tag or session name at the back end.
    pub credential: CredentialId,
    /// The task it hangs on.
    pub task: TaskId,
    /// The agent it is for.
    pub agent: AgentName,
    /// When the task ends at the latest; nothing may outlive it where the back end lets us say so.
    pub task_deadline: Timestamp,
    /// Roles of this provider that the task may draw on, this one included.
    pub task_roles: Vec<RoleName>,
    /// The role.
    pub role: RoleName,
    /// Checked against the role's parameters already.
    pub scope: Scope,
    /// Until when the credential should live, if nobody revokes it: not after the task's deadline.
    pub expires_at: Timestamp,
}

/// What was minted.
#[derive(Debug)]
pub struct Issued {
    /// The secret parts.
    pub data: SecretFields,
    /// Until when it is usable if nobody revokes it; may be later than asked where a back end has a minimum, and
    /// then the intent must have said so.
    pub expires_at: Timestamp,
    /// What revoking it can truly do.
    pub revocation_class: RevocationClass,
    /// How to find it again; never a secret. At most `limits::HANDLE_BYTES_MAX` as JSON.
    pub handle: Option<Value>,
    /// The anchor it was drawn with, if any.
    pub anchor: Option<AnchorId>,
}

/// Extend one credential.
#[derive(Debug, Clone)]
pub struct RenewOrder {
    /// The credential.
    pub credential: CredentialId,
    /// Its task.
    pub task: TaskId,
    /// Its role.
    pub role: RoleName,
    /// What [`Issued::handle`] said.
    pub handle: Option<Value>,
    /// The handle of its anchor.
    pub anchor: Option<Value>,
    /// Until when, at most.
    pub until: Timestamp,
}

/// What came of renewing.
#[derive(Debug, Clone)]
pub struct Renewed {
    /// Until when it lives now.
    pub expires_at: Timestamp,
}

/// What is being revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevokeScope {
    /// These credentials only; the task goes on.
    Credentials,
    /// The task ended: everything it has at this provider, known or not, all anchors included.
    Task,
}

/// One credential to revoke; enough to find it from the intent alone.
#[derive(Debug, Clone, PartialEq)]
pub struct RevokeItem {
    /// The credential.
    pub credential: CredentialId,
    /// Its role.
    pub role: RoleName,
    /// Its scope.
    pub scope: Scope,
    /// When the intent was recorded; without a known outcome, when the broker stopped waiting for it. A call to issue
    /// it may have been under way until then.
    pub intended_at: Timestamp,
    /// Until when it lives at most. Without a known outcome, if the call was carried out when it was sent.
    pub expires_at: Timestamp,
    /// The life that was asked for. A back end that is told a span counts it from when it carries out the call.
    pub lifetime: Duration,
    /// Its revocation class, as recorded.
    pub revocation_class: RevocationClass,
    /// What [`Issued::handle`] said; without a known outcome, what [`crate::Provider::locator`] said before the intent.
    pub handle: Option<Value>,
    /// The handle of the anchor it was drawn with.
    pub anchor: Option<Value>,
    /// Whether the outcome of issuing is known. When not, it may exist although there is no handle.
    pub outcome_known: bool,
}

/// Revoke credentials of one task at one provider.
#[derive(Debug, Clone)]
pub struct RevokeOrder {
    /// The task.
    pub task: TaskId,
    /// The agent, for names at the back end.
    pub agent: AgentName,
    /// When the task's deadline is.
    pub task_deadline: Timestamp,
    /// All of the task, or some credentials.
    pub scope: RevokeScope,
    /// Handles of all anchors the task recorded at this provider that may still be alive. With
    /// [`RevokeScope::Credentials`] they are for items whose outcome is unknown: such a thing was drawn with one of
    /// these or not at all, and the provider may have to revoke them to be sure. The broker has then already marked
    /// everything else that was drawn with them as being revoked.
    pub anchors: Vec<(AnchorId, Value)>,
    /// The credentials. May be empty for a task with anchors only.
    pub items: Vec<RevokeItem>,
}

/// What came of revoking one credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// Whether the back end proved that it is dead. Never true on a promise alone.
    pub verified: bool,
    /// How it was proved, or why it could not be, in one line.
    pub proof: String,
    /// Until when it may still be usable; `None` only when `verified`.
    pub may_live_until: Option<Timestamp>,
}

/// Whether credentials are usable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Liveness {
    /// At least one is.
    Alive(String),
    /// None is, and this is the proof.
    Dead(String),
    /// The back end does not let us tell.
    Unknown(String),
}

/// How a provider feels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// What was tried and worked, one line each.
    pub findings: Vec<String>,
    /// What works but should be looked at, one line each.
    pub warnings: Vec<String>,
}
