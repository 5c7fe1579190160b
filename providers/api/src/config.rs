//! The part of a role's configuration that is the same for every provider.

use std::collections::BTreeMap;

use serde::Deserialize;
use taskpass_core::{InvalidValue, ParamName, ParamRule, breaks_line};

/// `params = { bucket = { pattern = "[a-z]+" }, tier = { one_of = ["a", "b"] }, size = { max = 10 } }`
pub type ParamConfigs = BTreeMap<ParamName, ParamConfig>;

/// The rule of one parameter: exactly one of the keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParamConfig {
    /// A regular expression that the whole value must match.
    #[serde(default)]
    pub pattern: Option<String>,
    /// The values that are allowed.
    #[serde(default)]
    pub one_of: Option<Vec<String>>,
    /// The largest allowed number; the smallest is 0.
    #[serde(default)]
    pub max: Option<u64>,
}

/// Turns the configured rules into checked ones.
pub fn param_rules(configs: &ParamConfigs) -> Result<BTreeMap<ParamName, ParamRule>, InvalidValue> {
    configs
        .iter()
        .map(|(name, config)| Ok((name.clone(), param_rule(name, config)?)))
        .collect()
}

fn param_rule(name: &ParamName, config: &ParamConfig) -> Result<ParamRule, InvalidValue> {
    match (&config.pattern, &config.one_of, config.max) {
        (Some(pattern), None, None) => ParamRule::pattern(pattern),
        (None, Some(values), None) if values.iter().any(|value| value.contains(breaks_line)) => {
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
