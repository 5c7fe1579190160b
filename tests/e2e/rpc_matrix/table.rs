//! The table: one row for each RPC, with a valid message and the callers that may send it.

use prost::Message as _;
use taskpass_proto::v1 as pb;
use taskpass_tests::wire::KeyAndCsr;

use super::{Stage, Target};

/// The kinds of callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Unauthenticated,
    Agent,
    InTask,
    Operator,
}

impl Who {
    pub(crate) const ALL: [Self; 4] = [
        Self::Unauthenticated,
        Self::Agent,
        Self::InTask,
        Self::Operator,
    ];
}

pub(crate) struct Row {
    pub(crate) method: &'static str,
    pub(crate) message: fn(&Stage<'_>, &Target) -> Vec<u8>,
    pub(crate) allowed: &'static [Who],
}

const EVERY_CALLER: &[Who] = &Who::ALL;
const AUTHENTICATED: &[Who] = &[Who::Agent, Who::InTask, Who::Operator];
const AGENTS: &[Who] = &[Who::Agent, Who::InTask];
const OPERATORS: &[Who] = &[Who::Operator];

macro_rules! rows {
    ($($service:ident / $method:ident, $allowed:ident, |$stage:ident, $target:ident| $message:expr;)*) => {
        pub(crate) const ROWS: &[Row] = &[$(Row {
            method: concat!("/taskpass.v1.", stringify!($service), "/", stringify!($method)),
            message: |$stage, $target| $message.encode_to_vec(),
            allowed: $allowed,
        }),*];
    };
}

rows! {
    IdentityService / Attest, EVERY_CALLER, |stage, _t| pb::AttestRequest {
        evidence: Some(pb::attest_request::Evidence::JoinToken(token(stage))),
        csr: KeyAndCsr::new().csr,
        ..Default::default()
    };
    IdentityService / GetBundle, EVERY_CALLER, |_s, _t| pb::GetBundleRequest {};
    IdentityService / RenewSvid, AUTHENTICATED, |_s, _t| pb::RenewSvidRequest { csr: KeyAndCsr::new().csr, consistent_with: 0 };
    IdentityService / WhoAmI, AUTHENTICATED, |_s, _t| pb::WhoAmIRequest {};

    AgentService / RegisterAgent, OPERATORS, |_s, t| pb::RegisterAgentRequest {
        name: format!("made-for-{}", t.task),
        owner: "alice@acme.test".to_owned(),
        ..Default::default()
    };
    AgentService / CreateJoinToken, OPERATORS, |_s, _t| pb::CreateJoinTokenRequest { agent: "builder".to_owned(), ttl_seconds: 1, ..Default::default() };
    AgentService / GetAgent, OPERATORS, |_s, _t| pb::GetAgentRequest { name: "builder".to_owned() };
    AgentService / ListAgents, OPERATORS, |_s, _t| pb::ListAgentsRequest::default();
    AgentService / FreezeAgent, OPERATORS, |stage, t| pb::FreezeAgentRequest {
        name: other_agent(stage, t, "alice@acme.test"),
        reason: "a row of the table".to_owned(),
        wait_ms: 1,
    };
    AgentService / ReleaseAgent, OPERATORS, |stage, t| pb::ReleaseAgentRequest {
        name: other_agent(stage, t, "alice@acme.test"),
        reason: "a row of the table".to_owned(),
    };
    AgentService / ChangeAgentOwner, OPERATORS, |stage, t| pb::ChangeAgentOwnerRequest {
        name: other_agent(stage, t, "alice@acme.test"),
        owner: "bob@acme.test".to_owned(),
    };
    AgentService / RetireAgent, OPERATORS, |stage, t| pb::RetireAgentRequest {
        name: other_agent(stage, t, "alice@acme.test"),
        reason: "a row of the table".to_owned(),
        wait_ms: 1,
    };
    AgentService / DepartOwner, OPERATORS, |stage, t| {
        other_agent(stage, t, "left@acme.test");
        pb::DepartOwnerRequest {
            owner: "left@acme.test".to_owned(),
            reason: "a row of the table".to_owned(),
        }
    };
    AgentService / ListJoinTokens, OPERATORS, |_s, _t| pb::ListJoinTokensRequest::default();
    AgentService / WithdrawJoinToken, OPERATORS, |stage, t| pb::WithdrawJoinTokenRequest {
        id: spare_token(stage, t),
    };

    TaskService / StartTask, AGENTS, |_s, t| pb::StartTaskRequest {
        purpose: "a task".to_owned(),
        parent: t.parent.clone(),
        ..Default::default()
    };
    TaskService / EndTask, AUTHENTICATED, |_s, t| pb::EndTaskRequest { task_id: t.task.clone(), ..Default::default() };
    TaskService / Heartbeat, AGENTS, |_s, t| pb::HeartbeatRequest { task_id: t.task.clone() };
    TaskService / GetTask, AUTHENTICATED, |_s, t| pb::GetTaskRequest { task_id: t.task.clone() };
    TaskService / ListTasks, AUTHENTICATED, |_s, _t| pb::ListTasksRequest::default();

    CredentialService / IssueCredential, AGENTS, |_s, t| pb::IssueCredentialRequest {
        task_id: t.task.clone(),
        role: "vault-main/config".to_owned(),
        ..Default::default()
    };
    CredentialService / RenewCredential, AGENTS, |_s, t| pb::RenewCredentialRequest {
        credential_id: t.credential.clone(),
        ..Default::default()
    };
    CredentialService / RevokeCredential, AUTHENTICATED, |_s, t| pb::RevokeCredentialRequest {
        credential_id: t.credential.clone(),
        ..Default::default()
    };
    CredentialService / GetCredential, AUTHENTICATED, |_s, t| pb::GetCredentialRequest { credential_id: t.credential.clone() };
    CredentialService / ListCredentials, AUTHENTICATED, |_s, t| pb::ListCredentialsRequest {
        task_id: t.task.clone(),
        ..Default::default()
    };

    ProviderService / ListProviders, OPERATORS, |_s, _t| pb::ListProvidersRequest::default();
    ProviderService / GetProvider, OPERATORS, |_s, _t| pb::GetProviderRequest { name: "vault-main".to_owned() };
    ProviderService / CheckProvider, OPERATORS, |_s, _t| pb::CheckProviderRequest { name: "vault-main".to_owned() };

    PolicyService / GetPolicy, OPERATORS, |_s, _t| pb::GetPolicyRequest {};
    PolicyService / ExplainAccess, OPERATORS, |_s, _t| pb::ExplainAccessRequest {
        agent: "builder".to_owned(),
        question: Some(question()),
    };
    PolicyService / ListAccess, OPERATORS, |_s, _t| pb::ListAccessRequest {
        page: None,
        question: Some(question()),
    };

    LedgerService / GetCheckpoint, OPERATORS, |_s, _t| pb::GetCheckpointRequest::default();
    LedgerService / ExportLedger, OPERATORS, |_s, t| pb::ExportLedgerRequest { task_id: t.task.clone(), ..Default::default() };
    LedgerService / ProveEntry, OPERATORS, |_s, _t| pb::ProveEntryRequest { index: 0 };
}

fn question() -> pb::AccessQuestion {
    pb::AccessQuestion {
        role: "vault-main/config".to_owned(),
        ..Default::default()
    }
}

/// An agent that no other row uses, one for each owner and task.
fn other_agent(stage: &Stage<'_>, target: &Target, owner: &str) -> String {
    let owner_name = owner.split('@').next().unwrap_or_default();
    let request = pb::RegisterAgentRequest {
        name: format!("{owner_name}-for-{}", target.task),
        owner: owner.to_owned(),
        idempotency_key: format!("{owner_name}-for-{}", target.task),
        ..Default::default()
    };
    // Another row may have registered it. A caller that is refused must not need the agent.
    let made: Result<pb::RegisterAgentResponse, _> = stage
        .operator
        .ask("/taskpass.v1.AgentService/RegisterAgent", &request);
    drop(made);
    request.name
}

/// The id of a join token that lives too short for it to count against the agent's quota.
fn spare_token(stage: &Stage<'_>, target: &Target) -> String {
    let request = pb::CreateJoinTokenRequest {
        agent: other_agent(stage, target, "carol@acme.test"),
        ttl_seconds: 1,
        ..Default::default()
    };
    let made: pb::CreateJoinTokenResponse = stage
        .operator
        .ask("/taskpass.v1.AgentService/CreateJoinToken", &request)
        .expect("a join token");
    made.id
}

/// An unused join token.
fn token(stage: &Stage<'_>) -> String {
    let request = pb::CreateJoinTokenRequest {
        agent: "new-agent".to_owned(),
        ttl_seconds: 60,
        ..Default::default()
    };
    let made: pb::CreateJoinTokenResponse = stage
        .operator
        .ask("/taskpass.v1.AgentService/CreateJoinToken", &request)
        .expect("a join token");
    made.join_token
}
