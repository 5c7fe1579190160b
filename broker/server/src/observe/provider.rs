//! A provider, with its calls measured.

#[cfg(test)]
mod tests;

use std::{future::Future, sync::Arc, time::Duration};

use serde_json::Value;
use taskpass_core::{
    AnchorId, AnchorKey, Clock, CredentialId, ProviderName, RoleName, RoleSpec, Scope, TaskId,
};
use taskpass_metrics::{Call, Metrics, ProviderMetrics};
use taskpass_provider::{
    Anchors, Health, IssueOrder, Issued, Liveness, Provider, ProviderError, RenewOrder, Renewed,
    RevokeOrder, Revoked,
};

/// Another provider, measured. It forwards every method of the trait, also methods with a default.
#[derive(Debug)]
pub(crate) struct ObservedProvider {
    inner: Arc<dyn Provider>,
    metrics: ProviderMetrics,
    clock: Arc<dyn Clock>,
}

impl ObservedProvider {
    pub(crate) fn new(inner: Arc<dyn Provider>, metrics: &Metrics, clock: Arc<dyn Clock>) -> Self {
        Self {
            metrics: metrics.providers.of(inner.name()),
            inner,
            clock,
        }
    }

    async fn measured<T>(
        &self,
        call: Call,
        calling: impl Future<Output = Result<T, ProviderError>> + Send,
    ) -> Result<T, ProviderError> {
        let mut measurement = Measurement {
            of: self,
            call,
            began: self.clock.monotonic(),
            outcome: "cancelled",
        };
        let result = calling.await;
        measurement.outcome = match &result {
            Ok(_) => "ok",
            Err(error) => error.kind(),
        };
        result
    }
}

/// A call that runs. The engine drops the call when its deadline passes, and it then counts as
/// cancelled.
struct Measurement<'a> {
    of: &'a ObservedProvider,
    call: Call,
    began: Duration,
    outcome: &'static str,
}

impl Drop for Measurement<'_> {
    fn drop(&mut self) {
        let took = self.of.clock.monotonic().saturating_sub(self.began);
        self.of.metrics.called(self.call, self.outcome, took);
    }
}

// A method that is not forwarded would answer with the trait's default for every provider.
#[deny(clippy::missing_trait_methods)]
#[tonic::async_trait]
impl Provider for ObservedProvider {
    fn name(&self) -> &ProviderName {
        self.inner.name()
    }

    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn roles(&self) -> &[RoleSpec] {
        self.inner.roles()
    }

    fn may_overlap(&self) -> bool {
        self.inner.may_overlap()
    }

    fn locator(&self, role: &RoleName, scope: &Scope) -> Option<Value> {
        self.inner.locator(role, scope)
    }

    fn anchor_key(
        &self,
        role: &RoleName,
        scope: &Scope,
        credential: CredentialId,
    ) -> Option<AnchorKey> {
        self.inner.anchor_key(role, scope, credential)
    }

    fn held_anchor(&self, task: TaskId, role: &RoleName, scope: &Scope) -> Option<AnchorId> {
        self.inner.held_anchor(task, role, scope)
    }

    async fn calls_are_over(&self, sent_before: Duration) -> Result<(), ProviderError> {
        self.inner.calls_are_over(sent_before).await
    }

    async fn check(&self) -> Result<Health, ProviderError> {
        self.measured(Call::Check, self.inner.check()).await
    }

    async fn issue(
        &self,
        order: &IssueOrder,
        anchors: &dyn Anchors,
    ) -> Result<Issued, ProviderError> {
        let issuing = self.inner.issue(order, anchors);
        self.measured(Call::Issue, issuing).await
    }

    async fn renew(&self, order: &RenewOrder) -> Result<Renewed, ProviderError> {
        self.measured(Call::Renew, self.inner.renew(order)).await
    }

    async fn revoke(
        &self,
        order: &RevokeOrder,
    ) -> Result<Vec<Result<Revoked, ProviderError>>, ProviderError> {
        self.measured(Call::Revoke, self.inner.revoke(order)).await
    }

    async fn probe(&self, order: &RevokeOrder) -> Result<Liveness, ProviderError> {
        self.measured(Call::Probe, self.inner.probe(order)).await
    }

    async fn maintain(&self) -> Result<(), ProviderError> {
        self.measured(Call::Maintain, self.inner.maintain()).await
    }
}
