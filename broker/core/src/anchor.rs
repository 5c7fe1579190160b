//! Anchors: the records of the things at a back end through which credentials are issued.

use serde::{Deserialize, Serialize};

use crate::{AnchorId, Handle, ProviderName, TaskId, Timestamp};

/// Whether a credential issued through the anchor may still be alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnchorState {
    /// It may be alive.
    Live,
    /// The provider proved that it is gone, or its life is over.
    Gone,
}

/// A thing of one task at a back end that cannot be searched for, such as a Vault token, which is
/// known by its accessor.
///
/// The provider makes it short-lived, has it recorded, and only then renews it. Revoking it revokes
/// every credential issued through it, also a credential that the broker does not know of because
/// it was killed before the answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Anchor {
    /// Unique name.
    pub id: AnchorId,
    /// The task it belongs to.
    pub task: TaskId,
    /// The provider that made it.
    pub provider: ProviderName,
    /// How the provider finds it again; never a secret.
    pub handle: Handle,
    /// When it was recorded; where it counts, the time of the entry.
    pub recorded_at: Timestamp,
    /// Until when it can live at most.
    pub expires_at: Timestamp,
    /// Whether it may be alive.
    pub state: AnchorState,
}
