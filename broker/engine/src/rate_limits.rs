//! The rate limits of the engine: one cell for each agent, operator and task, over the injected clock.

use std::sync::Arc;

use taskpass_core::{AgentName, Clock, OperatorName, TaskId};

use super::{Error, Settings, rate::Limiter};

/// All rate limits of the engine.
#[derive(Debug)]
pub(super) struct RateLimits {
    clock: Arc<dyn Clock>,
    agents: Limiter<AgentName>,
    operators: Limiter<OperatorName>,
    tasks: Limiter<TaskId>,
    attestations: Limiter<()>,
}

impl RateLimits {
    pub(super) fn new(settings: &Settings, clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            agents: Limiter::new(settings.requests_per_agent),
            operators: Limiter::new(settings.requests_per_agent),
            tasks: Limiter::new(settings.requests_per_task),
            attestations: Limiter::new(settings.attestations),
        }
    }

    /// Counts one request of an agent, whatever it asks for: even a refusal costs an entry in the ledger.
    pub(super) fn admit_agent(&self, agent: &AgentName) -> Result<(), Error> {
        self.agents
            .admit(agent.clone(), self.clock.monotonic())
            .map_err(|retry_after| Error::Exhausted {
                message: format!("agent `{agent}` makes requests faster than its limit"),
                retry_after,
            })
    }

    /// The same for an operator: somebody's script in a loop must not fill the disk either.
    pub(super) fn admit_operator(&self, name: &OperatorName) -> Result<(), Error> {
        self.operators
            .admit(name.clone(), self.clock.monotonic())
            .map_err(|retry_after| Error::Exhausted {
                message: format!("operator `{name}` makes requests faster than the limit"),
                retry_after,
            })
    }

    /// Counts one request to draw on a task.
    pub(super) fn admit_draw(&self, task: TaskId) -> Result<(), Error> {
        self.tasks
            .admit(task, self.clock.monotonic())
            .map_err(|retry_after| Error::Exhausted {
                message: format!("task `{task}` is drawn on faster than its limit"),
                retry_after,
            })
    }

    /// Counts one refused attempt to attest; nobody is known, so all share one limit.
    pub(super) fn admit_attestation(&self) -> Result<(), Error> {
        self.attestations
            .admit((), self.clock.monotonic())
            .map_err(|retry_after| Error::Exhausted {
                message: "too many attempts to attest".to_owned(),
                retry_after,
            })
    }
}
