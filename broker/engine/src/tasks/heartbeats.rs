//! The heartbeats of all tasks, as they came in.
//!
//! They live in memory and on the monotonic clock: a wall clock that jumps ends no task, and after
//! a restart every task has its whole interval again.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use taskpass_core::{Clock, Task, TaskId};

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

    pub(super) fn beat(&self, task: TaskId) {
        if let Some(pulse) = self.pulses.lock().get_mut(&task) {
            pulse.last = self.clock.monotonic();
        }
    }

    pub(super) fn silent(&self) -> (Vec<TaskId>, Option<Duration>) {
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
