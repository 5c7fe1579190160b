//! Heartbeats: the agent says that it still works on a task, or the task ends.
//!
//! They live in memory and on the monotonic clock: a wall clock that jumps ends no task, and after
//! a restart every task has its whole interval again. An allowed heartbeat is the one decision that
//! is not written to the ledger. It changes nothing, and one each second would be 86,400 entries a
//! day.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use taskpass_core::{Clock, Task, TaskId, TaskState, Timestamp};
use taskpass_policy::{Action, Resource};

use crate::{Call, Engine, Error};

/// The answer to a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    /// When the task ends unless another heartbeat comes; `None` when it needs none.
    pub next_before: Option<Timestamp>,
    /// When the task ends at the latest.
    pub deadline: Timestamp,
}

impl Engine {
    /// Records in memory that a task is alive. Refused once it is ending, which is how its agent
    /// learns of the end.
    pub async fn heartbeat(&self, call: &Call, id: TaskId) -> Result<Heartbeat, Error> {
        let task = self.reachable_task(call, Action::TaskHeartbeat, id).await?;
        if call.agent().is_none() {
            return Err(self
                .refuse_kind(
                    call,
                    Action::TaskHeartbeat,
                    "only the agent itself sends heartbeats",
                )
                .await);
        }
        let _allowed = self
            .authorize(call, Action::TaskHeartbeat, Resource::Task(&task), None)
            .await
            .granted()?;
        if task.state != TaskState::Open {
            return Err(Error::TaskEnded(id));
        }
        self.heartbeats.beat(id);
        Ok(Heartbeat {
            next_before: task
                .heartbeat
                .map(|interval| self.now().plus(interval.duration())),
            deadline: task.deadline,
        })
    }

    /// Tasks that were silent for longer than they may be, and how long until the next one would
    /// be.
    pub(crate) fn silent_tasks(&self) -> (Vec<TaskId>, Option<Duration>) {
        self.heartbeats.silent()
    }
}

/// When each task with a heartbeat was last heard of.
#[derive(Debug)]
pub(crate) struct Heartbeats {
    clock: Arc<dyn Clock>,
    pulses: Mutex<BTreeMap<TaskId, Pulse>>,
}

#[derive(Debug)]
struct Pulse {
    interval: Duration,
    last: Duration,
}

impl Heartbeats {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            pulses: Mutex::default(),
        }
    }

    /// Begins to expect heartbeats of a task, if it promised any.
    pub(crate) fn begin(&self, task: &Task) {
        if let Some(interval) = task.heartbeat {
            let pulse = Pulse {
                interval: interval.duration(),
                last: self.clock.monotonic(),
            };
            self.pulses.lock().insert(task.id, pulse);
        }
    }

    /// Stops expecting heartbeats of a task that ends.
    pub(crate) fn stop(&self, task: TaskId) {
        self.pulses.lock().remove(&task);
    }

    fn beat(&self, task: TaskId) {
        if let Some(pulse) = self.pulses.lock().get_mut(&task) {
            pulse.last = self.clock.monotonic();
        }
    }

    fn silent(&self) -> (Vec<TaskId>, Option<Duration>) {
        let now = self.clock.monotonic();
        let mut silent = Vec::new();
        let mut next: Option<Duration> = None;
        for (task, pulse) in self.pulses.lock().iter() {
            match (pulse.last + pulse.interval).checked_sub(now) {
                Some(left) if !left.is_zero() => next = Some(next.map_or(left, |n| n.min(left))),
                _ => silent.push(*task),
            }
        }
        (silent, next)
    }
}
