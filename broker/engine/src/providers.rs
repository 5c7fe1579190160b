//! Providers: read, check, maintain.

mod backend;
mod backends;
mod configured;
mod gate;
mod pacer;
mod places;

pub(crate) use backend::{Backend, IssuePermit, RevokePermit};
pub use backend::{BackendStatus, CallCounts};
pub(crate) use backends::Backends;
pub use configured::{ConfiguredProvider, ProviderChange};
pub(crate) use gate::Closed;
pub(crate) use pacer::Pacer;

use std::{collections::BTreeMap, sync::Arc};

use taskpass_core::{AgentName, Anchor, AnchorState, ProviderName, RoleSpec, TaskState, limits};
use taskpass_policy::{Action, Resource};
use taskpass_provider::{Health, ProviderError};
use taskpass_store::{Page, ProviderUsage, TaskFilter};

use crate::{Call, Engine, Error, Field, Snapshot};

/// Whether a provider is in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProviderState {
    /// It is.
    Configured,
    /// A reload took it out. It only revokes what it minted, until nothing of it is left.
    Retired,
}

/// A provider with its roles and its state.
#[derive(Debug, Clone)]
pub struct ProviderView {
    /// The name.
    pub name: ProviderName,
    /// The kind.
    pub kind: &'static str,
    /// Whether it is configured.
    pub state: ProviderState,
    /// Its roles.
    pub roles: Vec<RoleSpec>,
    /// Its breaker and its calls.
    pub status: BackendStatus,
    /// Its live credentials.
    pub usage: ProviderUsage,
}

impl Engine {
    /// All providers: first the configured providers by name, then the retired providers.
    pub async fn list_providers(&self, call: &Call) -> Result<Vec<ProviderView>, Error> {
        self.require_operator(call, Action::ProviderRead).await?;
        self.authorize_read(call, Action::ProviderRead, Resource::Installation)
            .await?;
        self.views_of(&call.snapshot).await
    }

    /// All providers, for the broker itself: without a decision, since no caller sees them.
    pub async fn provider_views(&self) -> Result<Vec<ProviderView>, Error> {
        self.views_of(&self.snapshot()).await
    }

    async fn views_of(&self, snapshot: &Snapshot) -> Result<Vec<ProviderView>, Error> {
        let mut views = Vec::new();
        for (backend, state) in snapshot.backends().all() {
            views.push(self.provider_view(backend, state).await?);
        }
        Ok(views)
    }

    /// One provider.
    pub async fn provider(&self, call: &Call, name: &ProviderName) -> Result<ProviderView, Error> {
        self.require_operator(call, Action::ProviderRead).await?;
        let (backend, state) = call.snapshot.backends().named(name)?;
        self.authorize_read(
            call,
            Action::ProviderRead,
            Resource::Provider(backend.provider().name()),
        )
        .await?;
        self.provider_view(backend, state).await
    }

    /// Has a provider check itself. The outer error is ours, the inner one the provider's.
    pub async fn check_provider(
        &self,
        call: &Call,
        name: &ProviderName,
    ) -> Result<Result<Health, ProviderError>, Error> {
        self.require_operator(call, Action::ProviderCheck).await?;
        let (backend, _) = call.snapshot.backends().named(name)?;
        self.authorize_read(
            call,
            Action::ProviderCheck,
            Resource::Provider(backend.provider().name()),
        )
        .await?;
        let permit = backend.acquire_regardless()?;
        let mut checked = backend.issue(permit, backend.provider().check()).await;
        if let Ok(health) = &mut checked {
            let paused = backend.status().paused_roles.into_iter();
            health.warnings.extend(paused.map(|role| format!(
                "role `{role}`: calls for it failed several times in a row, so issuing from it is given a pause; the broker's log has the errors"
            )));
        }
        Ok(checked)
    }

    /// The back ends with an open breaker, of their own or of a role, for the broker itself.
    pub fn open_breakers(&self) -> Vec<(ProviderName, BackendStatus)> {
        let snapshot = self.snapshot();
        let all = snapshot.backends().all();
        all.map(|(backend, _)| (backend.provider().name().clone(), backend.status()))
            .filter(|(_, status)| status.circuit_open || !status.paused_roles.is_empty())
            .collect()
    }

    /// Has every back end maintain itself, retired ones included. A retired back end is dropped
    /// once nothing that it minted is left.
    pub(crate) async fn maintain_providers(&self) -> Result<(), Error> {
        let snapshot = self.snapshot();
        let backends = snapshot.backends();
        for (backend, _) in backends.all() {
            if let Err(error) = backend.maintain().await {
                tracing::warn!(provider = %backend.provider().name(), %error, "the provider's upkeep failed");
            }
            self.watch_earlier_calls(backend).await;
        }
        // After the upkeep, which must not wait for the store.
        let mut done = Vec::new();
        for name in backends.unused() {
            if !self.holds_anything(&name).await? {
                done.push(name);
            }
        }
        self.drop_retired(&snapshot, &done);
        Ok(())
    }

    /// Asks whether the calls are over that a broker before this one may have lost. A provider
    /// counts from the first time that it is asked, so that ending a task later need not wait.
    async fn watch_earlier_calls(&self, backend: &Backend) {
        let name = backend.provider().name();
        if let Some(sent_before) = self.ahead.of_earlier(name)
            && backend.calls_are_over(sent_before).await.is_ok()
        {
            self.ahead.are_over(name, sent_before);
        }
    }

    /// Whether the ledger knows a live credential or anchor of the provider.
    pub(crate) async fn holds_anything(&self, name: &ProviderName) -> Result<bool, Error> {
        let store = &self.context.store;
        let usage = store.usage_of_provider(name).await?;
        if usage.live_credentials > 0 || usage.revoking > 0 {
            return Ok(true);
        }
        self.any_live_anchor(|anchor| anchor.provider == *name)
            .await
    }

    /// Whether there is a live anchor of this kind.
    pub(crate) async fn any_live_anchor(
        &self,
        is_wanted: impl Fn(&Arc<Anchor>) -> bool + Send + Sync,
    ) -> Result<bool, Error> {
        let store = &self.context.store;
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
                    let mut live = anchors.iter().filter(|a| a.state == AnchorState::Live);
                    if live.any(&is_wanted) {
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

    /// A permit to revoke credentials of an agent at a provider, if there is one now. Revocations
    /// at a provider that is not configured get one too, at the pace of an outage, and fail.
    pub(crate) fn revoke_permit(
        &self,
        name: &ProviderName,
        agent: &AgentName,
        is_new: bool,
    ) -> Option<RevokePermit> {
        match self.snapshot().backends().revoking(name) {
            Some(backend) => backend.revoke_permit(agent, is_new),
            None => {
                let pacer = Arc::clone(self.unconfigured.lock().entry(name.clone()).or_default());
                let permit = pacer.acquire(is_new, self.context.clock.monotonic())?;
                Some(RevokePermit::unconfigured(permit))
            }
        }
    }

    /// Notes for each provider how many due groups of credentials wait for a permit.
    pub(crate) fn note_waiting(&self, waiting: &BTreeMap<ProviderName, usize>) {
        for (backend, _) in self.snapshot().backends().all() {
            let groups = waiting.get(backend.provider().name());
            backend.note_waiting(groups.copied().unwrap_or(0));
        }
    }

    async fn provider_view(
        &self,
        backend: &Backend,
        state: ProviderState,
    ) -> Result<ProviderView, Error> {
        let provider = backend.provider();
        Ok(ProviderView {
            name: provider.name().clone(),
            kind: provider.kind(),
            state,
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

#[cfg(test)]
mod tests;
