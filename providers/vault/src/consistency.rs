//! Which place of a cluster may prove a death.
//!
//! A standby that serves reads may lag behind. It does not know a token or lease that was just
//! minted, and says the same of it as of a dead one. So "there is no such thing" proves a
//! death only where the answering place has seen the minting: it was told the storage index of the
//! minting and did not refuse, or there is no other place.
//!
//! Sources: OpenBao, *Eventual consistency* (`X-Vault-Index` since 2.7, standbys that serve reads
//! since 2.5); Vault Enterprise, *Eventual consistency* (performance standbys).

use reqwest::header::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// In an answer: how far its storage was. In a request: how far the storage must be.
pub(crate) const INDEX_HEADER: HeaderName = HeaderName::from_static("x-vault-index");
/// In a request: the conduct of a place that is not as far.
pub(crate) const INCONSISTENT_HEADER: HeaderName = HeaderName::from_static("x-vault-inconsistent");
/// It hands the request to the active node. A server that may not do so refuses, and the broker
/// tries again later.
pub(crate) const FORWARD: HeaderValue = HeaderValue::from_static("forward-active-node");

/// A longer index is not kept: it goes into the ledger with each credential.
const INDEX_BYTES_MAX: usize = 512;

/// How far the storage of a cluster was; opaque, and not secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Index(String);

impl Index {
    /// Its name in recorded handles and anchors.
    pub(crate) const KEY: &str = "index";

    pub(crate) fn read(header: &HeaderValue) -> Option<Self> {
        let text = header.to_str().ok()?;
        let is_kept = !text.is_empty() && text.len() <= INDEX_BYTES_MAX;
        is_kept.then(|| Self(text.to_owned()))
    }

    /// Of a recorded handle or anchor.
    pub(crate) fn recorded(record: &Value) -> Option<Self> {
        let text = record.get(Self::KEY)?.as_str()?;
        Some(Self(text.to_owned()))
    }

    pub(crate) fn to_json(&self) -> Value {
        Value::from(self.0.as_str())
    }

    pub(crate) fn header(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.0).ok()
    }
}

/// Why a receipt is not verified although Vault knows nothing of the thing.
pub(crate) const UNSEEN: &str = "the server that answers may be a standby that has not seen the credential being minted, so that it does not know it proves nothing: see `taskpass provider check`";

/// What became of a thing that was to be revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Death {
    /// A place that has seen the minting does not know the thing any more.
    Proven,
    /// The answering place does not know the thing, and may never have known it.
    Unknown,
}

/// Whether a place of this cluster may answer reads and lag behind, by the server's reports on
/// itself (`sys/health`, `sys/leader`). In doubt it may.
pub(crate) fn may_lag(health: &Value, leader: &Value) -> bool {
    if leader.get("ha_enabled").and_then(Value::as_bool) == Some(false) {
        return false;
    }
    let version = health.get("version").and_then(Value::as_str).unwrap_or("");
    match health.get("enterprise").and_then(Value::as_bool) {
        Some(enterprise) => enterprise,
        // Vault before 1.17 names its edition in the version. OpenBao began with 2.0.
        None => version.contains("+ent") || !forwards_reads(version),
    }
}

/// Whether each standby of this version hands every request to the active node: Vault without an
/// enterprise licence, and OpenBao before 2.5.
fn forwards_reads(version: &str) -> bool {
    let mut numbers = version.trim_start_matches('v').split(['.', '-', '+']);
    let mut next = || numbers.next()?.parse::<u32>().ok();
    match (next(), next()) {
        (Some(0 | 1), _) => true,
        (Some(2), Some(minor)) => minor < 5,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_place_that_cannot_lag_is_believed_without_an_index() {
        let health = |version: &str| json!({ "version": version });
        let (alone, cluster) = (json!({"ha_enabled": false}), json!({"ha_enabled": true}));
        for version in ["1.9.0", "1.21.4", "2.0.0", "2.4.4", "v2.4.0-beta"] {
            assert!(!may_lag(&health(version), &cluster), "{version}");
        }
        for version in ["2.5.0", "2.7.2", "3.0.0", "1.16.1+ent", "", "x", "2", "2.x"] {
            assert!(may_lag(&health(version), &cluster), "{version}");
            assert!(!may_lag(&health(version), &alone), "{version}");
        }
        let vault = |enterprise: bool| json!({ "version": "2.1.0", "enterprise": enterprise });
        assert!(!may_lag(&vault(false), &cluster));
        assert!(may_lag(&vault(true), &cluster));
        // A server that says nothing of itself is not believed.
        assert!(may_lag(&json!({}), &json!({})));
    }

    #[test]
    fn an_index_is_kept_only_while_it_is_small() {
        let read = |text: &str| Index::read(&HeaderValue::from_str(text).unwrap());
        assert_eq!(read("eyJ9"), Some(Index("eyJ9".to_owned())));
        assert_eq!(read(""), None);
        assert_eq!(read(&"x".repeat(INDEX_BYTES_MAX + 1)), None);
        let kept = read(&"x".repeat(INDEX_BYTES_MAX)).unwrap();
        assert_eq!(Index::recorded(&json!({ "index": kept })), Some(kept));
        assert_eq!(Index::recorded(&json!("x")), None);
    }
}
