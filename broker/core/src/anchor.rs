//! Anchors: what was recorded before a provider's session could live longer than a moment.

use serde::{Deserialize, Serialize};

use crate::{AnchorId, Handle, ProviderName, TaskId, Timestamp};

/// Whether an anchor may still hold something alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnchorState {
    /// The session may be alive.
    Live,
    /// The provider proved that it is gone, or its life is over.
    Gone,
}

/// A provider's session of one task that cannot be searched for, such as a Vault token by its accessor.
///
/// The provider makes it short-lived, has it recorded, and only then extends it. Whatever was drawn with it dies
/// when it is revoked, even what the broker never heard of because it was killed in between.
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
