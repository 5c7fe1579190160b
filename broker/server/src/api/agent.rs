//! `AgentService`.

use taskpass_engine::{AgentView, CreateJoinToken, RegisterAgent};
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
}
