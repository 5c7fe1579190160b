//! Heartbeats: the agent says that it still works on a task, or the task ends.
//!
//! An allowed heartbeat is the one decision that is not written to the ledger. It changes nothing,
//! and one each second would be 86,400 entries a day.

use std::time::Duration;

use taskpass_core::{TaskId, TaskState, Timestamp};
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
