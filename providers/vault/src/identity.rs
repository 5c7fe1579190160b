//! Which server answers: an answer of another Vault proves nothing about this one's credentials.

use taskpass_provider::{ProviderError, RevokeOrder};

use crate::{handle::AnchorHandle, vault::Vault};

/// Fails unless the server is the one, and the namespace the one, in which the order's anchors were
/// minted. Any other would know none of them, however alive they are.
pub(crate) async fn must_have_minted(
    vault: &Vault,
    order: &RevokeOrder,
) -> Result<(), ProviderError> {
    let answering = vault.cluster().await.unwrap_or_default();
    let recorded = order.anchors.iter().map(|(_, handle)| handle);
    let of_items = order.items.iter().filter_map(|item| item.anchor.as_ref());
    for handle in recorded.chain(of_items) {
        let anchor = AnchorHandle::parse(handle)?;
        if anchor.namespace != vault.namespace {
            return Err(ProviderError::Misconfigured(format!(
                "it was minted in namespace `{}`, and the provider is configured for `{}`; set `namespace` back until it is revoked",
                anchor.namespace.as_deref().unwrap_or("root"),
                vault.namespace.as_deref().unwrap_or("root")
            )));
        }
        // An anchor has no cluster if its server did not tell one.
        let Some(cluster) = &anchor.cluster else {
            continue;
        };
        match &answering {
            Some(answering) if answering == cluster => {}
            Some(answering) => {
                return Err(ProviderError::Misconfigured(format!(
                    "it was minted by Vault cluster `{cluster}`, and `{answering}` answers; set `address` back until it is revoked"
                )));
            }
            None => {
                return Err(ProviderError::retryable(format!(
                    "it was minted by Vault cluster `{cluster}`, and the server at `address` does not tell its own"
                )));
            }
        }
    }
    Ok(())
}
