//! Reading credentials, without their secrets. Agents see their own; policy decides what operators
//! see.

use std::sync::Arc;

use taskpass_core::{Credential, CredentialId};
use taskpass_policy::{Action, Resource};
use taskpass_store::{CredentialFilter, Listing, Page};

use crate::{Call, Engine, Error};

use super::told::Reader;

/// A credential, without its secret.
#[derive(Debug, Clone)]
pub struct CredentialView {
    /// The credential.
    pub credential: Arc<Credential>,
    /// Whether its role lets it be renewed.
    pub renewable: bool,
}

impl Engine {
    /// One credential.
    pub async fn credential(&self, call: &Call, id: CredentialId) -> Result<CredentialView, Error> {
        let credential = self
            .reachable_credential(call, Action::CredentialRead, id)
            .await?;
        let role = call.snapshot.backends().spec(&credential.role);
        let resource = Resource::Credential {
            credential: &credential,
            role,
        };
        self.authorize_read(call, Action::CredentialRead, resource)
            .await?;
        let renewable = role.is_some_and(|spec| spec.renewable);
        Ok(Reader::of(call).view(CredentialView {
            credential,
            renewable,
        }))
    }

    /// Credentials, newest first.
    pub async fn list_credentials(
        &self,
        call: &Call,
        mut filter: CredentialFilter,
        page: &Page,
    ) -> Result<Listing<CredentialView>, Error> {
        if let (None, Some(bound)) = (filter.task, call.bound_to()) {
            filter.task = Some(bound.id);
        }
        if let Some(id) = filter.task {
            let task = self
                .reachable_task(call, Action::CredentialRead, id)
                .await?;
            self.authorize_read(call, Action::CredentialRead, Resource::Task(&task))
                .await?;
        } else {
            self.narrow_to_caller(call, Action::CredentialRead, &mut filter.agent)
                .await?;
        }
        let listing = self.context.store.list_credentials(&filter, page).await?;
        let backends = call.snapshot.backends();
        let renewable = |c: &Credential| backends.spec(&c.role).is_some_and(|spec| spec.renewable);
        let rows = listing
            .rows
            .into_iter()
            .map(|credential| CredentialView {
                renewable: renewable(&credential),
                credential,
            })
            .map(|view| Reader::of(call).view(view))
            .collect();
        Ok(Listing {
            rows,
            next: listing.next,
        })
    }
}
