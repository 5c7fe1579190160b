//! Records for tests: one agent, its task, roles of every impact, a credential of each.

use std::{collections::BTreeMap, net::IpAddr};

use taskpass_core::{
    Agent, Credential, CredentialIntent, Impact, Labels, ManualClock, OperatorName, Requester,
    RevocationClass, RoleSpec, Scope, SpiffeId, Task, TaskId, TaskState, Timestamp, TrustDomain,
    Ttl,
};

use crate::{
    Action, CredentialRequest, Decision, Facts, PolicyFile, PolicySet, Principal, Resource,
    StarterOptions, starter_policy,
};

/// 2026-11-22T10:00:00Z, a Sunday morning.
pub(crate) const NOW: Timestamp = Timestamp::from_millis(1_795_341_600_000);

/// Records that a test changes, and asks policies about.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) domain: TrustDomain,
    pub(crate) admin: OperatorName,
    pub(crate) agent: Agent,
    pub(crate) task: Task,
    pub(crate) scope: Scope,
    pub(crate) now: Timestamp,
    pub(crate) ip: IpAddr,
    /// Live credentials of the agent.
    pub(crate) live: u64,
}

impl World {
    pub(crate) fn new() -> Self {
        let agent = agent("builder");
        Self {
            domain: "acme.test".parse().unwrap(),
            admin: "admin".parse().unwrap(),
            task: task(&agent),
            agent,
            scope: Scope::from_pairs([("bucket", "logs")]).unwrap(),
            now: NOW,
            ip: [10, 1, 2, 3].into(),
            live: 2,
        }
    }

    /// A request of the agent, outside any task.
    pub(crate) fn facts<'a>(&'a self, action: Action, resource: Resource<'a>) -> Facts<'a> {
        Facts {
            trust_domain: &self.domain,
            principal: Principal::Agent {
                agent: &self.agent,
                bound_to: None,
            },
            action,
            resource,
            now: self.now,
            ip: Some(self.ip),
            request: self.request_for(action),
        }
    }

    pub(crate) fn request_for(&self, action: Action) -> Option<CredentialRequest<'_>> {
        matches!(
            action,
            Action::TaskStart | Action::CredentialIssue | Action::CredentialRenew
        )
        .then(|| CredentialRequest {
            task: &self.task,
            ttl: Ttl::from_seconds(900).unwrap(),
            scope: &self.scope,
            live_in_task: 1,
            live_of_agent: self.live,
        })
    }

    pub(crate) fn starter(&self) -> PolicySet {
        PolicySet::parse(&[self.starter_file()]).unwrap()
    }

    /// The starter policy, and `grants`.
    pub(crate) fn starter_with(&self, grants: &str) -> PolicySet {
        PolicySet::parse(&[self.starter_file(), file("grants.cedar", grants)]).unwrap()
    }

    pub(crate) fn starter_file(&self) -> PolicyFile {
        starter_policy(&StarterOptions { admin: &self.admin })
    }
}

pub(crate) fn agent(name: &str) -> Agent {
    Agent {
        name: name.parse().unwrap(),
        owner: "alice@acme.test".parse().unwrap(),
        team: Some("build".parse().unwrap()),
        class: Some("deployer".parse().unwrap()),
        labels: Labels::from_pairs([("tier", "batch")]).unwrap(),
        registered_at: NOW,
        registered_by: operator_id(),
        state: taskpass_core::AgentState::Active,
        changed: None,
        owner_departed: false,
    }
}

pub(crate) fn task(agent: &Agent) -> Task {
    Task {
        id: task_id(1),
        agent: agent.name.clone(),
        purpose: "nightly build".parse().unwrap(),
        requester: Requester::SelfDeclared { name: None },
        roles: (0..=3)
            .map(|impact| (role(impact).name, Scope::default()))
            .collect(),
        started_at: NOW,
        deadline: NOW.plus(std::time::Duration::from_secs(1800)),
        heartbeat: None,
        parent: None,
        depth: 0,
        max_credentials: 10,
        labels: Labels::default(),
        state: TaskState::Open,
        end_cause: None,
        ending_at: None,
        ended_at: None,
    }
}

pub(crate) fn task_id(number: u64) -> TaskId {
    format!("t{number:016}").parse().unwrap()
}

/// The role `vault-main/impact-N`.
pub(crate) fn role(impact: u8) -> RoleSpec {
    RoleSpec {
        name: format!("vault-main/impact-{impact}").parse().unwrap(),
        kind: "dynamic".to_owned(),
        params: BTreeMap::new(),
        required: Vec::new(),
        max_ttl: Ttl::from_seconds(900).unwrap(),
        max_total_ttl: None,
        impact: Impact::try_from(impact).unwrap(),
        environment: "prod".to_owned(),
        data_classes: vec!["customer".to_owned()],
        revocation_class: RevocationClass::Immediate,
        renewable: true,
        env: BTreeMap::new(),
    }
}

/// A credential of `role` in `task`.
pub(crate) fn credential(task: &Task, role: &RoleSpec) -> Credential {
    let mut credential = Credential::from(CredentialIntent {
        id: "c0000000000000001".parse().unwrap(),
        task: task.id,
        agent: task.agent.clone(),
        role: role.name.clone(),
        scope: Scope::default(),
        revocation_class: role.revocation_class,
        intended_at: NOW,
        expires_at: NOW,
        anchor_key: None,
        handle: None,
    });
    credential.record_issued(NOW, NOW);
    credential
}

pub(crate) fn operator_id() -> SpiffeId {
    "spiffe://acme.test/operator/admin".parse().unwrap()
}

/// A set of one file, `test.cedar`.
pub(crate) fn policies(text: &str) -> PolicySet {
    PolicySet::parse(&[file("test.cedar", text)]).unwrap()
}

pub(crate) fn file(name: &str, text: &str) -> PolicyFile {
    PolicyFile {
        name: name.to_owned(),
        text: text.to_owned(),
    }
}

pub(crate) fn decide(policies: &PolicySet, facts: &Facts<'_>) -> Decision {
    policies.decide(facts, &ManualClock::new(NOW))
}
