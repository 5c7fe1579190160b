//! `taskpass agent freeze`, `release`, `retire` and `owner`.

use std::time::Duration;

use taskpass_client::RPC_TIMEOUT;
use taskpass_core::{AgentName, Owner, Text};
use taskpass_proto::v1::{
    ChangeAgentOwnerRequest, DepartOwnerRequest, FreezeAgentRequest, FreezeAgentResponse,
    ReleaseAgentRequest, RetireAgentRequest, agent_service_client::AgentServiceClient,
};

use crate::{
    context::Context,
    output,
    views::{AgentView, StoppedView, receipt_table},
};

/// How long the answer to a freeze may take: the longest wait for revocation, and some more.
const STOP_TIMEOUT: Duration = Duration::from_secs(90);

pub(super) async fn freeze(
    name: &AgentName,
    reason: &Text,
    context: &Context,
) -> anyhow::Result<()> {
    let client = context.connect().await?;
    let request = FreezeAgentRequest {
        name: name.to_string(),
        reason: reason.to_string(),
        wait_ms: 0,
    };
    let reply = client
        .send(STOP_TIMEOUT, request, |channel, request| async move {
            AgentServiceClient::new(channel).freeze_agent(request).await
        })
        .await?;
    print(reply, context)
}

pub(super) async fn retire(
    name: &AgentName,
    reason: &Text,
    context: &Context,
) -> anyhow::Result<()> {
    let client = context.connect().await?;
    let request = RetireAgentRequest {
        name: name.to_string(),
        reason: reason.to_string(),
        wait_ms: 0,
    };
    let reply = client
        .send(STOP_TIMEOUT, request, |channel, request| async move {
            AgentServiceClient::new(channel).retire_agent(request).await
        })
        .await?;
    let reply = FreezeAgentResponse {
        agent: reply.agent,
        task_ids: reply.task_ids,
        receipts: reply.receipts,
    };
    print(reply, context)
}

fn print(reply: FreezeAgentResponse, context: &Context) -> anyhow::Result<()> {
    let view = StoppedView::from(reply);
    context.print(&view, || {
        let agent = &view.agent;
        let tasks = view.task_ids.len();
        let head = format!("`{}` is {}; {tasks} tasks ended\n", agent.name, agent.state);
        match view.receipts.as_slice() {
            [] => head,
            receipts => head + &receipt_table(receipts),
        }
    })
}

pub(super) async fn release(
    name: &AgentName,
    reason: &Text,
    context: &Context,
) -> anyhow::Result<()> {
    let client = context.connect().await?;
    let request = ReleaseAgentRequest {
        name: name.to_string(),
        reason: reason.to_string(),
    };
    let reply = client
        .send(RPC_TIMEOUT, request, |channel, request| async move {
            AgentServiceClient::new(channel)
                .release_agent(request)
                .await
        })
        .await?;
    let view = AgentView::from(reply.agent.unwrap_or_default());
    context.print(&view, || {
        format!(
            "`{}` is {}; next: taskpass agent token {}",
            view.name, view.state, view.name
        )
    })
}

pub(super) async fn change_owner(
    name: &AgentName,
    owner: &Owner,
    context: &Context,
) -> anyhow::Result<()> {
    let client = context.connect().await?;
    let request = ChangeAgentOwnerRequest {
        name: name.to_string(),
        owner: owner.to_string(),
    };
    let reply = client
        .send(RPC_TIMEOUT, request, |channel, request| async move {
            AgentServiceClient::new(channel)
                .change_agent_owner(request)
                .await
        })
        .await?;
    let view = AgentView::from(reply.agent.unwrap_or_default());
    context.print(&view, || {
        format!(
            "`{}` is {}, and {} answers for it",
            view.name, view.state, view.owner
        )
    })
}

pub(super) async fn depart(owner: &Owner, reason: &Text, context: &Context) -> anyhow::Result<()> {
    let client = context.connect().await?;
    let request = DepartOwnerRequest {
        owner: owner.to_string(),
        reason: reason.to_string(),
    };
    let reply = client
        .send(STOP_TIMEOUT, request, |channel, request| async move {
            AgentServiceClient::new(channel).depart_owner(request).await
        })
        .await?;
    let views: Vec<AgentView> = reply.agents.into_iter().map(AgentView::from).collect();
    context.print(&views, || {
        let rows = views.iter().map(|agent| {
            let next = format!("taskpass agent owner {} EMAIL", agent.name);
            vec![agent.name.clone(), agent.state.clone(), next]
        });
        output::table(&["name", "state", "next"], rows.collect())
    })
}
