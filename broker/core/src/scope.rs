//! Scope: the parameters an agent asks a role with. A scope can only narrow the access that the
//! role gives.

use std::{collections::BTreeMap, str::FromStr};

use serde::{Deserialize, Serialize, Serializer};

use crate::{InvalidValue, breaks_line, excerpt, limits, text::is_text};

/// The name of a scope parameter: a letter, then letters, digits and `_`, at most 63.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParamName(Box<str>);

impl ParamName {
    /// The name as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ParamName {
    type Err = InvalidValue;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let first = s.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
        let rest = s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if first && rest && s.len() <= limits::NAME_BYTES_MAX {
            Ok(Self(s.into()))
        } else {
            Err(InvalidValue(format!(
                "`{}` is not a parameter name: begin with a letter, then letters, digits and `_`, at most 63",
                excerpt(s)
            )))
        }
    }
}

is_text!(ParamName);

/// Parameters by name, in a fixed order so that equal scopes have equal digests.
// Not a map: one with a single parameter takes half a kilobyte, and each live credential has a
// scope.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "BTreeMap<ParamName, Box<str>>")]
pub struct Scope(Box<[(ParamName, Box<str>)]>);

impl From<BTreeMap<ParamName, Box<str>>> for Scope {
    fn from(params: BTreeMap<ParamName, Box<str>>) -> Self {
        Self(params.into_iter().collect())
    }
}

impl Serialize for Scope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl Scope {
    /// Reads pairs of names and values. Refuses duplicates, control characters, and more or longer
    /// ones than the limits allow.
    pub fn from_pairs<I, K, V>(pairs: I) -> Result<Self, InvalidValue>
    where
        I: IntoIterator<Item = (K, V)>,
        K: AsRef<str>,
        V: Into<Box<str>>,
    {
        let mut params = BTreeMap::new();
        for (name, value) in pairs {
            let name: ParamName = name.as_ref().parse()?;
            let value: Box<str> = value.into();
            if value.len() > limits::SCOPE_VALUE_BYTES_MAX || value.chars().any(breaks_line) {
                return Err(InvalidValue(format!(
                    "the value of scope parameter `{name}` has control characters or more than {} bytes",
                    limits::SCOPE_VALUE_BYTES_MAX
                )));
            }
            if params.insert(name.clone(), value).is_some() {
                return Err(InvalidValue(format!(
                    "scope parameter `{name}` is given twice"
                )));
            }
            if params.len() > limits::SCOPE_PARAMS_MAX {
                return Err(InvalidValue(format!(
                    "a scope has at most {} parameters",
                    limits::SCOPE_PARAMS_MAX
                )));
            }
        }
        Ok(Self::from(params))
    }

    /// The value of `name`.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.iter()
            .find(|(n, _)| n.as_str() == name)
            .map(|(_, v)| v)
    }

    /// All parameters in order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&ParamName, &str)> {
        self.0.iter().map(|(n, v)| (n, v.as_ref()))
    }

    /// Whether there are no parameters.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this scope gives each parameter of `wider` the same value, and so allows no more.
    pub fn is_within(&self, wider: &Self) -> bool {
        wider
            .iter()
            .all(|(name, value)| self.value(name.as_str()) == Some(value))
    }

    /// Both scopes together, or the first parameter they disagree on.
    pub fn merged_with(&self, other: &Self) -> Result<Self, ParamName> {
        let mut merged: BTreeMap<_, _> = self.0.iter().cloned().collect();
        for (name, value) in &other.0 {
            match merged.insert(name.clone(), value.clone()) {
                Some(before) if before != *value => return Err(name.clone()),
                _ => {}
            }
        }
        Ok(Self::from(merged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrowing_means_keeping_every_pin() {
        let wide = Scope::from_pairs([("bucket", "a")]).unwrap();
        let narrow = Scope::from_pairs([("bucket", "a"), ("prefix", "x")]).unwrap();
        assert!(narrow.is_within(&wide) && !wide.is_within(&narrow));
        assert!(wide.is_within(&Scope::default()));
        assert_eq!(wide.merged_with(&narrow).unwrap(), narrow);
        let other = Scope::from_pairs([("bucket", "b")]).unwrap();
        assert_eq!(wide.merged_with(&other).unwrap_err().as_str(), "bucket");
    }

    #[test]
    fn bad_scopes_are_refused() {
        assert!(Scope::from_pairs([("a", "1"), ("a", "2")]).is_err());
        assert!(Scope::from_pairs([("1a", "1")]).is_err());
        assert!(Scope::from_pairs([("a", "line\nbreak")]).is_err());
        assert!(Scope::from_pairs([("a", "line\u{2028}break")]).is_err());
        assert!(Scope::from_pairs([("a", "x".repeat(513))]).is_err());
        assert!(Scope::from_pairs((0..33).map(|i| (format!("p{i}"), "x"))).is_err());
    }
}
