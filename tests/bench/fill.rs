//! Makes history without a running broker: commits events as the engine does, through the store's
//! own guards, into the ledger and index of an installation.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::json;
use taskpass_core::{
    Actor, Agent, Clock, Credential, CredentialId, CredentialIntent, DecisionRecord, EndCause,
    Entropy, Event, Labels, Outcome, Requester, RevocationClass, RoleName, Scope, SystemClock,
    SystemEntropy, Task, TaskId, TaskState,
};
use taskpass_ledger::{Reader, SigningKey};
use taskpass_store::{Batch, Config, LogStore, Store as _};
use taskpass_tests::{Installation, wire::runtime};

use crate::caller::{CERT, STATIC};

/// Tasks in one commit; each makes eleven entries or more.
const TASKS_PER_COMMIT: usize = 100;
/// Credentials of a task: of an ended one, and of an open one.
const ENDED: usize = 2;
const OPEN: usize = 10;
/// Longer than any measurement.
const LIFE: Duration = Duration::from_secs(8 * 3600);

/// An installation's store, opened in place of its broker.
pub(crate) struct Fill {
    store: LogStore,
    ledger: Reader,
    clock: Arc<SystemClock>,
    entropy: SystemEntropy,
}

impl Fill {
    pub(crate) fn open(installation: &Installation) -> Self {
        let data = installation.home().join("data");
        let key = SigningKey::load("taskpass/acme.test", &data.join("ledger.key"));
        let clock = Arc::new(SystemClock::new());
        let key = key.expect("the ledger's key is there");
        let opened = LogStore::open(&Config::new(data), key, clock.clone());
        let opened = opened.expect("the store opens");
        let fill = Self {
            store: opened.store,
            ledger: opened.ledger,
            clock,
            entropy: SystemEntropy::new(),
        };
        fill.register();
        fill
    }

    pub(crate) fn close(self) {
        let closed = runtime().block_on(self.store.close());
        closed.expect("the store closes");
    }

    pub(crate) fn reader(&self) -> Reader {
        self.ledger.clone()
    }

    /// Tasks that started and ended, until the ledger has so many entries.
    pub(crate) fn history(&self, entries: u64) {
        while self.reader().size() < entries {
            let events = (0..TASKS_PER_COMMIT).flat_map(|_| self.ended_task());
            self.commit(events.collect());
        }
    }

    /// Open tasks with so many live credentials in all.
    pub(crate) fn live(&self, credentials: usize) {
        let tasks: Vec<()> = vec![(); credentials / OPEN];
        for some in tasks.chunks(TASKS_PER_COMMIT) {
            let events = some.iter().flat_map(|()| self.open_task(CERT, OPEN).1);
            self.commit(events.collect());
        }
    }

    /// One open task with so many static credentials, which exist only as records. Returns its id.
    pub(crate) fn task_of_static(&self, credentials: usize) -> String {
        let (task, events) = self.open_task(STATIC, credentials);
        for some in events.chunks(TASKS_PER_COMMIT * OPEN) {
            self.commit(some.to_vec());
        }
        task.id.to_string()
    }

    fn commit(&self, events: Vec<Event>) {
        let committed = runtime().block_on(self.store.commit(Batch::new(events)));
        committed.expect("the events are admitted");
    }

    fn register(&self) {
        let agent = Agent {
            name: "filler".parse().expect("a name"),
            owner: "alice@acme.test".parse().expect("an owner"),
            team: None,
            class: None,
            labels: Labels::default(),
            registered_at: self.clock.now(),
            registered_by: "spiffe://acme.test/operator/admin"
                .parse()
                .expect("a SPIFFE ID"),
            state: taskpass_core::AgentState::Active,
            changed: None,
            owner_departed: false,
        };
        let found = runtime().block_on(self.store.agent(&agent.name));
        if found.expect("the store answers").is_none() {
            let idempotency = None;
            self.commit(vec![Event::AgentRegistered { agent, idempotency }]);
        }
    }

    fn open_task(&self, role: &str, credentials: usize) -> (Task, Vec<Event>) {
        let role: RoleName = role.parse().expect("a role");
        let task = self.task(&role);
        let started = Event::TaskStarted {
            task: task.clone(),
            idempotency: None,
        };
        let mut events = vec![decided(&role), started];
        for _ in 0..credentials {
            events.extend(self.issued(&task, &role).1);
        }
        (task, events)
    }

    fn ended_task(&self) -> Vec<Event> {
        let role: RoleName = CERT.parse().expect("a role");
        let task = self.task(&role);
        let started = Event::TaskStarted {
            task: task.clone(),
            idempotency: None,
        };
        let mut events = vec![decided(&role), started];
        let mut revoked = Vec::new();
        for _ in 0..ENDED {
            let (credential, issued) = self.issued(&task, &role);
            events.extend(issued);
            revoked.push(Event::CredentialRevoked {
                credential,
                verified: true,
                proof: "Vault revoked the task's token, and does not know the lease any more"
                    .to_owned(),
                took_ms: 12,
                may_live_until: None,
                identity_until: None,
            });
        }
        events.push(decided(&role));
        events.push(Event::TaskEnding {
            task: task.id,
            cause: EndCause::Completed,
            by: Actor::Broker,
        });
        events.extend(revoked);
        events.push(Event::TaskEnded { task: task.id });
        events
    }

    fn task(&self, role: &RoleName) -> Task {
        let now = self.clock.now();
        Task {
            id: TaskId::generate(self.clock.as_ref(), &self.entropy).expect("an id"),
            agent: "filler".parse().expect("a name"),
            purpose: "measure how fast this is".parse().expect("a text"),
            requester: Requester::SelfDeclared { name: None },
            roles: BTreeMap::from([(role.clone(), Scope::default())]),
            started_at: now,
            deadline: now.plus(LIFE),
            heartbeat: None,
            parent: None,
            depth: 0,
            max_credentials: 1_000_000,
            labels: Labels::default(),
            state: TaskState::Open,
            end_cause: None,
            ending_at: None,
            ended_at: None,
        }
    }

    /// Decision, intent and outcome of one credential.
    fn issued(&self, task: &Task, role: &RoleName) -> (CredentialId, [Event; 3]) {
        let now = self.clock.now();
        let is_static = role.name() == "static";
        let random = self.entropy.next_u64().expect("randomness");
        let handle = if is_static {
            json!({ "static": "secret/ci" })
        } else {
            json!({ "lease_id": format!("pki/issue/ci/{random:024x}") })
        };
        let revocation_class = if is_static {
            RevocationClass::None
        } else {
            RevocationClass::Immediate
        };
        let id = CredentialId::generate(self.clock.as_ref(), &self.entropy).expect("an id");
        let credential = Credential::from(CredentialIntent {
            id,
            task: task.id,
            agent: task.agent.clone(),
            role: role.clone(),
            scope: Scope::from_pairs([("common_name", "a.bench.test")]).expect("a scope"),
            revocation_class,
            intended_at: now,
            expires_at: now.plus(LIFE),
            anchor_key: None,
            handle: None,
        });
        let issued = Event::CredentialIssued {
            credential: id,
            expires_at: credential.expires_at,
            revocation_class,
            anchor: None,
            handle: Some(handle.into()),
            took_ms: 3,
        };
        let intended = Event::CredentialIntended {
            credential: Box::new(credential),
            idempotency: None,
        };
        (id, [decided(role), intended, issued])
    }
}

fn decided(role: &RoleName) -> Event {
    let decision = DecisionRecord {
        principal: "spiffe://acme.test/agent/filler".to_owned(),
        action: "credential.issue".to_owned(),
        resource: format!("role {role}"),
        outcome: Outcome::Allow,
        reason: "permitted by policy `agents-draw-from-their-tasks`".to_owned(),
        policy_set: "0".repeat(64),
        policies: vec!["agents-draw-from-their-tasks".to_owned()],
        errors: Vec::new(),
        input_sha256: "0".repeat(64),
        duration_us: 60,
    };
    Event::Decided {
        decision,
        repeated: None,
    }
}
