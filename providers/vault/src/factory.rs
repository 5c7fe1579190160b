//! The broker's entry to this package: the configuration with its checks, and how to build.

use std::sync::Arc;

use taskpass_provider::{
    BuildError, Configuration, Finding, Parts, Provider, ProviderFactory, SealFactory, seal_factory,
};

use crate::{config::VaultConfig, provider::VaultProvider, transit::TransitConfig};

/// The factory of Vault and OpenBao providers.
pub fn factory() -> Arc<dyn ProviderFactory> {
    taskpass_provider::factory::<VaultConfig>()
}

impl Configuration for VaultConfig {
    const KIND: &'static str = "vault";
    const EXAMPLE: &'static str = include_str!("example.toml");

    fn findings(&self) -> Vec<Finding> {
        let finding = |(place, error)| Finding::new(place, error);
        self.mistakes().into_iter().map(finding).collect()
    }

    fn build(&self, parts: &Parts) -> Result<Arc<dyn Provider>, BuildError> {
        let provider = VaultProvider::new(self, &parts.base_dir, Arc::clone(&parts.clock))?;
        Ok(Arc::new(provider))
    }

    fn seal() -> Option<Arc<dyn SealFactory>> {
        Some(seal_factory::<TransitConfig>())
    }
}
