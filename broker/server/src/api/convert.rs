//! Domain types to messages.

use std::collections::{BTreeMap, HashMap};

use prost_types::Timestamp as WireTime;
use taskpass_core::{
    AgentState, Anchor, CredentialState, EndCause, EnvName, Labels, Requester, RevocationClass,
    RevokeCause, RoleSpec, Scope, ShownState, Task, TaskState, Timestamp, Ttl,
};
use taskpass_engine::{
    AgentView, CredentialView, IssuedSvid, JoinTokenView, ProviderState, ProviderView, Receipt,
};
use taskpass_proto::v1 as pb;
use taskpass_store::JoinTokenState;

pub(super) fn time(at: Timestamp) -> WireTime {
    let nanos = at.millis().rem_euclid(1000).saturating_mul(1_000_000);
    WireTime {
        seconds: at.seconds(),
        nanos: i32::try_from(nanos).unwrap_or(0),
    }
}

pub(super) fn scope(scope: &Scope) -> HashMap<String, String> {
    scope
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_owned()))
        .collect()
}

fn or_empty(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn labels(labels: &Labels) -> HashMap<String, String> {
    labels
        .iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

pub(super) fn agent(view: &AgentView) -> pb::Agent {
    let agent = &view.agent;
    pb::Agent {
        name: agent.name.to_string(),
        owner: agent.owner.to_string(),
        team: or_empty(agent.team.as_ref()),
        class: or_empty(agent.class.as_ref()),
        labels: labels(&agent.labels),
        registered_at: Some(time(agent.registered_at)),
        registered_by: agent.registered_by.to_string(),
        open_tasks: view.usage.open_tasks,
        live_credentials: view.usage.live_credentials,
        state: match agent.state {
            AgentState::Active => pb::AgentState::Active,
            AgentState::Frozen => pb::AgentState::Frozen,
            AgentState::Retired => pb::AgentState::Retired,
        }
        .into(),
        changed_at: agent.changed.as_ref().map(|change| time(change.at)),
        changed_by: or_empty(agent.changed.as_ref().map(|change| &change.by)),
        change_reason: or_empty(agent.changed.as_ref().map(|change| &change.reason)),
        owner_departed: agent.owner_departed,
    }
}

pub(super) fn join_token(view: &JoinTokenView) -> pb::JoinToken {
    pb::JoinToken {
        id: view.token.id.to_string(),
        agent: view.token.agent.to_string(),
        state: match view.state {
            JoinTokenState::Unused => pb::JoinTokenState::Unused,
            JoinTokenState::Used => pb::JoinTokenState::Used,
            JoinTokenState::Withdrawn => pb::JoinTokenState::Withdrawn,
            JoinTokenState::Expired => pb::JoinTokenState::Expired,
        }
        .into(),
        expires_at: Some(time(view.token.expires_at)),
        created_by: view.token.created_by.to_string(),
    }
}

pub(super) fn task(task: &Task) -> pb::Task {
    let requester = match &task.requester {
        Requester::SelfDeclared { name } => or_empty(name.as_ref()),
        Requester::Delegated { parent } => format!("parent:{parent}"),
    };
    pb::Task {
        id: task.id.to_string(),
        agent: task.agent.to_string(),
        purpose: task.purpose.to_string(),
        requester,
        self_declared: task.requester.is_self_declared(),
        roles: task
            .roles
            .iter()
            .map(|(role, pins)| pb::TaskRole {
                role: role.to_string(),
                scope: scope(pins),
            })
            .collect(),
        started_at: Some(time(task.started_at)),
        deadline: Some(time(task.deadline)),
        heartbeat_seconds: task.heartbeat.map_or(0, |interval| interval.seconds()),
        parent: or_empty(task.parent),
        depth: u32::from(task.depth),
        max_credentials: task.max_credentials,
        labels: labels(&task.labels),
        state: task_state(task.state).into(),
        end_cause: end_cause(task.end_cause).into(),
        ending_at: task.ending_at.map(time),
        ended_at: task.ended_at.map(time),
    }
}

pub(super) const fn task_state(state: TaskState) -> pb::TaskState {
    match state {
        TaskState::Open => pb::TaskState::Open,
        TaskState::Ending => pb::TaskState::Ending,
        TaskState::Ended => pb::TaskState::Ended,
    }
}

/// Unspecified while the task has not begun to end.
pub(super) const fn end_cause(cause: Option<EndCause>) -> pb::EndCause {
    match cause {
        None => pb::EndCause::Unspecified,
        Some(EndCause::Completed) => pb::EndCause::Completed,
        Some(EndCause::Cancelled) => pb::EndCause::Cancelled,
        Some(EndCause::Deadline) => pb::EndCause::Deadline,
        Some(EndCause::HeartbeatLost) => pb::EndCause::HeartbeatLost,
        Some(EndCause::ParentEnded) => pb::EndCause::ParentEnded,
        Some(EndCause::Frozen) => pb::EndCause::Frozen,
        Some(EndCause::IdentityReplaced) => pb::EndCause::IdentityReplaced,
    }
}

const fn credential_state(state: ShownState) -> pb::CredentialState {
    match state {
        ShownState::Is(CredentialState::Intended) => pb::CredentialState::Intended,
        ShownState::Is(CredentialState::Active) => pb::CredentialState::Active,
        ShownState::Is(CredentialState::Revoking) => pb::CredentialState::Revoking,
        ShownState::Stuck => pb::CredentialState::Stuck,
        ShownState::Is(CredentialState::RevokedVerified) => pb::CredentialState::RevokedVerified,
        ShownState::Is(CredentialState::RevokedUnverified) => {
            pb::CredentialState::RevokedUnverified
        }
        ShownState::Is(CredentialState::Expired) => pb::CredentialState::Expired,
        ShownState::Is(CredentialState::Abandoned) => pb::CredentialState::Abandoned,
    }
}

pub(super) const fn revocation_class(class: RevocationClass) -> pb::RevocationClass {
    match class {
        RevocationClass::Immediate => pb::RevocationClass::Immediate,
        RevocationClass::Denylist => pb::RevocationClass::Denylist,
        RevocationClass::Inherits => pb::RevocationClass::Inherits,
        RevocationClass::ExpiryOnly => pb::RevocationClass::ExpiryOnly,
        RevocationClass::None => pb::RevocationClass::None,
    }
}

pub(super) fn credential(view: &CredentialView) -> pb::Credential {
    let credential = &view.credential;
    pb::Credential {
        id: credential.id.to_string(),
        task_id: credential.task.to_string(),
        agent: credential.agent.to_string(),
        role: credential.role.to_string(),
        scope: scope(&credential.scope),
        state: credential_state(credential.shown()).into(),
        revocation_class: revocation_class(credential.revocation_class).into(),
        issued_at: credential.issued_at().map(time),
        expires_at: Some(time(credential.ends_at())),
        revocation: credential.revocation.as_deref().map(revocation),
        renewable: view.renewable,
    }
}

fn revocation(revocation: &taskpass_core::Revocation) -> pb::Revocation {
    let cause = match revocation.cause {
        RevokeCause::Requested => pb::RevokeCause::Requested,
        RevokeCause::TaskEnded(_) => pb::RevokeCause::TaskEnded,
        RevokeCause::OutcomeUnknown => pb::RevokeCause::OutcomeUnknown,
        RevokeCause::NotDelivered => pb::RevokeCause::NotDelivered,
        RevokeCause::Expired => pb::RevokeCause::Expired,
    };
    pb::Revocation {
        cause: cause.into(),
        since: Some(time(revocation.since)),
        attempts: revocation.attempts,
        retry_at: revocation
            .done_at
            .is_none()
            .then(|| time(revocation.retry_at)),
        last_error: revocation.last_error.clone().unwrap_or_default(),
        proof: revocation.proof.clone().unwrap_or_default(),
        done_at: revocation.done_at.map(time),
        may_live_until: revocation.may_live_until.map(time),
        identity_until: revocation.identity_until.map(time),
    }
}

pub(super) fn receipt(receipt: &Receipt) -> pb::Receipt {
    pb::Receipt {
        credential_id: receipt.credential.to_string(),
        role: receipt.role.to_string(),
        state: credential_state(receipt.state).into(),
        revocation_class: revocation_class(receipt.revocation_class).into(),
        took_ms: u64::try_from(receipt.took.as_millis()).unwrap_or(u64::MAX),
        may_live_until: receipt.may_live_until.map(time),
        identity_until: receipt.identity_until.map(time),
        proof: receipt.proof.clone(),
    }
}

pub(super) fn anchor(anchor: &Anchor) -> pb::Anchor {
    pb::Anchor {
        provider: anchor.provider.to_string(),
        may_live_until: Some(time(anchor.expires_at)),
    }
}

pub(super) fn svid(issued: &IssuedSvid) -> pb::X509Svid {
    pb::X509Svid {
        spiffe_id: issued.id.to_string(),
        chain: issued
            .signed
            .chain_der
            .iter()
            .map(|der| der.as_ref().to_vec())
            .collect(),
        expires_at: Some(time(issued.signed.not_after)),
        serial: issued.signed.serial.clone(),
    }
}

pub(super) fn provider(view: &ProviderView) -> pb::Provider {
    pb::Provider {
        name: view.name.to_string(),
        kind: view.kind.to_owned(),
        circuit: if view.status.circuit_open {
            pb::CircuitState::Open
        } else {
            pb::CircuitState::Closed
        }
        .into(),
        in_flight: u32::try_from(view.status.in_flight()).unwrap_or(u32::MAX),
        live_credentials: view.usage.live_credentials,
        pending_revocations: view.usage.revoking,
        roles: view.roles.iter().map(role).collect(),
        state: match view.state {
            ProviderState::Configured => pb::ProviderState::Configured,
            ProviderState::Retired => pb::ProviderState::Retired,
        }
        .into(),
        paused_roles: texts(&view.status.paused_roles),
    }
}

fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

fn role(spec: &RoleSpec) -> pb::Role {
    pb::Role {
        name: spec.name.to_string(),
        r#type: spec.kind.clone(),
        max_ttl_seconds: spec.max_ttl.seconds(),
        impact: u32::from(u8::from(spec.impact)),
        environment: spec.environment.clone(),
        data_classes: spec.data_classes.clone(),
        revocation_class: revocation_class(spec.revocation_class).into(),
        renewable: spec.renewable,
        params: spec
            .params
            .iter()
            .map(|(name, rule)| (name.to_string(), rule.to_string()))
            .collect(),
        required_params: spec.required.iter().map(ToString::to_string).collect(),
        env: env(&spec.env),
        max_total_ttl_seconds: spec.max_total_ttl.map(Ttl::seconds),
    }
}

/// Variables by the fields that set them.
pub(super) fn env(env: &BTreeMap<String, EnvName>) -> HashMap<String, String> {
    let pair = |(field, name): (&String, &EnvName)| (field.clone(), name.to_string());
    env.iter().map(pair).collect()
}
