//! The JSON that programs read: one struct per thing, with keys that never change. No view has a secret, except the
//! two whose purpose it is.

use std::collections::BTreeMap;

use prost_types::Timestamp as WireTime;
use serde::Serialize;
use taskpass_client::{EndedTask, Issued, Receipt, wire};
use taskpass_core::Timestamp;
use taskpass_proto::v1;

type Pairs = BTreeMap<String, String>;

/// `agent token`: the token is the purpose.
/// The state of a credential that was asked for and never given.
pub(crate) const ABANDONED: &str = "abandoned";
pub(crate) const NOTHING_ISSUED: &str = "nothing was issued";

#[derive(Serialize)]
pub(crate) struct JoinTokenView {
    pub(crate) join_token: String,
    pub(crate) agent: String,
    pub(crate) expires_at: Option<Timestamp>,
}

#[derive(Serialize)]
pub(crate) struct AgentView {
    pub(crate) name: String,
    pub(crate) owner: String,
    pub(crate) team: Option<String>,
    pub(crate) class: Option<String>,
    pub(crate) labels: Pairs,
    pub(crate) registered_at: Option<Timestamp>,
    pub(crate) registered_by: String,
    pub(crate) open_tasks: u32,
    pub(crate) live_credentials: u32,
}

#[derive(Serialize)]
pub(crate) struct TaskRoleView {
    pub(crate) role: String,
    pub(crate) scope: Pairs,
}

#[derive(Serialize)]
pub(crate) struct TaskView {
    pub(crate) task_id: String,
    pub(crate) agent: String,
    pub(crate) purpose: String,
    pub(crate) requester: Option<String>,
    pub(crate) self_declared: bool,
    pub(crate) roles: Vec<TaskRoleView>,
    pub(crate) state: String,
    pub(crate) end_cause: Option<String>,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) deadline: Option<Timestamp>,
    pub(crate) ending_at: Option<Timestamp>,
    pub(crate) ended_at: Option<Timestamp>,
    pub(crate) heartbeat_seconds: u32,
    pub(crate) parent: Option<String>,
    pub(crate) depth: u32,
    pub(crate) max_credentials: u32,
    pub(crate) labels: Pairs,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) receipts: Option<Vec<ReceiptView>>,
    /// Sessions at providers for which an ending task waits.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) anchors: Vec<AnchorView>,
}

#[derive(Serialize)]
pub(crate) struct AnchorView {
    pub(crate) provider: String,
    pub(crate) may_live_until: Option<Timestamp>,
}

#[derive(Serialize)]
pub(crate) struct ReceiptView {
    pub(crate) credential_id: String,
    pub(crate) role: String,
    pub(crate) state: String,
    pub(crate) revocation_class: String,
    pub(crate) took_ms: u64,
    pub(crate) may_live_until: Option<Timestamp>,
    pub(crate) proof: Option<String>,
}

#[derive(Serialize)]
pub(crate) struct EndedView {
    pub(crate) task_id: String,
    pub(crate) state: String,
    pub(crate) end_cause: Option<String>,
    pub(crate) receipts: Vec<ReceiptView>,
}

/// `credential issue`: the secret is the purpose.
#[derive(Serialize)]
pub(crate) struct IssuedView<'a> {
    pub(crate) credential_id: String,
    pub(crate) role: String,
    pub(crate) expires_at: Timestamp,
    pub(crate) revocation_class: &'a str,
    pub(crate) renewable: bool,
    pub(crate) data: BTreeMap<&'a str, &'a str>,
}

#[derive(Serialize)]
pub(crate) struct CredentialView {
    pub(crate) credential_id: String,
    pub(crate) task_id: String,
    pub(crate) agent: String,
    pub(crate) role: String,
    pub(crate) scope: Pairs,
    pub(crate) state: String,
    pub(crate) revocation_class: String,
    pub(crate) renewable: bool,
    pub(crate) issued_at: Option<Timestamp>,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) revocation: Option<RevocationView>,
}

#[derive(Serialize)]
pub(crate) struct RevocationView {
    pub(crate) cause: String,
    pub(crate) since: Option<Timestamp>,
    pub(crate) attempts: u32,
    pub(crate) retry_at: Option<Timestamp>,
    pub(crate) last_error: Option<String>,
    pub(crate) proof: Option<String>,
    pub(crate) done_at: Option<Timestamp>,
    pub(crate) may_live_until: Option<Timestamp>,
}

#[derive(Serialize)]
pub(crate) struct ProviderView {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) circuit: String,
    pub(crate) in_flight: u32,
    pub(crate) live_credentials: u32,
    pub(crate) pending_revocations: u32,
    pub(crate) roles: Vec<RoleView>,
}

#[derive(Serialize)]
pub(crate) struct RoleView {
    pub(crate) role: String,
    pub(crate) r#type: String,
    pub(crate) max_ttl_seconds: u32,
    pub(crate) impact: u32,
    pub(crate) environment: Option<String>,
    pub(crate) data_classes: Vec<String>,
    pub(crate) revocation_class: String,
    pub(crate) renewable: bool,
    pub(crate) params: Pairs,
    pub(crate) required_params: Vec<String>,
}

impl From<v1::Agent> for AgentView {
    fn from(agent: v1::Agent) -> Self {
        Self {
            name: agent.name,
            owner: agent.owner,
            team: some(agent.team),
            class: some(agent.class),
            labels: agent.labels.into_iter().collect(),
            registered_at: time(agent.registered_at),
            registered_by: agent.registered_by,
            open_tasks: agent.open_tasks,
            live_credentials: agent.live_credentials,
        }
    }
}

impl From<v1::Task> for TaskView {
    fn from(task: v1::Task) -> Self {
        Self {
            task_id: task.id,
            agent: task.agent,
            purpose: task.purpose,
            requester: some(task.requester),
            self_declared: task.self_declared,
            roles: task
                .roles
                .into_iter()
                .map(|r| TaskRoleView {
                    role: r.role,
                    scope: r.scope.into_iter().collect(),
                })
                .collect(),
            state: task.state,
            end_cause: some(task.end_cause),
            started_at: time(task.started_at),
            deadline: time(task.deadline),
            ending_at: time(task.ending_at),
            ended_at: time(task.ended_at),
            heartbeat_seconds: task.heartbeat_seconds,
            parent: some(task.parent),
            depth: task.depth,
            max_credentials: task.max_credentials,
            labels: task.labels.into_iter().collect(),
            receipts: None,
            anchors: Vec::new(),
        }
    }
}

impl From<v1::Anchor> for AnchorView {
    fn from(anchor: v1::Anchor) -> Self {
        Self {
            provider: anchor.provider,
            may_live_until: time(anchor.may_live_until),
        }
    }
}

impl From<v1::Receipt> for ReceiptView {
    fn from(receipt: v1::Receipt) -> Self {
        Self {
            credential_id: receipt.credential_id,
            role: receipt.role,
            state: receipt.state,
            revocation_class: receipt.revocation_class,
            took_ms: receipt.took_ms,
            may_live_until: time(receipt.may_live_until),
            proof: some(receipt.proof),
        }
    }
}

impl From<Receipt> for ReceiptView {
    fn from(receipt: Receipt) -> Self {
        Self {
            credential_id: receipt.credential_id.to_string(),
            role: receipt.role.to_string(),
            state: receipt.state,
            revocation_class: receipt.revocation_class,
            took_ms: u64::try_from(receipt.took.as_millis()).unwrap_or(u64::MAX),
            may_live_until: receipt.may_live_until,
            proof: some(receipt.proof),
        }
    }
}

impl From<EndedTask> for EndedView {
    fn from(ended: EndedTask) -> Self {
        Self {
            task_id: ended.task_id.to_string(),
            state: ended.state,
            end_cause: some(ended.end_cause),
            receipts: ended.receipts.into_iter().map(ReceiptView::from).collect(),
        }
    }
}

impl<'a> From<&'a Issued> for IssuedView<'a> {
    fn from(issued: &'a Issued) -> Self {
        Self {
            credential_id: issued.id.to_string(),
            role: issued.role.to_string(),
            expires_at: issued.expires_at,
            revocation_class: &issued.revocation_class,
            renewable: issued.renewable,
            data: issued
                .fields()
                .map(|(name, value)| (name, value.expose()))
                .collect(),
        }
    }
}

impl From<v1::Credential> for CredentialView {
    fn from(credential: v1::Credential) -> Self {
        Self {
            credential_id: credential.id,
            task_id: credential.task_id,
            agent: credential.agent,
            role: credential.role,
            scope: credential.scope.into_iter().collect(),
            state: credential.state,
            revocation_class: credential.revocation_class,
            renewable: credential.renewable,
            issued_at: time(credential.issued_at),
            expires_at: time(credential.expires_at),
            revocation: credential.revocation.map(RevocationView::from),
        }
    }
}

impl From<v1::Revocation> for RevocationView {
    fn from(revocation: v1::Revocation) -> Self {
        Self {
            cause: revocation.cause,
            since: time(revocation.since),
            attempts: revocation.attempts,
            retry_at: time(revocation.retry_at),
            last_error: some(revocation.last_error),
            proof: some(revocation.proof),
            done_at: time(revocation.done_at),
            may_live_until: time(revocation.may_live_until),
        }
    }
}

impl From<v1::Provider> for ProviderView {
    fn from(provider: v1::Provider) -> Self {
        Self {
            name: provider.name,
            kind: provider.kind,
            circuit: provider.circuit,
            in_flight: provider.in_flight,
            live_credentials: provider.live_credentials,
            pending_revocations: provider.pending_revocations,
            roles: provider.roles.into_iter().map(RoleView::from).collect(),
        }
    }
}

impl From<v1::Role> for RoleView {
    fn from(role: v1::Role) -> Self {
        Self {
            role: role.name,
            r#type: role.r#type,
            max_ttl_seconds: role.max_ttl_seconds,
            impact: role.impact,
            environment: some(role.environment),
            data_classes: role.data_classes,
            revocation_class: role.revocation_class,
            renewable: role.renewable,
            params: role.params.into_iter().collect(),
            required_params: role.required_params,
        }
    }
}

pub(crate) fn time(wire: Option<WireTime>) -> Option<Timestamp> {
    wire.as_ref().map(wire::timestamp)
}

/// The text of an optional time.
pub(crate) fn shown(time: Option<Timestamp>) -> String {
    time.map(|t| t.to_string()).unwrap_or_default()
}

fn some(text: String) -> Option<String> {
    Some(text).filter(|t| !t.is_empty())
}
