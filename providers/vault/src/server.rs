//! Which server answers, and what time it has: an answer of another Vault proves nothing of the one that minted.

use serde_json::Value;
use taskpass_core::Timestamp;
use taskpass_provider::{ProviderError, RevokeOrder};

use crate::{api, handle::AnchorHandle, provider::VaultProvider};

/// What a server tells of itself without being asked for a token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Server {
    /// The id of its cluster, which lies in its storage: a new address does not change it, another storage does.
    pub(crate) cluster: Option<String>,
    /// Its own clock, in whole seconds.
    pub(crate) time: Option<Timestamp>,
}

impl VaultProvider {
    /// Asks the server who it is.
    pub(crate) async fn server(&self) -> Result<Server, ProviderError> {
        let health = api::health(&self.transport)
            .await
            .map_err(|e| e.while_doing("tell its health"))?;
        let cluster = health.get("cluster_id").and_then(Value::as_str);
        let seconds = health.get("server_time_utc").and_then(Value::as_i64);
        Ok(Server {
            cluster: cluster.filter(|id| !id.is_empty()).map(str::to_owned),
            time: seconds.map(|seconds| Timestamp::from_millis(seconds.saturating_mul(1000))),
        })
    }

    /// Asks the server who it is, and refuses to go on when it is not the one that made the sessions of the order, or
    /// is asked in another namespace: it would know nothing of them, however alive they are.
    pub(crate) async fn server_of(&self, order: &RevokeOrder) -> Result<Server, ProviderError> {
        let server = self.server().await.unwrap_or_default();
        let recorded = order.anchors.iter().map(|(_, handle)| handle);
        let of_items = order.items.iter().filter_map(|item| item.anchor.as_ref());
        for handle in recorded.chain(of_items) {
            let made = AnchorHandle::parse(handle)?;
            if made.namespace != self.namespace {
                return Err(ProviderError::Misconfigured(format!(
                    "it was minted in namespace `{}`, and the provider is configured for `{}`; set `namespace` back until it is revoked",
                    made.namespace.as_deref().unwrap_or("root"),
                    self.namespace.as_deref().unwrap_or("root")
                )));
            }
            // Anchors without a cluster were made where the server does not tell it.
            let Some(cluster) = &made.cluster else {
                continue;
            };
            match &server.cluster {
                Some(answers) if answers == cluster => {}
                Some(answers) => {
                    return Err(ProviderError::Misconfigured(format!(
                        "Vault cluster `{answers}` answers, but `{cluster}` minted it; set `address` back until it is revoked"
                    )));
                }
                None => {
                    return Err(ProviderError::retryable(
                        "Vault does not say which cluster it is, so what it knows proves nothing",
                    ));
                }
            }
        }
        Ok(server)
    }
}
