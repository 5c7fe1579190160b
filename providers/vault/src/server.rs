//! Which server answers: an answer of another Vault proves nothing of the one that minted.

use serde_json::Value;
use taskpass_provider::{ProviderError, RevokeOrder};

use crate::{api, handle::AnchorHandle, provider::VaultProvider};

impl VaultProvider {
    /// The id of the server's cluster, which it tells without being asked for a token. It lies in its storage: a new address does
    /// not change it, another storage does.
    pub(crate) async fn cluster(&self) -> Result<Option<String>, ProviderError> {
        let health = api::health(&self.transport)
            .await
            .map_err(|e| e.while_doing("tell its health"))?;
        let cluster = health.get("cluster_id").and_then(Value::as_str);
        Ok(cluster.filter(|id| !id.is_empty()).map(str::to_owned))
    }

    /// Asks the server who it is, and refuses to go on when it is not the one that made the sessions of the order, or
    /// is asked in another namespace: it would know nothing of them, however alive they are.
    pub(crate) async fn must_be_the_one(&self, order: &RevokeOrder) -> Result<(), ProviderError> {
        let answers = self.cluster().await.unwrap_or_default();
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
            match &answers {
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
        Ok(())
    }
}
