//! `AgentService` of the fake broker.

use taskpass_proto::v1::*;
use tonic::Request;

use super::{Reply, moment};
use crate::fake::Shared;

fn agent(name: String) -> Agent {
    Agent {
        name,
        owner: "alice@acme.test".to_owned(),
        registered_at: Some(moment()),
        registered_by: "spiffe://acme.test/operator/admin".to_owned(),
        state: AgentState::Active.into(),
        ..Agent::default()
    }
}

/// The agent after a person changed it.
fn changed(name: String, state: AgentState, reason: String) -> Agent {
    Agent {
        state: state.into(),
        changed_at: Some(moment()),
        changed_by: "spiffe://acme.test/operator/admin".to_owned(),
        change_reason: reason,
        ..agent(name)
    }
}

fn join_token(id: String, state: JoinTokenState) -> JoinToken {
    JoinToken {
        id,
        agent: "builder".to_owned(),
        state: state.into(),
        expires_at: Some(moment()),
        created_by: "spiffe://acme.test/operator/admin".to_owned(),
    }
}

#[tonic::async_trait]
impl agent_service_server::AgentService for Shared {
    async fn register_agent(
        &self,
        request: Request<RegisterAgentRequest>,
    ) -> Reply<RegisterAgentResponse> {
        self.enter("register_agent")?;
        let agent = Some(agent(request.into_inner().name));
        self.leave("register_agent", RegisterAgentResponse { agent })
    }

    async fn create_join_token(
        &self,
        request: Request<CreateJoinTokenRequest>,
    ) -> Reply<CreateJoinTokenResponse> {
        self.enter("create_join_token")?;
        let reply = CreateJoinTokenResponse {
            join_token: "tp1.j0123456789abcdef.x.y".to_owned(),
            agent: request.into_inner().agent,
            expires_at: Some(moment()),
            id: "j0123456789abcdef".to_owned(),
        };
        self.leave("create_join_token", reply)
    }

    async fn get_agent(&self, request: Request<GetAgentRequest>) -> Reply<GetAgentResponse> {
        self.enter("get_agent")?;
        let agent = Some(agent(request.into_inner().name));
        self.leave("get_agent", GetAgentResponse { agent })
    }

    async fn list_agents(&self, _request: Request<ListAgentsRequest>) -> Reply<ListAgentsResponse> {
        self.enter("list_agents")?;
        let agents = vec![agent("builder".to_owned())];
        let next_page_token = String::new();
        self.leave(
            "list_agents",
            ListAgentsResponse {
                agents,
                next_page_token,
            },
        )
    }

    async fn freeze_agent(
        &self,
        request: Request<FreezeAgentRequest>,
    ) -> Reply<FreezeAgentResponse> {
        self.enter("freeze_agent")?;
        let FreezeAgentRequest { name, reason, .. } = request.into_inner();
        let reply = FreezeAgentResponse {
            agent: Some(changed(name, AgentState::Frozen, reason)),
            ..FreezeAgentResponse::default()
        };
        self.leave("freeze_agent", reply)
    }

    async fn release_agent(
        &self,
        request: Request<ReleaseAgentRequest>,
    ) -> Reply<ReleaseAgentResponse> {
        self.enter("release_agent")?;
        let ReleaseAgentRequest { name, reason } = request.into_inner();
        let agent = Some(changed(name, AgentState::Active, reason));
        self.leave("release_agent", ReleaseAgentResponse { agent })
    }

    async fn retire_agent(
        &self,
        request: Request<RetireAgentRequest>,
    ) -> Reply<RetireAgentResponse> {
        self.enter("retire_agent")?;
        let RetireAgentRequest { name, reason, .. } = request.into_inner();
        let reply = RetireAgentResponse {
            agent: Some(changed(name, AgentState::Retired, reason)),
            ..RetireAgentResponse::default()
        };
        self.leave("retire_agent", reply)
    }

    async fn change_agent_owner(
        &self,
        request: Request<ChangeAgentOwnerRequest>,
    ) -> Reply<ChangeAgentOwnerResponse> {
        self.enter("change_agent_owner")?;
        let ChangeAgentOwnerRequest { name, owner } = request.into_inner();
        let agent = Some(Agent {
            owner,
            ..agent(name)
        });
        self.leave("change_agent_owner", ChangeAgentOwnerResponse { agent })
    }

    async fn depart_owner(
        &self,
        request: Request<DepartOwnerRequest>,
    ) -> Reply<DepartOwnerResponse> {
        self.enter("depart_owner")?;
        let DepartOwnerRequest { owner, reason } = request.into_inner();
        let agents = vec![Agent {
            owner,
            owner_departed: true,
            ..changed("builder".to_owned(), AgentState::Frozen, reason)
        }];
        self.leave("depart_owner", DepartOwnerResponse { agents })
    }

    async fn list_join_tokens(
        &self,
        _request: Request<ListJoinTokensRequest>,
    ) -> Reply<ListJoinTokensResponse> {
        self.enter("list_join_tokens")?;
        let reply = ListJoinTokensResponse {
            join_tokens: vec![join_token(
                "j0123456789abcdef".to_owned(),
                JoinTokenState::Unused,
            )],
            next_page_token: String::new(),
        };
        self.leave("list_join_tokens", reply)
    }

    async fn withdraw_join_token(
        &self,
        request: Request<WithdrawJoinTokenRequest>,
    ) -> Reply<WithdrawJoinTokenResponse> {
        self.enter("withdraw_join_token")?;
        let join_token = Some(join_token(
            request.into_inner().id,
            JoinTokenState::Withdrawn,
        ));
        self.leave(
            "withdraw_join_token",
            WithdrawJoinTokenResponse { join_token },
        )
    }
}
