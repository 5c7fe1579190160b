//! A long outage: ten thousand credentials to revoke at a provider that is down, and another
//! provider that works.
//!
//! Each credential has a task of its own. This is the worst case, since one call can only revoke
//! credentials of one task. `TASKPASS_SIM_OUTAGE_HOURS=24` makes a whole day of it, as
//! `make torture` does.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use taskpass_core::{
    AgentName, Clock, Credential, CredentialId, CredentialIntent, EndCause, Event, Labels,
    ProviderName, Requester, RevocationClass, RoleName, RoleSpec, Scope, Secret, SecretFields,
    SeededEntropy, Task, TaskId, TaskState, Timestamp, Ttl, limits,
};
use taskpass_provider::{
    Anchors, Health, IssueOrder, Issued, Liveness, Provider, ProviderError, RenewOrder, Renewed,
    RevokeOrder, Revoked,
};
use taskpass_store::{Batch, LogStore, MemoryLog, Store};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    fixture::Fixture,
    history::first_entries,
    requests::{CALLER, Known},
    setting,
    time::{Millis, SimTime, SimTimer},
};
use crate::{
    Attestors, Call, Configuration, Context, Credentials, Engine, IssueCredential, LastRun,
    ProviderSettings, Settings, StartTask, TaskRoles, Tasks, reconcile,
    testing::{configured, fake_role},
};

const DUE: usize = 10_000;
/// Orders that the broker gives a provider at a time.
const SLOTS: usize = 8;
/// The time that a provider that is up takes for a call.
const LATENCY: Duration = Duration::from_millis(20);
/// The time after which a provider that is down refuses a call.
const REFUSAL: Duration = Duration::from_millis(1);
const TASK_LIFE: Duration = Duration::from_secs(90 * 3600);
const HOUR: Millis = 3_600_000;
/// How often all futures may run on before time passes.
const ROUNDS: usize = 16;

/// A provider that is up or down, and counts.
#[derive(Debug)]
struct Plant {
    name: ProviderName,
    roles: Vec<RoleSpec>,
    timer: SimTimer,
    is_down: AtomicBool,
    running: AtomicUsize,
    most: AtomicUsize,
    orders: AtomicU64,
    revoked: Mutex<BTreeSet<CredentialId>>,
}

/// One broker, an agent, a provider that goes down and another that stays up.
struct Site {
    engine: Arc<Engine>,
    time: Arc<SimTime>,
    store: Arc<LogStore>,
    log: MemoryLog,
    fails: Arc<Plant>,
    stays: Arc<Plant>,
    agent: Call,
}

/// The broker loses no revocation, never floods the provider, and delays no work of the other
/// provider, neither during the outage nor after it.
#[test]
fn ten_thousand_revocations_wait_for_a_provider_without_a_storm() {
    let hours: u64 = setting("TASKPASS_SIM_OUTAGE_HOURS").unwrap_or(1);
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(async {
        let site = Site::new().await;
        let tasks = site.fill(DUE).await;
        let usual = site.issue_elsewhere().await;

        site.fails.is_down.store(true, Ordering::SeqCst);
        for task in tasks {
            let ended = site.engine.end_by_broker(task, EndCause::Cancelled);
            ended.await.unwrap();
        }
        let before = site.log.since(0).len();
        site.outage(hours, usual).await;
        let asked = site.fails.orders.load(Ordering::SeqCst);
        let entries = site.log.since(before).len();
        println!("{hours} h down: {asked} orders, {entries} entries in the ledger");
        // The broker tries each revocation once. After that it tries one at a time, to find out
        // whether the provider is back.
        let probes = u64::try_from(DUE).unwrap() + hours * 3600 / 30 + 20;
        assert!(asked <= probes, "{asked} orders, {probes} are enough");
        // The rest are entries of the credentials of the other provider.
        assert!(u64::try_from(entries).unwrap() <= probes + hours * 12 * 10);
        site.recovery(DUE, usual).await;
        assert!(site.store.matches(&site.log).unwrap());
    });
}

/// The broker calls the credential stuck, so that a person looks, and still goes on revoking.
#[test]
fn a_revocation_that_fails_for_long_is_stuck_and_is_never_given_up() {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(async {
        let site = Site::new().await;
        let [task] = *site.fill(1).await else {
            unreachable!()
        };
        let usual = site.issue_elsewhere().await;
        site.fails.is_down.store(true, Ordering::SeqCst);
        let ended = site.engine.end_by_broker(task, EndCause::Cancelled);
        ended.await.unwrap();
        site.outage(1, usual).await;
        let credentials = site.store.credentials_of_task(task).await.unwrap();
        assert_eq!(credentials[0].shown_state(), "stuck");
        site.recovery(1, usual).await;
    });
}

impl Site {
    async fn new() -> Self {
        let fixture = Fixture::new();
        let time = Arc::new(SimTime::default());
        let entropy = Arc::new(SeededEntropy::new(1));
        fixture.current.is_now(&time, &entropy);
        let mut known = Known::default();
        let entries = first_entries(&fixture, &time, &mut known);
        let clock = Arc::<SimTime>::clone(&time);
        let log = MemoryLog::new(entries);
        let store = Arc::new(LogStore::in_memory(&log, clock.clone()).unwrap());
        let [fails, stays] = ["fails", "stays"].map(|name| Plant::new(name, &time));
        let context = Context {
            metrics: Arc::default(),
            trust_domain: fixture.domain.clone(),
            store: Arc::<LogStore>::clone(&store),
            ledger: fixture.reader.clone(),
            roots_signer: fixture.roots_signer.clone(),
            authority: Arc::clone(&fixture.authority),
            attestors: Attestors::default(),
            connections: Arc::new(crate::NoConnections),
            clock,
            timer: Arc::new(SimTimer(Arc::clone(&time))),
            entropy,
            tasks: TaskTracker::new(),
        };
        let configuration = Configuration {
            policy: Arc::clone(&fixture.policy),
            providers: vec![
                configured(Arc::<Plant>::clone(&fails)),
                configured(Arc::<Plant>::clone(&stays)),
            ],
            settings: settings(),
        };
        let last_run = LastRun {
            newest: Timestamp::EPOCH,
            stopped: true,
        };
        let engine = Engine::new(context, configuration, last_run);
        let engine = engine.await.unwrap();
        reconcile::start_revoking(&engine, &CancellationToken::new());
        let identity = Some(&known.identities[0]);
        let agent = engine.authenticate(identity, CALLER).await.unwrap();
        Self {
            engine,
            time,
            store,
            log,
            fails,
            stays,
            agent,
        }
    }

    /// Puts credentials of the provider that will fail on record.
    async fn fill(&self, due: usize) -> Vec<TaskId> {
        let entropy = SeededEntropy::new(2);
        let mut tasks = Vec::with_capacity(due);
        for _ in 0..due {
            let (task, events) = issued_task(self.time.as_ref(), &entropy);
            self.store.commit(Batch::new(events)).await.unwrap();
            tasks.push(task);
        }
        tasks
    }

    /// Every five minutes the agent works with the other provider, as fast as usual.
    async fn outage(&self, hours: u64, usual: Millis) {
        let until = self.time.now() + hours * HOUR;
        while self.time.now() < until {
            self.pass_until(self.time.now() + HOUR / 12, || false).await;
            self.as_usual(usual).await;
        }
        assert!(self.fails.revoked.lock().is_empty());
        assert!(self.fails.most.load(Ordering::SeqCst) <= SLOTS);
    }

    async fn recovery(&self, due: usize, usual: Millis) {
        let began = self.time.now();
        self.fails.orders.store(0, Ordering::SeqCst);
        self.fails.most.store(0, Ordering::SeqCst);
        self.fails.is_down.store(false, Ordering::SeqCst);
        let is_over = || self.fails.revoked.lock().len() == due;
        // The pacer soon lets the first revocation through; the agent then works beside all the
        // others.
        let limit = began + u64::try_from(limits::REVOKE_RETRY_MAX.as_millis()).unwrap();
        let first = || !self.fails.revoked.lock().is_empty();
        self.pass_until(limit, first).await;
        self.as_usual(usual).await;
        self.pass_until(limit, is_over).await;
        let took = self.time.now() - began;
        println!(
            "all were revoked {took} ms after it was back, {} at a time",
            self.fails.most.load(Ordering::SeqCst)
        );
        assert!(is_over(), "{} in time", self.fails.revoked.lock().len());
        assert_eq!(
            self.fails.orders.load(Ordering::SeqCst),
            due as u64,
            "each is asked for once"
        );
        assert!(self.fails.most.load(Ordering::SeqCst) <= SLOTS);
        // And the ledger says so.
        self.pass_until(self.time.now() + 2000, || false).await;
        let usage = self.store.usage_of_provider(&self.fails.name).await;
        assert_eq!(usage.unwrap().revoking, 0);
    }

    /// A tenth slower would be too slow.
    async fn as_usual(&self, usual: Millis) {
        let took = self.issue_elsewhere().await;
        assert!(10 * took <= 11 * usual, "{took} ms instead of {usual} ms");
    }

    /// A task at the other provider, from its start to its confirmed end; how long that takes.
    async fn issue_elsewhere(&self) -> Millis {
        let began = self.time.now();
        let (engine, agent) = (Arc::clone(&self.engine), self.agent.clone());
        let role: RoleName = "stays/r".parse().unwrap();
        let work = self.engine.tasks().spawn(async move {
            let request = StartTask {
                purpose: "beside an outage".parse().unwrap(),
                requester: None,
                roles: TaskRoles::from_pairs([(role.clone(), Scope::default())]).unwrap(),
                ttl: Some(Ttl::from_seconds(600).unwrap()),
                heartbeat: None,
                parent: None,
                labels: Labels::default(),
                max_credentials: None,
                key: None,
            };
            let started = engine.start_task(&agent, None, &request).await.unwrap();
            let request = IssueCredential {
                task: started.task.id,
                role,
                scope: Scope::default(),
                ttl: Some(Ttl::from_seconds(300).unwrap()),
            };
            let issued = engine.issue_credential(&agent, None, &request).await;
            issued.unwrap().delivery.confirm();
            let ended = engine.end_by_broker(started.task.id, EndCause::Completed);
            ended.await.unwrap();
        });
        let done = self.stays.revoked.lock().len() + 1;
        let is_over = || work.is_finished() && self.stays.revoked.lock().len() == done;
        self.pass_until(began + HOUR, is_over).await;
        assert!(is_over());
        self.time.now() - began
    }

    /// Lets time pass until then, or until it is so.
    async fn pass_until(&self, until: Millis, is_so: impl Fn() -> bool) {
        loop {
            for _ in 0..ROUNDS {
                tokio::task::yield_now().await;
            }
            if is_so() {
                return;
            }
            match self.time.next_alarm().filter(|at| *at <= until) {
                Some(at) => self.time.pass_until(at),
                None => break,
            }
        }
        self.time.pass_until(until);
    }
}

impl Plant {
    fn new(name: &str, time: &Arc<SimTime>) -> Arc<Self> {
        Arc::new(Self {
            name: name.parse().unwrap(),
            roles: vec![fake_role(name)],
            timer: SimTimer(Arc::clone(time)),
            is_down: AtomicBool::new(false),
            running: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            orders: AtomicU64::new(0),
            revoked: Mutex::default(),
        })
    }

    async fn answer(&self) -> Result<(), ProviderError> {
        use crate::Timer as _;
        if self.is_down.load(Ordering::SeqCst) {
            self.timer.sleep(REFUSAL).await;
            return Err(ProviderError::Unreachable("connection refused".to_owned()));
        }
        self.timer.sleep(LATENCY).await;
        Ok(())
    }
}

#[async_trait]
impl Provider for Plant {
    fn name(&self) -> &ProviderName {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "plant"
    }

    fn roles(&self) -> &[RoleSpec] {
        &self.roles
    }

    async fn check(&self) -> Result<Health, ProviderError> {
        Err(ProviderError::Unsupported("a test".to_owned()))
    }

    async fn issue(&self, order: &IssueOrder, _: &dyn Anchors) -> Result<Issued, ProviderError> {
        self.answer().await?;
        let mut data = SecretFields::new();
        let secret = Secret::new("s3cret".to_owned());
        data.insert("token", secret).unwrap();
        Ok(Issued {
            data,
            expires_at: order.expires_at,
            lives_for: None,
            revocation_class: RevocationClass::Immediate,
            handle: None,
            anchor: None,
        })
    }

    async fn renew(&self, order: &RenewOrder) -> Result<Renewed, ProviderError> {
        Ok(Renewed {
            expires_at: order.until,
            lives_for: None,
        })
    }

    async fn revoke(
        &self,
        order: &RevokeOrder,
    ) -> Result<Vec<Result<Revoked, ProviderError>>, ProviderError> {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        self.orders.fetch_add(1, Ordering::SeqCst);
        let answer = self.answer().await;
        self.running.fetch_sub(1, Ordering::SeqCst);
        answer?;
        let dead = Revoked {
            verified: true,
            proof: "the plant does not know it any more".to_owned(),
            may_live_until: None,
            identity_until: None,
        };
        let ids = order.items.iter().map(|item| item.credential);
        self.revoked.lock().extend(ids);
        Ok(vec![Ok(dead); order.items.len()])
    }

    async fn probe(&self, _order: &RevokeOrder) -> Result<Liveness, ProviderError> {
        Ok(Liveness::Unknown("a test".to_owned()))
    }

    async fn maintain(&self) -> Result<(), ProviderError> {
        Ok(())
    }
}

fn settings() -> Settings {
    Settings {
        tasks: Tasks {
            open_per_agent: u32::MAX,
            ..Tasks::default()
        },
        credentials: Credentials {
            live_per_agent: u32::MAX,
            ..Credentials::default()
        },
        provider: ProviderSettings {
            revoke_concurrency: SLOTS,
            // All tasks are of one agent.
            agent_share: 100,
            ..ProviderSettings::default()
        },
        ..Settings::default()
    }
}

/// A task with one credential of the provider that will fail.
fn issued_task(clock: &SimTime, entropy: &SeededEntropy) -> (TaskId, [Event; 3]) {
    let now = Clock::now(clock);
    let role: RoleName = "fails/r".parse().unwrap();
    let agent: AgentName = "agent-1".parse().unwrap();
    let task = TaskId::generate(clock, entropy).unwrap();
    let credential = CredentialId::generate(clock, entropy).unwrap();
    let started = Task {
        id: task,
        agent: agent.clone(),
        purpose: "wait for a provider".parse().unwrap(),
        requester: Requester::SelfDeclared { name: None },
        roles: BTreeMap::from([(role.clone(), Scope::default())]),
        started_at: now,
        deadline: now.plus(TASK_LIFE),
        heartbeat: None,
        parent: None,
        depth: 0,
        max_credentials: 1,
        labels: Labels::default(),
        state: TaskState::Open,
        end_cause: None,
        ending_at: None,
        ended_at: None,
    };
    let intended = Credential::from(CredentialIntent {
        id: credential,
        task,
        agent,
        role,
        scope: Scope::default(),
        revocation_class: RevocationClass::Immediate,
        intended_at: now,
        expires_at: now.plus(TASK_LIFE),
        anchor_key: None,
        handle: None,
    });
    let issued = Event::CredentialIssued {
        credential,
        expires_at: intended.expires_at,
        revocation_class: RevocationClass::Immediate,
        anchor: None,
        handle: None,
        took_ms: 3,
    };
    let events = [
        Event::TaskStarted {
            task: started,
            idempotency: None,
        },
        Event::CredentialIntended {
            credential: Box::new(intended),
            idempotency: None,
        },
        issued,
    ];
    (task, events)
}
