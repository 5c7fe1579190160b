//! The broker's entry to this package: the configuration with its checks, and how to build.

use std::sync::Arc;

use taskpass_provider::{
    BuildError, Configuration, Finding, Parts, Provider, ProviderFactory, SealFactory, seal_factory,
};

use crate::{
    config::AwsConfig,
    kms::KmsConfig,
    provider::{self, AwsProvider},
    role,
};

/// The factory of AWS providers.
pub fn factory() -> Arc<dyn ProviderFactory> {
    taskpass_provider::factory::<AwsConfig>()
}

impl Configuration for AwsConfig {
    const KIND: &'static str = "aws";
    const EXAMPLE: &'static str = include_str!("example.toml");

    fn findings(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        if let Err((place, error)) = provider::check(self) {
            found.push(Finding::new(place, error));
        }
        for (index, config) in self.roles.iter().enumerate() {
            if let Err(error) = role::check(&self.name, config) {
                found.push(Finding::new(format!("/role/{index}"), error));
            }
        }
        found
    }

    fn build(&self, parts: &Parts) -> Result<Arc<dyn Provider>, BuildError> {
        let provider = AwsProvider::new(self, &parts.base_dir, Arc::clone(&parts.clock))?;
        Ok(Arc::new(provider))
    }

    fn seal() -> Option<Arc<dyn SealFactory>> {
        Some(seal_factory::<KmsConfig>())
    }
}
