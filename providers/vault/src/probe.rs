//! Finds out which things of an order are alive; lookups only.

use futures_util::{StreamExt, stream};
use taskpass_provider::{Liveness, ProviderError, RevokeItem, RevokeOrder, RevokeScope};

use crate::{
    consistency::{Death, Index, UNSEEN},
    engine::{EngineRevokes, engine_revokes},
    handle::{AnchorHandle, Handle},
    identity::must_have_minted,
    vault::{CONCURRENT_CALLS_MAX, Vault},
};

pub(crate) async fn probe(vault: &Vault, order: &RevokeOrder) -> Result<Liveness, ProviderError> {
    must_have_minted(vault, order).await?;
    let in_doubt = order.items.iter().any(|item| !item.outcome_known);
    if order.scope == RevokeScope::Task || in_doubt {
        for (_, handle) in &order.anchors {
            let anchor = AnchorHandle::parse(handle)?;
            let exists = vault
                .token_exists(&anchor.accessor, anchor.index.as_ref())
                .await;
            if exists.map_err(|e| e.while_doing("look up a session"))? {
                return Ok(Liveness::Alive(
                    "a session of the task can still be used".to_owned(),
                ));
            }
            if anchor.index.is_none() && vault.believed().await == Death::Unknown {
                return Ok(Liveness::Unknown(UNSEEN.to_owned()));
            }
        }
    }
    let mut probing = Vec::with_capacity(order.items.len());
    for item in &order.items {
        probing.push(probe_item(vault, item));
    }
    let found: Vec<Result<Liveness, ProviderError>> = stream::iter(probing)
        .buffer_unordered(CONCURRENT_CALLS_MAX)
        .collect()
        .await;
    let mut verdict = Liveness::Dead("Vault knows none of the tokens and leases".to_owned());
    for liveness in found {
        match liveness? {
            alive @ Liveness::Alive(_) => return Ok(alive),
            unknown @ Liveness::Unknown(_) => verdict = unknown,
            Liveness::Dead(_) => {}
        }
    }
    Ok(verdict)
}

async fn probe_item(vault: &Vault, item: &RevokeItem) -> Result<Liveness, ProviderError> {
    let unknown = |why: &str| Ok(Liveness::Unknown(why.to_owned()));
    let handle = item.handle.as_ref().map(Handle::parse).transpose()?;
    let minted = item.handle.as_ref().and_then(Index::recorded);
    let exists = match &handle {
        Some(Handle::LeaseId(lease_id)) => vault.lease_exists(lease_id, minted.as_ref()).await,
        Some(Handle::Accessor(accessor)) => vault.token_exists(accessor, minted.as_ref()).await,
        Some(Handle::Unleased(_)) => return unknown("it has no lease to look up"),
        Some(Handle::Static(_)) => return unknown("a static secret works until it is changed"),
        Some(Handle::Token | Handle::LeasePath(_) | Handle::TimedLeasePath(_)) | None => {
            return unknown("the outcome of issuing it is unknown");
        }
    };
    let exists = exists.map_err(|e| e.while_doing("look up a credential"))?;
    if exists {
        let alive = format!("Vault still knows credential {}", item.credential);
        return Ok(Liveness::Alive(alive));
    }
    if minted.is_none() && vault.believed().await == Death::Unknown {
        return unknown(UNSEEN);
    }
    if let Some(Handle::LeaseId(lease_id)) = &handle {
        let minted = minted.as_ref();
        if engine_revokes(vault, item, lease_id, minted).await? != EngineRevokes::Now {
            return unknown("its lease is gone, and its engine is not known to end what it minted");
        }
    }
    Ok(Liveness::Dead("Vault does not know it any more".to_owned()))
}
