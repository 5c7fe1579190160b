//! Names of environment variables, which `taskpass run` sets from a credential.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{InvalidValue, RoleName, excerpt, limits};

/// The name of an environment variable: a letter or `_`, then letters, digits and `_`, at most 255.
///
/// Shells can name such a variable, and it cannot smuggle a `=` or a zero byte into the block of
/// variables that a process is started with.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnvName(String);

impl EnvName {
    /// The variable that a field of a role sets unless the role says otherwise: `CI_DB_USERNAME`
    /// for the field `username` of `vault-main/ci-db`. `None` when the name would be too long.
    pub fn of_field(role: &RoleName, field: &str) -> Option<Self> {
        let name = format!("{}_{}", upper(role.name()), upper(field));
        // A role may begin with a digit, which a variable must not.
        let digit = name.starts_with(|c: char| c.is_ascii_digit());
        format!("{}{name}", if digit { "_" } else { "" })
            .parse()
            .ok()
    }

    /// The name as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn upper(text: &str) -> String {
    let shown = |c: char| match c {
        c if c.is_ascii_alphanumeric() => c.to_ascii_uppercase(),
        _ => '_',
    };
    text.chars().map(shown).collect()
}

impl FromStr for EnvName {
    type Err = InvalidValue;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let first = s
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        let rest = s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if first && rest && s.len() <= limits::VARIABLE_BYTES_MAX {
            Ok(Self(s.to_owned()))
        } else {
            Err(InvalidValue(format!(
                "`{}` is not an environment variable: begin with a letter or `_`, then letters, digits and `_`, at most {}",
                excerpt(s),
                limits::VARIABLE_BYTES_MAX
            )))
        }
    }
}

impl fmt::Display for EnvName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EnvName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Serialize for EnvName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for EnvName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_table() {
        for good in ["PGUSER", "_x1", "a"] {
            assert!(good.parse::<EnvName>().is_ok(), "{good}");
        }
        let long = "A".repeat(limits::VARIABLE_BYTES_MAX + 1);
        for bad in ["", "1A", "A-B", "A=B", "A B", "Ä", "A\0", long.as_str()] {
            assert!(bad.parse::<EnvName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_follow_the_role_and_the_field() {
        let name = |role: &str, field| {
            EnvName::of_field(&role.parse().unwrap(), field).map(|name| name.to_string())
        };
        assert_eq!(
            name("vault-main/ci-db", "username").as_deref(),
            Some("CI_DB_USERNAME")
        );
        assert_eq!(
            name("vault-main/ci-db", "tls.cert").as_deref(),
            Some("CI_DB_TLS_CERT")
        );
        assert_eq!(name("v/1st", "a").as_deref(), Some("_1ST_A"));
        assert_eq!(name("v/a", &"x".repeat(300)), None);
    }
}
