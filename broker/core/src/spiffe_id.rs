//! SPIFFE IDs (SPIFFE-ID.md, rules ID-1 … ID-6) and their meaning here.
//!
//! Identifiers are written and accepted in canonical form only: a lower-case scheme and trust
//! domain. Spellings that differ just in case would name the same thing twice in policies and in
//! the ledger (section 2.4 of the standard calls them equal; implementations differ, this one
//! refuses them).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{AgentName, InvalidValue, OperatorName, TaskId, excerpt, text::is_text};

/// The longest URI that must be accepted; a longer one is refused (SPIFFE-ID.md section 2.3).
const URI_BYTES_MAX: usize = 2048;

/// The name of a SPIFFE trust domain: one installation of Taskpass.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(spiffe::TrustDomain);

impl TrustDomain {
    /// The name, such as `acme.test`.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The trust domain's own ID, `spiffe://acme.test`, which signing authorities carry.
    pub fn id_string(&self) -> String {
        format!("spiffe://{}", self.as_str())
    }
}

impl FromStr for TrustDomain {
    type Err = InvalidValue;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let bad = |why: &dyn fmt::Display| {
            InvalidValue(format!(
                "`{}` is not a trust domain: {why}; use 1 to 255 of a-z, 0-9, `.`, `-`, `_`, like acme.test",
                excerpt(s)
            ))
        };
        if s.contains(':') || s.contains('/') {
            return Err(bad(&"give the bare name without scheme, port or path"));
        }
        let parsed = spiffe::TrustDomain::new(s).map_err(|e| bad(&e))?;
        if parsed.as_str() == s {
            Ok(Self(parsed))
        } else {
            Err(bad(&"it is not in canonical lower case"))
        }
    }
}

/// A SPIFFE ID with a path, in canonical form, at most 2,048 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId(String);

impl SpiffeId {
    /// The ID as a URI.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part after the trust domain, beginning with `/`.
    pub fn path(&self) -> &str {
        let (_, after) = self.split();
        after
    }

    /// Whether the ID lies in `domain`.
    pub fn is_member_of(&self, domain: &TrustDomain) -> bool {
        self.split().0 == domain.as_str()
    }

    /// Trust domain and path.
    fn split(&self) -> (&str, &str) {
        // INVARIANT: `from_str` checked that the scheme and a path are there.
        let rest = self.0.strip_prefix("spiffe://").unwrap_or_default();
        rest.find('/')
            .map(|at| rest.split_at(at))
            .unwrap_or_default()
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidValue;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let bad = |why: &dyn fmt::Display| {
            InvalidValue(format!("`{}` is not a usable SPIFFE ID: {why}", excerpt(s)))
        };
        if s.len() > URI_BYTES_MAX {
            return Err(bad(&"it is longer than 2048 bytes"));
        }
        let parsed = spiffe::SpiffeId::new(s).map_err(|e| bad(&e))?;
        if parsed.to_string() != s {
            return Err(bad(&"scheme and trust domain must be lower case"));
        }
        if parsed.path().is_empty() {
            return Err(bad(
                &"it names a trust domain, not a workload: the path is missing",
            ));
        }
        Ok(Self(s.to_owned()))
    }
}

is_text!(TrustDomain);
is_text!(SpiffeId);

/// The identities that SPIFFE IDs of this installation's trust domain name. There is no other form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// `/agent/<name>`
    Agent(AgentName),
    /// `/agent/<name>/task/<task-id>`
    AgentTask(AgentName, TaskId),
    /// `/operator/<name>`
    Operator(OperatorName),
    /// `/broker/<node>`
    Broker(AgentName),
}

impl Identity {
    /// Reads a SPIFFE ID of `domain`; other trust domains and unknown paths are refused.
    pub fn parse(uri: &str, domain: &TrustDomain) -> Result<Self, InvalidValue> {
        let id: SpiffeId = uri.parse()?;
        if !id.is_member_of(domain) {
            return Err(InvalidValue(format!(
                "`{}` is not in the trust domain `{domain}`",
                excerpt(uri)
            )));
        }
        let segments: Vec<&str> = id.path().split('/').skip(1).collect();
        match segments.as_slice() {
            ["agent", name] => Ok(Self::Agent(name.parse()?)),
            ["agent", name, "task", task] => Ok(Self::AgentTask(name.parse()?, task.parse()?)),
            ["operator", name] => Ok(Self::Operator(name.parse()?)),
            ["broker", node] => Ok(Self::Broker(node.parse()?)),
            _ => Err(InvalidValue(format!(
                "`{}` names neither an agent, a task, an operator nor a broker",
                excerpt(uri)
            ))),
        }
    }

    /// The SPIFFE ID of this identity in `domain`.
    pub fn spiffe_id(&self, domain: &TrustDomain) -> Result<SpiffeId, InvalidValue> {
        let path = match self {
            Self::Agent(name) => format!("agent/{name}"),
            Self::AgentTask(name, task) => format!("agent/{name}/task/{task}"),
            Self::Operator(name) => format!("operator/{name}"),
            Self::Broker(node) => format!("broker/{node}"),
        };
        format!("spiffe://{domain}/{path}").parse()
    }

    /// The agent, with or without a task; `None` for operators and brokers.
    pub const fn agent(&self) -> Option<&AgentName> {
        match self {
            Self::Agent(name) | Self::AgentTask(name, _) => Some(name),
            Self::Operator(_) | Self::Broker(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain() -> TrustDomain {
        "acme.test".parse().unwrap()
    }

    /// ID-1 … ID-5: grammar, canonical form, limits.
    #[test]
    fn spiffe_id_table() {
        for good in [
            "spiffe://acme.test/a",
            "spiffe://1.2.3.4/a",
            "spiffe://acme.test/.../.x/A_b-c",
            "spiffe://a_b/x",
        ] {
            assert!(good.parse::<SpiffeId>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "acme.test/a",
            "http://acme.test/a",
            "spiffe:///a",
            "spiffe://acme.test",
            "spiffe://acme.test/",
            "spiffe://acme.test/a/",
            "spiffe://acme.test//a",
            "spiffe://acme.test/./a",
            "spiffe://acme.test/../a",
            "spiffe://acme.test/a?x",
            "spiffe://acme.test/a#x",
            "spiffe://u@acme.test/a",
            "spiffe://acme.test:443/a",
            "spiffe://acme.test/%61",
            "spiffe://ac%6de.test/a",
            "Spiffe://acme.test/a",
            "spiffe://Acme.test/a",
            "spiffe://[::1]/a",
            "spiffe://acme.test/a b",
            "spiffe://acme.test/\u{e9}",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad}");
        }
        let longest = format!("spiffe://acme.test/{}", "a".repeat(2048 - 19));
        assert_eq!(longest.len(), 2048);
        assert!(longest.parse::<SpiffeId>().is_ok());
        assert!(format!("{longest}a").parse::<SpiffeId>().is_err());
    }

    /// ID-6: every code point 0 … 255 in the trust domain and in a path segment.
    #[test]
    fn every_code_point_is_allowed_or_refused_as_the_standard_says() {
        for point in 0_u32..256 {
            let c = char::from_u32(point).unwrap();
            let in_domain = c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c);
            let text = format!("spiffe://a{c}c/x");
            if c != '/' {
                assert_eq!(text.parse::<SpiffeId>().is_ok(), in_domain, "{text:?}");
            }
            let in_path = c.is_ascii_alphanumeric() || ".-_".contains(c);
            let text = format!("spiffe://acme.test/a{c}c");
            if c != '/' {
                assert_eq!(text.parse::<SpiffeId>().is_ok(), in_path, "{text:?}");
            }
        }
    }

    #[test]
    fn identities_round_trip_and_nothing_else_is_one() {
        for uri in [
            "spiffe://acme.test/agent/builder",
            "spiffe://acme.test/agent/builder/task/t0123456789abcdef",
            "spiffe://acme.test/operator/admin",
            "spiffe://acme.test/broker/node-1",
        ] {
            let identity = Identity::parse(uri, &domain()).unwrap();
            assert_eq!(identity.spiffe_id(&domain()).unwrap().as_str(), uri);
        }
        for bad in [
            "spiffe://other.test/agent/builder",
            "spiffe://acme.test/agent",
            "spiffe://acme.test/agent/a/b",
            "spiffe://acme.test/agent/builder/task/x",
            "spiffe://acme.test/admin/root",
            "spiffe://acme.test/agent/Builder",
        ] {
            assert!(Identity::parse(bad, &domain()).is_err(), "{bad}");
        }
    }
}
