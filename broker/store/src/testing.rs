//! Records and events for tests, with as little in them as the rules allow.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use taskpass_core::{
    Actor, Agent, AgentName, AgentState, Anchor, AnchorId, AnchorState, Credential, CredentialId,
    CredentialIntent, EndCause, Event, IdempotencyKey, JoinToken, JoinTokenId, Labels, Requester,
    RevocationClass, RevokeCause, RoleName, RootNumber, Scope, SpiffeId, Svid, SvidOrigin,
    SvidState, Task, TaskId, TaskState, Timestamp,
};

use crate::{
    CommitError, Entry,
    state::{Change, State, UsedId, UsedIds},
};

pub(crate) const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// The 16 digits of an id that is the `n`th.
fn digits(n: u64) -> String {
    let alphabet: Vec<char> = "0123456789abcdefghjkmnpqrstvwxyz".chars().collect();
    let digit = |place: u32| alphabet[usize::try_from((n >> (5 * place)) & 31).unwrap()];
    let low: String = (0..12).rev().map(digit).collect();
    format!("01hx{low}")
}

pub(crate) fn task_id(n: u64) -> TaskId {
    format!("t{}", digits(n)).parse().unwrap()
}

pub(crate) fn credential_id(n: u64) -> CredentialId {
    format!("c{}", digits(n)).parse().unwrap()
}

pub(crate) fn anchor_id(n: u64) -> AnchorId {
    format!("a{}", digits(n)).parse().unwrap()
}

pub(crate) fn token_id(n: u64) -> JoinTokenId {
    format!("j{}", digits(n)).parse().unwrap()
}

pub(crate) fn agent_name(n: u64) -> AgentName {
    format!("agent-{n}").parse().unwrap()
}

pub(crate) fn admin() -> SpiffeId {
    "spiffe://acme.test/operator/admin".parse().unwrap()
}

pub(crate) fn role() -> RoleName {
    "vault-main/ci-db".parse().unwrap()
}

pub(crate) fn key(name: &str, request: &str) -> Option<IdempotencyKey> {
    Some(IdempotencyKey::new(admin(), name, request.as_bytes()).unwrap())
}

pub(crate) fn initialized() -> Event {
    Event::Initialized {
        trust_domain: "acme.test".parse().unwrap(),
        version: "0.1.0".to_owned(),
        root: None,
    }
}

pub(crate) fn agent(n: u64) -> Event {
    Event::AgentRegistered {
        agent: Agent {
            name: agent_name(n),
            owner: "alice@acme.test".parse().unwrap(),
            team: None,
            class: None,
            labels: Labels::default(),
            registered_at: NOW,
            registered_by: admin(),
            state: AgentState::Active,
            changed: None,
            owner_departed: false,
        },
        idempotency: None,
    }
}

pub(crate) fn frozen(n: u64) -> Event {
    Event::AgentFrozen {
        agent: agent_name(n),
        reason: "it misbehaves".parse().unwrap(),
        by: Actor::Caller(admin()),
    }
}

pub(crate) fn released(n: u64) -> Event {
    Event::AgentReleased {
        agent: agent_name(n),
        reason: "it was looked at".parse().unwrap(),
        by: Actor::Caller(admin()),
    }
}

pub(crate) fn retired(n: u64) -> Event {
    Event::AgentRetired {
        agent: agent_name(n),
        reason: "its work is over".parse().unwrap(),
        by: Actor::Caller(admin()),
    }
}

pub(crate) fn owner_departed(n: u64) -> Event {
    Event::AgentOwnerDeparted {
        agent: agent_name(n),
        owner: "alice@acme.test".parse().unwrap(),
        reason: "she left".parse().unwrap(),
        by: Actor::Caller(admin()),
    }
}

pub(crate) fn owner_changed(n: u64) -> Event {
    Event::AgentOwnerChanged {
        agent: agent_name(n),
        owner: "bob@acme.test".parse().unwrap(),
        previous: "alice@acme.test".parse().unwrap(),
        by: Actor::Caller(admin()),
    }
}

pub(crate) fn withdrawn(n: u64) -> Event {
    Event::JoinTokenWithdrawn {
        token: token_id(n),
        by: Actor::Caller(admin()),
    }
}

pub(crate) fn conflict(serial: &str) -> Event {
    Event::IdentityConflict {
        serial: serial.to_owned(),
        holder: "spiffe://acme.test/agent/agent-1".parse().unwrap(),
        ip: None,
    }
}

pub(crate) fn token(n: u64, of_agent: u64) -> Event {
    Event::JoinTokenCreated {
        token: JoinToken {
            id: token_id(n),
            agent: agent_name(of_agent),
            secret_sha256: JoinToken::digest_of(b"x"),
            expires_at: NOW.plus(HOUR),
            created_by: admin(),
            root: RootNumber::FIRST,
        },
        idempotency: None,
    }
}

pub(crate) fn svid(serial: &str, of_agent: u64, task: Option<TaskId>) -> Svid {
    Svid {
        serial: serial.to_owned(),
        agent: agent_name(of_agent),
        task,
        key_sha256: String::new(),
        not_before: NOW,
        not_after: NOW.plus(HOUR),
        state: SvidState::Pending,
        root: RootNumber::FIRST,
    }
}

pub(crate) fn svid_issued(svid: Svid) -> Event {
    Event::SvidIssued {
        origin: svid.task.map(|_| SvidOrigin::Task),
        svid,
        join_token: None,
        evidence: None,
        renews: None,
    }
}

pub(crate) fn renews(serial: &str, of_agent: u64, before: &str) -> Event {
    Event::SvidIssued {
        svid: svid(serial, of_agent, None),
        join_token: None,
        evidence: None,
        renews: Some(before.to_owned()),
        origin: Some(SvidOrigin::Renewal),
    }
}

/// A certificate of the operator `admin`.
pub(crate) fn operator_svid(serial: &str, renews: Option<&str>) -> Event {
    Event::OperatorSvidIssued {
        operator: "admin".parse().unwrap(),
        serial: serial.to_owned(),
        key_sha256: format!("key of {serial}"),
        not_after: NOW.plus(365 * 24 * HOUR),
        renews: renews.map(str::to_owned),
        local: false,
        origin: Some(match renews {
            Some(_) => SvidOrigin::Renewal,
            None => SvidOrigin::Machine,
        }),
        root: RootNumber::FIRST,
    }
}

/// The SVID of an operator that was issued on the broker's own machine.
pub(crate) fn local_operator_svid(serial: &str) -> Event {
    let mut event = operator_svid(serial, None);
    if let Event::OperatorSvidIssued { local, .. } = &mut event {
        *local = true;
    }
    event
}

pub(crate) fn svid_activated(serial: &str) -> Event {
    Event::SvidActivated {
        serial: serial.to_owned(),
    }
}

pub(crate) fn joined(serial: &str, of_agent: u64, token: u64) -> Event {
    Event::SvidIssued {
        svid: svid(serial, of_agent, None),
        join_token: Some(token_id(token)),
        evidence: None,
        renews: None,
        origin: Some(SvidOrigin::Login),
    }
}

pub(crate) fn new_task(n: u64, of_agent: u64) -> Task {
    Task {
        id: task_id(n),
        agent: agent_name(of_agent),
        purpose: "test".parse().unwrap(),
        requester: Requester::SelfDeclared { name: None },
        roles: BTreeMap::from([(role(), Scope::default())]),
        started_at: NOW,
        deadline: NOW.plus(8 * HOUR),
        heartbeat: None,
        parent: None,
        depth: 0,
        max_credentials: 100,
        labels: Labels::default(),
        state: TaskState::Open,
        end_cause: None,
        ending_at: None,
        ended_at: None,
    }
}

pub(crate) fn child(n: u64, of_agent: u64, parent: &Task) -> Task {
    Task {
        requester: Requester::Delegated { parent: parent.id },
        parent: Some(parent.id),
        depth: parent.depth + 1,
        ..new_task(n, of_agent)
    }
}

pub(crate) fn started(task: Task) -> Event {
    Event::TaskStarted {
        task,
        idempotency: None,
    }
}

pub(crate) fn ending(n: u64) -> Event {
    Event::TaskEnding {
        task: task_id(n),
        cause: EndCause::Completed,
        by: Actor::Broker,
    }
}

pub(crate) fn ended(n: u64) -> Event {
    Event::TaskEnded { task: task_id(n) }
}

pub(crate) fn anchor(n: u64, of_task: u64) -> Event {
    Event::AnchorRecorded {
        anchor: Anchor {
            id: anchor_id(n),
            task: task_id(of_task),
            provider: role().provider().clone(),
            key: None,
            handle: serde_json::json!({"accessor": n}).into(),
            recorded_at: NOW,
            expires_at: NOW.plus(HOUR),
            state: AnchorState::Live,
        },
    }
}

pub(crate) fn credential(n: u64, of_task: u64, of_agent: u64) -> Credential {
    Credential::from(CredentialIntent {
        id: credential_id(n),
        task: task_id(of_task),
        agent: agent_name(of_agent),
        role: role(),
        scope: Scope::default(),
        revocation_class: RevocationClass::Immediate,
        intended_at: NOW,
        expires_at: NOW.plus(HOUR),
        anchor_key: None,
        handle: None,
    })
}

pub(crate) fn intended(n: u64, of_task: u64, of_agent: u64) -> Event {
    Event::CredentialIntended {
        credential: Box::new(credential(n, of_task, of_agent)),
        idempotency: None,
    }
}

/// The same event, made by a request with this key of the operator `admin`.
pub(crate) fn keyed(mut event: Event, name: &str) -> Event {
    match &mut event {
        Event::AgentRegistered { idempotency, .. }
        | Event::JoinTokenCreated { idempotency, .. }
        | Event::TaskStarted { idempotency, .. }
        | Event::CredentialIntended { idempotency, .. }
        | Event::CredentialRenewIntended { idempotency, .. }
        | Event::CredentialRenewed { idempotency, .. } => *idempotency = key(name, "a"),
        Event::Initialized { .. }
        | Event::BrokerStarted { .. }
        | Event::ConfigurationReloaded { .. }
        | Event::BrokerStopped {}
        | Event::IndexRebuilt { .. }
        | Event::LedgerArchived { .. }
        | Event::ClockAccepted { .. }
        | Event::KeysSealed { .. }
        | Event::CaChanged { .. }
        | Event::RootChanged { .. }
        | Event::AgentFrozen { .. }
        | Event::AgentReleased { .. }
        | Event::AgentRetired { .. }
        | Event::AgentOwnerChanged { .. }
        | Event::AgentOwnerDeparted { .. }
        | Event::JoinTokenWithdrawn { .. }
        | Event::IdentityConflict { .. }
        | Event::SvidIssued { .. }
        | Event::OperatorSvidIssued { .. }
        | Event::OperatorWithdrawn { .. }
        | Event::SvidActivated { .. }
        | Event::Decided { .. }
        | Event::BudgetExceeded { .. }
        | Event::TaskEnding { .. }
        | Event::TaskEnded { .. }
        | Event::AnchorRecorded { .. }
        | Event::AnchorGone { .. }
        | Event::CredentialIssued { .. }
        | Event::CredentialAbandoned { .. }
        | Event::CredentialRevoking { .. }
        | Event::RevokeFailed { .. }
        | Event::CredentialRevoked { .. }
        | Event::CredentialExpired { .. } => {}
    }
    event
}

pub(crate) fn issued(n: u64) -> Event {
    Event::CredentialIssued {
        credential: credential_id(n),
        expires_at: NOW.plus(HOUR),
        revocation_class: RevocationClass::Immediate,
        anchor: None,
        handle: Some(serde_json::json!({"lease": n}).into()),
        took_ms: 1,
    }
}

pub(crate) fn abandoned(n: u64) -> Event {
    Event::CredentialAbandoned {
        credential: credential_id(n),
        reason: "denied".to_owned(),
    }
}

pub(crate) fn renew_intended(n: u64) -> Event {
    Event::CredentialRenewIntended {
        credential: credential_id(n),
        until: NOW.plus(2 * HOUR),
        idempotency: None,
    }
}

pub(crate) fn renewed(n: u64) -> Event {
    Event::CredentialRenewed {
        credential: credential_id(n),
        expires_at: NOW.plus(2 * HOUR),
        idempotency: None,
    }
}

pub(crate) fn revoking(n: u64) -> Event {
    Event::CredentialRevoking {
        credential: credential_id(n),
        cause: RevokeCause::Requested,
        by: Actor::Broker,
    }
}

pub(crate) fn revoke_failed(n: u64, attempt: u32) -> Event {
    Event::RevokeFailed {
        credential: credential_id(n),
        attempt,
        error: "unreachable".to_owned(),
        retry_at: NOW.plus(Duration::from_secs(attempt.into())),
        stuck: attempt > 9,
    }
}

pub(crate) fn revoked(n: u64) -> Event {
    Event::CredentialRevoked {
        credential: credential_id(n),
        verified: true,
        proof: "lookup says gone".to_owned(),
        took_ms: 1,
        may_live_until: None,
        identity_until: None,
    }
}

pub(crate) fn expired(n: u64) -> Event {
    Event::CredentialExpired {
        credential: credential_id(n),
    }
}

/// Every id that was ever seen, as the index would know it.
#[derive(Debug, Default)]
pub(crate) struct Seen(pub(crate) BTreeSet<String>);

impl UsedIds for Seen {
    fn knew(&self, id: &UsedId) -> Result<bool, String> {
        Ok(self.0.contains(&*id.id))
    }
}

/// The state machine driven without threads, files or clocks.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) state: State,
    pub(crate) seen: Seen,
    pub(crate) entries: Vec<Entry>,
    pub(crate) now: Timestamp,
    /// The changes that undo the last event.
    pub(crate) inverse: Vec<Change>,
}

impl Model {
    /// An installation with an operator and two agents.
    pub(crate) fn new() -> Self {
        let mut model = Self {
            state: State::default(),
            seen: Seen::default(),
            entries: Vec::new(),
            now: NOW,
            inverse: Vec::new(),
        };
        model.all([initialized(), operator_svid("o0", None), agent(1), agent(2)]);
        model
    }

    pub(crate) fn all(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            self.commit(&event)
                .unwrap_or_else(|e| panic!("{event:?}: {e}"));
        }
    }

    /// Commits an event and the events that follow from it.
    pub(crate) fn commit(&mut self, event: &Event) -> Result<(), CommitError> {
        let follow = self.state.cascade(event, self.now);
        self.inverse.clear();
        self.one(event)?;
        for event in follow {
            self.one(&event).unwrap();
        }
        Ok(())
    }

    fn one(&mut self, event: &Event) -> Result<(), CommitError> {
        self.state.admit(event, self.now, &self.seen)?;
        let mut effects = self
            .state
            .effects(event, self.now)
            .map_err(CommitError::Conflict)?;
        let position = self.state.next() + 1;
        effects.changes.push(Change::Position(position, self.now));
        for change in &effects.changes {
            if let Some(id) = change.leaves() {
                self.seen.0.insert(id.id.to_string());
            }
            self.inverse.push(self.state.set(change));
        }
        self.entries.push(Entry {
            time: self.now,
            event: event.clone(),
        });
        Ok(())
    }
}
