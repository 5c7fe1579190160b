//! The broker's entry to this package. `app.rs` calls [`factory`], and nothing else here.

use std::sync::Arc;

use taskpass_provider::{BuildError, Configuration, Finding, Parts, Provider, ProviderFactory};

use crate::{config::TemplateConfig, provider::TemplateProvider};

/// The factory of this kind of provider.
pub fn factory() -> Arc<dyn ProviderFactory> {
    taskpass_provider::factory::<TemplateConfig>()
}

impl Configuration for TemplateConfig {
    const KIND: &'static str = "template";
    const EXAMPLE: &'static str = include_str!("example.toml");

    // All mistakes at once, each with its place as a JSON pointer. `taskpassd config check` turns
    // the place into line and column.
    fn findings(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        if !self.address.starts_with("memory:") {
            found.push(Finding::new(
                "/address",
                "`address` must begin with `memory:`",
            ));
        }
        for (index, role) in self.roles.iter().enumerate() {
            if let Err(error) = role.spec(&self.name) {
                let message = format!("role `{}`: {error}", role.name);
                found.push(Finding::new(format!("/role/{index}"), message));
            }
        }
        found
    }

    fn build(&self, parts: &Parts) -> Result<Arc<dyn Provider>, BuildError> {
        Ok(Arc::new(TemplateProvider::new(self, parts)?))
    }
}
