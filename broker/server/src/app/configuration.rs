//! The engine's configuration, made of the file and the policy that it names. A start and a reload
//! make it alike.

use std::{path::PathBuf, sync::Arc};

use taskpass_core::{Clock, Entropy};
use taskpass_engine::{Configuration, ConfiguredProvider};
use taskpass_metrics::Metrics;
use taskpass_policy::PolicySet;

use super::error::AppError;
use crate::{config::Config, observe::provider::ObservedProvider};

/// The parts that differ between a real broker and a broker in a test.
#[derive(Debug, Clone)]
pub struct Deps {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// The directory in which the service manager hands over credentials, if there is one.
    pub credentials: Option<PathBuf>,
}

/// The parts that a reload can swap: policy, providers and settings.
pub(crate) fn configuration(
    config: &Config,
    policy: PolicySet,
    deps: &Deps,
    metrics: &Metrics,
) -> Result<Configuration, AppError> {
    let mut providers = Vec::with_capacity(config.providers.len());
    for configured in &config.providers {
        let failed = format!("setting up provider `{}`", configured.name);
        // Taken before the provider reads the same files: a file that changes in between then
        // counts as changed the next time.
        let fingerprint = configured.fingerprint();
        let built = configured
            .build(Arc::clone(&deps.clock))
            .map_err(AppError::setup(failed))?;
        let observed = ObservedProvider::new(built, metrics, Arc::clone(&deps.clock));
        providers.push(ConfiguredProvider {
            provider: Arc::new(observed),
            fingerprint,
            place: configured.place(),
        });
    }
    Ok(Configuration {
        policy: Arc::new(policy),
        providers,
        settings: config.engine.clone(),
    })
}
