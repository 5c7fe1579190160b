//! The exports of a provider's package: its kind, its configuration as a schema, and how to build
//! it.
//!
//! The broker holds providers' configuration as data. It compares a `[[provider]]` table with
//! [`ProviderFactory::schema`], which finds unknown keys, missing ones and wrong values with their
//! places in the file; then it asks [`ProviderFactory::check`]; then it builds. A package writes
//! none of this by hand: it implements [`Configuration`] for its struct and calls [`factory`].

use std::{fmt, marker::PhantomData, path::PathBuf, sync::Arc};

use schemars::{JsonSchema, generate::SchemaSettings};
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::Segment;
use taskpass_core::Clock;

use crate::{Provider, SealFactory};

/// Why a provider could not be built.
pub type BuildError = Box<dyn std::error::Error + Send + Sync>;

/// One kind of provider.
pub trait ProviderFactory: fmt::Debug + Send + Sync {
    /// The word behind `kind` in `[[provider]]`, such as `vault`.
    fn kind(&self) -> &str;

    /// The JSON schema of a `[[provider]]` table of this kind. A text of the format `secret-file`
    /// is the path of a file with a secret, and a text of the format `path` is another path; both
    /// are relative to [`Parts::base_dir`]. `taskpassd doctor` checks that only the broker can read
    /// the files with secrets.
    fn schema(&self) -> &Value;

    /// A `[[provider]]` as people begin with one, in TOML: `taskpassd init` writes it into a new
    /// `taskpass.toml`, behind `#`.
    fn example(&self) -> &str;

    /// The mistakes in a configuration that fits the schema. Reads no file and makes no call.
    fn check(&self, config: &Value) -> Vec<Finding>;

    /// Builds the provider. Reads the files that the configuration names, except files with
    /// secrets; makes no call.
    fn build(&self, config: &Value, parts: &Parts) -> Result<Arc<dyn Provider>, BuildError>;

    /// The seal that the package offers, if its back end is a key service as well.
    fn seal(&self) -> Option<Arc<dyn SealFactory>> {
        None
    }
}

/// Every kind of provider that a program has.
pub type ProviderKinds = [Arc<dyn ProviderFactory>];

/// The parts that a provider gets from the broker.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The directory of the configuration file, at which relative paths in it begin.
    pub base_dir: PathBuf,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// One mistake in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where, as a JSON pointer: `/role/0/path`. A key that is not there points to its table.
    pub place: String,
    /// The mistake and its remedy, on one line.
    pub message: String,
}

impl Finding {
    /// A mistake at `place`.
    pub fn new(place: impl Into<String>, message: impl fmt::Display) -> Self {
        Self {
            place: place.into(),
            message: message.to_string(),
        }
    }
}

/// The struct that a provider's `[[provider]]` table is read into.
///
/// Its doc comments are the reference, its types and `#[schemars(…)]` attributes are the check, and
/// its `#[serde(default = …)]` are the defaults. It needs `#[serde(deny_unknown_fields)]`, a field
/// `name` of type `ProviderName`, and a field `kind` of an enum with the word [`Self::KIND`].
pub trait Configuration: DeserializeOwned + JsonSchema + 'static {
    /// The word behind `kind`.
    const KIND: &'static str;
    /// A `[[provider]]` as people begin with one, in TOML.
    const EXAMPLE: &'static str;

    /// Every mistake that the schema cannot express. Reads no file and makes no
    /// call.
    fn findings(&self) -> Vec<Finding>;

    /// Builds the provider.
    fn build(&self, parts: &Parts) -> Result<Arc<dyn Provider>, BuildError>;

    /// The seal that the package offers, if its back end is a key service as well.
    fn seal() -> Option<Arc<dyn SealFactory>> {
        None
    }
}

/// The factory of the provider that `C` configures.
pub fn factory<C: Configuration>() -> Arc<dyn ProviderFactory> {
    Arc::new(Typed::<C> {
        schema: schema_of::<C>(),
        config: PhantomData,
    })
}

/// The schema of a table that is read into `T`.
pub(crate) fn schema_of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    // The name of a Rust type means nothing to operators.
    schema.remove("title");
    schema.into()
}

/// Reads a table, or names the mistake in it.
pub(crate) fn read<T: DeserializeOwned>(table: &Value) -> Result<T, Finding> {
    serde_path_to_error::deserialize(table).map_err(|error| {
        let place = error.path().iter().filter_map(token).collect::<String>();
        Finding::new(place, error.inner())
    })
}

struct Typed<C> {
    schema: Value,
    config: PhantomData<fn() -> C>,
}

/// One part of a JSON pointer.
fn token(segment: &Segment) -> Option<String> {
    match segment {
        Segment::Seq { index } => Some(format!("/{index}")),
        Segment::Map { key } => Some(format!("/{}", key.replace('~', "~0").replace('/', "~1"))),
        Segment::Enum { .. } | Segment::Unknown => None,
    }
}

impl<C: Configuration> ProviderFactory for Typed<C> {
    fn kind(&self) -> &str {
        C::KIND
    }

    fn schema(&self) -> &Value {
        &self.schema
    }

    fn example(&self) -> &str {
        C::EXAMPLE
    }

    fn check(&self, config: &Value) -> Vec<Finding> {
        match read::<C>(config) {
            Ok(config) => config.findings(),
            Err(finding) => vec![finding],
        }
    }

    fn build(&self, config: &Value, parts: &Parts) -> Result<Arc<dyn Provider>, BuildError> {
        let config = read::<C>(config).map_err(|Finding { place, message }| {
            format!("the configuration is wrong at `{place}`: {message}")
        })?;
        config.build(parts)
    }

    fn seal(&self) -> Option<Arc<dyn SealFactory>> {
        C::seal()
    }
}

impl<C: Configuration> fmt::Debug for Typed<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProviderFactory")
            .field("kind", &C::KIND)
            .finish_non_exhaustive()
    }
}
