//! The configured roles, and the facts that the provider learned about their engines.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use taskpass_core::{AnchorKey, CredentialId, RoleName, RoleSpec, Scope};
use taskpass_provider::ProviderError;

use crate::{
    handle::Handle,
    role::{CredentialSource, Role},
    session::Policies,
};

#[derive(Debug)]
pub(crate) struct Roles {
    roles: Vec<Role>,
    specs: Vec<RoleSpec>,
    /// Roles of engines that answered without a lease: a search for one of their leases would
    /// always find none.
    unleased: Mutex<BTreeSet<RoleName>>,
}

impl Roles {
    pub(crate) fn new(roles: Vec<Role>) -> Self {
        Self {
            specs: roles.iter().map(|role| role.spec.clone()).collect(),
            roles,
            unleased: Mutex::default(),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Role> {
        self.roles.iter()
    }

    pub(crate) fn specs(&self) -> &[RoleSpec] {
        &self.specs
    }

    pub(crate) fn get(&self, name: &RoleName) -> Result<&Role, ProviderError> {
        self.find(name).ok_or_else(|| {
            ProviderError::Misconfigured(format!("this provider has no role `{name}`"))
        })
    }

    /// What a credential of the role and its anchor have in common. A token is its own anchor.
    pub(crate) fn anchor_key(
        &self,
        name: &RoleName,
        credential: CredentialId,
    ) -> Option<AnchorKey> {
        self.find(name)?;
        Some(match self.session_policies(name) {
            None => AnchorKey::of([credential.to_string().as_str()]),
            Some(policies) => policies.anchor_key(),
        })
    }

    /// The policies of the session through which the role issues; `None` where it needs none.
    pub(crate) fn session_policies(&self, name: &RoleName) -> Option<Policies> {
        let role = self.find(name)?;
        match role.source {
            CredentialSource::Token => None,
            CredentialSource::Dynamic(_) | CredentialSource::Kv { .. } => Some(Policies::of(role)),
        }
    }

    /// Where to search for a lease of `scope` if the answer is lost.
    pub(crate) fn locator(&self, name: &RoleName, scope: &Scope) -> Option<Handle> {
        if self.is_unleased(name) {
            return None;
        }
        let dynamic = match &self.find(name)?.source {
            CredentialSource::Dynamic(dynamic) => dynamic,
            CredentialSource::Token => return Some(Handle::Token),
            CredentialSource::Kv { .. } => return None,
        };
        let path = dynamic.lease_path(scope).ok()?;
        Some(if dynamic.tells_ttl() {
            Handle::TimedLeasePath(path)
        } else {
            Handle::LeasePath(path)
        })
    }

    pub(crate) fn mark_unleased(&self, name: &RoleName) {
        self.unleased.lock().insert(name.clone());
    }

    pub(crate) fn is_unleased(&self, name: &RoleName) -> bool {
        self.unleased.lock().contains(name)
    }

    fn find(&self, name: &RoleName) -> Option<&Role> {
        self.roles.iter().find(|role| role.spec.name == *name)
    }
}
