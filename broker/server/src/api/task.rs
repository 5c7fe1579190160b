//! `TaskService`.

use std::num::NonZeroU32;

use taskpass_engine::{EndTask, Ending, StartTask, TaskRoles};
use taskpass_proto::v1 as pb;
use taskpass_store::TaskFilter;
use tonic::{Request, Response};

use super::{
    Answer, Api, convert,
    parse::{self, InField as _},
    status::Refusal,
};

#[tonic::async_trait]
impl pb::task_service_server::TaskService for Api {
    async fn start_task(
        &self,
        request: Request<pb::StartTaskRequest>,
    ) -> Answer<pb::StartTaskResponse> {
        self.answer(request, |call, message| async move {
            let key = parse::key(&message.idempotency_key)?;
            let start = start(message)?;
            let started = self.engine.start_task(&call, key.as_ref(), &start).await?;
            Ok(Response::new(pb::StartTaskResponse {
                task: Some(convert::task(&started.task)),
                svid: started.svid.as_ref().map(convert::svid),
            }))
        })
        .await
    }

    async fn end_task(&self, request: Request<pb::EndTaskRequest>) -> Answer<pb::EndTaskResponse> {
        self.answer(request, |call, message| async move {
            let end = EndTask {
                task: parse::value("task_id", &message.task_id)?,
                how: if message.cancel {
                    Ending::Cancel
                } else {
                    Ending::Complete
                },
                wait: parse::wait(message.wait_ms),
            };
            let ended = self.engine.end_task(&call, &end).await?;
            Ok(Response::new(pb::EndTaskResponse {
                task_id: ended.task.id.to_string(),
                state: convert::task_state(ended.task.state).into(),
                end_cause: convert::end_cause(ended.task.end_cause).into(),
                receipts: ended.receipts.iter().map(convert::receipt).collect(),
            }))
        })
        .await
    }

    async fn heartbeat(
        &self,
        request: Request<pb::HeartbeatRequest>,
    ) -> Answer<pb::HeartbeatResponse> {
        self.answer_uncounted(request, |call, message| async move {
            let id = parse::value("task_id", &message.task_id)?;
            let beat = self.engine.heartbeat(&call, id).await?;
            Ok(Response::new(pb::HeartbeatResponse {
                next_before: beat.next_before.map(convert::time),
                deadline: Some(convert::time(beat.deadline)),
            }))
        })
        .await
    }

    async fn get_task(&self, request: Request<pb::GetTaskRequest>) -> Answer<pb::GetTaskResponse> {
        self.answer(request, |call, message| async move {
            let id = parse::value("task_id", &message.task_id)?;
            let view = self.engine.task(&call, id).await?;
            Ok(Response::new(pb::GetTaskResponse {
                task: Some(convert::task(&view.task)),
                receipts: view.receipts.iter().map(convert::receipt).collect(),
                anchors: view
                    .anchors
                    .iter()
                    .map(|anchor| convert::anchor(anchor))
                    .collect(),
            }))
        })
        .await
    }

    async fn list_tasks(
        &self,
        request: Request<pb::ListTasksRequest>,
    ) -> Answer<pb::ListTasksResponse> {
        self.answer(request, |call, message| async move {
            let page = parse::page(message.page)?;
            let filter = TaskFilter {
                agent: parse::optional("agent", &message.agent)?,
                state: parse::task_state(message.state)?,
            };
            let listing = self.engine.list_tasks(&call, filter, &page).await?;
            Ok(Response::new(pb::ListTasksResponse {
                tasks: listing
                    .rows
                    .iter()
                    .map(|task| convert::task(task))
                    .collect(),
                next_page_token: listing.next.unwrap_or_default(),
            }))
        })
        .await
    }
}

fn start(message: pb::StartTaskRequest) -> Result<StartTask, Refusal> {
    let roles = message.roles.into_iter().map(|role| {
        Ok((
            parse::value("roles.role", &role.role)?,
            parse::scope("roles.scope", role.scope)?,
        ))
    });
    let roles: Vec<_> = roles.collect::<Result<_, Refusal>>()?;
    Ok(StartTask {
        purpose: parse::value("purpose", &message.purpose)?,
        requester: parse::optional("requester", &message.requester)?,
        roles: TaskRoles::from_pairs(roles).in_field("roles")?,
        ttl: parse::ttl("ttl_seconds", message.ttl_seconds)?,
        heartbeat: parse::ttl("heartbeat_seconds", message.heartbeat_seconds)?,
        parent: parse::optional("parent", &message.parent)?,
        labels: parse::labels(message.labels)?,
        max_credentials: NonZeroU32::new(message.max_credentials),
        key: if message.csr.is_empty() {
            None
        } else {
            Some(parse::csr(&message.csr)?)
        },
    })
}
