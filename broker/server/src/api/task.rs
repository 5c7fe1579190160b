//! `TaskService`.

use taskpass_core::{AgentName, TaskState};
use taskpass_engine::{EndTask, Error, StartTask};
use taskpass_proto::v1::{
    EndTaskRequest, EndTaskResponse, GetTaskRequest, GetTaskResponse, HeartbeatRequest,
    HeartbeatResponse, ListTasksRequest, ListTasksResponse, StartTaskRequest, StartTaskResponse,
    task_service_server::TaskService,
};
use taskpass_store::TaskFilter;
use tonic::{Request, Response, Status};

use super::{Api, convert, status};

#[tonic::async_trait]
impl TaskService for Api {
    async fn start_task(
        &self,
        request: Request<StartTaskRequest>,
    ) -> Result<Response<StartTaskResponse>, Status> {
        let call = self.call(request.extensions()).await?;
        let message = request.into_inner();
        let start = StartTask {
            purpose: message.purpose,
            requester: message.requester,
            roles: message
                .roles
                .into_iter()
                .map(|role| (role.role, convert::pairs(role.scope)))
                .collect(),
            ttl_seconds: message.ttl_seconds,
            heartbeat_seconds: message.heartbeat_seconds,
            parent: message.parent,
            labels: convert::pairs(message.labels),
            max_credentials: message.max_credentials,
            csr: message.csr,
        };
        let started = self
            .engine
            .start_task(&call, &message.idempotency_key, &start)
            .await
            .map_err(status::from)?;
        Ok(Response::new(StartTaskResponse {
            task: Some(convert::task(&started.task)),
            svid: started.svid.as_ref().map(convert::svid),
        }))
    }

    async fn end_task(
        &self,
        request: Request<EndTaskRequest>,
    ) -> Result<Response<EndTaskResponse>, Status> {
        let call = self.call(request.extensions()).await?;
        let message = request.into_inner();
        let end = EndTask {
            task_id: message.task_id,
            cancel: message.cancel,
            wait_ms: message.wait_ms,
        };
        let ended = self
            .engine
            .end_task(&call, &end)
            .await
            .map_err(status::from)?;
        Ok(Response::new(EndTaskResponse {
            task_id: ended.task.id.to_string(),
            state: ended.task.state.as_str().to_owned(),
            end_cause: ended
                .task
                .end_cause
                .map(|cause| cause.as_str().to_owned())
                .unwrap_or_default(),
            receipts: ended.receipts.iter().map(convert::receipt).collect(),
        }))
    }

    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        let call = self.call(request.extensions()).await?;
        let beat = self
            .engine
            .heartbeat(&call, &request.get_ref().task_id)
            .await
            .map_err(status::from)?;
        Ok(Response::new(HeartbeatResponse {
            next_before: beat.next_before.map(convert::time),
            deadline: Some(convert::time(beat.deadline)),
        }))
    }

    async fn get_task(
        &self,
        request: Request<GetTaskRequest>,
    ) -> Result<Response<GetTaskResponse>, Status> {
        let call = self.call(request.extensions()).await?;
        let view = self
            .engine
            .task(&call, &request.get_ref().task_id)
            .await
            .map_err(status::from)?;
        Ok(Response::new(GetTaskResponse {
            task: Some(convert::task(&view.task)),
            receipts: view.receipts.iter().map(convert::receipt).collect(),
            anchors: view
                .anchors
                .iter()
                .map(|anchor| convert::anchor(anchor))
                .collect(),
        }))
    }

    async fn list_tasks(
        &self,
        request: Request<ListTasksRequest>,
    ) -> Result<Response<ListTasksResponse>, Status> {
        let call = self.call(request.extensions()).await?;
        let message = request.into_inner();
        let page = convert::page(message.page).map_err(status::from)?;
        let filter = filter(&message.agent, &message.state).map_err(status::from)?;
        let listing = self
            .engine
            .list_tasks(&call, filter, &page)
            .await
            .map_err(status::from)?;
        Ok(Response::new(ListTasksResponse {
            tasks: listing
                .rows
                .iter()
                .map(|task| convert::task(task))
                .collect(),
            next_page_token: listing.next.unwrap_or_default(),
        }))
    }
}

fn filter(agent: &str, state: &str) -> Result<TaskFilter, Error> {
    let agent = match agent {
        "" => None,
        name => Some(
            name.parse::<AgentName>()
                .map_err(|e| Error::invalid("agent", e))?,
        ),
    };
    let state = match state {
        "" => None,
        "open" => Some(TaskState::Open),
        "ending" => Some(TaskState::Ending),
        "ended" => Some(TaskState::Ended),
        _ => {
            return Err(Error::invalid(
                "state",
                "the states are open, ending and ended",
            ));
        }
    };
    Ok(TaskFilter { agent, state })
}
