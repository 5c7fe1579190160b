//! The requests of callers, good, wide, repeated and unauthenticated, and the parts of the answers
//! that callers remember.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use taskpass_ca::PeerIdentity;
use taskpass_core::{
    CredentialId, Identity, Labels, RoleName, Scope, SpiffeId, Task, TaskId, Timestamp,
    TrustDomain, Ttl,
};

use super::{fate::Fate, fixture::Fixture, oracle::Oracle, provider::name_of, world::Kind};
use crate::{
    Attest, Call, CreateJoinToken, EndTask, Ending, Engine, Error, Evidence, IssueCredential,
    IssuedSvid, JoinTokenText, RegisterAgent, RenewCredential, RevokeCredential, StartTask,
    StartedTask, TaskRoles, testing::key_of,
};

/// The address of all callers.
pub(super) const CALLER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The callers' knowledge.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) identities: Vec<PeerIdentity>,
    tasks: Vec<Task>,
    /// Tasks that callers know to have ended.
    over: BTreeSet<TaskId>,
    /// Each credential with the identity that requested it.
    credentials: Vec<(CredentialId, SpiffeId)>,
    /// The last request that gave a credential of a session, and its caller.
    drawn: Option<(PeerIdentity, IssueCredential)>,
    /// Calls that the engine authenticated a while ago.
    stale: Vec<Call>,
    /// For each caller's idempotency key, the task in which the broker issued a credential.
    given: BTreeMap<(SpiffeId, String), TaskId>,
}

/// Makes requests of one broker process.
#[derive(Debug, Clone)]
pub(super) struct Callers {
    pub(super) engine: Arc<Engine>,
    pub(super) fate: Arc<Fate>,
    pub(super) oracle: Arc<Oracle>,
    pub(super) known: Arc<Mutex<Known>>,
    pub(super) fixture: Arc<Fixture>,
}

/// The identity behind a certificate that is on record from the beginning.
pub(super) fn identity_of(
    identity: Identity,
    serial: &str,
    domain: &TrustDomain,
    not_after: Timestamp,
) -> PeerIdentity {
    PeerIdentity {
        spiffe_id: identity.spiffe_id(domain).unwrap(),
        identity,
        serial: serial.to_owned(),
        key_sha256: "00".repeat(32),
        not_after,
    }
}

impl Callers {
    /// One request of a random kind.
    pub(super) async fn ask(self) {
        let outcome = match self.fate.below(100) {
            0..12 => self.start_task().await,
            12..58 => self.issue().await,
            58..70 => self.renew().await,
            70..78 => self.revoke().await,
            78..85 => self.end_task().await,
            85..92 => self.heartbeat().await,
            92..94 => self.by_an_unauthenticated_caller().await,
            94..96 => self.attest().await,
            96..98 => self.renew_svid().await,
            _ => self.register().await,
        };
        if let Err(Error::TaskEnded(task)) = &outcome {
            self.known.lock().over.insert(*task);
        }
        self.fate.note(|| match outcome {
            Ok(said) => format!("reply: {said}"),
            Err(error) => format!("reply: {}", error.message()),
        });
    }

    /// An agent starts a task. Sometimes a task of before the start ends first, for which a call may
    /// still run.
    pub(super) async fn begin(self) {
        let drawn = self.known.lock().drawn.take();
        if let Some((caller, request)) = drawn.filter(|_| self.fate.percent(50)) {
            let ended = self.end(request.task, &caller).await;
            self.fate.note(|| format!("begin: {ended:?}"));
        }
        let outcome = self.start_task().await;
        self.fate.note(|| format!("begin: {outcome:?}"));
    }

    /// Authenticates the caller now, or takes a call that was authenticated a while ago.
    async fn call(&self, identity: &PeerIdentity) -> Result<Call, Error> {
        let stale = {
            let known = self.known.lock();
            let mut same = known
                .stale
                .iter()
                .filter(|c| c.caller.serial() == identity.serial);
            same.next_back().cloned()
        };
        match stale {
            Some(call) if self.fate.percent(15) => Ok(call),
            _ => {
                let call = self.engine.authenticate(Some(identity), CALLER).await?;
                self.fate.others_first().await;
                self.known.lock().stale.push(call.clone());
                Ok(call)
            }
        }
    }

    fn agent(&self) -> Option<PeerIdentity> {
        self.one_of(|identity| !is_operator(identity))
    }

    /// One of the identities that fit, mostly the latest.
    fn one_of(&self, fits: impl Fn(&PeerIdentity) -> bool) -> Option<PeerIdentity> {
        let known = self.known.lock();
        let all: Vec<_> = known.identities.iter().filter(|i| fits(i)).collect();
        let one = self.fate.pick(&all)?;
        if self.fate.percent(10) {
            return Some((*one).clone());
        }
        let mut same = all.iter().filter(|i| i.identity == one.identity);
        same.next_back().map(|last| (*last).clone())
    }

    fn operator(&self) -> PeerIdentity {
        let known = self.known.lock();
        known
            .identities
            .iter()
            .find(|i| is_operator(i))
            .unwrap()
            .clone()
    }

    /// A task, rather recent than old, and an identity, mostly of the task's owner.
    fn task(&self) -> Option<(Task, PeerIdentity)> {
        let task = {
            let known = self.known.lock();
            let any = self.fate.percent(10);
            let fits = |task: &&Task| any || !known.over.contains(&task.id);
            let fitting: Vec<_> = known.tasks.iter().filter(fits).collect();
            let recent = fitting.len().saturating_sub(4);
            (*self.fate.pick(&fitting[recent..])?).clone()
        };
        let owner = if self.fate.percent(4) {
            self.agent()
        } else {
            self.one_of(|i| match &i.identity {
                Identity::Agent(agent) => *agent == task.agent,
                Identity::AgentTask(_, id) => *id == task.id,
                _ => false,
            })
        };
        Some((task, owner?))
    }

    async fn start_task(&self) -> Result<String, Error> {
        let fate = &self.fate;
        let parent = self.task().filter(|_| fate.percent(45));
        let Some(caller) = parent
            .as_ref()
            .map(|(_, i)| i.clone())
            .or_else(|| self.agent())
        else {
            return Ok("nobody".to_owned());
        };
        let parent = match (&parent, &caller.identity) {
            (Some((task, _)), _) => Some(task.id),
            (None, Identity::AgentTask(_, task)) => Some(*task),
            (None, _) => None,
        };
        let request = StartTask {
            purpose: "simulated".parse().unwrap(),
            requester: None,
            roles: self.some_roles(),
            ttl: (!fate.percent(30)).then(|| seconds(fate.between(2, 130))),
            heartbeat: fate.percent(20).then(|| seconds(fate.between(2, 20))),
            parent,
            labels: Labels::default(),
            max_credentials: if fate.percent(30) {
                NonZeroU32::new(u32::try_from(fate.between(1, 7)).unwrap())
            } else {
                None
            },
            key: fate.percent(10).then(|| self.fixture.key()),
        };
        let call = self.call(&caller).await?;
        let key = key_of(&self.key());
        let started = self
            .engine
            .start_task(&call, key.as_ref(), &request)
            .await?;
        let StartedTask { task, svid } = started;
        let said = format!("task {}", task.id);
        let mut known = self.known.lock();
        if let Some(svid) = svid {
            known.identities.push(identity_in(
                &svid,
                Identity::AgentTask(task.agent.clone(), task.id),
            ));
        }
        known.tasks.push(task);
        Ok(said)
    }

    fn some_roles(&self) -> TaskRoles {
        let fate = &self.fate;
        let mut roles = Vec::new();
        for kind in Kind::ALL {
            if fate.percent(65) {
                let pins = if fate.percent(20) {
                    db("a")
                } else {
                    Scope::default()
                };
                roles.push((format!("{}/read", name_of(kind)).parse().unwrap(), pins));
            }
        }
        if fate.percent(2) {
            roles.push(("named/rule".parse().unwrap(), Scope::default()));
        }
        TaskRoles::from_pairs(roles).unwrap()
    }

    async fn issue(&self) -> Result<String, Error> {
        let fate = &self.fate;
        let again = self.known.lock().drawn.clone();
        let (caller, request) = match again.filter(|_| fate.percent(50)) {
            Some(again) => again,
            None => match self.task() {
                Some((task, caller)) => (caller, self.any_credential(&task)),
                None => return self.start_task().await,
            },
        };
        let mut said = self.draw(&caller, &request).await?;
        // Agents draw on a session that they have again and again.
        let of_session = request.role.provider().as_str() == name_of(Kind::Session);
        for _ in 0..fate.below(if of_session { 4 } else { 1 }) {
            said = self.draw(&caller, &request).await?;
        }
        Ok(said)
    }

    async fn draw(
        &self,
        caller: &PeerIdentity,
        request: &IssueCredential,
    ) -> Result<String, Error> {
        let fate = &self.fate;
        let key = self.key();
        let call = self.call(caller).await?;
        fate.note(|| {
            format!(
                "ask: issue {} of {} by {}",
                request.role, request.task, caller.serial
            )
        });
        let issued = self
            .engine
            .issue_credential(&call, key_of(&key).as_ref(), request)
            .await?;
        if request.role.provider().as_str() == name_of(Kind::Session) {
            self.known.lock().drawn = Some((caller.clone(), request.clone()));
        }
        if fate.percent(6) {
            return Ok(format!("credential {} is lost on the way", issued.id));
        }
        issued.delivery.confirm();
        let secret = issued.data.field("secret").unwrap().expose().to_owned();
        self.oracle.delivered(issued.id, &caller.serial, &secret);
        let mut known = self.known.lock();
        known
            .credentials
            .push((issued.id, caller.spiffe_id.clone()));
        let given = (caller.spiffe_id.clone(), key.clone());
        let before = known.given.insert(given, request.task);
        if !key.is_empty()
            && let Some(before) = before
        {
            self.oracle.gave_again(&key, before, request.task);
        }
        Ok(format!("credential {}", issued.id))
    }

    fn any_credential(&self, task: &Task) -> IssueCredential {
        let fate = &self.fate;
        let roles: Vec<&RoleName> = task.roles.keys().collect();
        let role = match fate.pick(&roles) {
            Some(role) if !fate.percent(4) => (*role).clone(),
            _ if fate.percent(50) => "named/rule".parse().unwrap(),
            _ => "named/read".parse().unwrap(),
        };
        let name = ["a", "b", "c"][usize::try_from(fate.below(3)).unwrap()];
        let scope = if fate.percent(20) {
            db(name)
        } else {
            Scope::default()
        };
        IssueCredential {
            task: task.id,
            role,
            scope,
            ttl: (!fate.percent(50)).then(|| seconds(fate.between(1, 65))),
        }
    }

    /// No idempotency key, a fresh key, or a key of an earlier request.
    fn key(&self) -> String {
        match self.fate.below(10) {
            0..5 => String::new(),
            5..8 => format!("k{}", self.fate.below(1_000_000)),
            _ => format!("k{}", self.fate.below(6)),
        }
    }

    /// A credential, rather recent than old, and an identity, mostly of the credential's owner.
    fn credential(&self) -> Option<(CredentialId, PeerIdentity)> {
        let (id, by) = {
            let known = self.known.lock();
            let recent = known.credentials.len().saturating_sub(6);
            self.fate.pick(&known.credentials[recent..])?.clone()
        };
        let owner = if self.fate.percent(6) {
            self.agent()
        } else {
            self.one_of(|i| i.spiffe_id == by)
        };
        Some((id, owner?))
    }

    async fn renew(&self) -> Result<String, Error> {
        let Some((id, caller)) = self.credential() else {
            return Ok("no credential".to_owned());
        };
        let request = RenewCredential {
            credential: id,
            ttl: (!self.fate.percent(50)).then(|| seconds(self.fate.between(1, 60))),
        };
        let call = self.call(&caller).await?;
        self.fate
            .note(|| format!("ask: renew {id} by {}", caller.serial));
        let key = key_of(&self.key());
        let renewed = self
            .engine
            .renew_credential(&call, key.as_ref(), &request)
            .await?;
        Ok(format!("{id} until {}", renewed.expires_at))
    }

    async fn revoke(&self) -> Result<String, Error> {
        let Some((id, owner)) = self.credential() else {
            return Ok("no credential".to_owned());
        };
        let caller = if self.fate.percent(20) {
            self.operator()
        } else {
            owner
        };
        let request = RevokeCredential {
            credential: id,
            wait: Some(Duration::from_millis(self.fate.between(1, 5000))),
        };
        let call = self.call(&caller).await?;
        self.fate
            .note(|| format!("ask: revoke {id} by {}", caller.serial));
        let receipt = self.engine.revoke_credential(&call, &request).await?;
        Ok(format!("{id} is {}", receipt.state.as_str()))
    }

    async fn end_task(&self) -> Result<String, Error> {
        let Some((task, owner)) = self.task() else {
            return Ok("no task".to_owned());
        };
        let caller = if self.fate.percent(20) {
            self.operator()
        } else {
            owner
        };
        self.end(task.id, &caller).await
    }

    async fn end(&self, task: TaskId, caller: &PeerIdentity) -> Result<String, Error> {
        let request = EndTask {
            task,
            how: if self.fate.percent(50) {
                Ending::Cancel
            } else {
                Ending::Complete
            },
            wait: Some(Duration::from_millis(self.fate.between(1, 5000))),
        };
        let call = self.call(caller).await?;
        self.fate
            .note(|| format!("ask: end {task} by {}", caller.serial));
        let ended = self.engine.end_task(&call, &request).await?;
        self.known.lock().over.insert(task);
        Ok(format!("{task} is {}", ended.task.state.as_str()))
    }

    async fn heartbeat(&self) -> Result<String, Error> {
        let Some((task, caller)) = self.task() else {
            return Ok("no task".to_owned());
        };
        let call = self.call(&caller).await?;
        self.engine.heartbeat(&call, task.id).await?;
        Ok(format!("{} lives", task.id))
    }

    /// The caller shows a certificate that is not on record, or another caller's key.
    async fn by_an_unauthenticated_caller(&self) -> Result<String, Error> {
        let Some(mut identity) = self.agent() else {
            return Ok("nobody".to_owned());
        };
        if self.fate.percent(50) {
            identity.serial = format!("{:032x}", self.fate.below(u64::MAX));
        } else {
            identity.key_sha256 = "ff".repeat(32);
        }
        if self
            .engine
            .authenticate(Some(&identity), CALLER)
            .await
            .is_ok()
        {
            self.oracle
                .wrong("4: a caller without a certificate on record was authenticated");
        }
        Ok("refused as it must be".to_owned())
    }

    async fn register(&self) -> Result<String, Error> {
        let name = format!("extra-{}", self.fate.below(3));
        let request = RegisterAgent {
            name: name.parse().unwrap(),
            owner: "alice@acme.test".parse().unwrap(),
            team: None,
            class: None,
            labels: Labels::default(),
        };
        let call = self.call(&self.operator()).await?;
        let key = key_of(&self.key());
        self.engine
            .register_agent(&call, key.as_ref(), &request)
            .await?;
        Ok(format!("agent {name}"))
    }

    async fn attest(&self) -> Result<String, Error> {
        let name = format!("agent-{}", self.fate.below(2));
        let call = self.call(&self.operator()).await?;
        let request = CreateJoinToken {
            agent: name.parse().unwrap(),
            ttl: Some(seconds(60)),
        };
        let key = key_of(&self.key());
        let token = self
            .engine
            .create_join_token(&call, key.as_ref(), &request)
            .await?;
        // `tp1.<id>.<secret>.<pin>`
        let text = token.text.expose().to_owned();
        let attest = Attest {
            evidence: Evidence::JoinToken(JoinTokenText::parse(&text).unwrap()),
            csr: &self.fixture.csr,
            in_place_of: None,
            ip: None,
        };
        let first = self.engine.attest(&attest).await?;
        self.keep(&first, Identity::Agent(name.parse().unwrap()));
        if self.engine.attest(&attest).await.is_ok() {
            self.oracle.wrong("4: a join token was used twice");
        }
        Ok(format!("{name} has another SVID"))
    }

    async fn renew_svid(&self) -> Result<String, Error> {
        let Some(identity) = self.agent() else {
            return Ok("nobody".to_owned());
        };
        let call = self.call(&identity).await?;
        let svid = self.engine.renew_svid(&call, &self.fixture.key()).await?;
        self.keep(&svid, identity.identity);
        Ok(format!("SVID {} was renewed", identity.serial))
    }

    fn keep(&self, svid: &IssuedSvid, identity: Identity) {
        self.known
            .lock()
            .identities
            .push(identity_in(svid, identity));
    }
}

fn seconds(n: u64) -> Ttl {
    Ttl::from_seconds(n).unwrap()
}

fn db(name: &str) -> Scope {
    Scope::from_pairs([("db", name)]).unwrap()
}

fn is_operator(identity: &PeerIdentity) -> bool {
    matches!(identity.identity, Identity::Operator(_))
}

fn identity_in(svid: &IssuedSvid, identity: Identity) -> PeerIdentity {
    PeerIdentity {
        identity,
        spiffe_id: svid.id.clone(),
        serial: svid.signed.serial.clone(),
        key_sha256: svid.signed.key_sha256.clone(),
        not_after: svid.signed.not_after,
    }
}
