//! Key services: a package may offer a *seal*, which wraps the data key that the broker's own
//! private keys are sealed with. The key that wraps never leaves the service.
//!
//! A seal is configured by the table `[keys]`, as a provider is by `[[provider]]`. The two share
//! nothing else: an installation can have a seal of a service from which it issues no credentials.

use std::{fmt, marker::PhantomData, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;
use taskpass_core::{Clock, Entropy, Secret};

use crate::{
    BuildError, Finding, ProviderError,
    factory::{read, schema_of},
};

/// Wraps keys. Each error says whether trying again can help.
#[async_trait]
pub trait Seal: fmt::Debug + Send + Sync {
    /// Wraps a key, which is a text in base64. The result is no secret. `context` is one line that
    /// names the installation and the key; it is authenticated wherever the service can.
    async fn wrap(&self, key: &Secret, context: &str) -> Result<String, ProviderError>;

    /// The key that was wrapped with the same `context`.
    async fn unwrap(&self, wrapped: &str, context: &str) -> Result<Secret, ProviderError>;
}

/// The parts that a seal gets from the broker.
#[derive(Debug, Clone)]
pub struct SealParts {
    /// The directory of the configuration file, at which relative paths in it begin.
    pub base_dir: PathBuf,
    /// The directory in which the service manager hands over credentials, if there is one.
    pub credentials: Option<PathBuf>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
}

/// One kind of seal.
pub trait SealFactory: fmt::Debug + Send + Sync {
    /// The word behind `seal` in `[keys]`.
    fn word(&self) -> &str;

    /// The JSON schema of the table with this word.
    fn schema(&self) -> &Value;

    /// The mistakes in a table that fits the schema. Reads no file and makes no call.
    fn check(&self, table: &Value) -> Vec<Finding>;

    /// Builds the seal. Makes no call.
    fn build(&self, table: &Value, parts: &SealParts) -> Result<Arc<dyn Seal>, BuildError>;
}

/// The struct that a table `[keys]` is read into. It needs `#[serde(deny_unknown_fields)]` and a
/// field `seal` of an enum with the word [`Self::WORD`].
pub trait SealConfiguration: DeserializeOwned + JsonSchema + 'static {
    /// The word behind `seal`.
    const WORD: &'static str;

    /// Every mistake that the schema cannot express. Reads no file and makes no call.
    fn findings(&self) -> Vec<Finding>;

    /// Builds the seal. Makes no call.
    fn build(&self, parts: &SealParts) -> Result<Arc<dyn Seal>, BuildError>;
}

/// The factory of the seal that `C` configures.
pub fn seal_factory<C: SealConfiguration>() -> Arc<dyn SealFactory> {
    Arc::new(Typed::<C> {
        schema: schema_of::<C>(),
        config: PhantomData,
    })
}

struct Typed<C> {
    schema: Value,
    config: PhantomData<fn() -> C>,
}

impl<C: SealConfiguration> SealFactory for Typed<C> {
    fn word(&self) -> &str {
        C::WORD
    }

    fn schema(&self) -> &Value {
        &self.schema
    }

    fn check(&self, table: &Value) -> Vec<Finding> {
        match read::<C>(table) {
            Ok(config) => config.findings(),
            Err(finding) => vec![finding],
        }
    }

    fn build(&self, table: &Value, parts: &SealParts) -> Result<Arc<dyn Seal>, BuildError> {
        let config = read::<C>(table).map_err(|Finding { place, message }| {
            format!("the configuration is wrong at `{place}`: {message}")
        })?;
        config.build(parts)
    }
}

impl<C: SealConfiguration> fmt::Debug for Typed<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealFactory")
            .field("word", &C::WORD)
            .finish_non_exhaustive()
    }
}
