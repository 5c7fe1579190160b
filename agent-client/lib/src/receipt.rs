//! What became of the credentials of a task.

use std::time::Duration;

use taskpass_core::{CredentialId, RoleName, TaskId, Timestamp};
use taskpass_proto::v1;

use crate::{Error, wire};

/// The result of revoking one credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Which credential.
    pub credential_id: CredentialId,
    /// What it gave.
    pub role: RoleName,
    /// `revoked_verified`, `revoked_unverified`, `expired`, `abandoned`; `revoking` or `stuck` when it is not over.
    pub state: String,
    /// What revoking can do to it: `immediate`, `denylist`, `inherits`, `expiry_only`, `none`.
    pub revocation_class: String,
    /// From the decision to revoke to the state, or so far.
    pub took: Duration,
    /// Until when it may still be usable; `None` when it is proven dead.
    pub may_live_until: Option<Timestamp>,
    /// How it was proved, or why it is not.
    pub proof: String,
}

impl Receipt {
    /// Whether the provider proved that the credential is dead.
    pub fn is_verified(&self) -> bool {
        self.state == "revoked_verified"
    }

    pub(crate) fn from_wire(receipt: &v1::Receipt) -> Result<Self, Error> {
        Ok(Self {
            credential_id: wire::parsed(&receipt.credential_id)?,
            role: wire::parsed(&receipt.role)?,
            state: receipt.state.clone(),
            revocation_class: receipt.revocation_class.clone(),
            took: Duration::from_millis(receipt.took_ms),
            may_live_until: receipt.may_live_until.as_ref().map(wire::timestamp),
            proof: receipt.proof.clone(),
        })
    }
}

/// A task after it was told to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedTask {
    /// Which task.
    pub task_id: TaskId,
    /// `ended`, or `ending` while something is still being revoked.
    pub state: String,
    /// Why it ended: `completed`, `cancelled`, `deadline`, `heartbeat_lost`, `parent_ended`.
    pub end_cause: String,
    /// One per credential of the task and of everything below it.
    pub receipts: Vec<Receipt>,
}

impl EndedTask {
    pub(crate) fn from_wire(reply: &v1::EndTaskResponse) -> Result<Self, Error> {
        Ok(Self {
            task_id: wire::parsed(&reply.task_id)?,
            state: reply.state.clone(),
            end_cause: reply.end_cause.clone(),
            receipts: reply
                .receipts
                .iter()
                .map(Receipt::from_wire)
                .collect::<Result<_, _>>()?,
        })
    }
}
