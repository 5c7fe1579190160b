//! The broker's orders to a provider, and the results.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use taskpass_core::{
    AgentName, AnchorId, CredentialId, RevocationClass, RoleName, Scope, SecretFields, TaskId,
    Timestamp,
};

use crate::ProviderError;

/// Records anchors: handles that must be durable before the things behind them may live long.
#[async_trait]
pub trait Anchors: Send + Sync {
    /// Returns once the credential's intent is on disk. On error the provider must mint nothing,
    /// and may say so.
    async fn intent_durable(&self) -> Result<(), ProviderError>;

    /// Returns once the handle is on disk. On error the provider must revoke the thing, or leave it
    /// to its short life.
    async fn record(&self, handle: Value, expires_at: Timestamp)
    -> Result<AnchorId, ProviderError>;
}

/// An order to issue one credential.
#[derive(Debug, Clone)]
pub struct IssueOrder {
    /// The credential's id; becomes part of every deterministic name or tag at the back end.
    pub credential: CredentialId,
    /// Its task.
    pub task: TaskId,
    /// The agent it is for.
    pub agent: AgentName,
    /// The latest end of the task. No credential may outlive it where the back end can enforce
    /// that.
    pub task_deadline: Timestamp,
    /// The role.
    pub role: RoleName,
    /// The scope, already checked against the role's parameters.
    pub scope: Scope,
    /// The end of the credential unless it is revoked; at the latest the task's deadline.
    pub expires_at: Timestamp,
}

/// An issued credential.
#[derive(Debug)]
pub struct Issued {
    /// The secret parts.
    pub data: SecretFields,
    /// Its end unless it is revoked. It may be later than the order's if the back end has a
    /// minimum.
    pub expires_at: Timestamp,
    /// How long it lives at most from this answer on, if the back end was told a lifetime or gave
    /// one. `None` if the back end has only an end by its own clock, which may differ from the
    /// broker's: the broker then never calls the credential expired, and revokes it at its end.
    pub lives_for: Option<Duration>,
    /// The effect that revoking it really has.
    pub revocation_class: RevocationClass,
    /// Finds it at the back end; never a secret. At most `limits::HANDLE_BYTES_MAX` as JSON.
    pub handle: Option<Value>,
    /// The anchor it was issued through, if any.
    pub anchor: Option<AnchorId>,
}

/// An order to renew one credential.
#[derive(Debug, Clone)]
pub struct RenewOrder {
    /// The credential.
    pub credential: CredentialId,
    /// Its task.
    pub task: TaskId,
    /// Its role.
    pub role: RoleName,
    /// Its [`Issued::handle`].
    pub handle: Option<Value>,
    /// The handle of its anchor.
    pub anchor: Option<Value>,
    /// The latest end to give it.
    pub until: Timestamp,
}

/// The result of renewing.
#[derive(Debug, Clone)]
pub struct Renewed {
    /// Its new end.
    pub expires_at: Timestamp,
    /// As [`Issued::lives_for`].
    pub lives_for: Option<Duration>,
}

/// How much to revoke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevokeScope {
    /// These credentials only; the task goes on.
    Credentials,
    /// The task ended: all that it has at this provider, on record or not, all anchors included.
    Task,
}

/// One credential to revoke. The intent alone is enough to find it.
#[derive(Debug, Clone, PartialEq)]
pub struct RevokeItem {
    /// The credential.
    pub credential: CredentialId,
    /// Its role.
    pub role: RoleName,
    /// Its scope.
    pub scope: Scope,
    /// When the intent was recorded. If the outcome is unknown: when the broker stopped waiting for
    /// the call to issue it.
    pub intended_at: Timestamp,
    /// Its latest end. If the outcome is unknown: provided that the call was carried out when it
    /// was sent.
    pub expires_at: Timestamp,
    /// The requested lifetime. A back end that is told a lifetime counts it from when it carries
    /// out the call.
    pub lifetime: Duration,
    /// Its recorded revocation class.
    pub revocation_class: RevocationClass,
    /// Its [`Issued::handle`]. If the outcome is unknown: the [`crate::Provider::locator`] of its
    /// intent.
    pub handle: Option<Value>,
    /// The handle of the anchor it was issued through.
    pub anchor: Option<Value>,
    /// Whether the outcome of issuing is known. If not, the credential may exist without a handle.
    pub outcome_known: bool,
}

/// An order to revoke credentials of one task at one provider.
#[derive(Debug, Clone)]
pub struct RevokeOrder {
    /// The task.
    pub task: TaskId,
    /// The agent, for names at the back end.
    pub agent: AgentName,
    /// The task's deadline.
    pub task_deadline: Timestamp,
    /// All of the task, or some credentials.
    pub scope: RevokeScope,
    /// Handles of anchors that the task recorded at this provider and that may still be alive.
    ///
    /// With [`RevokeScope::Task`] the order has all these anchors. With
    /// [`RevokeScope::Credentials`] it has the anchors with the
    /// [key](crate::Provider::anchor_key) of an item whose outcome is unknown. Such an item was
    /// issued through one of them or not at all, so the provider may have to revoke them to be
    /// sure. Before that, the broker has marked all other credentials of these anchors as being
    /// revoked.
    pub anchors: Vec<(AnchorId, Value)>,
    /// Whether a call that the broker has no record of may still be issuing through one of the
    /// anchors ([`crate::Provider::calls_are_over`]). Then the provider ends no anchor, and leaves
    /// the items whose outcome is unknown to a later order.
    pub calls_may_run: bool,
    /// The credentials. May be empty for a task with anchors only.
    pub items: Vec<RevokeItem>,
}

/// The result of revoking one credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// Whether the back end itself said that it is dead. A promise to revoke it is not enough.
    pub verified: bool,
    /// How it was proved, or why it could not be, in one line.
    pub proof: String,
    /// Until when it may still be usable; `None` only if `verified`.
    pub may_live_until: Option<Timestamp>,
    /// Until when the back end may still tell others who its holder is, although it denies the
    /// holder all access. Others may take that for a login. `None` where it tells no one.
    pub identity_until: Option<Timestamp>,
}

/// Whether credentials are usable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Liveness {
    /// At least one is, for this reason.
    Alive(String),
    /// None is, and this is the proof.
    Dead(String),
    /// It cannot be told, for this reason.
    Unknown(String),
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The steps that were tried and worked, one line each.
    pub findings: Vec<String>,
    /// Problems that an operator should look at, one line each.
    pub warnings: Vec<String>,
}
