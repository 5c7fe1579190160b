//! What the ledger remembers of a credential or a session: names, never secrets.

use serde::{Deserialize, Serialize};
use serde_json::Value;
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
}

/// How a session is found again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AnchorHandle {
    pub(crate) accessor: String,
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
    use super::*;

    /// Ledgers outlive releases: this form is for ever.
    #[test]
    fn recorded_forms_are_fixed() {
        let lease = Handle::LeaseId("a/b/c".to_owned());
        assert_eq!(lease.to_json().to_string(), r#"{"lease_id":"a/b/c"}"#);
        assert_eq!(Handle::parse(&lease.to_json()), Ok(lease));
        let anchor = AnchorHandle {
            accessor: "x".to_owned(),
        };
        assert_eq!(anchor.to_json().to_string(), r#"{"accessor":"x"}"#);
        assert!(
            Handle::parse(&Value::from("x")).is_err() && AnchorHandle::parse(&Value::Null).is_err()
        );
    }
}
