//! A task and its guard: heartbeats while there is work, an end on every way out.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use taskpass_core::{RoleName, Scope, TaskId, Timestamp, Ttl};
use taskpass_proto::v1::{
    HeartbeatRequest, StartTaskRequest, Task, TaskRole, task_service_client::TaskServiceClient,
};
use tokio::{runtime::Handle, sync::watch};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::{Client, CredentialRequest, EndedTask, Error, RPC_TIMEOUT, Receipt, wire};

/// What a task is started with.
#[derive(Debug, Clone, Default)]
pub struct TaskOptions {
    purpose: String,
    requester: String,
    roles: Vec<(RoleName, Scope)>,
    ttl: Option<Ttl>,
    heartbeat: Option<Ttl>,
    parent: Option<TaskId>,
    labels: BTreeMap<String, String>,
    max_credentials: u32,
}

/// How a task ends when its guard says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndMode {
    /// The work is done.
    Completed,
    /// The work was broken off.
    Cancelled,
}

impl TaskOptions {
    /// A task for `purpose`, one line that people will read.
    pub fn new(purpose: impl Into<String>) -> Self {
        Self {
            purpose: purpose.into(),
            ..Self::default()
        }
    }

    /// Lets the task draw on `role`.
    #[must_use]
    pub fn role(self, role: RoleName) -> Self {
        self.role_within(role, Scope::default())
    }

    /// Lets the task draw on `role`, with scope parameters fixed for the whole task.
    #[must_use]
    pub fn role_within(mut self, role: RoleName, scope: Scope) -> Self {
        self.roles.push((role, scope));
        self
    }

    /// The task ends by itself after `ttl`; the broker's default when not given.
    #[must_use]
    pub const fn ttl(mut self, ttl: Ttl) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// The task ends when nothing is heard for `interval`; the guard sends three heartbeats in that time.
    #[must_use]
    pub const fn heartbeat(mut self, interval: Ttl) -> Self {
        self.heartbeat = Some(interval);
        self
    }

    /// The task is delegated by `parent` and ends with it.
    #[must_use]
    pub const fn parent(mut self, parent: TaskId) -> Self {
        self.parent = Some(parent);
        self
    }

    /// Names the person or system that asked for the work; recorded as self-declared.
    #[must_use]
    pub fn requester(mut self, requester: impl Into<String>) -> Self {
        self.requester = requester.into();
        self
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// At most so many live credentials at once; the broker's limit when not given.
    #[must_use]
    pub const fn max_credentials(mut self, count: u32) -> Self {
        self.max_credentials = count;
        self
    }

    fn into_request(self, idempotency_key: String) -> StartTaskRequest {
        StartTaskRequest {
            idempotency_key,
            purpose: self.purpose,
            requester: self.requester,
            roles: self
                .roles
                .into_iter()
                .map(|(role, scope)| TaskRole {
                    role: role.to_string(),
                    scope: scope
                        .iter()
                        .map(|(name, value)| (name.to_string(), value.to_owned()))
                        .collect(),
                })
                .collect(),
            ttl_seconds: self.ttl.map_or(0, Ttl::seconds),
            heartbeat_seconds: self.heartbeat.map_or(0, Ttl::seconds),
            parent: self.parent.map(|id| id.to_string()).unwrap_or_default(),
            labels: self.labels.into_iter().collect(),
            max_credentials: self.max_credentials,
            csr: Vec::new(),
        }
    }
}

impl Client {
    /// Starts a task and keeps it alive until the guard is ended or dropped.
    pub async fn start_task(&self, options: TaskOptions) -> Result<TaskGuard, Error> {
        let task = self.open_task(options).await?;
        let started = wire::required_timestamp(task.started_at.as_ref(), "started_at")?;
        let deadline = wire::required_timestamp(task.deadline.as_ref(), "deadline")?;
        let live = Arc::new(LiveTask {
            id: wire::parsed(&task.id)?,
            deadline,
            client: self.clone(),
            over: watch::Sender::new(None),
            stop: CancellationToken::new(),
        });
        let tracker = &self.shared().tracker;
        // Both times are the broker's, so it does not matter what the clock here says.
        let (life, lasting) = (deadline.since(started), Arc::clone(&live));
        tracker.spawn(async move { lasting.last(life).await });
        if task.heartbeat_seconds > 0 {
            let interval = Duration::from_secs(u64::from(task.heartbeat_seconds)) / 3;
            let beating = Arc::clone(&live);
            tracker.spawn(async move { beating.beat(interval).await });
        }
        Ok(TaskGuard {
            live,
            task,
            runtime: Handle::current(),
            is_settled: false,
        })
    }

    /// Starts a task and leaves it to the caller to keep alive and to end.
    pub async fn open_task(&self, options: TaskOptions) -> Result<Task, Error> {
        let request = options.into_request(self.new_idempotency_key()?);
        let reply = self
            .call(RPC_TIMEOUT, |channel| {
                let request = request.clone();
                async move { TaskServiceClient::new(channel).start_task(request).await }
            })
            .await?;
        wire::required(reply.task, "task")
    }
}

/// An open task. End it with [`TaskGuard::end`]; a guard that is dropped ends its task in the background, which is
/// only as good as the time the process has left.
pub struct TaskGuard {
    live: Arc<LiveTask>,
    task: Task,
    runtime: Handle,
    is_settled: bool,
}

/// What the guard, its heartbeats and its credentials share.
pub(crate) struct LiveTask {
    pub(crate) id: TaskId,
    pub(crate) deadline: Timestamp,
    pub(crate) client: Client,
    /// Why the task is over, once it is.
    pub(crate) over: watch::Sender<Option<String>>,
    /// Stops heartbeats and refreshing.
    pub(crate) stop: CancellationToken,
}

impl TaskGuard {
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

    /// Prepares a credential of `role`, one of the task's roles.
    pub fn credential(&self, role: RoleName) -> CredentialRequest {
        CredentialRequest::new(Arc::clone(&self.live), role)
    }

    /// Waits until the task is over because the broker says so or its deadline has passed, and why.
    pub async fn ended(&self) -> String {
        let mut over = self.live.over.subscribe();
        let why = over
            .wait_for(Option::is_some)
            .await
            .map(|why| why.clone().unwrap_or_default());
        match why {
            Ok(why) => why,
            // INVARIANT: the sender lives in `self.live`, so it is never closed.
            Err(_closed) => std::future::pending().await,
        }
    }

    /// Ends the task because the work is done, and says what became of its credentials.
    pub async fn end(self) -> Result<Vec<Receipt>, Error> {
        Ok(self.finish(EndMode::Completed).await?.receipts)
    }

    /// Ends the task because the work is broken off.
    pub async fn cancel(self) -> Result<Vec<Receipt>, Error> {
        Ok(self.finish(EndMode::Cancelled).await?.receipts)
    }

    /// Ends the task and returns everything that the broker says about it. If that fails, the heartbeats have stopped
    /// and the broker ends the task by itself when they are missed, or at its deadline.
    pub async fn finish(mut self, mode: EndMode) -> Result<EndedTask, Error> {
        self.live.settle("its guard ended it");
        let (client, id) = (self.live.client.clone(), self.live.id);
        let ended = client.end_task(id, mode, None).await;
        self.is_settled = true;
        ended
    }
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        if self.is_settled {
            return;
        }
        self.live.settle("its guard was dropped");
        let live = Arc::clone(&self.live);
        let tracker = live.client.shared().tracker.clone();
        let end = async move {
            let mode = EndMode::Cancelled;
            if let Err(error) = live.client.end_task(live.id, mode, None).await {
                tracing::warn!(task = %live.id, %error, "a dropped task could not be ended; the broker ends it at its deadline or when heartbeats are missed");
            }
        };
        // The handle drops the task's end again if the runtime is already shutting down.
        drop(tracker.spawn_on(end, &self.runtime));
    }
}

impl LiveTask {
    /// No more heartbeats, no more refreshing, no more secrets.
    fn settle(&self, why: &str) {
        self.over
            .send_if_modified(|over| over.is_none() && over.replace(why.to_owned()).is_none());
        self.stop.cancel();
    }

    /// Why the task is over, when it is.
    pub(crate) fn ended(&self) -> Option<Error> {
        let why = self.over.borrow().clone()?;
        Some(Error::TaskEnded { task: self.id, why })
    }

    /// Ends at the deadline also where no broker can be reached to say so: whoever works on has no credentials any more.
    async fn last(&self, life: Duration) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(life) => self.settle("its deadline has passed"),
        }
    }

    async fn beat(&self, interval: Duration) {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(interval) => {}
            }
            let request = HeartbeatRequest {
                task_id: self.id.to_string(),
            };
            let call = self.client.call(interval, |channel| {
                let request = request.clone();
                async move { TaskServiceClient::new(channel).heartbeat(request).await }
            });
            let outcome = tokio::select! {
                () = self.stop.cancelled() => return,
                outcome = call => outcome,
            };
            match outcome {
                Ok(_) => {}
                Err(error) if says_over(&error) => {
                    tracing::warn!(task = %self.id, %error, "the broker says that the task is over");
                    return self.settle(&error.to_string());
                }
                Err(error) => {
                    tracing::warn!(task = %self.id, %error, "a heartbeat failed; the next one follows");
                }
            }
        }
    }
}

/// Whether a refused heartbeat means that the task is over, rather than that the broker has a bad moment. An identity that
/// does not count any more, also after the stored one was looked at, can keep no task alive.
fn says_over(error: &Error) -> bool {
    error.is_unknown_identity()
        || error.refusal().is_some_and(|refusal| {
            matches!(
                refusal.code,
                Code::NotFound | Code::FailedPrecondition | Code::PermissionDenied
            )
        })
}

impl fmt::Debug for TaskGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskGuard")
            .field("id", &self.live.id)
            .field("deadline", &self.live.deadline)
            .finish_non_exhaustive()
    }
}
