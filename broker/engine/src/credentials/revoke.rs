//! Revoking one credential on request, while its task goes on.

use std::time::Duration;

use taskpass_core::{Actor, CredentialId, CredentialState, Event, RevokeCause};
use taskpass_policy::{Action, Resource};

use crate::{Call, Engine, Error, Receipt, failpoint};

use super::told::Reader;

/// A credential to revoke.
#[derive(Debug, Clone)]
pub struct RevokeCredential {
    /// Which.
    pub credential: CredentialId,
    /// How long to wait for the proof; the configured time when the caller does not say.
    pub wait: Option<Duration>,
}

impl Engine {
    /// Revokes a credential and waits for the proof. When the wait is over first, the receipt says
    /// so and revoking goes on. Revoking a credential twice is no error.
    pub async fn revoke_credential(
        &self,
        call: &Call,
        request: &RevokeCredential,
    ) -> Result<Receipt, Error> {
        let id = request.credential;
        let credential = self
            .reachable_credential(call, Action::CredentialRevoke, id)
            .await?;
        let role = call.snapshot.backends().spec(&credential.role);
        let resource = Resource::Credential {
            credential: &credential,
            role,
        };
        let allowed = self
            .authorize(call, Action::CredentialRevoke, resource, None)
            .await
            .granted()?;
        if credential.state == CredentialState::Active {
            let by = Actor::Caller(call.caller.id().clone());
            let revoking = Event::CredentialRevoking {
                credential: id,
                cause: RevokeCause::Requested,
                by,
            };
            let committed = self
                .commit_reserved(vec![allowed.into_event(), revoking], Vec::new())
                .await;
            // Another caller, or the end of the task, was faster; it is being revoked all the same.
            if let Err(error) = committed
                && self.is_active(id).await?
            {
                return Err(error);
            }
        } else if credential.state == CredentialState::Intended {
            return Err(Error::Precondition(format!(
                "credential `{id}` is just being issued; try again"
            )));
        } else {
            self.commit_ended_before(call, allowed).await?;
        }
        failpoint::reached("revoke.intended");
        self.settled(id, Self::wait_for(call, request.wait)).await?;
        let now = self.now();
        let credential = self.context.store.credential(id).await?;
        let credential = credential.ok_or_else(|| Error::no_credential(id))?;
        Ok(Receipt::of(&credential, now, Reader::of(call)))
    }

    async fn is_active(&self, id: CredentialId) -> Result<bool, Error> {
        let credential = self.context.store.credential(id).await?;
        Ok(credential.is_some_and(|c| c.state == CredentialState::Active))
    }
}
