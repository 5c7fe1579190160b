//! The snapshot: policy, back ends and settings, which change together or not at all.

use std::{collections::BTreeMap, sync::Arc};

use taskpass_core::ProviderName;
use taskpass_policy::PolicySet;

use crate::{ConfiguredProvider, Context, ProviderChange, Settings, providers::Backends};

/// Policy, back ends and settings as read from their files.
#[derive(Debug)]
pub struct Configuration {
    /// The policy set.
    pub policy: Arc<PolicySet>,
    /// The back ends.
    pub providers: Vec<ConfiguredProvider>,
    /// Limits and defaults.
    pub settings: Settings,
}

/// The policy, back ends and settings at one time. A request takes it once and decides by it alone,
/// so that no request mixes an old policy with a new back end.
#[derive(Debug)]
pub struct Snapshot {
    policy: Arc<PolicySet>,
    settings: Settings,
    backends: Backends,
}

/// The differences that a swap made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The hash of the policy set before and after.
    pub policy: (String, String),
    /// Whether a limit or a default is another one.
    pub settings_differ: bool,
    /// The back ends that are not as they were.
    pub providers: BTreeMap<ProviderName, ProviderChange>,
}

impl Snapshot {
    pub(crate) fn first(context: &Context, configuration: Configuration) -> Self {
        let nothing = Backends::default();
        let Configuration {
            policy,
            providers,
            settings,
        } = configuration;
        let (backends, _) = nothing.next(context, providers, &settings.provider);
        Self {
            policy,
            settings,
            backends,
        }
    }

    /// The snapshot that comes after this one, and how it differs.
    pub(crate) fn next(&self, context: &Context, configuration: Configuration) -> (Self, Change) {
        let Configuration {
            policy,
            providers,
            settings,
        } = configuration;
        let (backends, changed) = self.backends.next(context, providers, &settings.provider);
        let change = Change {
            policy: (self.policy.hash().to_owned(), policy.hash().to_owned()),
            settings_differ: self.settings != settings,
            providers: changed,
        };
        let next = Self {
            policy,
            settings,
            backends,
        };
        (next, change)
    }

    /// This snapshot without these retired back ends.
    pub(crate) fn without_retired(&self, names: &[ProviderName]) -> Self {
        Self {
            policy: Arc::clone(&self.policy),
            settings: self.settings.clone(),
            backends: self.backends.without_retired(names),
        }
    }

    /// The policy set.
    pub fn policy(&self) -> &Arc<PolicySet> {
        &self.policy
    }

    /// Limits and defaults.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn backends(&self) -> &Backends {
        &self.backends
    }
}

impl Change {
    /// Whether everything is as it was.
    pub fn is_none(&self) -> bool {
        let (before, after) = &self.policy;
        before == after && !self.settings_differ && self.providers.is_empty()
    }
}

#[cfg(test)]
mod tests;
