//! What people see of providers.

use taskpass_core::{AnchorState, ProviderName, RoleSpec, TaskState, limits};
use taskpass_policy::{Action, Resource};
use taskpass_provider::{Health, ProviderError};
use taskpass_store::{Page, ProviderUsage, TaskFilter};

use super::{
    BackendStatus, Call, Engine, Error, Field, Snapshot,
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
        self.views_of(&call.snapshot).await
    }

    /// All configured providers, for the broker itself: without a decision, since no caller sees them.
    pub async fn provider_views(&self) -> Result<Vec<ProviderView>, Error> {
        self.views_of(&self.snapshot()).await
    }

    async fn views_of(&self, snapshot: &Snapshot) -> Result<Vec<ProviderView>, Error> {
        let backends = snapshot.backends().configured();
        let mut views = Vec::with_capacity(backends.len());
        for backend in backends {
            views.push(self.provider_view(backend).await?);
        }
        Ok(views)
    }

    /// One provider.
    pub async fn provider(&self, call: &Call, name: &ProviderName) -> Result<ProviderView, Error> {
        self.require_operator(call, Action::ProviderRead).await?;
        let backend = call.snapshot.backends().named(name)?;
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
        let backend = call.snapshot.backends().named(name)?;
        self.authorize_read(
            call,
            Action::ProviderCheck,
            Resource::Provider(backend.provider().name()),
        )
        .await?;
        let place = backend.place()?;
        Ok(backend.issue(place, backend.provider().check()).await)
    }

    /// Has every back end maintain itself, also those that only revoke any more. Of these it lets go once nothing of
    /// what they minted is left.
    pub(crate) async fn maintain_providers(&self) -> Result<(), Error> {
        let snapshot = self.snapshot();
        let backends = snapshot.backends();
        for name in backends.unused() {
            if !self.holds_anything(&name).await? {
                self.drop_retired(&name);
            }
        }
        for backend in backends.configured().chain(backends.retired()) {
            if let Err(error) = backend.upkeep().await {
                tracing::warn!(provider = %backend.provider().name(), %error, "the provider's upkeep failed");
            }
        }
        Ok(())
    }

    /// Whether a credential or an anchor of the provider is on record as alive.
    async fn holds_anything(&self, name: &ProviderName) -> Result<bool, Error> {
        let store = &self.context.store;
        let usage = store.usage_of_provider(name).await?;
        if usage.live_credentials > 0 || usage.revoking > 0 {
            return Ok(true);
        }
        for state in [TaskState::Open, TaskState::Ending] {
            let filter = TaskFilter {
                agent: None,
                state: Some(state),
            };
            let mut page = Page::first();
            loop {
                let listing = store.list_tasks(&filter, &page).await?;
                for task in &listing.rows {
                    let anchors = store.anchors_of_task(task.id).await?;
                    if anchors
                        .iter()
                        .any(|a| a.provider == *name && a.state == AnchorState::Live)
                    {
                        return Ok(true);
                    }
                }
                let Some(next) = listing.next else { break };
                page = Page::new(limits::PAGE_ROWS_MAX, &next)
                    .map_err(|e| Error::invalid(Field::PageToken, e))?;
            }
        }
        Ok(false)
    }

    /// A slot to revoke in at a provider, if one is free now and the provider is to be asked. Those that were not
    /// configured when the process began fail in turn.
    pub(crate) fn revoke_slot(&self, name: &ProviderName, is_new: bool) -> Option<RevokeSlot> {
        match self.snapshot().backends().revoking(name) {
            Some(backend) => backend.revoke_slot(is_new),
            None => {
                let leave = self
                    .unconfigured
                    .admit(is_new, self.context.clock.monotonic())?;
                Some(RevokeSlot::of_nobody(leave))
            }
        }
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
            usage: self
                .context
                .store
                .usage_of_provider(provider.name())
                .await?,
        })
    }
}
