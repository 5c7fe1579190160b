//! An engine over a real store in a temporary directory, with providers that a test controls.

mod callers;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use taskpass_ca::{Authority, Config as CaConfig};
use taskpass_core::{
    Clock, Credential, CredentialId, Event, Impact, Labels, ManualClock, ProviderName,
    RevocationClass, RoleName, RoleSpec, Scope, Secret, SecretFields, SeededEntropy, TaskId,
    Timestamp, TrustedClock, Ttl,
};
use taskpass_ledger::{SigningKey, disk::FaultyDisk};
use taskpass_policy::{PolicyFile, PolicySet, StarterOptions, starter_policy};
use taskpass_provider::{
    Anchors, Health, IssueOrder, Issued, Liveness, Provider, ProviderError, RenewOrder, Renewed,
    RevokeOrder, Revoked,
};
use taskpass_store::{Batch, LogStore, MemoryLog, Store};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio_util::task::TaskTracker;

use crate::{
    Attestors, Call, Change, Configuration, ConfiguredProvider, Context, Engine, Error,
    IssueCredential, IssuedCredential, JoinTokenAttestor, RequestKey, Settings, StartTask,
    SystemTimer, TaskRoles,
};

pub(crate) use callers::builder_name;
use callers::{agent, builder, first_events, operator, svid, svid_issued};

pub(crate) const NOW: Timestamp = Timestamp::from_millis(1_760_000_000_000);
/// Nothing here takes this long; a test that waits for so long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a call to issue shall end.
#[derive(Debug)]
pub(crate) enum Answer {
    /// A credential that lives so long.
    Give(Duration),
    /// The same, but nothing ends it earlier. The role said otherwise.
    GiveIrrevocable(Duration),
    /// An error that leaves the outcome unknown.
    Doubt,
}

/// A provider with the role `<name>/r` and a session for each task. Its calls wait until the test
/// answers.
#[derive(Debug)]
pub(crate) struct Fake {
    name: ProviderName,
    roles: Vec<RoleSpec>,
    clock: Arc<ManualClock>,
    pub(crate) issues: Mutex<BTreeMap<CredentialId, oneshot::Sender<Answer>>>,
    pub(crate) renewals: AtomicUsize,
    /// Calls to renew wait while a test holds all of these.
    pub(crate) renewing: Semaphore,
    /// Calls to revoke pass one by one with these.
    pub(crate) revokes: Semaphore,
    pub(crate) revoking: AtomicUsize,
    pub(crate) revoking_most: AtomicUsize,
    pub(crate) orders: Mutex<Vec<RevokeOrder>>,
    /// Whether calls to issue, to renew and to revoke fail.
    pub(crate) is_down: AtomicBool,
    /// Why calls to issue from one role fail, if they do.
    pub(crate) sick: Mutex<Option<(RoleName, ProviderError)>>,
    happened: Happened,
}

/// Tells tests that wait that a provider was called or that a request is over.
type Happened = Arc<watch::Sender<()>>;

/// The engine and the parts that a test looks at.
pub(crate) struct Bench {
    pub(crate) engine: Arc<Engine>,
    pub(crate) store: Arc<LogStore>,
    pub(crate) clock: Arc<ManualClock>,
    /// The ledger's.
    pub(crate) disk: FaultyDisk,
    pub(crate) fakes: Vec<Arc<Fake>>,
    pub(crate) agent: Call,
    pub(crate) operator: Call,
    happened: Happened,
    dir: tempfile::TempDir,
}

impl Fake {
    fn new(name: &str, clock: &Arc<ManualClock>, happened: &Happened) -> Arc<Self> {
        Arc::new(Self {
            name: name.parse().unwrap(),
            roles: vec![fake_role(name), other_role(name)],
            clock: Arc::clone(clock),
            issues: Mutex::default(),
            renewals: AtomicUsize::new(0),
            renewing: Semaphore::new(1),
            revokes: Semaphore::new(0),
            revoking: AtomicUsize::new(0),
            revoking_most: AtomicUsize::new(0),
            orders: Mutex::default(),
            is_down: false.into(),
            sick: Mutex::default(),
            happened: Arc::clone(happened),
        })
    }

    /// Its first role.
    pub(crate) fn role(&self) -> &RoleName {
        &self.roles[0].name
    }

    /// Its second role.
    pub(crate) fn other_role(&self) -> &RoleName {
        &self.roles[1].name
    }

    /// Answers the call for the credential that has waited longest.
    pub(crate) fn answer(&self, answer: Answer) {
        let (_, waiting) = self.issues.lock().pop_first().unwrap();
        assert!(waiting.send(answer).is_ok());
    }
}

#[async_trait]
impl Provider for Fake {
    fn name(&self) -> &ProviderName {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "fake"
    }

    fn roles(&self) -> &[RoleSpec] {
        &self.roles
    }

    async fn check(&self) -> Result<Health, ProviderError> {
        Err(ProviderError::Unsupported("a test".to_owned()))
    }

    async fn issue(
        &self,
        order: &IssueOrder,
        anchors: &dyn Anchors,
    ) -> Result<Issued, ProviderError> {
        if self.is_down.load(Ordering::SeqCst) {
            return Err(ProviderError::retryable("it is down"));
        }
        let sick = self.sick.lock().clone();
        if let Some((_, error)) = sick.filter(|(role, _)| *role == order.role) {
            return Err(error);
        }
        let (answer, answered) = oneshot::channel();
        let handle = serde_json::json!({"session": order.credential});
        let anchor = anchors.record(handle, order.task_deadline).await?;
        self.issues.lock().insert(order.credential, answer);
        self.happened.send_replace(());
        match answered.await {
            Ok(answer @ (Answer::Give(life) | Answer::GiveIrrevocable(life))) => {
                let revocation_class = match answer {
                    Answer::GiveIrrevocable(_) => RevocationClass::ExpiryOnly,
                    _ => RevocationClass::Immediate,
                };
                let mut data = SecretFields::new();
                data.insert("token", Secret::new("s3cret".to_owned()))
                    .unwrap();
                Ok(Issued {
                    data,
                    expires_at: self.clock.now().plus(life),
                    lives_for: Some(life),
                    revocation_class,
                    handle: None,
                    anchor: Some(anchor),
                })
            }
            _ => Err(ProviderError::retryable("no answer")),
        }
    }

    async fn renew(&self, order: &RenewOrder) -> Result<Renewed, ProviderError> {
        self.renewals.fetch_add(1, Ordering::SeqCst);
        self.happened.send_replace(());
        if self.is_down.load(Ordering::SeqCst) {
            return Err(ProviderError::retryable("it is down"));
        }
        let _waited = self.renewing.acquire().await;
        Ok(Renewed {
            expires_at: order.until,
            lives_for: Some(order.until.since(self.clock.now())),
        })
    }

    async fn revoke(
        &self,
        order: &RevokeOrder,
    ) -> Result<Vec<Result<Revoked, ProviderError>>, ProviderError> {
        let now = self.revoking.fetch_add(1, Ordering::SeqCst) + 1;
        self.revoking_most.fetch_max(now, Ordering::SeqCst);
        self.orders.lock().push(order.clone());
        self.happened.send_replace(());
        self.revokes.acquire().await.unwrap().forget();
        self.revoking.fetch_sub(1, Ordering::SeqCst);
        if self.is_down.load(Ordering::SeqCst) {
            return Err(ProviderError::retryable("it is down"));
        }
        let dead = Revoked {
            verified: true,
            proof: "the test says so".to_owned(),
            may_live_until: None,
            identity_until: None,
        };
        Ok(vec![Ok(dead); order.items.len()])
    }

    async fn probe(&self, _order: &RevokeOrder) -> Result<Liveness, ProviderError> {
        Ok(Liveness::Unknown("a test".to_owned()))
    }

    async fn maintain(&self) -> Result<(), ProviderError> {
        Ok(())
    }
}

fn authority(
    dir: &std::path::Path,
    domain: &taskpass_core::TrustDomain,
    clock: &Arc<TrustedClock>,
    entropy: &Arc<SeededEntropy>,
) -> Authority {
    let hours = |n: u64| Ttl::from_seconds(n * 3600).unwrap();
    let lifetimes = CaConfig::new(hours(1), hours(24), Duration::from_secs(86_400 * 365));
    let deps = taskpass_ca::Deps {
        trust_domain: domain.clone(),
        config: lifetimes.unwrap(),
        clock: clock.clone(),
        entropy: entropy.clone(),
        keys: taskpass_ca::KeyFiles::plain(),
    };
    Authority::create(&dir.join("ca"), deps).unwrap()
}

/// All roles of all providers, for all agents.
pub(crate) fn grants() -> PolicyFile {
    PolicyFile {
        name: "grants.cedar".to_owned(),
        text: "permit (principal is Taskpass::Agent, action in Taskpass::Action::\"access\", resource);"
            .to_owned(),
    }
}

impl Bench {
    /// With these providers, an agent `builder` and an operator `admin`.
    pub(crate) async fn new(providers: &[&str], settings: Settings) -> Self {
        Self::over(None, providers, settings).await
    }

    /// The same over a log in memory, for thousands of commits. The engine has no ledger to read.
    pub(crate) async fn in_memory(log: &MemoryLog, providers: &[&str], settings: Settings) -> Self {
        Self::over(Some(log), providers, settings).await
    }

    async fn over(log: Option<&MemoryLog>, providers: &[&str], settings: Settings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(NOW));
        let trusted = Arc::new(TrustedClock::new(clock.clone(), None));
        let entropy = Arc::new(SeededEntropy::new(1));
        let domain: taskpass_core::TrustDomain = "acme.test".parse().unwrap();
        let key_file = dir.path().join("ledger.key");
        let key = SigningKey::generate("taskpass/acme.test", &key_file, &*entropy).unwrap();
        let disk = FaultyDisk::default();
        let config = taskpass_store::Config {
            disk: Arc::new(disk.clone()),
            ..taskpass_store::Config::new(dir.path().join("data"))
        };
        let opened = LogStore::open(&config, key, trusted.clone()).unwrap();
        let store = Arc::new(match log {
            Some(log) => LogStore::in_memory(log, trusted.clone()).unwrap(),
            None => opened.store,
        });
        let authority = authority(dir.path(), &domain, &trusted, &entropy);
        let admin = "admin".parse().unwrap();
        let policy = [starter_policy(&StarterOptions { admin: &admin }), grants()];
        let happened = Happened::default();
        let fakes: Vec<_> = providers
            .iter()
            .map(|name| Fake::new(name, &clock, &happened))
            .collect();
        let (record, agent) = builder();
        store
            .commit(Batch::new(first_events(record)))
            .await
            .unwrap();
        let context = Context {
            metrics: Arc::default(),
            trust_domain: domain,
            store: store.clone(),
            ledger: opened.ledger,
            roots_signer: opened.roots_signer,
            authority: Arc::new(authority),
            attestors: attestors(store.clone()),
            connections: Arc::new(crate::NoConnections),
            clock: trusted,
            timer: Arc::new(SystemTimer),
            entropy,
            tasks: TaskTracker::new(),
        };
        let configuration = Configuration {
            policy: Arc::new(PolicySet::parse(&policy).unwrap()),
            providers: fakes.iter().map(|fake| configured(fake.clone())).collect(),
            settings,
        };
        let engine = Engine::new(context, configuration, NOW).await.unwrap();
        let call = |caller| Call {
            caller,
            ip: None,
            snapshot: engine.snapshot(),
        };
        let (agent, operator) = (call(agent), call(operator(admin)));
        Self {
            engine,
            store,
            clock,
            disk,
            fakes,
            agent,
            operator,
            happened,
            dir,
        }
    }

    /// The authority's directory.
    pub(crate) fn ca_dir(&self) -> std::path::PathBuf {
        self.dir.path().join("ca")
    }

    /// The configuration in force, to be changed.
    pub(crate) fn configuration(&self) -> Configuration {
        let snapshot = self.engine.snapshot();
        Configuration {
            policy: Arc::clone(snapshot.policy()),
            providers: self.fakes.iter().map(|f| configured(f.clone())).collect(),
            settings: snapshot.settings().clone(),
        }
    }

    /// Puts another configuration in force without a record.
    pub(crate) fn swap(&self, configuration: Configuration) -> Change {
        let engine = &self.engine;
        let (next, change) = engine.snapshot().next(&engine.context, configuration);
        engine.put_in_force(next);
        change
    }

    /// Another call of the same caller, which begins now.
    pub(crate) fn again(&self, call: &Call) -> Call {
        Call {
            snapshot: self.engine.snapshot(),
            ..call.clone()
        }
    }

    /// Another agent that works with this broker.
    pub(crate) async fn join(&self, name: &str) -> Call {
        let (record, caller) = agent(name);
        let svid = svid(&record.name, caller.serial());
        let registered = Event::AgentRegistered {
            agent: record,
            idempotency: None,
        };
        let events = Batch::new([registered, svid_issued(svid)]);
        self.store.commit(events).await.unwrap();
        Call {
            caller,
            ip: None,
            snapshot: self.engine.snapshot(),
        }
    }

    /// A task with the roles of every provider.
    pub(crate) async fn task(&self) -> TaskId {
        self.task_of(&self.agent).await
    }

    /// The same of another agent.
    pub(crate) async fn task_of(&self, call: &Call) -> TaskId {
        let roles = self.fakes.iter().flat_map(|fake| &fake.roles);
        let roles = roles.map(|role| (role.name.clone(), Scope::default()));
        let request = StartTask {
            purpose: "a test".parse().unwrap(),
            requester: None,
            roles: TaskRoles::from_pairs(roles).unwrap(),
            ttl: Some(Ttl::from_seconds(7200).unwrap()),
            heartbeat: None,
            parent: None,
            labels: Labels::default(),
            max_credentials: None,
            key: None,
        };
        let started = self.engine.start_task(call, None, &request).await;
        started.unwrap().task.id
    }

    /// Begins to issue and returns once the provider is asked.
    pub(crate) async fn begin(
        &self,
        fake: &Arc<Fake>,
        task: TaskId,
    ) -> tokio::task::JoinHandle<Result<IssuedCredential, Error>> {
        self.begin_as(&self.agent, fake, task).await
    }

    /// The same in a call that began some time ago.
    pub(crate) async fn begin_as(
        &self,
        call: &Call,
        fake: &Arc<Fake>,
        task: TaskId,
    ) -> tokio::task::JoinHandle<Result<IssuedCredential, Error>> {
        self.begin_with(call, fake, wish(fake, task)).await
    }

    /// The same for any request.
    pub(crate) async fn begin_with(
        &self,
        call: &Call,
        fake: &Arc<Fake>,
        request: IssueCredential,
    ) -> tokio::task::JoinHandle<Result<IssuedCredential, Error>> {
        let before = fake.issues.lock().len();
        let (engine, call) = (Arc::clone(&self.engine), call.clone());
        let over = Arc::new(AtomicBool::new(false));
        let (is_over, happened) = (Arc::clone(&over), Arc::clone(&self.happened));
        let issuing = self.engine.tasks().spawn(async move {
            let issued = engine.issue_credential(&call, None, &request).await;
            over.store(true, Ordering::SeqCst);
            happened.send_replace(());
            issued
        });
        self.eventually("the provider is asked", || async {
            fake.issues.lock().len() > before || is_over.load(Ordering::SeqCst)
        })
        .await;
        issuing
    }

    /// Waits until it is so. Looks again whenever the ledger has a new entry, a provider is called
    /// or a request is over.
    #[expect(clippy::future_not_send, reason = "each test runs on its own thread")]
    pub(crate) async fn eventually<F: Future<Output = bool>>(
        &self,
        what: &str,
        is_so: impl Fn() -> F,
    ) {
        let (mut entries, mut happened) = (self.store.changes(), self.happened.subscribe());
        let looking = async {
            loop {
                // What comes in after this ends the wait below, also while the test looks.
                entries.mark_unchanged();
                happened.mark_unchanged();
                if is_so().await {
                    return;
                }
                tokio::select! {
                    changed = entries.changed() => changed.unwrap(),
                    changed = happened.changed() => changed.unwrap(),
                }
            }
        };
        assert!(
            tokio::time::timeout(PATIENCE, looking).await.is_ok(),
            "not in time: {what}"
        );
    }

    /// Issues a credential and confirms its delivery.
    pub(crate) async fn issued(
        &self,
        fake: &Arc<Fake>,
        task: TaskId,
        life: Duration,
    ) -> IssuedCredential {
        let issuing = self.begin(fake, task).await;
        fake.answer(Answer::Give(life));
        let issued = issuing.await.unwrap().unwrap();
        issued.delivery.confirm();
        issued
    }

    /// The entries of the ledger from `first` on.
    pub(crate) fn events_since(&self, first: u64) -> Vec<Event> {
        let ledger = &self.engine.context.ledger;
        let entry = |index| taskpass_store::Entry::parse(&ledger.entry(index).unwrap()).unwrap();
        (first..self.store.size())
            .map(|index| entry(index).event)
            .collect()
    }

    pub(crate) async fn credential(&self, id: CredentialId) -> Arc<Credential> {
        self.store.credential(id).await.unwrap().unwrap()
    }
}

/// The attestors of a broker: join tokens.
pub(crate) fn attestors(store: Arc<dyn Store>) -> Attestors {
    Attestors::new(vec![Arc::new(JoinTokenAttestor::new(store))])
}

/// A provider with the same configuration at all times.
pub(crate) fn configured(provider: Arc<dyn Provider>) -> ConfiguredProvider {
    ConfiguredProvider {
        provider,
        fingerprint: "as it was".to_owned(),
        place: BTreeMap::from([(String::new(), "where it was".to_owned())]),
    }
}

/// The role `<provider>/r`, without parameters.
pub(crate) fn fake_role(provider: &str) -> RoleSpec {
    role_named(&format!("{provider}/r"))
}

/// The role `<provider>/s`.
fn other_role(provider: &str) -> RoleSpec {
    role_named(&format!("{provider}/s"))
}

fn role_named(name: &str) -> RoleSpec {
    RoleSpec {
        name: name.parse().unwrap(),
        kind: "fake".to_owned(),
        params: BTreeMap::new(),
        required: Vec::new(),
        max_ttl: Ttl::from_seconds(3600).unwrap(),
        max_total_ttl: None,
        impact: Impact::try_from(0).unwrap(),
        environment: String::new(),
        data_classes: Vec::new(),
        revocation_class: RevocationClass::Immediate,
        renewable: true,
        env: BTreeMap::new(),
    }
}

/// A request for the role of `fake`, for half an hour.
pub(crate) fn wish(fake: &Fake, task: TaskId) -> IssueCredential {
    IssueCredential {
        task,
        role: fake.roles[0].name.clone(),
        scope: Scope::default(),
        ttl: Some(Ttl::from_seconds(1800).unwrap()),
    }
}

/// The key of a request; none when the text is empty.
pub(crate) fn key_of(text: &str) -> Option<RequestKey> {
    (!text.is_empty()).then(|| text.parse().unwrap())
}
