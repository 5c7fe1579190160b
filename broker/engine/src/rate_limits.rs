//! The rate limits of the engine: one cell for each agent, operator and task, over the injected
//! clock.

use std::sync::Arc;

use taskpass_core::{AgentName, Clock, OperatorName, TaskId};

use crate::{Error, Settings, rate::Limiter};

/// All rate limits of the engine.
#[derive(Debug)]
pub(crate) struct RateLimits {
    clock: Arc<dyn Clock>,
    agents: Limiter<AgentName>,
    operators: Limiter<OperatorName>,
    tasks: Limiter<TaskId>,
    heartbeats: Limiter<TaskId>,
    attestations: Limiter<()>,
}

impl RateLimits {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            agents: Limiter::default(),
            operators: Limiter::default(),
            tasks: Limiter::default(),
            heartbeats: Limiter::default(),
            attestations: Limiter::default(),
        }
    }

    /// Counts one request of an agent of any kind, since even a refusal costs an entry in the
    /// ledger.
    pub(crate) fn check_agent(&self, settings: &Settings, agent: &AgentName) -> Result<(), Error> {
        let now = self.clock.monotonic();
        self.agents
            .check_rate(settings.requests.per_agent(), agent.clone(), now)
            .map_err(|retry_after| Error::Exhausted {
                message: format!("agent `{agent}` makes requests faster than its limit"),
                retry_after,
            })
    }

    /// The same for an operator: a script in a loop must not fill the disk either.
    pub(crate) fn check_operator(
        &self,
        settings: &Settings,
        name: &OperatorName,
    ) -> Result<(), Error> {
        let now = self.clock.monotonic();
        self.operators
            .check_rate(settings.requests.per_agent(), name.clone(), now)
            .map_err(|retry_after| Error::Exhausted {
                message: format!("operator `{name}` makes requests faster than the limit"),
                retry_after,
            })
    }

    /// Counts one request for a credential of a task.
    pub(crate) fn check_task(&self, settings: &Settings, task: TaskId) -> Result<(), Error> {
        let now = self.clock.monotonic();
        self.tasks
            .check_rate(settings.requests.per_task(), task, now)
            .map_err(|retry_after| Error::Exhausted {
                message: format!(
                    "credentials of task `{task}` are requested faster than its limit"
                ),
                retry_after,
            })
    }

    /// Counts one heartbeat of a task. Heartbeats do not share the rate of their agent, or one task
    /// that asks too often would end the others for silence.
    pub(crate) fn check_heartbeat(&self, settings: &Settings, task: TaskId) -> Result<(), Error> {
        let now = self.clock.monotonic();
        self.heartbeats
            .check_rate(settings.requests.heartbeats(), task, now)
            .map_err(|retry_after| Error::Exhausted {
                message: format!("heartbeats of task `{task}` come faster than their limit"),
                retry_after,
            })
    }

    /// Counts one refused attempt to attest; the caller is not known, so all share one limit.
    pub(crate) fn check_attestation(&self, settings: &Settings) -> Result<(), Error> {
        let now = self.clock.monotonic();
        self.attestations
            .check_rate(settings.requests.attestations(), (), now)
            .map_err(|retry_after| Error::Exhausted {
                message: "too many attempts to attest".to_owned(),
                retry_after,
            })
    }
}
