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
    /// learns of the end. Counts the request: a heartbeat of the caller's own open task against the
    /// rate of that task, any other against the caller's.
    pub async fn heartbeat(&self, call: &Call, id: TaskId) -> Result<Heartbeat, Error> {
        let own = self.context.store.task(id).await?;
        let own = own.filter(|task| call.agent().is_some() && call.reaches(&task.agent, id));
        let open = own.filter(|task| task.state == TaskState::Open);
        match open {
            Some(task) => self
                .rates
                .check_heartbeat(call.snapshot.settings(), task.id)?,
            None => self.check_rate(call)?,
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Requests, Settings, testing::Bench};

    /// A task that asks or beats too often silences no other task of its agent.
    #[tokio::test]
    async fn heartbeats_have_a_rate_of_their_own() {
        let bench = Bench::new(
            &["a"],
            Settings {
                requests: Requests {
                    agent_requests_burst: 1,
                    task_heartbeats_burst: 2,
                    ..Requests::default()
                },
                ..Settings::default()
            },
        )
        .await;
        let (first, second) = (bench.task().await, bench.task().await);
        let beat = |task| bench.engine.heartbeat(&bench.agent, task);
        let too_fast = |beaten: Result<Heartbeat, Error>| {
            let refused = beaten.unwrap_err();
            assert!(matches!(refused, Error::Exhausted { .. }), "{refused}");
        };
        beat(first).await.unwrap();
        beat(first).await.unwrap();
        too_fast(beat(first).await);
        beat(second).await.unwrap();
        bench.engine.check_rate(&bench.agent).unwrap();
        assert!(bench.engine.check_rate(&bench.agent).is_err());
        beat(second).await.unwrap();
        // The id of no task of the agent's counts as any other request.
        too_fast(beat("t00000000000000ff".parse().unwrap()).await);
    }
}
