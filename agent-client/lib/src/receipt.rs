//! The receipts of revoking: one for each credential of a task.

use std::time::Duration;

use taskpass_core::{CredentialId, RoleName, TaskId, Timestamp};
use taskpass_proto::v1;

use crate::{CredentialState, EndCause, Error, RevocationClass, TaskState, wire};

/// The result of revoking one credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The credential.
    pub credential_id: CredentialId,
    /// Its role.
    pub role: RoleName,
    /// Where it stands; [`CredentialState::Revoking`] or [`CredentialState::Stuck`] when it is not
    /// over.
    pub state: CredentialState,
    /// Its revocation class: how far revoking it goes.
    pub revocation_class: RevocationClass,
    /// The time from the decision to revoke to the final state, or to now.
    pub took: Duration,
    /// Until when it may still be usable; `None` when it is proven dead.
    pub may_live_until: Option<Timestamp>,
    /// Until when the back end may still tell others who its holder is, although it denies the
    /// holder all access; others may take that for a login.
    pub identity_until: Option<Timestamp>,
    /// How the provider proved it, or why there is no proof.
    pub proof: String,
}

impl Receipt {
    /// Whether the provider proved that the credential is dead.
    pub fn is_verified(&self) -> bool {
        self.state == CredentialState::RevokedVerified
    }

    pub(crate) fn all_from_wire(receipts: &[v1::Receipt]) -> Result<Vec<Self>, Error> {
        receipts.iter().map(Self::from_wire).collect()
    }

    pub(crate) fn from_wire(receipt: &v1::Receipt) -> Result<Self, Error> {
        Ok(Self {
            credential_id: wire::parsed(&receipt.credential_id)?,
            role: wire::parsed(&receipt.role)?,
            state: receipt.state.into(),
            revocation_class: receipt.revocation_class.into(),
            took: Duration::from_millis(receipt.took_ms),
            may_live_until: receipt.may_live_until.as_ref().map(wire::timestamp),
            identity_until: receipt.identity_until.as_ref().map(wire::timestamp),
            proof: receipt.proof.clone(),
        })
    }
}

/// A task after the broker was told to end it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedTask {
    /// The task.
    pub task_id: TaskId,
    /// [`TaskState::Ending`] while credentials are still being revoked.
    pub state: TaskState,
    /// Why it ended.
    pub end_cause: Option<EndCause>,
    /// One for each credential of the task and of everything below it.
    pub receipts: Vec<Receipt>,
}

impl EndedTask {
    pub(crate) fn from_wire(reply: &v1::EndTaskResponse) -> Result<Self, Error> {
        Ok(Self {
            task_id: wire::parsed(&reply.task_id)?,
            state: reply.state.into(),
            end_cause: wire::optional(reply.end_cause),
            receipts: Receipt::all_from_wire(&reply.receipts)?,
        })
    }
}
