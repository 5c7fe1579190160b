//! Tasks as the broker knows them, and the calls about them. [`crate::TaskGuard`] keeps one alive.

use std::{collections::BTreeMap, time::Duration};

use taskpass_core::{AgentName, ProviderName, RoleName, Scope, TaskId, Timestamp};
use taskpass_proto::v1::{
    self, EndTaskRequest, GetTaskRequest, HeartbeatRequest, ListTasksRequest, PageRequest,
    task_service_client::TaskServiceClient,
};

use crate::{
    Client, EndCause, EndedTask, Error, RPC_TIMEOUT, Receipt, TaskOptions, TaskState, wire,
};

/// A piece of work of one agent.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Task {
    /// Its name.
    pub id: TaskId,
    /// The agent that works on it.
    pub agent: AgentName,
    /// Its purpose, in one line.
    pub purpose: String,
    /// The requester, who set the purpose: a name, or `parent:<task>`.
    pub requester: Option<String>,
    /// Whether only the agent itself says so.
    pub self_declared: bool,
    /// The roles of which credentials may be issued for it, with the scope parameters fixed for
    /// each.
    pub roles: Vec<(RoleName, Scope)>,
    /// When it started.
    pub started_at: Timestamp,
    /// When it ends by itself.
    pub deadline: Timestamp,
    /// The task ends when no heartbeat comes for so long.
    pub heartbeat: Option<Duration>,
    /// The task that delegates it.
    pub parent: Option<TaskId>,
    /// How many tasks are above it.
    pub depth: u32,
    /// Live credentials that it and everything below it may hold.
    pub max_credentials: u32,
    /// Labels by key.
    pub labels: BTreeMap<String, String>,
    /// Where it stands.
    pub state: TaskState,
    /// Why it ended, once it begins to end.
    pub end_cause: Option<EndCause>,
    /// When it began to end.
    pub ending_at: Option<Timestamp>,
    /// When every credential had reached its final state.
    pub ended_at: Option<Timestamp>,
}

/// A task with the receipts of its credentials.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TaskDetails {
    /// The task.
    pub task: Task,
    /// One receipt for each credential that the broker revokes or has revoked.
    pub receipts: Vec<Receipt>,
    /// The anchors for which an ending task still waits.
    pub anchors: Vec<Anchor>,
}

/// A thing at a provider through which credentials of a task are issued. The provider has not ended
/// it yet.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Anchor {
    /// The provider.
    pub provider: ProviderName,
    /// Until when it may live.
    pub may_live_until: Option<Timestamp>,
}

/// Which tasks to list. An agent sees its own tasks, an operator all agents' tasks.
#[derive(Debug, Clone, Default)]
pub struct TaskFilter {
    /// Only tasks of this agent.
    pub agent: Option<AgentName>,
    /// Only tasks in this state.
    pub state: Option<TaskState>,
}

/// One page of a list of tasks.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TaskPage {
    /// The tasks.
    pub tasks: Vec<Task>,
    /// Asks for the next page; empty on the last one.
    pub next_page_token: String,
}

/// Until when a task lives after a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Heartbeat {
    /// The task ends unless another heartbeat comes before; `None` when it needs none.
    pub next_before: Option<Timestamp>,
    /// When the task ends in any case.
    pub deadline: Option<Timestamp>,
}

/// How a task ends when its agent says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndMode {
    /// The work is done.
    Completed,
    /// The work is stopped before its end.
    Cancelled,
}

impl Client {
    /// Starts a task. The caller keeps it alive and ends it; [`Client::start_task`] does both.
    pub async fn open_task(&self, options: TaskOptions) -> Result<Task, Error> {
        let request = options.into_request(self.new_idempotency_key()?, Vec::new());
        let reply = self
            .send(RPC_TIMEOUT, request, |channel, request| async move {
                TaskServiceClient::new(channel).start_task(request).await
            })
            .await?;
        Task::from_wire(wire::required(reply.task, "task")?)
    }

    /// Ends a task and everything below it, and waits for revocation: for `wait`, or as long as the
    /// broker is configured to.
    pub async fn end_task(
        &self,
        task: TaskId,
        mode: EndMode,
        wait: Option<Duration>,
    ) -> Result<EndedTask, Error> {
        let request = EndTaskRequest {
            task_id: task.to_string(),
            cancel: mode == EndMode::Cancelled,
            wait_ms: wire::wait_ms(wait),
        };
        let reply = self
            .send(
                wire::wait_limit(wait),
                request,
                |channel, request| async move {
                    TaskServiceClient::new(channel).end_task(request).await
                },
            )
            .await?;
        EndedTask::from_wire(&reply)
    }

    /// Tells the broker that a task is still being worked on.
    pub async fn heartbeat(&self, task: TaskId) -> Result<Heartbeat, Error> {
        self.heartbeat_within(RPC_TIMEOUT, task).await
    }

    /// As [`Client::heartbeat`]; each attempt may take `limit`.
    pub(crate) async fn heartbeat_within(
        &self,
        limit: Duration,
        task: TaskId,
    ) -> Result<Heartbeat, Error> {
        let request = HeartbeatRequest {
            task_id: task.to_string(),
        };
        let reply = self
            .send(limit, request, |channel, request| async move {
                TaskServiceClient::new(channel).heartbeat(request).await
            })
            .await?;
        Ok(Heartbeat {
            next_before: reply.next_before.as_ref().map(wire::timestamp),
            deadline: reply.deadline.as_ref().map(wire::timestamp),
        })
    }

    /// Reads one task.
    pub async fn task(&self, task: TaskId) -> Result<TaskDetails, Error> {
        let request = GetTaskRequest {
            task_id: task.to_string(),
        };
        let reply = self
            .send(RPC_TIMEOUT, request, |channel, request| async move {
                TaskServiceClient::new(channel).get_task(request).await
            })
            .await?;
        Ok(TaskDetails {
            task: Task::from_wire(wire::required(reply.task, "task")?)?,
            receipts: Receipt::all_from_wire(&reply.receipts)?,
            anchors: reply
                .anchors
                .iter()
                .map(Anchor::from_wire)
                .collect::<Result<_, _>>()?,
        })
    }

    /// Reads up to `page_size` tasks, from the first one on when `page_token` is empty.
    pub async fn list_tasks(
        &self,
        filter: &TaskFilter,
        page_size: u32,
        page_token: &str,
    ) -> Result<TaskPage, Error> {
        let request = ListTasksRequest {
            page: Some(PageRequest {
                page_size,
                page_token: page_token.to_owned(),
            }),
            agent: filter
                .agent
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            state: filter.state.map_or(0, i32::from),
        };
        let reply = self
            .send(RPC_TIMEOUT, request, |channel, request| async move {
                TaskServiceClient::new(channel).list_tasks(request).await
            })
            .await?;
        Ok(TaskPage {
            tasks: reply
                .tasks
                .into_iter()
                .map(Task::from_wire)
                .collect::<Result<_, _>>()?,
            next_page_token: reply.next_page_token,
        })
    }
}

impl Task {
    pub(crate) fn from_wire(task: v1::Task) -> Result<Self, Error> {
        let roles = task.roles.into_iter().map(|granted| {
            let scope =
                Scope::from_pairs(granted.scope).map_err(|e| Error::Reply(e.to_string()))?;
            Ok((wire::parsed(&granted.role)?, scope))
        });
        let parent = wire::optional_text(task.parent);
        Ok(Self {
            id: wire::parsed(&task.id)?,
            agent: wire::parsed(&task.agent)?,
            purpose: task.purpose,
            requester: wire::optional_text(task.requester),
            self_declared: task.self_declared,
            roles: roles.collect::<Result<_, Error>>()?,
            started_at: wire::required_timestamp(task.started_at.as_ref(), "started_at")?,
            deadline: wire::required_timestamp(task.deadline.as_ref(), "deadline")?,
            heartbeat: Some(task.heartbeat_seconds)
                .filter(|seconds| *seconds > 0)
                .map(|seconds| Duration::from_secs(seconds.into())),
            parent: parent.as_deref().map(wire::parsed).transpose()?,
            depth: task.depth,
            max_credentials: task.max_credentials,
            labels: task.labels.into_iter().collect(),
            state: task.state.into(),
            end_cause: wire::optional(task.end_cause),
            ending_at: task.ending_at.as_ref().map(wire::timestamp),
            ended_at: task.ended_at.as_ref().map(wire::timestamp),
        })
    }
}

impl Anchor {
    fn from_wire(anchor: &v1::Anchor) -> Result<Self, Error> {
        Ok(Self {
            provider: wire::parsed(&anchor.provider)?,
            may_live_until: anchor.may_live_until.as_ref().map(wire::timestamp),
        })
    }
}
