//! Questions to the credentials in memory.

use std::sync::Arc;

use taskpass_core::{Credential, CredentialId, ProviderName, Timestamp};

use crate::{
    ProviderUsage,
    state::{Node, State},
};

impl State {
    pub(crate) fn credential(&self, id: CredentialId) -> Option<&Arc<Credential>> {
        self.credentials.get(&id)
    }

    /// All credentials in memory that were made before `before`, newest first.
    pub(crate) fn credentials_before(
        &self,
        before: Option<CredentialId>,
    ) -> impl Iterator<Item = &Arc<Credential>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let to = before.map_or(Unbounded, Excluded);
        let range = self.credentials.range((Unbounded, to));
        range.rev().map(|(_, credential)| credential)
    }

    /// The credentials of a task that has not ended, by id.
    pub(crate) fn credentials_of(&self, node: &Node) -> Vec<Arc<Credential>> {
        let ids = node.credentials.iter();
        ids.filter_map(|id| self.credentials.get(id).cloned())
            .collect()
    }

    /// Since when the oldest of the credentials that have to be revoked has been waiting.
    pub(crate) fn oldest_revocation(&self) -> Option<Timestamp> {
        self.revoking.first().map(|(since, _)| *since)
    }

    pub(crate) fn usage_of_provider(&self, name: &ProviderName) -> ProviderUsage {
        self.providers.get(name).copied().unwrap_or_default()
    }
}
