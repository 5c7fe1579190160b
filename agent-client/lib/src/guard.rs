//! The guard of a task: heartbeats while there is work, and an end on every way out.

use std::{fmt, sync::Arc};

use taskpass_core::{RoleName, TaskId, Timestamp};
use tokio::runtime::Handle;

use crate::{
    Client, CredentialRequest, EndMode, EndedTask, Error, Receipt, Task, TaskOptions,
    live_task::LiveTask,
};

/// An open task. End it with [`TaskGuard::end`]. A guard that is dropped ends its task in the
/// background, which only works if the process lives long enough.
pub struct TaskGuard {
    live: Arc<LiveTask>,
    task: Task,
    /// The client that started the task, where the task has an identity of its own.
    opener: Option<Client>,
    runtime: Handle,
    /// Whether the guard has told the broker to end the task.
    told: bool,
}

impl Client {
    /// Starts a task and keeps it alive until the guard is ended or dropped.
    pub async fn start_task(&self, options: TaskOptions) -> Result<TaskGuard, Error> {
        let task = self.open_task(options).await?;
        Ok(TaskGuard::watch(task, self.clone(), None))
    }
}

impl TaskGuard {
    /// Keeps `task` alive through `worker`. `opener` reads the receipts of a task that has ended,
    /// where `worker` has an identity that ended with it.
    pub(crate) fn watch(task: Task, worker: Client, opener: Option<Client>) -> Self {
        let live = Arc::new(LiveTask::new(task.id, task.deadline, worker));
        let tracker = &live.client.connection().tracker;
        // Both times are the broker's, so the clock of this machine does not matter.
        let (life, watched) = (task.deadline.since(task.started_at), Arc::clone(&live));
        tracker.spawn(async move { watched.watch_deadline(life).await });
        if let Some(interval) = task.heartbeat {
            let beating = Arc::clone(&live);
            tracker.spawn(async move { beating.send_heartbeats(interval / 3).await });
        }
        Self {
            live,
            task,
            opener,
            runtime: Handle::current(),
            told: false,
        }
    }

    /// The task's name.
    pub fn id(&self) -> TaskId {
        self.live.id
    }

    /// The task as the broker recorded it.
    pub const fn task(&self) -> &Task {
        &self.task
    }

    /// When the task ends by itself.
    pub fn deadline(&self) -> Timestamp {
        self.live.deadline
    }

    /// Prepares a request for a credential of `role`, one of the task's roles.
    pub fn credential(&self, role: RoleName) -> CredentialRequest {
        CredentialRequest::new(Arc::clone(&self.live), role)
    }

    /// Waits until the task is over because the broker says so or its deadline has passed, and says
    /// why.
    pub async fn ended(&self) -> String {
        self.live.until_over().await
    }

    /// Ends the task because the work is done, and returns the receipts of its credentials.
    pub async fn end(self) -> Result<Vec<Receipt>, Error> {
        Ok(self.finish(EndMode::Completed).await?.receipts)
    }

    /// Ends the task because the work is stopped before its end.
    pub async fn cancel(self) -> Result<Vec<Receipt>, Error> {
        Ok(self.finish(EndMode::Cancelled).await?.receipts)
    }

    /// Ends the task and returns everything that the broker says about it.
    ///
    /// If that fails, the heartbeats have stopped all the same: the broker ends the task by itself
    /// when it misses them, or at the deadline.
    pub async fn finish(mut self, mode: EndMode) -> Result<EndedTask, Error> {
        self.live.mark_over("its guard ended it");
        let ended = end(&self.live, self.opener.as_ref(), mode).await;
        self.told = true;
        ended
    }
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        if self.told {
            return;
        }
        self.live.mark_over("its guard was dropped");
        let live = Arc::clone(&self.live);
        let tracker = live.client.connection().tracker.clone();
        let opener = self.opener.take();
        let end = async move {
            let mode = EndMode::Cancelled;
            if let Err(error) = end(&live, opener.as_ref(), mode).await {
                tracing::warn!(task = %live.id, %error, "a dropped task could not be ended; the broker ends it at its deadline or when heartbeats are missed");
            }
        };
        // A runtime that is already shutting down drops this work instead of running it.
        drop(tracker.spawn_on(end, &self.runtime));
    }
}

/// Ends the task. An identity that is bound to it ends with it, and so cannot ask a second time:
/// neither after a lost answer, nor when the broker or an operator was first.
async fn end(live: &LiveTask, opener: Option<&Client>, mode: EndMode) -> Result<EndedTask, Error> {
    let ended = live.client.end_task(live.id, mode, None).await;
    match (ended, opener) {
        (Err(error), Some(opener)) if error.is_unknown_identity() => {
            opener.end_task(live.id, mode, None).await
        }
        (ended, _) => ended,
    }
}

impl fmt::Debug for TaskGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskGuard")
            .field("id", &self.live.id)
            .field("deadline", &self.live.deadline)
            .finish_non_exhaustive()
    }
}
