//! Credentials: their records, their states and their revocation. The secret is never here.

mod life;

use serde::{Deserialize, Serialize};

use crate::{
    AgentName, AnchorId, AnchorKey, CredentialId, EndCause, Handle, RoleName, Scope, TaskId,
    Timestamp,
};

pub use life::{CredentialIntent, Minting};

/// What revoking a credential can truly do, from the strongest to the weakest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevocationClass {
    /// Dead once the provider has answered.
    Immediate,
    /// Denied by a policy at the provider within seconds.
    Denylist,
    /// As good as the engine behind the lease.
    Inherits,
    /// Lives until it expires; no act ends it earlier.
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

    /// Whether revoking does less than `other` says.
    pub const fn is_weaker_than(self, other: Self) -> bool {
        self as u8 > other as u8
    }
}

/// Where a credential stands. People also see `stuck`: a [`CredentialState::Revoking`] that failed
/// often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CredentialState {
    /// Its intent is recorded; the provider may or may not have minted it.
    Intended,
    /// Minted and issued.
    Active,
    /// To be revoked; tried again until it is.
    Revoking,
    /// Revoked, and the provider proved it.
    RevokedVerified,
    /// Revoked as far as the provider can, without proof. It may live until `may_live_until`.
    RevokedUnverified,
    /// Its own end came before it was revoked.
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

/// A [`CredentialState`] for callers, with `stuck` for a revocation that keeps failing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShownState {
    /// The state on record.
    Is(CredentialState),
    /// [`CredentialState::Revoking`], and a person must look.
    Stuck,
}

impl ShownState {
    /// The word for logs, errors and callers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Is(state) => state.as_str(),
            Self::Stuck => "stuck",
        }
    }
}

/// Why a credential is being revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "end", rename_all = "snake_case")]
pub enum RevokeCause {
    /// The agent or an operator asked for it.
    Requested,
    /// Its task ended.
    TaskEnded(EndCause),
    /// Its outcome is unknown: the provider was called, and its answer is not on record.
    #[serde(rename = "interrupted")]
    OutcomeUnknown,
    /// It was not delivered: the reply never reached the caller, or the task had ended meanwhile.
    NotDelivered,
    /// The end that was asked for came, and the provider would let it live on.
    Expired,
}

/// How far revoking it has come.
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
    /// Whether it failed so often that the log said so as an error.
    #[serde(default)]
    pub stuck: bool,
    /// When it was settled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done_at: Option<Timestamp>,
    /// The provider's proof, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
    /// Until when it may still be usable; `None` when it is proven dead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub may_live_until: Option<Timestamp>,
    /// Until when the back end may still tell others who its holder is, although it denies access.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_until: Option<Timestamp>,
}

/// A credential on record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Credential {
    /// Unique name.
    pub id: CredentialId,
    /// The task it hangs on.
    pub task: TaskId,
    /// The agent it was issued to.
    pub agent: AgentName,
    /// What kind of credential.
    pub role: RoleName,
    /// Its scope.
    pub scope: Scope,
    /// Where it stands.
    pub state: CredentialState,
    /// What revoking can truly do.
    pub revocation_class: RevocationClass,
    /// When the intent was recorded.
    pub intended_at: Timestamp,
    /// When the provider's answer was recorded. Ask [`Credential::minting`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    issued_at: Option<Timestamp>,
    /// Until when it can live at most unless it is revoked.
    pub expires_at: Timestamp,
    /// The end that was asked for, where the provider gave a later one. Ask
    /// [`Credential::ends_at`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    asked_until: Option<Timestamp>,
    /// Renewals without an answer on record. Each may be carried out at any time, and then gives
    /// what it asked for from that time on. Ask [`Credential::renewal_in_doubt`].
    #[serde(default, skip_serializing_if = "is_zero")]
    renewals_unanswered: u32,
    /// The key of its anchor. `None`: it needs no anchor, or an earlier version recorded it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor_key: Option<AnchorKey>,
    /// The anchor it was issued through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor: Option<AnchorId>,
    /// The handle by which the provider finds it; never a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<Handle>,
    /// How far revoking it has come.
    // Apart, since most records have none and there are very many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revocation: Option<Box<Revocation>>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks with a reference"
)]
const fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl Credential {
    /// The state as people see it: `stuck` when revoking has failed for long.
    pub fn shown_state(&self) -> &'static str {
        self.shown().as_str()
    }

    /// The state as callers see it.
    pub fn shown(&self) -> ShownState {
        match &self.revocation {
            Some(r) if r.stuck && self.state == CredentialState::Revoking => ShownState::Stuck,
            _ => ShownState::Is(self.state),
        }
    }
}
