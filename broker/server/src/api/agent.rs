//! `AgentService`.

use taskpass_engine::{
    AgentView, ChangeOwner, CreateJoinToken, OwnerDeparted, RegisterAgent, ReleaseAgent, StopAgent,
};
use taskpass_proto::v1 as pb;
use taskpass_store::Usage;
use tonic::{Request, Response};

use super::{Answer, Api, convert, parse};

#[tonic::async_trait]
impl pb::agent_service_server::AgentService for Api {
    async fn register_agent(
        &self,
        request: Request<pb::RegisterAgentRequest>,
    ) -> Answer<pb::RegisterAgentResponse> {
        self.answer(request, |call, message| async move {
            let register = RegisterAgent {
                name: parse::value("name", &message.name)?,
                owner: parse::value("owner", &message.owner)?,
                team: parse::optional("team", &message.team)?,
                class: parse::optional("class", &message.class)?,
                labels: parse::labels(message.labels)?,
            };
            let key = parse::key(&message.idempotency_key)?;
            let agent = self
                .engine
                .register_agent(&call, key.as_ref(), &register)
                .await?;
            let view = AgentView {
                agent,
                usage: Usage::default(),
            };
            Ok(Response::new(pb::RegisterAgentResponse {
                agent: Some(convert::agent(&view)),
            }))
        })
        .await
    }

    async fn create_join_token(
        &self,
        request: Request<pb::CreateJoinTokenRequest>,
    ) -> Answer<pb::CreateJoinTokenResponse> {
        self.answer(request, |call, message| async move {
            let create = CreateJoinToken {
                agent: parse::value("agent", &message.agent)?,
                ttl: parse::ttl("ttl_seconds", message.ttl_seconds)?,
            };
            let key = parse::key(&message.idempotency_key)?;
            let created = self
                .engine
                .create_join_token(&call, key.as_ref(), &create)
                .await?;
            Ok(Response::new(pb::CreateJoinTokenResponse {
                join_token: created.text.expose().to_owned(),
                agent: created.token.agent.to_string(),
                expires_at: Some(convert::time(created.token.expires_at)),
                id: created.token.id.to_string(),
            }))
        })
        .await
    }

    async fn get_agent(
        &self,
        request: Request<pb::GetAgentRequest>,
    ) -> Answer<pb::GetAgentResponse> {
        self.answer(request, |call, message| async move {
            let name = parse::value("name", &message.name)?;
            let view = self.engine.agent(&call, &name).await?;
            Ok(Response::new(pb::GetAgentResponse {
                agent: Some(convert::agent(&view)),
            }))
        })
        .await
    }

    async fn list_agents(
        &self,
        request: Request<pb::ListAgentsRequest>,
    ) -> Answer<pb::ListAgentsResponse> {
        self.answer(request, |call, message| async move {
            let page = parse::page(message.page)?;
            let listing = self.engine.list_agents(&call, &page).await?;
            Ok(Response::new(pb::ListAgentsResponse {
                agents: listing.rows.iter().map(convert::agent).collect(),
                next_page_token: listing.next.unwrap_or_default(),
            }))
        })
        .await
    }

    async fn freeze_agent(
        &self,
        request: Request<pb::FreezeAgentRequest>,
    ) -> Answer<pb::FreezeAgentResponse> {
        self.answer(request, |call, message| async move {
            let freeze = StopAgent {
                agent: parse::value("name", &message.name)?,
                reason: parse::value("reason", &message.reason)?,
                wait: parse::wait(message.wait_ms),
            };
            let frozen = self.engine.freeze_agent(&call, &freeze).await?;
            Ok(Response::new(pb::FreezeAgentResponse {
                agent: Some(convert::agent(&frozen.view)),
                task_ids: frozen.tasks.iter().map(ToString::to_string).collect(),
                receipts: frozen.receipts.iter().map(convert::receipt).collect(),
            }))
        })
        .await
    }

    async fn release_agent(
        &self,
        request: Request<pb::ReleaseAgentRequest>,
    ) -> Answer<pb::ReleaseAgentResponse> {
        self.answer(request, |call, message| async move {
            let release = ReleaseAgent {
                agent: parse::value("name", &message.name)?,
                reason: parse::value("reason", &message.reason)?,
            };
            let view = self.engine.release_agent(&call, &release).await?;
            Ok(Response::new(pb::ReleaseAgentResponse {
                agent: Some(convert::agent(&view)),
            }))
        })
        .await
    }

    async fn retire_agent(
        &self,
        request: Request<pb::RetireAgentRequest>,
    ) -> Answer<pb::RetireAgentResponse> {
        self.answer(request, |call, message| async move {
            let retire = StopAgent {
                agent: parse::value("name", &message.name)?,
                reason: parse::value("reason", &message.reason)?,
                wait: parse::wait(message.wait_ms),
            };
            let retired = self.engine.retire_agent(&call, &retire).await?;
            Ok(Response::new(pb::RetireAgentResponse {
                agent: Some(convert::agent(&retired.view)),
                task_ids: retired.tasks.iter().map(ToString::to_string).collect(),
                receipts: retired.receipts.iter().map(convert::receipt).collect(),
            }))
        })
        .await
    }

    async fn change_agent_owner(
        &self,
        request: Request<pb::ChangeAgentOwnerRequest>,
    ) -> Answer<pb::ChangeAgentOwnerResponse> {
        self.answer(request, |call, message| async move {
            let change = ChangeOwner {
                agent: parse::value("name", &message.name)?,
                owner: parse::value("owner", &message.owner)?,
            };
            let view = self.engine.change_agent_owner(&call, &change).await?;
            Ok(Response::new(pb::ChangeAgentOwnerResponse {
                agent: Some(convert::agent(&view)),
            }))
        })
        .await
    }

    async fn depart_owner(
        &self,
        request: Request<pb::DepartOwnerRequest>,
    ) -> Answer<pb::DepartOwnerResponse> {
        self.answer(request, |call, message| async move {
            let departed = OwnerDeparted {
                owner: parse::value("owner", &message.owner)?,
                reason: parse::value("reason", &message.reason)?,
            };
            let views = self.engine.depart_owner(&call, &departed).await?;
            Ok(Response::new(pb::DepartOwnerResponse {
                agents: views.iter().map(convert::agent).collect(),
            }))
        })
        .await
    }

    async fn list_join_tokens(
        &self,
        request: Request<pb::ListJoinTokensRequest>,
    ) -> Answer<pb::ListJoinTokensResponse> {
        self.answer(request, |call, message| async move {
            let agent = parse::optional("agent", &message.agent)?;
            let page = parse::page(message.page)?;
            let listing = self.engine.list_join_tokens(&call, agent.as_ref(), &page);
            let listing = listing.await?;
            Ok(Response::new(pb::ListJoinTokensResponse {
                join_tokens: listing.rows.iter().map(convert::join_token).collect(),
                next_page_token: listing.next.unwrap_or_default(),
            }))
        })
        .await
    }

    async fn withdraw_join_token(
        &self,
        request: Request<pb::WithdrawJoinTokenRequest>,
    ) -> Answer<pb::WithdrawJoinTokenResponse> {
        self.answer(request, |call, message| async move {
            let id = parse::value("id", &message.id)?;
            let view = self.engine.withdraw_join_token(&call, id).await?;
            Ok(Response::new(pb::WithdrawJoinTokenResponse {
                join_token: Some(convert::join_token(&view)),
            }))
        })
        .await
    }
}
