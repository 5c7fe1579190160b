//! The back ends of a snapshot, by name: the configured ones, and retired ones that only revoke.

use std::{collections::BTreeMap, sync::Arc};

use taskpass_core::{ProviderName, RoleName, RoleSpec};

use crate::{ConfiguredProvider, Context, Error, ProviderChange, ProviderSettings};

use super::{ProviderState, backend::Backend};

/// The back ends of a snapshot.
#[derive(Debug, Clone, Default)]
pub(crate) struct Backends {
    configured: BTreeMap<ProviderName, Arc<Backend>>,
    /// Back ends that left the configuration while the process ran. They issue nothing, and revoke
    /// the credentials that they minted until none is left. A restart loses them: a person then has
    /// to configure the provider again.
    retired: BTreeMap<ProviderName, Arc<Backend>>,
}

impl Backends {
    /// The back ends of another configuration, and the differences.
    pub(crate) fn next(
        &self,
        context: &Context,
        providers: Vec<ConfiguredProvider>,
        settings: &ProviderSettings,
    ) -> (Self, BTreeMap<ProviderName, ProviderChange>) {
        let mut changes = BTreeMap::new();
        let mut configured = BTreeMap::new();
        for provider in providers {
            let name = provider.provider.name().clone();
            let (backend, change) = self.backend_of(&name, context, provider, settings);
            changes.extend(change.map(|change| (name.clone(), change)));
            configured.insert(name, backend);
        }
        let mut retired = self.retired.clone();
        for (name, backend) in &self.configured {
            if !configured.contains_key(name) {
                changes.insert(name.clone(), ProviderChange::Retired);
                retired.insert(name.clone(), Arc::clone(backend));
            }
        }
        retired.retain(|name, _| !configured.contains_key(name));
        let next = Self {
            configured,
            retired,
        };
        (next, changes)
    }

    /// The back end for a configured provider: the running back end, if its configuration is the
    /// same.
    fn backend_of(
        &self,
        name: &ProviderName,
        context: &Context,
        provider: ConfiguredProvider,
        settings: &ProviderSettings,
    ) -> (Arc<Backend>, Option<ProviderChange>) {
        let is_same = |backend: &&Arc<Backend>| backend.fingerprint() == provider.fingerprint;
        let running = self.configured.get(name);
        if let Some(backend) = running.filter(is_same) {
            return (Backend::with_settings(backend, settings), None);
        }
        if let Some(backend) = self.retired.get(name).filter(is_same) {
            let resumed = Some(ProviderChange::Resumed);
            return (Backend::with_settings(backend, settings), resumed);
        }
        let change = match running {
            Some(_) => ProviderChange::Replaced,
            None => ProviderChange::Added,
        };
        let present = running.or_else(|| self.retired.get(name));
        let (clock, timer) = (Arc::clone(&context.clock), Arc::clone(&context.timer));
        let gate = present
            .filter(|present| present.can_become(&provider))
            .map(|present| present.gate());
        let backend = Backend::new(provider, settings.clone(), clock, timer);
        (Arc::new(backend.behind(gate)), Some(change))
    }

    /// Retired back ends that no older snapshot holds, in no incarnation, and that no call uses. A
    /// request that began before its back end was retired may still issue from it; once there is
    /// none, nothing more is minted under that name.
    pub(crate) fn unused(&self) -> Vec<ProviderName> {
        let unused = self.retired.iter().filter(|(_, b)| !Backend::is_in_use(b));
        unused.map(|(name, _)| name.clone()).collect()
    }

    /// The same without these retired back ends.
    pub(crate) fn without_retired(&self, names: &[ProviderName]) -> Self {
        let mut next = self.clone();
        next.retired.retain(|name, _| !names.contains(name));
        next
    }

    /// The configured back ends, by name.
    pub(crate) fn configured(&self) -> impl ExactSizeIterator<Item = &Arc<Backend>> {
        self.configured.values()
    }

    /// The retired back ends, which only revoke, by name.
    pub(crate) fn retired(&self) -> impl ExactSizeIterator<Item = &Arc<Backend>> {
        self.retired.values()
    }

    /// All back ends: first the configured back ends by name, then the back ends that only revoke.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&Arc<Backend>, ProviderState)> {
        let configured = self.configured().map(|b| (b, ProviderState::Configured));
        configured.chain(self.retired().map(|b| (b, ProviderState::Retired)))
    }

    /// A back end that operators see in the list.
    pub(crate) fn named(
        &self,
        name: &ProviderName,
    ) -> Result<(&Arc<Backend>, ProviderState), Error> {
        let configured = self.configured.get(name);
        let configured = configured.map(|backend| (backend, ProviderState::Configured));
        let retired = || Some((self.retired.get(name)?, ProviderState::Retired));
        configured.or_else(retired).ok_or_else(|| Error::NotFound {
            what: format!("provider `{name}`"),
            advice: "see `taskpass provider list`",
        })
    }

    /// The back end that revokes the credentials minted under this name.
    pub(crate) fn revoking(&self, name: &ProviderName) -> Option<&Arc<Backend>> {
        self.configured.get(name).or_else(|| self.retired.get(name))
    }

    /// The back end and the specification of a configured role.
    pub(crate) fn role(&self, name: &RoleName) -> Result<(&Arc<Backend>, &RoleSpec), Error> {
        let found = self.configured.get(name.provider()).and_then(|backend| {
            let mut roles = backend.provider().roles().iter();
            Some((backend, roles.find(|spec| spec.name == *name)?))
        });
        found.ok_or_else(|| Error::NotFound {
            what: format!("role `{name}`"),
            advice: "see `taskpass provider list` for the configured roles",
        })
    }

    /// The specification of a role, if it is configured.
    pub(crate) fn spec(&self, name: &RoleName) -> Option<&RoleSpec> {
        self.role(name).ok().map(|(_, spec)| spec)
    }
}
