//! Roles: the access that one kind of credential gives, and the parameters with which an agent may
//! narrow it.

use std::{collections::BTreeMap, fmt};

use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

use crate::{
    EnvName, InvalidValue, ParamName, RevocationClass, RoleName, Scope, Ttl, excerpt, is_hidden,
};

/// The most memory of a compiled pattern. It bounds the time to compile one, too: the compiler
/// writes repetitions out until this is reached.
const PATTERN_BYTES_MAX: usize = 5 * 1024 * 1024;

/// How much harm a credential of a role can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub enum Impact {
    /// 0: reads.
    Read,
    /// 1: writes that can be undone.
    ReversibleWrite,
    /// 2: cannot be undone, or is visible outside.
    Irreversible,
    /// 3: changes permissions.
    Administration,
}

impl From<Impact> for u8 {
    fn from(impact: Impact) -> Self {
        match impact {
            Impact::Read => 0,
            Impact::ReversibleWrite => 1,
            Impact::Irreversible => 2,
            Impact::Administration => 3,
        }
    }
}

impl TryFrom<u8> for Impact {
    type Error = InvalidValue;

    fn try_from(value: u8) -> Result<Self, Self::Error> {
        match value {
            0 => Ok(Self::Read),
            1 => Ok(Self::ReversibleWrite),
            2 => Ok(Self::Irreversible),
            3 => Ok(Self::Administration),
            _ => Err(InvalidValue(format!(
                "`{value}` is not an impact: 0 read, 1 reversible write, 2 irreversible or visible outside, 3 administration"
            ))),
        }
    }
}

/// The values that one parameter may take.
#[derive(Clone)]
pub enum ParamRule {
    /// The whole value matches this regular expression.
    Pattern(Regex),
    /// The value is one of these.
    OneOf(Vec<String>),
    /// The value is a decimal number from 0 to this.
    Max(u64),
}

impl ParamRule {
    /// A pattern that must match the whole value, with or without anchors in the expression.
    pub fn pattern(expression: &str) -> Result<Self, InvalidValue> {
        let bad = |e: &dyn fmt::Display| {
            let reason = e
                .to_string()
                .lines()
                .last()
                .unwrap_or_default()
                .trim()
                .to_owned();
            InvalidValue(format!(
                "`{}` is not a regular expression: {reason}",
                excerpt(expression)
            ))
        };
        // A caller that breaks the rule is shown it, on one line.
        if expression.contains(is_hidden) {
            return Err(InvalidValue(format!(
                "`{}` has a control character or a line break; write it as an escape, like `\\n`",
                excerpt(expression)
            )));
        }
        // The expression must be one by itself: `a)|(?:b` becomes one only between the parentheses
        // below, and would then escape the anchors. It is parsed and not built, because building
        // one with large repetitions takes long.
        regex_syntax::parse(expression).map_err(|e| bad(&e))?;
        RegexBuilder::new(&format!("^(?:{expression})$"))
            .size_limit(PATTERN_BYTES_MAX)
            .build()
            .map(Self::Pattern)
            .map_err(|e| bad(&e))
    }

    fn accepts(&self, value: &str) -> bool {
        match self {
            Self::Pattern(regex) => regex.is_match(value),
            Self::OneOf(values) => values.iter().any(|v| v == value),
            Self::Max(max) => {
                value.bytes().all(|b| b.is_ascii_digit())
                    && value.parse::<u64>().is_ok_and(|n| n <= *max)
            }
        }
    }
}

impl fmt::Display for ParamRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pattern(regex) => {
                let text = regex.as_str();
                let inner = text
                    .strip_prefix("^(?:")
                    .and_then(|t| t.strip_suffix(")$"))
                    .unwrap_or(text);
                write!(f, "a match of {inner}")
            }
            Self::OneOf(values) => write!(f, "one of {}", values.join(", ")),
            Self::Max(max) => write!(f, "a number from 0 to {max}"),
        }
    }
}

impl fmt::Debug for ParamRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a scope does not fit a role. Each variant names the parameter, which becomes a field
/// violation in the API.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// The role has no such parameter.
    #[error("role `{role}` has no parameter `{param}`; it takes {known}")]
    Unknown {
        /// The role.
        role: RoleName,
        /// The parameter that was given.
        param: ParamName,
        /// The parameters there are, in words.
        known: String,
    },
    /// The value breaks the parameter's rule. The value itself is not repeated.
    #[error("parameter `{param}` of role `{role}` must be {rule}")]
    Refused {
        /// The role.
        role: RoleName,
        /// The parameter.
        param: ParamName,
        /// The rule, in words.
        rule: String,
    },
    /// A parameter that the role requires is absent.
    #[error("role `{role}` needs the parameter `{param}`: {rule}")]
    Missing {
        /// The role.
        role: RoleName,
        /// The parameter.
        param: ParamName,
        /// The rule, in words.
        rule: String,
    },
}

impl ScopeError {
    /// The parameter the complaint is about.
    pub const fn param(&self) -> &ParamName {
        match self {
            Self::Unknown { param, .. }
            | Self::Refused { param, .. }
            | Self::Missing { param, .. } => param,
        }
    }
}

/// The facts that the engine and policy know about a role. How its credentials are minted stays in
/// the provider.
#[derive(Debug, Clone)]
pub struct RoleSpec {
    /// `<provider>/<name>`.
    pub name: RoleName,
    /// The provider's word for the type, such as `dynamic` or `assume_role`.
    pub kind: String,
    /// The parameters an agent may give.
    pub params: BTreeMap<ParamName, ParamRule>,
    /// The parameters an agent must give, because the template uses them.
    pub required: Vec<ParamName>,
    /// The longest lifetime that one request or renewal gives.
    pub max_ttl: Ttl,
    /// The longest lifetime of one credential with all its renewals. `None`: to the end of its
    /// task.
    pub max_total_ttl: Option<Ttl>,
    /// How much harm it can do.
    pub impact: Impact,
    /// The environment it touches, such as `prod`; empty when not said.
    pub environment: String,
    /// The classes of data it can read, such as `customer`.
    pub data_classes: Vec<String>,
    /// How far revoking truly goes.
    pub revocation_class: RevocationClass,
    /// Whether the provider can renew a credential of this role.
    pub renewable: bool,
    /// The environment variables that `taskpass run` sets, by field of a credential. Other fields
    /// set none: the writer of a secret names its fields, and must not name variables with them.
    pub env: BTreeMap<String, EnvName>,
}

impl RoleSpec {
    /// The environment variable that a field of a credential of this role sets, if the role
    /// declares one.
    pub fn variable(&self, field: &str) -> Option<&EnvName> {
        self.env.get(field)
    }

    /// Checks a complete scope against the parameters' rules.
    pub fn check_scope(&self, scope: &Scope) -> Result<(), ScopeError> {
        self.check_pins(scope)?;
        for param in &self.required {
            if scope.value(param.as_str()).is_none() {
                let rule = self
                    .params
                    .get(param)
                    .map(ToString::to_string)
                    .unwrap_or_default();
                return Err(ScopeError::Missing {
                    role: self.name.clone(),
                    param: param.clone(),
                    rule,
                });
            }
        }
        Ok(())
    }

    /// Checks the parameters that a task fixes beforehand: each must be valid, and any may be
    /// absent.
    pub fn check_pins(&self, pins: &Scope) -> Result<(), ScopeError> {
        for (param, value) in pins.iter() {
            let Some(rule) = self.params.get(param) else {
                let names: Vec<&str> = self.params.keys().map(ParamName::as_str).collect();
                let known = if names.is_empty() {
                    "none".to_owned()
                } else {
                    names.join(", ")
                };
                return Err(ScopeError::Unknown {
                    role: self.name.clone(),
                    param: param.clone(),
                    known,
                });
            };
            if !rule.accepts(value) {
                return Err(ScopeError::Refused {
                    role: self.name.clone(),
                    param: param.clone(),
                    rule: rule.to_string(),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role() -> RoleSpec {
        RoleSpec {
            name: "aws-prod/reader".parse().unwrap(),
            kind: "assume_role".to_owned(),
            params: BTreeMap::from([
                (
                    "bucket".parse().unwrap(),
                    ParamRule::pattern("[a-z]+|x").unwrap(),
                ),
                ("size".parse().unwrap(), ParamRule::Max(10)),
                (
                    "tier".parse().unwrap(),
                    ParamRule::OneOf(vec!["a".to_owned(), "b".to_owned()]),
                ),
            ]),
            required: vec!["bucket".parse().unwrap()],
            max_ttl: Ttl::from_seconds(900).unwrap(),
            max_total_ttl: None,
            impact: Impact::Read,
            environment: String::new(),
            data_classes: Vec::new(),
            revocation_class: RevocationClass::Denylist,
            renewable: false,
            env: BTreeMap::from([("token".to_owned(), "VAULT_TOKEN".parse().unwrap())]),
        }
    }

    #[test]
    fn a_field_sets_the_variable_that_the_role_declares_and_no_other() {
        let variable = |field| role().variable(field).map(|name| name.to_string());
        assert_eq!(variable("token").as_deref(), Some("VAULT_TOKEN"));
        assert_eq!(variable("user"), None);
    }

    #[test]
    fn scope_table() {
        let check = |pairs: &[(&str, &str)]| {
            role().check_scope(&Scope::from_pairs(pairs.iter().copied()).unwrap())
        };
        assert_eq!(
            check(&[("bucket", "logs"), ("size", "10"), ("tier", "b")]),
            Ok(())
        );
        assert!(matches!(check(&[]), Err(ScopeError::Missing { .. })));
        assert!(matches!(
            check(&[("bucket", "logs"), ("who", "x")]),
            Err(ScopeError::Unknown { .. })
        ));
        for (name, value) in [
            ("bucket", "logs*"),
            ("bucket", "Logs"),
            ("bucket", ""),
            ("size", "11"),
            ("size", "-1"),
            ("size", "+1"),
            ("tier", "c"),
        ] {
            assert!(
                matches!(
                    role().check_pins(&Scope::from_pairs([(name, value)]).unwrap()),
                    Err(ScopeError::Refused { .. })
                ),
                "{name}={value}"
            );
        }
    }

    /// An alternation or a lost anchor must not let a longer value through.
    #[test]
    fn patterns_match_the_whole_value() {
        for value in ["logs\u{a}x", "xlogs1", "x y"] {
            assert!(
                !role().params[&"bucket".parse().unwrap()].accepts(value),
                "{value:?}"
            );
        }
        for bad in ["(", "a)|(?:b", "a\n", "a{2,636326363}", r"\w{150}"] {
            assert!(ParamRule::pattern(bad).is_err(), "{bad}");
        }
        for long in [r"\w{1,63}", r"[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63}){0,7}"] {
            assert!(ParamRule::pattern(long).is_ok(), "{long}");
        }
    }
}
