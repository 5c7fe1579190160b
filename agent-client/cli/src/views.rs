//! The JSON that programs read: one struct for each kind of answer, with keys that never change.
//! Only [`JoinTokenView`] and [`IssuedView`] carry a secret.

use std::collections::BTreeMap;

use serde::Serialize;
use taskpass_client::{
    AgentState, Anchor, CircuitState, CredentialState, EndedTask, IssuedCredential, JoinTokenState,
    ProviderState, Receipt, RevocationClass, RevokeCause, Task, TaskDetails,
};
use taskpass_core::{Scope, Timestamp};
use taskpass_proto::v1;

use crate::{output, wire::time};

type Pairs = BTreeMap<String, String>;

/// The words for a credential in the state `abandoned`.
pub(crate) const NOTHING_ISSUED: &str = "nothing was issued";

/// `agent token`.
#[derive(Serialize)]
pub(crate) struct JoinTokenView {
    pub(crate) join_token: String,
    pub(crate) id: String,
    pub(crate) agent: String,
    pub(crate) expires_at: Option<Timestamp>,
}

/// `join-token list` and `join-token withdraw`.
#[derive(Serialize)]
pub(crate) struct KnownJoinTokenView {
    pub(crate) id: String,
    pub(crate) agent: String,
    pub(crate) state: String,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) created_by: String,
}

/// `agent freeze` and `agent retire`.
#[derive(Serialize)]
pub(crate) struct StoppedView {
    #[serde(flatten)]
    pub(crate) agent: AgentView,
    pub(crate) task_ids: Vec<String>,
    pub(crate) receipts: Vec<ReceiptView>,
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
    pub(crate) state: String,
    pub(crate) changed_at: Option<Timestamp>,
    pub(crate) changed_by: Option<String>,
    pub(crate) change_reason: Option<String>,
    pub(crate) owner_departed: bool,
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
    pub(crate) heartbeat_seconds: u64,
    pub(crate) parent: Option<String>,
    pub(crate) depth: u32,
    pub(crate) max_credentials: u32,
    pub(crate) labels: Pairs,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) receipts: Option<Vec<ReceiptView>>,
    /// The anchors for which an ending task still waits.
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
    pub(crate) identity_until: Option<Timestamp>,
    pub(crate) proof: Option<String>,
}

#[derive(Serialize)]
pub(crate) struct EndedView {
    pub(crate) task_id: String,
    pub(crate) state: String,
    pub(crate) end_cause: Option<String>,
    pub(crate) receipts: Vec<ReceiptView>,
}

/// `credential issue`.
#[derive(Serialize)]
pub(crate) struct IssuedView<'a> {
    pub(crate) credential_id: String,
    pub(crate) role: String,
    pub(crate) expires_at: Timestamp,
    pub(crate) revocation_class: String,
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
    pub(crate) identity_until: Option<Timestamp>,
}

#[derive(Serialize)]
pub(crate) struct ProviderView {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) state: String,
    pub(crate) circuit: String,
    pub(crate) paused_roles: Vec<String>,
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
    pub(crate) max_total_ttl_seconds: Option<u32>,
    pub(crate) impact: u32,
    pub(crate) environment: Option<String>,
    pub(crate) data_classes: Vec<String>,
    pub(crate) revocation_class: String,
    pub(crate) renewable: bool,
    pub(crate) params: Pairs,
    pub(crate) required_params: Vec<String>,
    pub(crate) env: Pairs,
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
            state: AgentState::from(agent.state).to_string(),
            changed_at: time(agent.changed_at),
            changed_by: some(agent.changed_by),
            change_reason: some(agent.change_reason),
            owner_departed: agent.owner_departed,
            open_tasks: agent.open_tasks,
            live_credentials: agent.live_credentials,
        }
    }
}

impl From<v1::JoinToken> for KnownJoinTokenView {
    fn from(token: v1::JoinToken) -> Self {
        Self {
            id: token.id,
            agent: token.agent,
            state: JoinTokenState::from(token.state).to_string(),
            expires_at: time(token.expires_at),
            created_by: token.created_by,
        }
    }
}

impl From<v1::FreezeAgentResponse> for StoppedView {
    fn from(reply: v1::FreezeAgentResponse) -> Self {
        Self {
            agent: AgentView::from(reply.agent.unwrap_or_default()),
            task_ids: reply.task_ids,
            receipts: reply.receipts.into_iter().map(ReceiptView::from).collect(),
        }
    }
}

impl From<v1::Receipt> for ReceiptView {
    fn from(receipt: v1::Receipt) -> Self {
        Self {
            credential_id: receipt.credential_id,
            role: receipt.role,
            state: CredentialState::from(receipt.state).to_string(),
            revocation_class: RevocationClass::from(receipt.revocation_class).to_string(),
            took_ms: receipt.took_ms,
            may_live_until: time(receipt.may_live_until),
            identity_until: time(receipt.identity_until),
            proof: some(receipt.proof),
        }
    }
}

impl From<Task> for TaskView {
    fn from(task: Task) -> Self {
        Self {
            task_id: task.id.to_string(),
            agent: task.agent.to_string(),
            purpose: task.purpose,
            requester: task.requester,
            self_declared: task.self_declared,
            roles: task
                .roles
                .into_iter()
                .map(|(role, scope)| TaskRoleView {
                    role: role.to_string(),
                    scope: pairs_of(&scope),
                })
                .collect(),
            state: task.state.to_string(),
            end_cause: task.end_cause.map(|cause| cause.to_string()),
            started_at: Some(task.started_at),
            deadline: Some(task.deadline),
            ending_at: task.ending_at,
            ended_at: task.ended_at,
            heartbeat_seconds: task.heartbeat.map_or(0, |interval| interval.as_secs()),
            parent: task.parent.map(|parent| parent.to_string()),
            depth: task.depth,
            max_credentials: task.max_credentials,
            labels: task.labels,
            receipts: None,
            anchors: Vec::new(),
        }
    }
}

impl From<TaskDetails> for TaskView {
    fn from(details: TaskDetails) -> Self {
        let receipts = details.receipts.into_iter().map(ReceiptView::from);
        Self {
            receipts: Some(receipts.collect()),
            anchors: details.anchors.into_iter().map(AnchorView::from).collect(),
            ..Self::from(details.task)
        }
    }
}

impl From<Anchor> for AnchorView {
    fn from(anchor: Anchor) -> Self {
        Self {
            provider: anchor.provider.to_string(),
            may_live_until: anchor.may_live_until,
        }
    }
}

impl From<Receipt> for ReceiptView {
    fn from(receipt: Receipt) -> Self {
        Self {
            credential_id: receipt.credential_id.to_string(),
            role: receipt.role.to_string(),
            state: receipt.state.to_string(),
            revocation_class: receipt.revocation_class.to_string(),
            took_ms: u64::try_from(receipt.took.as_millis()).unwrap_or(u64::MAX),
            may_live_until: receipt.may_live_until,
            identity_until: receipt.identity_until,
            proof: some(receipt.proof),
        }
    }
}

impl From<EndedTask> for EndedView {
    fn from(ended: EndedTask) -> Self {
        Self {
            task_id: ended.task_id.to_string(),
            state: ended.state.to_string(),
            end_cause: ended.end_cause.map(|cause| cause.to_string()),
            receipts: ended.receipts.into_iter().map(ReceiptView::from).collect(),
        }
    }
}

impl<'a> From<&'a IssuedCredential> for IssuedView<'a> {
    fn from(issued: &'a IssuedCredential) -> Self {
        Self {
            credential_id: issued.id.to_string(),
            role: issued.role.to_string(),
            expires_at: issued.expires_at,
            revocation_class: issued.revocation_class.to_string(),
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
            state: CredentialState::from(credential.state).to_string(),
            revocation_class: RevocationClass::from(credential.revocation_class).to_string(),
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
            cause: RevokeCause::from(revocation.cause).to_string(),
            since: time(revocation.since),
            attempts: revocation.attempts,
            retry_at: time(revocation.retry_at),
            last_error: some(revocation.last_error),
            proof: some(revocation.proof),
            done_at: time(revocation.done_at),
            may_live_until: time(revocation.may_live_until),
            identity_until: time(revocation.identity_until),
        }
    }
}

impl From<v1::Provider> for ProviderView {
    fn from(provider: v1::Provider) -> Self {
        Self {
            name: provider.name,
            kind: provider.kind,
            state: ProviderState::from(provider.state).to_string(),
            circuit: CircuitState::from(provider.circuit).to_string(),
            paused_roles: provider.paused_roles,
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
            max_total_ttl_seconds: role.max_total_ttl_seconds,
            impact: role.impact,
            environment: some(role.environment),
            data_classes: role.data_classes,
            revocation_class: RevocationClass::from(role.revocation_class).to_string(),
            renewable: role.renewable,
            params: role.params.into_iter().collect(),
            required_params: role.required_params,
            env: role.env.into_iter().collect(),
        }
    }
}

fn pairs_of(scope: &Scope) -> Pairs {
    scope
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_owned()))
        .collect()
}

/// The text of an optional time.
pub(crate) fn shown(time: Option<Timestamp>) -> String {
    time.map(|t| t.to_string()).unwrap_or_default()
}

fn some(text: String) -> Option<String> {
    Some(text).filter(|t| !t.is_empty())
}

/// The identity that a revoked credential still has, although its holder is denied all access.
pub(crate) fn identity_words(receipt: &ReceiptView) -> Option<String> {
    let until = receipt.identity_until?;
    let is_denied = receipt.state == CredentialState::RevokedVerified.to_string();
    let access = if is_denied { "access denied, " } else { "" };
    Some(format!(
        "{access}identity until {until}: services that ask the back end who its holder is may accept it as a login"
    ))
}

/// The receipts as a table.
pub(crate) fn receipt_table(receipts: &[ReceiptView]) -> String {
    let rows = receipts.iter().map(|r| {
        vec![
            r.credential_id.clone(),
            r.role.clone(),
            r.state.clone(),
            r.revocation_class.clone(),
            format!("{} ms", r.took_ms),
            shown(r.may_live_until),
        ]
    });
    let headings = [
        "credential",
        "role",
        "state",
        "class",
        "took",
        "may live until",
    ];
    let mut table = output::table(&headings, rows.collect());
    for receipt in receipts {
        if let Some(words) = identity_words(receipt) {
            table.push_str(&format!("{}: {words}\n", receipt.credential_id));
        }
    }
    let abandoned = CredentialState::Abandoned.to_string();
    if receipts.iter().any(|r| r.state == abandoned) {
        return format!("{table}{abandoned}: {NOTHING_ISSUED}\n");
    }
    table
}
