//! Extending one credential.

use std::time::Duration;

use taskpass_provider::{ProviderError, RenewOrder, Renewed};

use crate::{fault::Fault, handle::Handle, issue::end_on_record, provider::VaultProvider};

impl VaultProvider {
    pub(crate) async fn extend(&self, order: &RenewOrder) -> Result<Renewed, ProviderError> {
        let now = self.clock.now();
        let seconds = u32::try_from(order.until.since(now).as_secs()).unwrap_or(u32::MAX);
        if seconds == 0 {
            return Err(ProviderError::Denied(format!("{} has passed", order.until)));
        }
        let unsupported = |what: &str| {
            Err(ProviderError::Unsupported(format!(
                "{what} of role `{}` cannot be renewed",
                order.role
            )))
        };
        let handle = order.handle.as_ref().map(Handle::parse).transpose()?;
        let granted = match &handle {
            Some(Handle::LeaseId(lease_id)) => {
                let renewed = self.renew_lease(lease_id, seconds).await;
                renewed.map(|reply| u64::from(reply.lease_seconds))
            }
            Some(Handle::Accessor(accessor)) => {
                self.extend_token(accessor, u64::from(seconds)).await
            }
            Some(Handle::Unleased(_)) => return unsupported("a credential without a lease"),
            Some(Handle::Static(_)) => return unsupported("a static secret"),
            Some(Handle::LeasePath(_) | Handle::TimedLeasePath(_)) | None => {
                return unsupported("a credential whose outcome is unknown");
            }
        };
        let granted = granted.map_err(|fault| self.renew_error(order, fault))?;
        // An engine that gives more than it was asked for must not look as if it had not.
        let ends_by = self.clock.now().plus(Duration::from_secs(granted));
        let expires_at = end_on_record(order.until, ends_by);
        Ok(Renewed { expires_at })
    }

    fn renew_error(&self, order: &RenewOrder, fault: Fault) -> ProviderError {
        if fault.says_gone() {
            return ProviderError::Gone(format!(
                "credential {} is not there any more",
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
}
