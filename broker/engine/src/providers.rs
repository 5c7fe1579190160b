//! What people see of providers.

use taskpass_core::{ProviderName, RoleSpec};
use taskpass_policy::{Action, Resource};
use taskpass_provider::{Health, ProviderError};
use taskpass_store::ProviderUsage;

use super::{
    BackendStatus, Call, Engine, Error,
    backend::{Backend, RevokeSlot},
};

/// A provider, its roles and how it stands.
#[derive(Debug, Clone)]
pub struct ProviderView {
    /// The name.
    pub name: ProviderName,
    /// The kind.
    pub kind: &'static str,
    /// Its roles.
    pub roles: Vec<RoleSpec>,
    /// How busy it is.
    pub status: BackendStatus,
    /// What it has out.
    pub usage: ProviderUsage,
}

impl Engine {
    /// All providers, by name.
    pub async fn list_providers(&self, call: &Call) -> Result<Vec<ProviderView>, Error> {
        self.require_operator(call, Action::ProviderRead).await?;
        self.authorize_read(call, Action::ProviderRead, Resource::Installation)
            .await?;
        let mut views = Vec::with_capacity(self.backends.len());
        for backend in self.backends.values() {
            views.push(self.provider_view(backend).await?);
        }
        Ok(views)
    }

    /// One provider.
    pub async fn provider(&self, call: &Call, name: &ProviderName) -> Result<ProviderView, Error> {
        self.require_operator(call, Action::ProviderRead).await?;
        let backend = self.backend(name)?;
        self.authorize_read(
            call,
            Action::ProviderRead,
            Resource::Provider(backend.provider().name()),
        )
        .await?;
        self.provider_view(backend).await
    }

    /// Has a provider check itself. The outer error is ours, the inner one the provider's.
    pub async fn check_provider(
        &self,
        call: &Call,
        name: &ProviderName,
    ) -> Result<Result<Health, ProviderError>, Error> {
        self.require_operator(call, Action::ProviderCheck).await?;
        let backend = self.backend(name)?;
        self.authorize_read(
            call,
            Action::ProviderCheck,
            Resource::Provider(backend.provider().name()),
        )
        .await?;
        let place = backend.place()?;
        Ok(backend.issue(place, backend.provider().check()).await)
    }

    /// Keeps one provider's own house clean.
    pub(crate) async fn maintain_providers(&self) {
        for backend in self.backends.values() {
            if let Err(error) = backend.upkeep().await {
                tracing::warn!(provider = %backend.provider().name(), %error, "the provider's upkeep failed");
            }
        }
    }

    /// A slot to revoke in at a provider, if one is free now and the provider is to be asked. Those that
    /// are no longer configured fail in turn.
    pub(crate) fn revoke_slot(&self, name: &ProviderName, is_new: bool) -> Option<RevokeSlot> {
        match self.backends.get(name) {
            Some(backend) => backend.revoke_slot(is_new),
            None => {
                let leave = self.unconfigured.admit(is_new, self.clock.monotonic())?;
                Some(RevokeSlot::of_nobody(leave))
            }
        }
    }

    pub(super) fn backend(&self, name: &ProviderName) -> Result<&std::sync::Arc<Backend>, Error> {
        self.backends.get(name).ok_or_else(|| Error::NotFound {
            what: format!("provider `{name}`"),
            advice: "see `taskpass provider list`",
        })
    }

    /// Refuses agents what is for people only.
    pub(super) async fn require_operator(&self, call: &Call, action: Action) -> Result<(), Error> {
        if call.agent().is_none() {
            return Ok(());
        }
        Err(self
            .refuse_kind(call, action, "this is for operators only")
            .await)
    }

    async fn provider_view(&self, backend: &Backend) -> Result<ProviderView, Error> {
        let provider = backend.provider();
        Ok(ProviderView {
            name: provider.name().clone(),
            kind: provider.kind(),
            roles: provider.roles().to_vec(),
            status: backend.status(),
            usage: self.store.usage_of_provider(provider.name()).await?,
        })
    }
}
