//! Names that people give: agents, operators, owners, providers, roles, labels, and free text.

use std::{fmt, str::FromStr, sync::Arc};

use crate::{
    InvalidValue, breaks_line, excerpt, limits,
    text::{is_text, prints_as_text},
};

/// Lower-case letters, digits and inner `-`; the common form of all short names.
fn is_short_name(s: &str) -> bool {
    !s.is_empty()
        && s.len() <= limits::NAME_BYTES_MAX
        && s.bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !s.starts_with('-')
        && !s.ends_with('-')
}

macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident, $check:expr, $what:literal, $rule:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        // Most names stand in many records, and each copies them.
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as written.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidValue;

            fn from_str(s: &str) -> Result<Self, Self::Err> {
                let check: fn(&str) -> bool = $check;
                if check(s) {
                    Ok(Self(s.into()))
                } else {
                    Err(InvalidValue(format!("`{}` is not {}: {}", excerpt(s), $what, $rule)))
                }
            }
        }

        is_text!($name);
    };
}

text_type!(
    /// The name of an agent, unique in the installation and part of its SPIFFE ID.
    AgentName,
    is_short_name,
    "an agent name",
    "use 1 to 63 of a-z, 0-9 and inner `-`"
);
text_type!(
    /// The name of an operator, part of the operator's SPIFFE ID.
    OperatorName,
    is_short_name,
    "an operator name",
    "use 1 to 63 of a-z, 0-9 and inner `-`"
);
text_type!(
    /// The name of a configured provider.
    ProviderName,
    is_short_name,
    "a provider name",
    "use 1 to 63 of a-z, 0-9 and inner `-`"
);
text_type!(
    /// The person who answers for an agent, written as an e-mail address.
    Owner,
    |s| {
        s.len() <= 254
            && s.chars().all(|c| c.is_ascii_graphic())
            && s.split_once('@').is_some_and(|(local, domain)| {
                !local.is_empty() && domain.contains('.') && !domain.contains('@') && !domain.ends_with('.')
            })
    },
    "an owner",
    "give the e-mail address of a person, like alice@acme.test"
);
text_type!(
    /// The key of a label.
    LabelKey,
    |s| {
        !s.is_empty()
            && s.len() <= limits::NAME_BYTES_MAX
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/'))
    },
    "a label key",
    "use 1 to 63 of letters, digits and -_./"
);
text_type!(
    /// One line of free text from a person or an agent: a purpose, a reason, a label's value.
    Text,
    |s| !s.trim().is_empty() && s.len() <= limits::TEXT_BYTES_MAX && !s.chars().any(breaks_line),
    "a usable text",
    "give one line of 1 to 512 bytes without control characters"
);

/// `<provider>/<name>`: one kind of credential at one provider.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoleName {
    provider: ProviderName,
    name: ProviderName,
}

impl RoleName {
    /// The role `name` of `provider`.
    pub fn new(provider: ProviderName, name: &str) -> Result<Self, InvalidValue> {
        let name = name.parse().map_err(|e: InvalidValue| {
            InvalidValue(
                format!("the role's name is wrong: {e}").replace("a provider name", "a role name"),
            )
        })?;
        Ok(Self { provider, name })
    }

    /// The provider that mints this role's credentials.
    pub const fn provider(&self) -> &ProviderName {
        &self.provider
    }

    /// The part after the slash.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }
}

impl FromStr for RoleName {
    type Err = InvalidValue;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let bad = || {
            InvalidValue(format!(
                "`{}` is not a role: write <provider>/<name>, like vault-main/ci-db",
                excerpt(s)
            ))
        };
        let (provider, name) = s.split_once('/').ok_or_else(bad)?;
        match (provider.parse(), name.parse()) {
            (Ok(provider), Ok(name)) => Ok(Self { provider, name }),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.provider, self.name)
    }
}

impl fmt::Debug for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

prints_as_text!(RoleName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_table() {
        for good in ["a", "builder-7", "0x"] {
            assert!(good.parse::<AgentName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a b",
            "a/b",
            "é",
            "a.b",
            &"a".repeat(64),
        ] {
            assert!(bad.parse::<AgentName>().is_err(), "{bad}");
        }
        for bad in [
            "",
            "alice",
            "@acme.test",
            "alice@",
            "alice@acme",
            "a@b@c.d",
            "alice @acme.test",
            "a@b.c.",
        ] {
            assert!(bad.parse::<Owner>().is_err(), "{bad}");
        }
        assert_eq!(
            "vault-main/ci-db".parse::<RoleName>().unwrap().name(),
            "ci-db"
        );
        for bad in ["vault", "/x", "a/", "a/b/c", "A/b"] {
            assert!(bad.parse::<RoleName>().is_err(), "{bad}");
        }
        assert!("two\nlines".parse::<Text>().is_err());
        assert!("two\u{2028}lines".parse::<Text>().is_err());
        assert!("x".repeat(513).parse::<Text>().is_err());
    }
}
