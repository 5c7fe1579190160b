//! An engine over a real store in a temporary directory, with providers that a test controls.

mod callers;
mod fake;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use taskpass_ca::{Authority, Config as CaConfig};
use taskpass_core::{
    Credential, CredentialId, Event, Labels, ManualClock, Scope, SeededEntropy, TaskId, Timestamp,
    TrustedClock, Ttl,
};
use taskpass_ledger::{SigningKey, disk::FaultyDisk};
use taskpass_policy::{PolicyFile, PolicySet, StarterOptions, starter_policy};
use taskpass_provider::Provider;
use taskpass_store::{Batch, LogStore, MemoryLog, Store};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::{
    Attestors, Call, Change, Configuration, ConfiguredProvider, Context, Engine, Error,
    IssueCredential, IssuedCredential, JoinTokenAttestor, LastRun, RequestKey, Settings, StartTask,
    SystemTimer, TaskRoles,
};

pub(crate) use callers::builder_name;
pub(crate) use fake::{Answer, Fake, fake_role};

use callers::{agent, builder, first_events, operator, svid, svid_issued};

pub(crate) const NOW: Timestamp = Timestamp::from_millis(1_760_000_000_000);
/// Nothing here takes this long; a test that waits for so long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// No broker before lost a call.
const STOPPED: LastRun = LastRun {
    newest: NOW,
    stopped: true,
};

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
        let engine = Engine::new(context, configuration, STOPPED).await.unwrap();
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

    /// Uses up all room but the reserve.
    pub(crate) async fn fill(&self) {
        self.disk.set_free(Some(0));
        // Ever smaller batches fill the blocks that are allocated already.
        for (bytes, times) in [(60_000, 50), (60_000, 1), (10, 1)] {
            let filler = Event::IndexRebuilt {
                reason: "x".repeat(bytes),
            };
            let batch = Batch::new(vec![filler; times]);
            while self.store.commit(batch.clone()).await.is_ok() {}
        }
    }

    /// Another broker process over the same ledger and the same back ends. Its providers hold
    /// nothing that the process before held in memory.
    pub(crate) async fn restart(&mut self, settings: Settings, stopped: bool) {
        let before = &self.engine.context;
        let context = Context {
            metrics: Arc::default(),
            trust_domain: before.trust_domain.clone(),
            store: Arc::clone(&before.store),
            ledger: before.ledger.clone(),
            roots_signer: before.roots_signer.clone(),
            authority: Arc::clone(&before.authority),
            attestors: attestors(self.store.clone()),
            connections: Arc::clone(&before.connections),
            clock: Arc::clone(&before.clock),
            timer: Arc::clone(&before.timer),
            entropy: Arc::clone(&before.entropy),
            tasks: TaskTracker::new(),
        };
        let configuration = Configuration {
            settings,
            ..self.configuration()
        };
        let last_run = LastRun {
            newest: self.store.last_time(),
            stopped,
        };
        for fake in &self.fakes {
            fake.sessions.lock().clear();
        }
        self.engine = Engine::new(context, configuration, last_run).await.unwrap();
        self.agent = self.again(&self.agent);
        self.operator = self.again(&self.operator);
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
        let roles = self.fakes.iter().flat_map(|fake| fake.roles());
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

/// A request for the role of `fake`, for half an hour.
pub(crate) fn wish(fake: &Fake, task: TaskId) -> IssueCredential {
    IssueCredential {
        task,
        role: fake.role().clone(),
        scope: Scope::default(),
        ttl: Some(Ttl::from_seconds(1800).unwrap()),
    }
}

/// The key of a request; none when the text is empty.
pub(crate) fn key_of(text: &str) -> Option<RequestKey> {
    (!text.is_empty()).then(|| text.parse().unwrap())
}
