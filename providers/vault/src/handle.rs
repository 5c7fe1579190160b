//! What the ledger remembers of a credential or a session: names, never secrets.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use taskpass_core::CredentialId;
use taskpass_provider::ProviderError;

/// How a credential is found again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Handle {
    /// A lease.
    LeaseId(String),
    /// A token of its own.
    Accessor(String),
    /// Made without a lease: it lives until its own end, in seconds of Unix time, when the engine told.
    Unleased(Option<i64>),
    /// A static secret, by its path.
    Static(String),
    /// Of an intent: the path below which Vault files the lease. Recorded, since the role may be written anew before
    /// somebody has to look there.
    LeasePath(String),
    /// The same, of an engine that is told how long the lease shall live: that is the most that a lost one can have.
    TimedLeasePath(String),
}

/// How a session is found again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AnchorHandle {
    pub(crate) accessor: String,
    /// The credential that this token is. A task's session has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) credential: Option<CredentialId>,
    /// The server that made it, by the id of its cluster: another one's "I do not know it" proves nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cluster: Option<String>,
    /// The namespace it was made in, when the configuration named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<String>,
}

impl Handle {
    pub(crate) fn to_json(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    pub(crate) fn parse(value: &Value) -> Result<Self, ProviderError> {
        Self::deserialize(value).map_err(|e| {
            ProviderError::Misconfigured(format!(
                "a recorded handle is not one of this provider: {e}"
            ))
        })
    }
}

impl AnchorHandle {
    pub(crate) fn to_json(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    pub(crate) fn parse(value: &Value) -> Result<Self, ProviderError> {
        Self::deserialize(value).map_err(|e| {
            ProviderError::Misconfigured(format!(
                "a recorded anchor is not one of this provider: {e}"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Ledgers outlive releases: this form is for ever.
    #[test]
    fn recorded_forms_are_fixed() {
        let lease = Handle::LeaseId("a/b/c".to_owned());
        assert_eq!(lease.to_json().to_string(), r#"{"lease_id":"a/b/c"}"#);
        assert_eq!(Handle::parse(&lease.to_json()), Ok(lease));
        let path = Handle::LeasePath("a/b".to_owned());
        assert_eq!(path.to_json().to_string(), r#"{"lease_path":"a/b"}"#);
        let path = Handle::TimedLeasePath("a/b".to_owned());
        assert_eq!(path.to_json().to_string(), r#"{"timed_lease_path":"a/b"}"#);
        let mut anchor = AnchorHandle {
            accessor: "x".to_owned(),
            credential: None,
            cluster: None,
            namespace: None,
        };
        assert_eq!(anchor.to_json().to_string(), r#"{"accessor":"x"}"#);
        anchor.credential = Some("c0123456789abcdef".parse().unwrap());
        anchor.cluster = Some("y".to_owned());
        anchor.namespace = Some("z".to_owned());
        let form = json!({"accessor": "x", "credential": "c0123456789abcdef", "cluster": "y", "namespace": "z"});
        assert_eq!(anchor.to_json(), form);
        assert_eq!(AnchorHandle::parse(&anchor.to_json()), Ok(anchor));
        assert!(
            Handle::parse(&Value::from("x")).is_err() && AnchorHandle::parse(&Value::Null).is_err()
        );
    }
}
