//! The parts of a configuration that are the same for every provider.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use taskpass_core::{EnvName, InvalidValue, ParamName, ParamRule, RoleName, is_hidden};

/// A path of a file without secrets, relative to [`Parts::base_dir`](crate::Parts::base_dir).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct FilePath(PathBuf);

/// A path of a file with a secret, of mode 0600, relative to
/// [`Parts::base_dir`](crate::Parts::base_dir). `taskpassd doctor` tells when others can read it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct SecretFile(PathBuf);

macro_rules! path {
    ($type:ty: $format:literal) => {
        impl AsRef<Path> for $type {
            fn as_ref(&self) -> &Path {
                &self.0
            }
        }

        impl From<PathBuf> for $type {
            fn from(path: PathBuf) -> Self {
                Self(path)
            }
        }

        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                $format.into()
            }

            fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "format": $format })
            }
        }
    };
}

path!(FilePath: "path");
path!(SecretFile: "secret-file");

/// `env = { username = "PGUSER" }`: the environment variable that `taskpass run` sets from a field.
pub type EnvConfig = BTreeMap<String, EnvName>;

/// Refuses two fields that set the same variable.
pub fn check_env(env: &EnvConfig) -> Result<(), InvalidValue> {
    let mut seen = BTreeSet::new();
    match env.values().find(|name| !seen.insert(*name)) {
        Some(twice) => Err(InvalidValue::new(format!(
            "`env` gives `{twice}` to two fields; a variable has one value"
        ))),
        None => Ok(()),
    }
}

/// The same where the role's fields are known: refuses other fields, and adds the variables of
/// fields that the configuration does not name.
pub fn env_of_fields(env: &EnvConfig, fields: &[(&str, &str)]) -> Result<EnvConfig, InvalidValue> {
    if let Some(unknown) = env
        .keys()
        .find(|key| fields.iter().all(|(field, _)| field != key))
    {
        let known: Vec<&str> = fields.iter().map(|(field, _)| *field).collect();
        return Err(InvalidValue::new(format!(
            "`env` names the field `{unknown}`; a credential of this role has {}",
            known.join(", ")
        )));
    }
    let mut all = EnvConfig::new();
    for (field, variable) in fields {
        let name = env
            .get(*field)
            .cloned()
            .map_or_else(|| variable.parse(), Ok)?;
        all.insert((*field).to_owned(), name);
    }
    check_env(&all)?;
    Ok(all)
}

/// The same where the fields depend on the back end's configuration: adds `<ROLE>_<FIELD>` for the
/// `usual` ones. Other fields set a variable only if the configuration names it: the back end, or
/// the writer of a secret there, must not choose the names of variables.
pub fn env_of_usual_fields(
    role: &RoleName,
    env: &EnvConfig,
    usual: &[&str],
) -> Result<EnvConfig, InvalidValue> {
    let named = |field: &&str| Ok(((*field).to_owned(), EnvName::of_field(role, field)?));
    let mut all: EnvConfig = match usual.iter().map(named).collect() {
        Ok(all) => all,
        Err(error) if env.is_empty() => {
            let error: InvalidValue = error;
            return Err(InvalidValue::new(format!(
                "role `{role}` needs `env`, like `{{ {} = \"…\" }}`: {error}",
                usual.first().copied().unwrap_or_default()
            )));
        }
        Err(_unusable) => EnvConfig::new(),
    };
    all.extend(env.clone());
    check_env(&all)?;
    Ok(all)
}

/// The parameters of a role, each with its rule:
/// `{ bucket = { pattern = "[a-z]+" }, tier = { one_of = ["a", "b"] }, size = { max = 10 } }`
pub type ParamConfigs = BTreeMap<ParamName, ParamConfig>;

/// One parameter: exactly one of `pattern`, `one_of` and `max`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ParamConfig {
    /// A regular expression that the whole value must match. Compiled, it may take 5 MiB.
    #[serde(default)]
    pub pattern: Option<String>,
    /// The values that are allowed.
    #[serde(default)]
    pub one_of: Option<Vec<String>>,
    /// The largest allowed number; the smallest is 0.
    #[serde(default)]
    pub max: Option<u64>,
    /// Whether an agent may leave the parameter out. The back end then takes its own default, which
    /// may be wider than any value that the rule allows. A parameter that the role puts into a path
    /// or a policy cannot be left out.
    #[serde(default)]
    pub optional: bool,
}

/// Turns the configured rules into checked ones.
pub fn param_rules(configs: &ParamConfigs) -> Result<BTreeMap<ParamName, ParamRule>, InvalidValue> {
    configs
        .iter()
        .map(|(name, config)| Ok((name.clone(), param_rule(name, config)?)))
        .collect()
}

/// The parameters that no agent may leave out: all but the optional ones. The role cannot do
/// without `used`.
pub fn required_params<'a>(
    configs: &ParamConfigs,
    used: impl IntoIterator<Item = &'a ParamName>,
) -> Result<Vec<ParamName>, InvalidValue> {
    let optional = |name: &ParamName| configs.get(name).is_some_and(|config| config.optional);
    if let Some(name) = used.into_iter().find(|name| optional(name)) {
        return Err(InvalidValue::new(format!(
            "parameter `{name}` cannot be optional, because the role puts it into a path or a policy"
        )));
    }
    let required = configs.keys().filter(|name| !optional(name));
    Ok(required.cloned().collect())
}

fn param_rule(name: &ParamName, config: &ParamConfig) -> Result<ParamRule, InvalidValue> {
    match (&config.pattern, &config.one_of, config.max) {
        (Some(pattern), None, None) => ParamRule::pattern(pattern),
        (None, Some(values), None) if values.iter().any(|value| value.contains(is_hidden)) => {
            Err(InvalidValue::new(format!(
                "a value in `one_of` of parameter `{name}` has a control character or a line break, which no scope may have"
            )))
        }
        (None, Some(values), None) if !values.is_empty() => Ok(ParamRule::OneOf(values.clone())),
        (None, None, Some(max)) => Ok(ParamRule::Max(max)),
        _ => Err(InvalidValue::new(format!(
            "parameter `{name}` needs exactly one of `pattern`, `one_of` (not empty) and `max`"
        ))),
    }
}
