//! The callers of a test: agents and an operator, with SVIDs that count.

use std::{sync::Arc, time::Duration};

use taskpass_core::{
    Agent, AgentName, Event, Labels, OperatorName, RootNumber, SpiffeId, Svid, SvidState,
};

use super::NOW;
use crate::Caller;

const SERIAL: &str = "00000000000000000000000000000001";
const OPERATOR_SERIAL: &str = "00000000000000000000000000000002";

pub(super) fn operator(name: OperatorName) -> Caller {
    Caller::Operator {
        name,
        id: "spiffe://acme.test/operator/admin".parse().unwrap(),
        serial: OPERATOR_SERIAL.to_owned(),
    }
}

/// The name of [`Bench::agent`].
pub(crate) fn builder_name() -> AgentName {
    "builder".parse().unwrap()
}

pub(super) fn builder() -> (Agent, Caller) {
    agent("builder")
}

pub(super) fn agent(name: &str) -> (Agent, Caller) {
    let id: SpiffeId = format!("spiffe://acme.test/agent/{name}").parse().unwrap();
    let agent = Agent {
        name: name.parse().unwrap(),
        owner: "alice@acme.test".parse().unwrap(),
        team: None,
        class: None,
        labels: Labels::default(),
        registered_at: NOW,
        registered_by: id.clone(),
        state: taskpass_core::AgentState::Active,
        changed: None,
        owner_departed: false,
    };
    let serial = match name {
        "builder" => SERIAL.to_owned(),
        // No two agents of a test have names of the same length.
        other => format!("{:032}", 100 + other.len()),
    };
    let caller = Caller::Agent {
        agent: Arc::new(agent.clone()),
        id,
        serial,
        bound_to: None,
    };
    (agent, caller)
}

pub(super) fn svid(agent: &AgentName, serial: &str) -> Svid {
    Svid {
        serial: serial.to_owned(),
        agent: agent.clone(),
        task: None,
        key_sha256: String::new(),
        not_before: NOW,
        not_after: NOW.plus(Duration::from_secs(86_400)),
        state: SvidState::Pending,
        root: RootNumber::FIRST,
    }
}

pub(super) fn svid_issued(svid: Svid) -> Event {
    Event::SvidIssued {
        svid,
        join_token: None,
        evidence: None,
        renews: None,
        origin: None,
    }
}

pub(super) fn first_events(agent: Agent) -> [Event; 4] {
    let svid = svid(&agent.name, SERIAL);
    [
        Event::Initialized {
            trust_domain: "acme.test".parse().unwrap(),
            version: "0".to_owned(),
            root: None,
        },
        Event::OperatorSvidIssued {
            operator: "admin".parse().unwrap(),
            serial: OPERATOR_SERIAL.to_owned(),
            key_sha256: String::new(),
            not_after: NOW.plus(Duration::from_secs(86_400)),
            renews: None,
            local: false,
            origin: Some(taskpass_core::SvidOrigin::Machine),
            root: RootNumber::FIRST,
        },
        Event::AgentRegistered {
            agent,
            idempotency: None,
        },
        svid_issued(svid),
    ]
}
