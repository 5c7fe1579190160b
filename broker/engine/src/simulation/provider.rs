//! Providers that do their part right, over a wire that does not.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::{Value, json};
use taskpass_core::{
    AnchorId, AnchorKey, Clock, CredentialId, Impact, ProviderName, RevocationClass, RoleName,
    RoleSpec, Scope, Secret, SecretFields, TaskId, Timestamp, Ttl,
};
use taskpass_provider::{
    Anchors, Health, IssueOrder, Issued, Liveness, Provider, ProviderError, RenewOrder, Renewed,
    RevokeItem, RevokeOrder, RevokeScope, Revoked,
};

use super::{
    oracle::Oracle,
    time::Millis,
    wire::{LATE_MAX, Wire},
    world::{Effect, Index, Kind, Life, Reply},
};

/// The life of a session while its anchor is not yet on record.
const PROBATION: Duration = Duration::from_secs(8);
/// The extra life that some back ends add to the requested one.
const GENEROSITY: Duration = Duration::from_secs(30);

/// A call is sent at most this long after its broker looked for a session.
const BEGINS_WITHIN: Millis = 6000;
/// When an item in doubt is tried again while another call may be under way.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The sessions of one task.
type ByScope = BTreeMap<AnchorKey, Session>;

/// One provider in one broker process.
#[derive(Debug)]
pub(super) struct SimProvider {
    kind: Kind,
    name: ProviderName,
    roles: Vec<RoleSpec>,
    pub(super) wire: Wire,
    oracle: Arc<Oracle>,
    /// The sessions of each task through which credentials are issued, one for each scope.
    sessions: Mutex<BTreeMap<TaskId, ByScope>>,
    /// When the engine first asked to revoke a credential in doubt.
    doubts: Mutex<BTreeMap<CredentialId, Millis>>,
    /// Credentials in doubt with sessions that were alive when no call was under way any more.
    outlived: Mutex<BTreeSet<CredentialId>>,
}

/// A session on record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Session {
    number: usize,
    /// A place that has not seen this write does not know the session.
    minted: Index,
    anchor: AnchorId,
    ends: Millis,
}

/// A thing, and what the answer said of it.
struct Minted {
    thing: usize,
    index: Index,
    anchor: Option<AnchorId>,
    expires_at: Timestamp,
}

impl SimProvider {
    pub(super) fn new(kind: Kind, wire: Wire, oracle: &Arc<Oracle>) -> Self {
        let name: ProviderName = name_of(kind).parse().unwrap();
        Self {
            kind,
            roles: roles(kind, &name),
            name,
            wire,
            oracle: Arc::clone(oracle),
            sessions: Mutex::default(),
            doubts: Mutex::default(),
            outlived: Mutex::default(),
        }
    }

    async fn session(
        &self,
        order: &IssueOrder,
        anchors: &dyn Anchors,
    ) -> Result<Session, ProviderError> {
        let key = key_of(&order.scope);
        if let Some(found) = self.held(order.task, key) {
            return Ok(found);
        }
        anchors.intent_durable().await?;
        self.oracle.asked_to_issue(order.credential);
        let ends = self.wire.time.truth(order.task_deadline);
        let probation = Clock::now(self.wire.time.as_ref()).plus(PROBATION);
        let expires = self.wire.time.truth(probation).min(ends);
        let task = order.task;
        let open = Effect::OpenSession { expires };
        let (reply, minted) = self.wire.call_after(open, 0).await?;
        let Reply::Session(session) = reply else {
            return Err(unexpected(reply));
        };
        let handle = json!({ "session": session, "index": minted });
        let anchor = match anchors.record(handle, order.task_deadline).await {
            Ok(anchor) => anchor,
            Err(error) => {
                drop(self.wire.call(Effect::EndSession { session }).await);
                return Err(error);
            }
        };
        let expires = ends;
        let reply = self.wire.call(Effect::ExtendSession { session, expires });
        match reply.await.map_err(|e| doubtful(&e))? {
            Reply::Done => {}
            other => return Err(unexpected(other)),
        }
        let session = Session {
            number: session,
            minted,
            anchor,
            ends,
        };
        let mut sessions = self.sessions.lock();
        let of_task = sessions.entry(task).or_default();
        of_task.insert(key, session);
        Ok(session)
    }

    fn held(&self, task: TaskId, key: AnchorKey) -> Option<Session> {
        self.sessions.lock().get(&task)?.get(&key).copied()
    }

    async fn mint(
        &self,
        order: &IssueOrder,
        expires_at: Timestamp,
        anchors: &dyn Anchors,
    ) -> Result<Minted, ProviderError> {
        let life = self.life(expires_at);
        let credential = order.credential;
        let (effect, session) = match self.kind {
            Kind::Session => {
                let session = self.session(order, anchors).await?;
                self.oracle
                    .asked_to_issue_through(credential, session.number);
                let request = Effect::CredentialRequest {
                    session: session.number,
                    credential,
                    life,
                };
                (request, Some(session))
            }
            kind => {
                self.oracle.asked_to_issue(credential);
                let mint = Effect::Mint {
                    kind,
                    credential,
                    life,
                };
                (mint, None)
            }
        };
        match self.wire.call_after(effect, 0).await? {
            (Reply::Thing(thing), index) => Ok(Minted {
                thing,
                index,
                anchor: session.map(|session| session.anchor),
                expires_at: self.ends_by(expires_at, life),
            }),
            (other, _) => {
                if let Some(of_task) = self.sessions.lock().get_mut(&order.task) {
                    of_task.retain(|_, held| Some(*held) != session);
                }
                Err(unexpected(other))
            }
        }
    }

    /// The back end counts the life of leases and tokens from when it mints them. The other kinds
    /// get a fixed end.
    fn life(&self, until: Timestamp) -> Life {
        match self.kind {
            Kind::Session | Kind::Named => Life::For(self.left(until)),
            Kind::DenyList | Kind::ExpiryOnly => Life::Until(self.wire.time.truth(until)),
        }
    }

    fn left(&self, until: Timestamp) -> Millis {
        let left = until.since(Clock::now(self.wire.time.as_ref()));
        u64::try_from(left.as_millis()).unwrap()
    }

    /// The latest end of a thing that the provider asked for before the answer came.
    fn ends_by(&self, until: Timestamp, life: Life) -> Timestamp {
        match life {
            Life::For(span) => {
                Clock::now(self.wire.time.as_ref()).plus(Duration::from_millis(span))
            }
            Life::Until(_) => until,
        }
    }

    /// How long a call without an answer may still be under way.
    fn under_way(&self, items: &[RevokeItem]) -> Option<Duration> {
        let now = self.wire.time.now();
        let mut doubts = self.doubts.lock();
        let unknown = items.iter().filter(|item| !item.outcome_known);
        let first = unknown.map(|item| *doubts.entry(item.credential).or_insert(now));
        let over = first.max()? + LATE_MAX + 1;
        let left = over.checked_sub(now).filter(|left| *left > 0);
        left.map(Duration::from_millis)
    }

    /// Ends the sessions of an order. A place that has written the end of a session, or has seen
    /// its minting and does not know it, proves that it is gone.
    async fn end_sessions(&self, order: &RevokeOrder) -> Result<(), ProviderError> {
        let handles = order.anchors.iter().map(|(_, handle)| handle);
        let named = handles.filter_map(|handle| Some((number(handle, "session")?, index(handle))));
        let mut numbers: BTreeMap<usize, Index> = named.collect();
        if let Some(of_task) = self.sessions.lock().get_mut(&order.task) {
            of_task.retain(|_, session| {
                // A held session may be newer than the credential in doubt, or of another scope.
                // The provider then leaves it alone, since the task may be getting credentials
                // through it.
                let ends =
                    order.scope == RevokeScope::Task || numbers.contains_key(&session.number);
                if ends {
                    numbers.insert(session.number, session.minted);
                }
                !ends
            });
        }
        let mut were_alive = true;
        for (session, minted) in numbers {
            let end = Effect::EndSession { session };
            let (ended, at) = self.wire.call_after(end, minted).await?;
            were_alive &= ended == Reply::Done;
            let after = if ended == Reply::Done { at } else { minted };
            let look = Effect::IsSessionAlive { session };
            match self.wire.call_after(look, after).await? {
                (Reply::No, _) => {}
                _ => return Err(ProviderError::retryable("the session is still there")),
            }
        }
        // Only a session that was still alive has outlived a call. A lease that the back end files
        // under an ended session hangs on nothing. A standby may take a session for alive that has
        // ended, so the end must have been written.
        if were_alive {
            let in_doubt = order.items.iter().filter(|item| !item.outcome_known);
            let in_doubt = in_doubt.map(|item| item.credential);
            self.outlived.lock().extend(in_doubt);
        }
        Ok(())
    }

    async fn settle(&self, item: &RevokeItem) -> Result<Revoked, ProviderError> {
        let credential = item.credential;
        let (end, look, dead) = match (self.kind, thing_of(item)) {
            (Kind::Session, Some(thing)) => {
                (Effect::End { thing }, Effect::IsAlive { thing }, Reply::No)
            }
            (Kind::Session, None) if self.outlived.lock().contains(&credential) => {
                return Ok(proven("everything of the session is gone"));
            }
            (Kind::Session, None) => {
                return Ok(Revoked {
                    verified: false,
                    proof: "its session may have ended under the call".to_owned(),
                    may_live_until: Some(self.lost_ends_by(item)),
                    identity_until: None,
                });
            }
            (Kind::Named, _) => (
                Effect::EndNamed { credential },
                Effect::IsNamedAlive { credential },
                Reply::No,
            ),
            (Kind::DenyList, _) => (
                Effect::Deny { credential },
                Effect::IsDenied { credential },
                Reply::Yes,
            ),
            (Kind::ExpiryOnly, _) => {
                return Ok(Revoked {
                    verified: false,
                    proof: "it lives until its end".to_owned(),
                    may_live_until: Some(item.expires_at),
                    identity_until: None,
                });
            }
        };
        let minted = item.handle.as_ref().map_or(0, index);
        let (ended, at) = self.wire.call_after(end, minted).await?;
        let after = if ended == Reply::Refused { minted } else { at };
        if self.wire.call_after(look, after).await?.0 == dead {
            return Ok(proven("the back end says so"));
        }
        Err(ProviderError::retryable("it is still there"))
    }

    /// The back end counts the life from when it carried out the call, and no call is under way any
    /// more.
    fn lost_ends_by(&self, item: &RevokeItem) -> Timestamp {
        let over = Clock::now(self.wire.time.as_ref()).plus(item.lifetime);
        over.max(item.expires_at).plus(GENEROSITY)
    }

    async fn revoke_each(&self, order: &RevokeOrder) -> Vec<Result<Revoked, ProviderError>> {
        let mut results = Vec::with_capacity(order.items.len());
        for item in &order.items {
            results.push(self.settle(item).await);
        }
        results
    }

    async fn revoke_all(
        &self,
        order: &RevokeOrder,
    ) -> Result<Vec<Result<Revoked, ProviderError>>, ProviderError> {
        if order.calls_may_run {
            let left = self.under_way(&order.items).unwrap_or(LOOK_AGAIN);
            return Ok(self.revoke_known(order, left).await);
        }
        if matches!(self.kind, Kind::Session | Kind::Named)
            && let Some(left) = self.under_way(&order.items)
        {
            return Ok(self.revoke_known(order, left).await);
        }
        let is_unknown = order.items.iter().any(|item| !item.outcome_known);
        if self.kind == Kind::Session && (order.scope == RevokeScope::Task || is_unknown) {
            self.end_sessions(order).await?;
        }
        Ok(self.revoke_each(order).await)
    }

    async fn revoke_known(
        &self,
        order: &RevokeOrder,
        left: Duration,
    ) -> Vec<Result<Revoked, ProviderError>> {
        let mut results = Vec::with_capacity(order.items.len());
        for item in &order.items {
            results.push(if item.outcome_known {
                self.settle(item).await
            } else {
                Err(ProviderError::Retryable {
                    message: "a call may be under way".to_owned(),
                    after: Some(left),
                })
            });
        }
        results
    }

    /// Answers that the engine must not take for a proof.
    fn misled(&self, wanted: usize) -> Result<Vec<Result<Revoked, ProviderError>>, ProviderError> {
        let unproven = || Revoked {
            proof: " ".to_owned(),
            ..proven("")
        };
        match self.wire.fate.below(3) {
            0 => Ok(vec![Ok(proven("dead")); wanted + 1]),
            1 => Ok(vec![Ok(unproven()); wanted]),
            _ => Err(ProviderError::Gone("what?".to_owned())),
        }
    }
}

#[async_trait]
impl Provider for SimProvider {
    fn name(&self) -> &ProviderName {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "simulated"
    }

    fn roles(&self) -> &[RoleSpec] {
        &self.roles
    }

    fn anchor_key(&self, _: &RoleName, scope: &Scope, _: CredentialId) -> Option<AnchorKey> {
        (self.kind == Kind::Session).then(|| key_of(scope))
    }

    fn held_anchor(&self, task: TaskId, _: &RoleName, scope: &Scope) -> Option<AnchorId> {
        // The session must outlive a call of which there may be no record.
        let call_ends = self.wire.time.now() + BEGINS_WITHIN + LATE_MAX;
        let held = self.held(task, key_of(scope));
        held.filter(|held| held.ends > call_ends)
            .map(|held| held.anchor)
    }

    async fn calls_are_over(&self, sent_before: Duration) -> Result<(), ProviderError> {
        let over = sent_before + Duration::from_millis(LATE_MAX + 1);
        let now = Clock::monotonic(self.wire.time.as_ref());
        match over.checked_sub(now).filter(|left| !left.is_zero()) {
            None => Ok(()),
            Some(left) => Err(ProviderError::Retryable {
                message: "a call may be under way".to_owned(),
                after: Some(left),
            }),
        }
    }

    async fn check(&self) -> Result<Health, ProviderError> {
        Err(ProviderError::Unsupported("nobody asks".to_owned()))
    }

    async fn issue(
        &self,
        order: &IssueOrder,
        anchors: &dyn Anchors,
    ) -> Result<Issued, ProviderError> {
        // Some back ends give a longer life than asked for. The back end without revocation does
        // not.
        let is_generous = self.kind != Kind::ExpiryOnly && self.wire.fate.percent(8);
        let more = if is_generous {
            GENEROSITY
        } else {
            Duration::ZERO
        };
        let asked = order.expires_at.plus(more);
        let lives_for = self.life(asked).span();
        let Minted {
            thing,
            index,
            anchor,
            expires_at,
        } = self.mint(order, asked, anchors).await?;
        let mut data = SecretFields::new();
        let secret = Secret::new(self.wire.world.secret_of(thing));
        data.insert("secret", secret).unwrap();
        let mut issued = Issued {
            data,
            expires_at,
            lives_for,
            revocation_class: class_of(self.kind),
            handle: Some(json!({ "thing": thing, "index": index })),
            anchor,
        };
        if self.wire.fate.wrong(10) {
            issued.handle = Some(Value::String("x".repeat(10_000)));
        }
        Ok(issued)
    }

    async fn renew(&self, order: &RenewOrder) -> Result<Renewed, ProviderError> {
        self.oracle.asked_to_renew(order.credential);
        let Some(thing) = order.handle.as_ref().and_then(|h| number(h, "thing")) else {
            return Err(ProviderError::Unsupported("without a handle".to_owned()));
        };
        let life = self.life(order.until);
        match self.wire.call(Effect::Extend { thing, life }).await? {
            Reply::Done => Ok(Renewed {
                expires_at: self.ends_by(order.until, life),
                lives_for: life.span(),
            }),
            _ => Err(ProviderError::Gone("it is dead".to_owned())),
        }
    }

    async fn revoke(
        &self,
        order: &RevokeOrder,
    ) -> Result<Vec<Result<Revoked, ProviderError>>, ProviderError> {
        self.oracle.asked_to_revoke(order);
        if self.wire.fate.wrong(30) {
            return self.misled(order.items.len());
        }
        self.revoke_all(order).await
    }

    async fn probe(&self, _order: &RevokeOrder) -> Result<Liveness, ProviderError> {
        Ok(Liveness::Unknown("nobody asks".to_owned()))
    }

    async fn maintain(&self) -> Result<(), ProviderError> {
        Ok(())
    }
}

pub(super) const fn name_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Session => "session",
        Kind::Named => "named",
        Kind::DenyList => "denylist",
        Kind::ExpiryOnly => "expiry",
    }
}

const fn class_of(kind: Kind) -> RevocationClass {
    match kind {
        Kind::Session | Kind::Named => RevocationClass::Immediate,
        Kind::DenyList => RevocationClass::Denylist,
        Kind::ExpiryOnly => RevocationClass::ExpiryOnly,
    }
}

/// A role with a parameter, and a role that policy refuses to every caller.
fn roles(kind: Kind, provider: &ProviderName) -> Vec<RoleSpec> {
    let role = |name: &str, impact| RoleSpec {
        name: format!("{provider}/{name}").parse().unwrap(),
        kind: "simulated".to_owned(),
        params: BTreeMap::from([(
            "db".parse().unwrap(),
            taskpass_core::ParamRule::OneOf(vec!["a".to_owned(), "b".to_owned()]),
        )]),
        required: Vec::new(),
        max_ttl: Ttl::from_seconds(60).unwrap(),
        max_total_ttl: None,
        impact,
        environment: String::new(),
        data_classes: Vec::new(),
        revocation_class: class_of(kind),
        renewable: matches!(kind, Kind::Session | Kind::Named),
        env: BTreeMap::new(),
    };
    vec![
        role("read", Impact::Read),
        role("rule", Impact::Administration),
    ]
}

/// Each scope has a session of its own.
fn key_of(scope: &Scope) -> AnchorKey {
    AnchorKey::of(scope.iter().map(|(_, value)| value))
}

pub(super) fn number(handle: &Value, name: &str) -> Option<usize> {
    usize::try_from(handle.get(name)?.as_u64()?).ok()
}

/// The write that minted a thing or session, of its handle.
fn index(handle: &Value) -> Index {
    handle.get("index").and_then(Value::as_u64).unwrap_or(0)
}

fn thing_of(item: &RevokeItem) -> Option<usize> {
    number(item.handle.as_ref()?, "thing").filter(|_| item.outcome_known)
}

fn proven(proof: &str) -> Revoked {
    Revoked {
        verified: true,
        proof: proof.to_owned(),
        may_live_until: None::<Timestamp>,
        identity_until: None,
    }
}

fn unexpected(reply: Reply) -> ProviderError {
    ProviderError::retryable(format!("the back end said {reply:?}"))
}

/// A refusal half-way is retryable, since the session that was opened before it exists.
fn doubtful(error: &ProviderError) -> ProviderError {
    ProviderError::retryable(error.to_string())
}
