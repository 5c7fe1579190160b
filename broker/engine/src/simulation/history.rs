//! One history: broker processes one after the other, the faults they meet, and the end, at which
//! everything must be over.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use parking_lot::Mutex;
use taskpass_core::{
    Agent, CLOCK_DISAGREEMENT_MAX, ClockMark, Event, Identity, Labels, SeededEntropy, Svid,
    SvidState, Timestamp, Ttl,
};
use taskpass_provider::Provider;
use taskpass_store::{Batch, Entry, LogStore, MemoryLog, Store};
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    fate::Fate,
    fixture::Fixture,
    oracle::{LIVE_PER_AGENT, LIVE_PER_TASK, OPEN_TASKS, Oracle},
    provider::SimProvider,
    requests::{Callers, Known, identity_of},
    storage::{Room, SimStore},
    time::{BEGIN, Millis, SimTime, SimTimer},
    wire::{LATE_MAX, Mood, Wire},
    world::{Kind, World},
};
use crate::{
    Configuration, Context, Credentials, Engine, LastRun, ProviderSettings, Settings, Tasks,
    reconcile,
    testing::{attestors, configured},
};

/// The longest life of a task.
const TASK_MAX: Millis = 120_000;
/// Once nothing goes wrong any more, an ended task is over within the longest pause between two
/// attempts, one more minute for sessions, and the time that late requests take.
const OVER_WITHIN: Millis = 300_000 + 60_000 + 3 * LATE_MAX;
/// How far a wrong clock is off that the broker follows.
const SKEW_MAX: u64 = 290_000;
/// How far a wrong clock is off that the broker does not follow: an hour, a day, five years.
const GREAT_SKEWS: [i64; 3] = [3_600_000, 86_400_000, 5 * 365 * 86_400_000];

/// The behaviour of the machine's wall clock in a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wall {
    /// It is right.
    Right,
    /// It jumps by less than the broker notices.
    JumpsALittle,
    /// It jumps by an hour and more.
    JumpsFar,
    /// It runs twice too fast at times.
    RunsFast,
}

impl Wall {
    /// Whether the time on record may be wrong by as much as the broker lets pass.
    const fn misleads(self) -> bool {
        matches!(self, Self::JumpsALittle | Self::RunsFast)
    }
}

/// A history and its state so far.
pub(super) struct History {
    fixture: Arc<Fixture>,
    fate: Arc<Fate>,
    time: Arc<SimTime>,
    world: Arc<World>,
    oracle: Arc<Oracle>,
    entropy: Arc<SeededEntropy>,
    known: Arc<Mutex<Known>>,
    entries: Vec<Vec<u8>>,
    steps: u64,
    wall: Wall,
    /// The mark by which the next process knows the time.
    mark: Option<ClockMark>,
}

/// A broker process and everything around it.
struct Process {
    store: Arc<SimStore>,
    providers: Vec<Arc<SimProvider>>,
    callers: Callers,
    requests: Mutex<Vec<JoinHandle<()>>>,
}

/// The outcome of a history.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) wrong: Option<String>,
    pub(super) secrets: u64,
    pub(super) ahead: u64,
    pub(super) trace: Vec<String>,
}

/// Runs the history of a seed.
pub(super) fn run(fixture: &Arc<Fixture>, seed: u64, traced: bool) -> Outcome {
    let mut history = History::new(fixture, seed, traced);
    while history.steps > 0 && history.oracle.verdict().is_none() {
        history.live(false);
    }
    if history.oracle.verdict().is_none() {
        history.fate.calm_down();
        history.time.set_skew(0);
        history.live(true);
    }
    Outcome {
        wrong: history.oracle.verdict(),
        secrets: history.oracle.secrets(),
        ahead: history.oracle.ahead(),
        trace: history.fate.trace(),
    }
}

impl History {
    fn new(fixture: &Arc<Fixture>, seed: u64, traced: bool) -> Self {
        let fate = Arc::new(Fate::new(seed, traced));
        let time = Arc::new(SimTime::default());
        let world = Arc::new(World::default());
        let entropy = Arc::new(SeededEntropy::new(!seed));
        fixture.current.is_now(&time, &entropy);
        let oracle = Arc::new(Oracle::new(&world, &time, &fate));
        let known = Arc::new(Mutex::new(Known::default()));
        let entries = first_entries(fixture, &time, &mut known.lock());
        let steps = fate.between(15, 50);
        let wall = match fate.below(100) {
            0..70 => Wall::Right,
            70..80 => Wall::JumpsALittle,
            80..92 => Wall::JumpsFar,
            _ => Wall::RunsFast,
        };
        if wall.misleads() {
            oracle.clock_is_wrong();
        }
        Self {
            fixture: Arc::clone(fixture),
            fate,
            time,
            world,
            oracle,
            entropy,
            known,
            entries,
            steps,
            wall,
            mark: None,
        }
    }

    /// One broker process, until it is killed, breaks, or the history is over.
    fn live(&mut self, to_the_end: bool) {
        self.fate.live_again();
        self.fate
            .note(|| format!("a broker starts at {}", self.time.now()));
        self.time.start_broker(self.mark.take());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let store = SimStore::open(self.entries.clone(), &self.time, &self.fate, &self.oracle);
        store.show_ledger();
        runtime.block_on(async {
            let process = self.start(&store).await;
            if to_the_end {
                self.finish(&process).await;
            } else {
                self.go_on(&process).await;
            }
        });
        // All that the process was still doing stops here, as with SIGKILL.
        drop(runtime);
        self.mark = self.time.mark();
        self.entries = store.left_behind();
    }

    async fn start(&self, store: &Arc<SimStore>) -> Process {
        let providers: Vec<_> = Kind::ALL
            .into_iter()
            .map(|kind| {
                let wire = Wire::new(kind, &self.world, &self.time, &self.fate);
                Arc::new(SimProvider::new(kind, wire, &self.oracle))
            })
            .collect();
        let last = self
            .entries
            .last()
            .map(|bytes| Entry::parse(bytes).unwrap().time);
        let context = Context {
            metrics: Arc::default(),
            trust_domain: self.fixture.domain.clone(),
            store: Arc::<SimStore>::clone(store),
            ledger: self.fixture.reader.clone(),
            roots_signer: self.fixture.roots_signer.clone(),
            authority: Arc::clone(&self.fixture.authority),
            attestors: attestors(Arc::<SimStore>::clone(store)),
            connections: Arc::new(crate::NoConnections),
            clock: Arc::<SimTime>::clone(&self.time),
            timer: Arc::new(SimTimer(Arc::clone(&self.time))),
            entropy: Arc::<SeededEntropy>::clone(&self.entropy),
            tasks: TaskTracker::new(),
        };
        let configuration = Configuration {
            policy: Arc::clone(&self.fixture.policy),
            providers: providers
                .iter()
                .map(|p| configured(Arc::<SimProvider>::clone(p)))
                .collect(),
            settings: settings(),
        };
        // Every process before it was killed.
        let last_run = LastRun {
            newest: last.unwrap_or(Timestamp::EPOCH),
            stopped: false,
        };
        let engine = Engine::new(context, configuration, last_run);
        let engine = engine.await.unwrap();
        reconcile::start_revoking(&engine, &CancellationToken::new());
        let callers = Callers {
            engine,
            fate: Arc::clone(&self.fate),
            oracle: Arc::clone(&self.oracle),
            known: Arc::clone(&self.known),
            fixture: Arc::clone(&self.fixture),
        };
        Process {
            store: Arc::clone(store),
            providers,
            callers,
            requests: Mutex::default(),
        }
    }

    async fn go_on(&mut self, process: &Process) {
        for _ in 0..2 {
            let beginning = process.callers.clone().begin();
            process.callers.engine.tasks().spawn(beginning);
            self.fate.settle().await;
        }
        while self.steps > 0 {
            self.steps -= 1;
            self.step(process).await;
            // Sometimes the next step begins while the last one still runs.
            if self.fate.percent(60) {
                self.fate.settle().await;
            } else {
                tokio::task::yield_now().await;
            }
            self.oracle.look();
            if self.oracle.verdict().is_some() || self.fate.is_killed() {
                break;
            }
            if process.store.is_broken() && self.fate.percent(30) {
                break;
            }
        }
        if !process.store.replays() {
            self.oracle
                .wrong("replaying the ledger gives another state");
        }
        if self.fate.percent(30) {
            self.time
                .pass_until(self.time.now() + self.fate.between(1, 30_000));
        }
    }

    async fn step(&self, process: &Process) {
        let fate = &self.fate;
        if self.wall != Wall::Right && fate.percent(10) {
            return self.jump();
        }
        match fate.below(100) {
            0..52 => {
                let tasks = process.callers.engine.tasks();
                let request = tasks.spawn(process.callers.clone().ask());
                process.requests.lock().push(request);
            }
            52..74 => self.pass(fate.between(1, 300)).await,
            74..83 => self.pass(fate.between(300, 5000)).await,
            83..86 => self.pass(fate.between(5000, 60_000)).await,
            86..89 => self.hang_up(process),
            89..93 => {
                let mood = *fate
                    .pick(&[
                        Mood::Good,
                        Mood::Good,
                        Mood::Down,
                        Mood::Silent,
                        Mood::Slow,
                        Mood::Refusing,
                    ])
                    .unwrap();
                let provider = fate.pick(&process.providers).unwrap();
                fate.note(|| format!("provider {} is {mood:?}", provider.name()));
                provider.wire.set_mood(mood);
            }
            93..95 => {
                let room = *fate
                    .pick(&[
                        Room::Enough,
                        Room::Enough,
                        Room::Enough,
                        Room::Reserve,
                        Room::None,
                    ])
                    .unwrap();
                fate.note(|| format!("room on the disk: {room:?}"));
                process.store.set_room(room);
            }
            95 if fate.percent(50) => process.store.fail_next_sync(fate.percent(50)),
            _ => fate.kill_at(fate.below(60)),
        }
    }

    /// A caller goes away without waiting for the answer.
    fn hang_up(&self, process: &Process) {
        let mut requests = process.requests.lock();
        requests.retain(|request| !request.is_finished());
        if let Some(request) = self.fate.pick(&requests) {
            self.fate.note(|| "a caller hangs up".to_owned());
            request.abort();
        }
    }

    /// The wall clock goes wrong, or is right again.
    fn jump(&self) {
        let far = match self.wall {
            Wall::Right => 0,
            Wall::RunsFast => {
                self.fate.note(|| "the wall clock runs fast".to_owned());
                return self.time.run_fast();
            }
            Wall::JumpsALittle => {
                let any = i64::try_from(self.fate.below(SKEW_MAX)).unwrap();
                *self.fate.pick(&[1000, 60_000, any]).unwrap()
            }
            Wall::JumpsFar => *self.fate.pick(&GREAT_SKEWS).unwrap(),
        };
        let skew = match self.fate.below(3) {
            0 => 0,
            1 => far,
            _ => -far,
        };
        self.fate
            .note(|| format!("the wall clock is {skew} ms ahead"));
        self.time.set_skew(skew);
    }

    async fn pass(&self, span: Millis) {
        let until = self.time.now() + span;
        self.fate.settle().await;
        while !self.fate.is_killed() && self.oracle.verdict().is_none() {
            match self.time.next_alarm().filter(|at| *at <= until) {
                Some(at) => self.time.pass_until(at),
                None => break,
            }
            self.fate.settle().await;
            self.oracle.look();
        }
        if !self.fate.is_killed() {
            self.time.pass_until(until);
        }
    }

    /// Nothing goes wrong any more: everything must come to its end.
    async fn finish(&self, process: &Process) {
        process.store.mend();
        self.fate.settle().await;
        let slack = if self.wall.misleads() {
            2 * SKEW_MAX
        } else {
            0
        };
        let limit = self.time.now() + TASK_MAX + OVER_WITHIN + slack;
        while self.oracle.verdict().is_none() && !self.oracle.is_over() {
            let next = self.time.next_alarm().unwrap_or(limit);
            if next > limit {
                self.oracle.must_be_over();
                return;
            }
            self.time.pass_until(next);
            self.fate.settle().await;
            self.oracle.look();
        }
        // Requests that are still under way must not make a dead thing live again.
        if let Some(at) = self.world.quiet_at() {
            self.time.pass_until(at);
        }
        self.oracle.look();
        if !process.store.replays() {
            self.oracle
                .wrong("replaying the ledger gives another state");
        }
        self.resume(process).await;
    }

    /// Once the clock is right, the broker issues again, and has forgotten no operator meanwhile.
    async fn resume(&self, process: &Process) {
        // A ledger that is ahead is so by no more than the broker let pass.
        let caught_up = u64::try_from(CLOCK_DISAGREEMENT_MAX.as_millis()).unwrap() + 60_000;
        self.time.pass_until(self.time.now() + caught_up);
        if let Err(refused) = process.callers.engine.require_sane_clock() {
            let what = format!("13: the clock is right, and nothing is issued: {refused}");
            self.oracle.wrong(what);
        }
        let operator = process.store.svid(&OPERATOR_SERIAL.repeat(32)).await;
        if operator.unwrap().is_none() {
            self.oracle.wrong("13: the operator was forgotten");
        }
    }
}

/// The serial number of the operator's certificate, repeated 32 times.
const OPERATOR_SERIAL: &str = "f";

fn settings() -> Settings {
    Settings {
        tasks: Tasks {
            ttl_default: Ttl::from_seconds(60).unwrap(),
            ttl_max: Ttl::from_seconds(TASK_MAX / 1000).unwrap(),
            open_per_agent: OPEN_TASKS,
            ..Tasks::default()
        },
        credentials: Credentials {
            live_per_agent: LIVE_PER_AGENT,
            live_per_task: LIVE_PER_TASK,
            ..Credentials::default()
        },
        provider: ProviderSettings {
            issue_timeout: Duration::from_secs(5),
            revoke_timeout: Duration::from_secs(8),
            issue_concurrency: 6,
            issue_queue: 8,
            revoke_concurrency: 4,
            ..ProviderSettings::default()
        },
        ..Settings::default()
    }
}

/// An installation with an operator and two agents that have their first certificates.
#[expect(clippy::too_many_lines, reason = "records with all their fields")]
pub(super) fn first_entries(
    fixture: &Fixture,
    time: &Arc<SimTime>,
    known: &mut Known,
) -> Vec<Vec<u8>> {
    let not_after = BEGIN.plus(Duration::from_secs(100 * 3600));
    let clock = Arc::<SimTime>::clone(time);
    let log = MemoryLog::default();
    let store = LogStore::in_memory(&log, clock).unwrap();
    let (admin, serial) = (
        Identity::Operator("admin".parse().unwrap()),
        OPERATOR_SERIAL.repeat(32),
    );
    let admin = identity_of(admin, &serial, &fixture.domain, not_after);
    let mut events = vec![
        Event::Initialized {
            trust_domain: fixture.domain.clone(),
            version: "0.0.0".to_owned(),
            root: None,
        },
        Event::OperatorSvidIssued {
            operator: "admin".parse().unwrap(),
            serial,
            key_sha256: admin.key_sha256.clone(),
            not_after,
            renews: None,
            local: false,
            origin: Some(taskpass_core::SvidOrigin::Machine),
            root: taskpass_core::RootNumber::FIRST,
        },
    ];
    for number in 0..2_u8 {
        let identity = Identity::Agent(format!("agent-{number}").parse().unwrap());
        let serial = format!("{number:032x}");
        let identity = identity_of(identity, &serial, &fixture.domain, not_after);
        let Identity::Agent(name) = &identity.identity else {
            unreachable!()
        };
        events.push(Event::AgentRegistered {
            agent: Agent {
                name: name.clone(),
                owner: "alice@acme.test".parse().unwrap(),
                team: None,
                class: None,
                labels: Labels::default(),
                registered_at: BEGIN,
                registered_by: admin.spiffe_id.clone(),
                state: taskpass_core::AgentState::Active,
                changed: None,
                owner_departed: false,
            },
            idempotency: None,
        });
        events.push(Event::SvidIssued {
            svid: Svid {
                serial,
                agent: name.clone(),
                task: None,
                key_sha256: identity.key_sha256.clone(),
                not_before: BEGIN,
                not_after,
                state: SvidState::Pending,
                root: taskpass_core::RootNumber::FIRST,
            },
            join_token: None,
            evidence: None,
            renews: None,
            origin: None,
        });
        known.identities.push(identity);
    }
    known.identities.push(admin);
    store
        .commit(Batch::new(events))
        .now_or_never()
        .unwrap()
        .unwrap();
    log.since(0)
}
