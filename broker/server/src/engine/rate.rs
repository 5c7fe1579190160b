//! Rate limits: the generic cell rate algorithm over the injected clock, one cell for each agent and task.
//!
//! The map is bounded: cells that are full again say nothing and are dropped when it grows.

use std::{collections::HashMap, hash::Hash, sync::Arc, time::Duration};

use parking_lot::Mutex;
use taskpass_core::{AgentName, Clock, OperatorName, TaskId};

use super::{Error, Rate, Settings};

/// Cells kept before full ones are dropped.
const CELLS_MAX: usize = 16_384;

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

/// One limit for many keys. A cell holds the time at which its burst is whole again.
#[derive(Debug)]
struct Limiter<K> {
    interval: Duration,
    tolerance: Duration,
    cells: Mutex<HashMap<K, Duration>>,
}

impl<K: Eq + Hash> Limiter<K> {
    fn new(rate: Rate) -> Self {
        let interval = Duration::from_secs(1) / rate.per_second.max(1);
        Self {
            interval,
            tolerance: interval * rate.burst.max(1).saturating_sub(1),
            cells: Mutex::new(HashMap::new()),
        }
    }

    /// Counts a request, or says how long to wait.
    fn admit(&self, key: K, now: Duration) -> Result<(), Duration> {
        let mut cells = self.cells.lock();
        if cells.len() >= CELLS_MAX {
            cells.retain(|_, whole_at| *whole_at > now);
        }
        let whole_at = cells.get(&key).copied().unwrap_or(now).max(now);
        let ahead = whole_at - now;
        if ahead > self.tolerance {
            return Err(ahead - self.tolerance);
        }
        cells.insert(key, whole_at + self.interval);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_the_steady_rate() {
        let limiter = Limiter::new(Rate {
            per_second: 10,
            burst: 3,
        });
        let at = Duration::from_millis;
        for _ in 0..3 {
            assert_eq!(limiter.admit("a", at(0)), Ok(()));
        }
        assert_eq!(limiter.admit("a", at(0)), Err(at(100)));
        assert_eq!(limiter.admit("b", at(0)), Ok(()));
        assert_eq!(limiter.admit("a", at(99)), Err(at(1)));
        assert_eq!(limiter.admit("a", at(100)), Ok(()));
        assert_eq!(limiter.admit("a", at(100)), Err(at(100)));
    }

    #[test]
    fn the_map_does_not_grow_without_end() {
        let limiter = Limiter::new(Rate {
            per_second: 1000,
            burst: 1,
        });
        for key in 0..100_000_u64 {
            assert_eq!(limiter.admit(key, Duration::from_millis(key)), Ok(()));
        }
        assert!(limiter.cells.lock().len() <= CELLS_MAX);
    }
}
