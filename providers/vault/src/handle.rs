//! The handles by which a credential or a session can be found at Vault: names, never secrets.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use taskpass_core::{CredentialId, RevocationClass};
use taskpass_provider::{ProviderError, RevokeItem};

use crate::{consistency::Index, engine::ENGINE_KEY};

/// How a credential is found at Vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Handle {
    /// A lease.
    LeaseId(String),
    /// A token of its own.
    Accessor(String),
    /// Minted without a lease. It lives until its own end, in seconds of Unix time if the engine
    /// told it.
    Unleased(Option<i64>),
    /// A static secret, by its path.
    Static(String),
    /// Of an intent: a token of its own, found by its anchor. Earlier releases recorded the class
    /// `immediate` and no handle.
    Token,
    /// Of an intent: the path below which Vault files the lease. It is recorded because the role's
    /// configuration may have changed when the lease has to be searched for.
    LeasePath(String),
    /// The same for an engine that is told the lease's lifetime. A lease of a lost answer lives no
    /// longer than that.
    TimedLeasePath(String),
}

/// Whether a credential is a token of its own.
pub(crate) fn is_token(item: &RevokeItem) -> bool {
    let handle = item.handle.as_ref().map(Handle::parse);
    match handle {
        Some(Ok(Handle::Token | Handle::Accessor(_))) => true,
        _ => item.revocation_class == RevocationClass::Immediate,
    }
}

/// Marks a token that was created through a token role: Vault takes its latest end from the role as
/// it is at each renewal, so its holder may have given it a later end than any on record.
const BY_TOKEN_ROLE: &str = "by_token_role";

/// Whether the holder of the token may have renewed it beyond every end on record.
pub(crate) fn is_by_token_role(handle: Option<&Value>) -> bool {
    handle.is_some_and(|handle| handle.get(BY_TOKEN_ROLE).is_some())
}

/// How a session, or a token that is a credential, is found at Vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AnchorHandle {
    pub(crate) accessor: String,
    /// The credential that the token is; `None` for a session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) credential: Option<CredentialId>,
    /// The cluster that minted it. If another cluster does not know the token, that proves nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cluster: Option<String>,
    /// The namespace it was minted in, if the configuration named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<String>,
    /// How far the cluster's storage was when it was minted. If a place that is not as far does not
    /// know the token, that proves nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) index: Option<Index>,
}

impl Handle {
    pub(crate) fn to_json(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    /// With the type of the engine that minted the thing, and how far the cluster's storage was.
    pub(crate) fn minted_by(&self, engine: Option<&str>, index: Option<&Index>) -> Value {
        let mut value = self.minted_at(index);
        if let (Some(engine), Some(fields)) = (engine, value.as_object_mut()) {
            fields.insert(ENGINE_KEY.to_owned(), Value::from(engine));
        }
        value
    }

    /// With how far the cluster's storage was when the thing was minted.
    pub(crate) fn minted_at(&self, index: Option<&Index>) -> Value {
        let mut value = self.to_json();
        if let (Some(index), Some(fields)) = (index, value.as_object_mut()) {
            fields.insert(Index::KEY.to_owned(), index.to_json());
        }
        value
    }

    /// The handle of a token, with its mark if it was created through a token role.
    pub(crate) fn of_token(
        accessor: String,
        index: Option<&Index>,
        token_role: Option<&str>,
    ) -> Value {
        let mut value = Self::Accessor(accessor).minted_at(index);
        if let (Some(_), Some(fields)) = (token_role, value.as_object_mut()) {
            fields.insert(BY_TOKEN_ROLE.to_owned(), Value::from(true));
        }
        value
    }

    pub(crate) fn parse(value: &Value) -> Result<Self, ProviderError> {
        let mut value = value.clone();
        if let Some(fields) = value.as_object_mut() {
            for key in [Index::KEY, ENGINE_KEY, BY_TOKEN_ROLE] {
                fields.remove(key);
            }
        }
        parse(&value, "handle")
    }
}

impl AnchorHandle {
    pub(crate) fn to_json(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    pub(crate) fn parse(value: &Value) -> Result<Self, ProviderError> {
        parse(value, "anchor")
    }
}

fn parse<T: DeserializeOwned>(value: &Value, what: &str) -> Result<T, ProviderError> {
    T::deserialize(value).map_err(|e| {
        ProviderError::Misconfigured(format!("a recorded {what} is not of this provider: {e}"))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Ledgers outlive releases, so these forms can never change.
    #[test]
    fn recorded_forms_are_fixed() {
        let lease = Handle::LeaseId("a/b/c".to_owned());
        assert_eq!(lease.to_json().to_string(), r#"{"lease_id":"a/b/c"}"#);
        assert_eq!(Handle::parse(&lease.to_json()), Ok(lease.clone()));
        let path = Handle::LeasePath("a/b".to_owned());
        assert_eq!(path.to_json().to_string(), r#"{"lease_path":"a/b"}"#);
        let path = Handle::TimedLeasePath("a/b".to_owned());
        assert_eq!(path.to_json().to_string(), r#"{"timed_lease_path":"a/b"}"#);
        assert_eq!(Handle::Token.to_json().to_string(), r#""token""#);
        assert_eq!(Handle::parse(&json!("token")), Ok(Handle::Token));
        let index = Index::recorded(&json!({ "index": "i" }));
        let minted = lease.minted_at(index.as_ref());
        assert_eq!(minted.to_string(), r#"{"lease_id":"a/b/c","index":"i"}"#);
        assert_eq!(Handle::parse(&minted).as_ref(), Ok(&lease));
        assert_eq!(Index::recorded(&minted), index);
        assert_eq!(lease.minted_at(None), lease.to_json());
        let by_engine = lease.minted_by(Some("pki"), None);
        assert_eq!(
            by_engine.to_string(),
            r#"{"lease_id":"a/b/c","engine":"pki"}"#
        );
        assert_eq!(Handle::parse(&by_engine), Ok(lease));
        let token = Handle::of_token("x".to_owned(), None, Some("taskpass"));
        assert_eq!(
            token.to_string(),
            r#"{"accessor":"x","by_token_role":true}"#
        );
        assert_eq!(Handle::parse(&token), Ok(Handle::Accessor("x".to_owned())));
        let orphan = Handle::of_token("x".to_owned(), None, None);
        assert!(is_by_token_role(Some(&token)) && !is_by_token_role(Some(&orphan)));
        let mut anchor = AnchorHandle {
            accessor: "x".to_owned(),
            credential: None,
            cluster: None,
            namespace: None,
            index: None,
        };
        assert_eq!(anchor.to_json().to_string(), r#"{"accessor":"x"}"#);
        anchor.credential = Some("c0123456789abcdef".parse().unwrap());
        anchor.cluster = Some("y".to_owned());
        anchor.namespace = Some("z".to_owned());
        anchor.index = index;
        let form = json!({"accessor": "x", "credential": "c0123456789abcdef", "cluster": "y", "namespace": "z", "index": "i"});
        assert_eq!(anchor.to_json(), form);
        assert_eq!(AnchorHandle::parse(&anchor.to_json()), Ok(anchor));
        assert!(
            Handle::parse(&Value::from("x")).is_err() && AnchorHandle::parse(&Value::Null).is_err()
        );
    }
}
