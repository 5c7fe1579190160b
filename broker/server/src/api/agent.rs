//! `AgentService`.

use taskpass_engine::{AgentView, CreateJoinToken, RegisterAgent};
use taskpass_proto::v1::{
    CreateJoinTokenRequest, CreateJoinTokenResponse, GetAgentRequest, GetAgentResponse,
    ListAgentsRequest, ListAgentsResponse, RegisterAgentRequest, RegisterAgentResponse,
    agent_service_server::AgentService,
};
use taskpass_store::Usage;
use tonic::{Request, Response, Status};

use super::{Api, convert, status};

#[tonic::async_trait]
impl AgentService for Api {
    async fn register_agent(
        &self,
        request: Request<RegisterAgentRequest>,
    ) -> Result<Response<RegisterAgentResponse>, Status> {
        let call = self.call(request.extensions()).await?;
        let message = request.into_inner();
        let register = RegisterAgent {
            name: message.name,
            owner: message.owner,
            team: message.team,
            class: message.class,
            labels: convert::pairs(message.labels),
        };
        let agent = self
            .engine
            .register_agent(&call, &message.idempotency_key, &register)
            .await
            .map_err(status::from)?;
        let view = AgentView {
            agent,
            usage: Usage::default(),
        };
        Ok(Response::new(RegisterAgentResponse {
            agent: Some(convert::agent(&view)),
        }))
    }

    async fn create_join_token(
        &self,
        request: Request<CreateJoinTokenRequest>,
    ) -> Result<Response<CreateJoinTokenResponse>, Status> {
        let call = self.call(request.extensions()).await?;
        let message = request.into_inner();
        let create = CreateJoinToken {
            agent: message.agent,
            ttl_seconds: message.ttl_seconds,
        };
        let minted = self
            .engine
            .create_join_token(&call, &message.idempotency_key, &create)
            .await
            .map_err(status::from)?;
        Ok(Response::new(CreateJoinTokenResponse {
            join_token: minted.text.expose().to_owned(),
            agent: minted.token.agent.to_string(),
            expires_at: Some(convert::time(minted.expires_at())),
        }))
    }

    async fn get_agent(
        &self,
        request: Request<GetAgentRequest>,
    ) -> Result<Response<GetAgentResponse>, Status> {
        let call = self.call(request.extensions()).await?;
        let view = self
            .engine
            .agent(&call, &request.get_ref().name)
            .await
            .map_err(status::from)?;
        Ok(Response::new(GetAgentResponse {
            agent: Some(convert::agent(&view)),
        }))
    }

    async fn list_agents(
        &self,
        request: Request<ListAgentsRequest>,
    ) -> Result<Response<ListAgentsResponse>, Status> {
        let call = self.call(request.extensions()).await?;
        let page = convert::page(request.into_inner().page).map_err(status::from)?;
        let listing = self
            .engine
            .list_agents(&call, &page)
            .await
            .map_err(status::from)?;
        Ok(Response::new(ListAgentsResponse {
            agents: listing.rows.iter().map(convert::agent).collect(),
            next_page_token: listing.next.unwrap_or_default(),
        }))
    }
}
