//! A later end for one credential.

use std::time::Duration;

use taskpass_provider::{ProviderError, RenewOrder, Renewed};

use crate::{
    consistency::Index, engine::is_static, fault::Fault, handle::Handle, issue::end_on_record,
    vault::Vault,
};

pub(crate) async fn renew(vault: &Vault, order: &RenewOrder) -> Result<Renewed, ProviderError> {
    let now = vault.clock.now();
    let seconds = u32::try_from(order.until.since(now).as_secs()).unwrap_or(u32::MAX);
    if seconds == 0 {
        return Err(ProviderError::Denied(format!(
            "credential {} cannot be renewed until {}: that has passed",
            order.credential, order.until
        )));
    }
    let unsupported = |what: &str| {
        Err(ProviderError::Unsupported(format!(
            "{what} of role `{}` cannot be renewed; issue a new one",
            order.role
        )))
    };
    let handle = order.handle.as_ref().map(Handle::parse).transpose()?;
    let minted = order.handle.as_ref().and_then(Index::recorded);
    let minted = minted.as_ref();
    let granted = match &handle {
        Some(Handle::LeaseId(_)) if is_static(order.handle.as_ref()) => {
            return unsupported("a static secret");
        }
        Some(Handle::LeaseId(lease_id)) => {
            let renewed = vault.renew_lease(lease_id, minted, seconds).await;
            renewed.map(|reply| u64::from(reply.lease_seconds))
        }
        Some(Handle::Accessor(accessor)) => {
            vault
                .renew_token(accessor, minted, u64::from(seconds))
                .await
        }
        Some(Handle::Unleased(_)) => return unsupported("a credential without a lease"),
        Some(Handle::Static(_)) => return unsupported("a static secret"),
        Some(Handle::Token | Handle::LeasePath(_) | Handle::TimedLeasePath(_)) | None => {
            return unsupported("a credential whose outcome is unknown");
        }
    };
    let granted = granted.map_err(|fault| renew_error(order, fault))?;
    // An engine may grant more than it was asked for, and the record must not hide that.
    let ends_by = vault.clock.now().plus(Duration::from_secs(granted));
    Ok(Renewed {
        expires_at: end_on_record(order.until, ends_by),
        // Whether the engine ends the credential with the lease is not asked again here, so the
        // life of the lease proves no end: the broker revokes the credential then. For tokens see
        // `Issuing::issue_token`.
        lives_for: None,
    })
}

fn renew_error(order: &RenewOrder, fault: Fault) -> ProviderError {
    if fault.says_gone() {
        return ProviderError::Gone(format!(
            "Vault does not know credential {} any more; issue a new one",
            order.credential
        ));
    }
    match &fault {
        Fault::Refused {
            status: 400,
            message,
            ..
        } if message.contains("not renewable") => ProviderError::Unsupported(format!(
            "the engine does not renew `{}`: {message}",
            order.role
        )),
        _ => fault.while_doing(&format!("renew credential {}", order.credential)),
    }
}
