//! Credentials: what was issued, where it stands, and how revoking it went. The secret is never here.

use serde::{Deserialize, Serialize};

use crate::{
    AgentName, AnchorId, CredentialId, EndCause, Handle, RoleName, Scope, TaskId, Timestamp,
};

/// What revoking a credential can truly do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevocationClass {
    /// Dead once the provider has answered.
    Immediate,
    /// Denied by a policy at the provider within seconds.
    Denylist,
    /// As good as the engine behind the lease.
    Inherits,
    /// Lives until it expires, whatever is done.
    ExpiryOnly,
    /// A static secret: it never dies by itself.
    None,
}

impl RevocationClass {
    /// The word used in the API, the ledger, policies and the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Immediate => "immediate",
            Self::Denylist => "denylist",
            Self::Inherits => "inherits",
            Self::ExpiryOnly => "expiry_only",
            Self::None => "none",
        }
    }
}

/// Where a credential stands. `Stuck` is not here: it is a [`CredentialState::Revoking`] that has failed often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CredentialState {
    /// Recorded; the provider may or may not have minted it.
    Intended,
    /// Minted and handed out.
    Active,
    /// To be revoked; tried again until it is.
    Revoking,
    /// Revoked, and the provider proved it.
    RevokedVerified,
    /// Revoked as far as the provider lets us; no proof. May live until `may_live_until`.
    RevokedUnverified,
    /// Its own end came first.
    Expired,
    /// The provider never minted it.
    Abandoned,
}

impl CredentialState {
    /// The word used in the API, the ledger and the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Intended => "intended",
            Self::Active => "active",
            Self::Revoking => "revoking",
            Self::RevokedVerified => "revoked_verified",
            Self::RevokedUnverified => "revoked_unverified",
            Self::Expired => "expired",
            Self::Abandoned => "abandoned",
        }
    }

    /// Whether nothing more will happen to it.
    pub const fn is_final(self) -> bool {
        matches!(
            self,
            Self::RevokedVerified | Self::RevokedUnverified | Self::Expired | Self::Abandoned
        )
    }
}

/// Why a credential is being revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "end", rename_all = "snake_case")]
pub enum RevokeCause {
    /// Somebody asked for this one.
    Requested,
    /// Its task ended.
    TaskEnded(EndCause),
    /// The broker was interrupted between intent and outcome.
    #[serde(rename = "interrupted")]
    OutcomeUnknown,
    /// The reply never reached the caller, or the task had ended meanwhile.
    NotDelivered,
    /// The end that was asked for came, and the provider would let it live on.
    Expired,
}

/// How revoking stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// Why.
    pub cause: RevokeCause,
    /// Since when.
    pub since: Timestamp,
    /// Failed attempts so far; survives restarts.
    pub attempts: u32,
    /// When the next attempt is due; the time of `since` before the first.
    pub retry_at: Timestamp,
    /// The last failure, in words, without secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Whether it failed so often that people were told.
    #[serde(default)]
    pub stuck: bool,
    /// When it reached its final state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done_at: Option<Timestamp>,
    /// How the provider proved it, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
    /// Until when it may still be usable; `None` when it is proven dead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub may_live_until: Option<Timestamp>,
}

/// One issued thing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Credential {
    /// Unique name.
    pub id: CredentialId,
    /// The task it hangs on.
    pub task: TaskId,
    /// The agent it was given to.
    pub agent: AgentName,
    /// What kind of credential.
    pub role: RoleName,
    /// What it was narrowed to.
    pub scope: Scope,
    /// Where it stands.
    pub state: CredentialState,
    /// What revoking can truly do.
    pub revocation_class: RevocationClass,
    /// When the intent was recorded.
    pub intended_at: Timestamp,
    /// When the provider answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_at: Option<Timestamp>,
    /// Until when it can live at most, if nobody revokes it.
    pub expires_at: Timestamp,
    /// The end that was asked for, where the provider gave a later one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_until: Option<Timestamp>,
    /// Renewals that are not on record as done: they run, failed or were never answered. Each may be carried out at any time,
    /// and then gives what it asked for from that time on, so that the end above cannot be relied on.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub renewals_unanswered: u32,
    /// The anchor it was drawn with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor: Option<AnchorId>,
    /// How the provider finds it again; never a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<Handle>,
    /// How revoking stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revocation: Option<Revocation>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks with a reference"
)]
const fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl Credential {
    /// When its life is over: what can be revoked is revoked at the end that was asked for, even if the provider gave
    /// more; anything else lives until the provider ends it.
    pub fn ends_at(&self) -> Timestamp {
        match (self.revocation_class, self.asked_until) {
            (
                RevocationClass::Immediate | RevocationClass::Denylist | RevocationClass::Inherits,
                Some(asked),
            ) => asked.min(self.expires_at),
            _ => self.expires_at,
        }
    }

    /// The state as people see it: `stuck` when revoking fails for long.
    pub fn shown_state(&self) -> &'static str {
        match &self.revocation {
            Some(r) if r.stuck && self.state == CredentialState::Revoking => "stuck",
            _ => self.state.as_str(),
        }
    }
}
