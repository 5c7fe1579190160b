//! A provider as its configuration says, and how a swap changes one.

use std::{collections::BTreeMap, sync::Arc};

use taskpass_provider::Provider;

/// A back end, ready to be called.
#[derive(Debug, Clone)]
pub struct ConfiguredProvider {
    /// The back end.
    pub provider: Arc<dyn Provider>,
    /// Digest of its configuration. While it stays the same a swap keeps the provider that runs,
    /// which may know things that are only in memory.
    pub fingerprint: String,
    /// Digests of what it takes to revoke: of the provider as a whole, and of each role by name.
    pub place: BTreeMap<String, String>,
}

/// How a swap changed a back end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProviderChange {
    /// It is new.
    Added,
    /// It is configured otherwise under the same name.
    Replaced,
    /// It left the configuration, and only revokes what it minted.
    Retired,
    /// It is in the configuration again as it was.
    Resumed,
}
