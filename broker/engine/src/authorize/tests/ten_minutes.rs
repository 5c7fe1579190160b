//! One agent at full rate for ten minutes of virtual time. Rates and budgets are a part of the
//! defaults, so that the tests take seconds.

use taskpass_core::{Labels, Scope, limits};
use taskpass_store::MemoryLog;

use super::*;

const TEN_MINUTES: Duration = Duration::from_secs(600);
/// The part of the defaults that the flood uses.
const PART: u32 = 5;
/// The most that the ledger may grow; 20 MB with the defaults.
const BYTES_MAX: usize = 20_000_000 / PART as usize;
/// Bytes that the files hold for an entry beside it: length, checksum, and a hash in a tile.
const BESIDE_AN_ENTRY: usize = 48;

fn settings(part: u32) -> Settings {
    let mut settings = Settings::default();
    let (requests, budgets) = (&mut settings.requests, &mut settings.budgets);
    for limit in [
        &mut requests.agent_requests_per_second,
        &mut requests.agent_requests_burst,
        &mut budgets.agent_ledger_bytes_per_hour,
        &mut budgets.agent_task_starts_per_hour,
        &mut budgets.agent_denials_per_hour,
    ] {
        *limit /= part;
    }
    settings
}

/// Bytes that the ledger takes for the entries since `first`.
fn grown(log: &MemoryLog, first: usize) -> usize {
    let entries = log.since(first);
    entries
        .iter()
        .map(|entry| entry.len() + BESIDE_AN_ENTRY)
        .sum()
}

/// The largest request without a role.
fn largest() -> StartTask {
    let long = |length| "x".repeat(length);
    let text = || long(limits::TEXT_BYTES_MAX).parse().unwrap();
    let key = |number: usize| format!("{}{number:02}", long(limits::NAME_BYTES_MAX - 2));
    let labels = (0..limits::LABELS_MAX).map(|n| (key(n), long(limits::TEXT_BYTES_MAX)));
    StartTask {
        purpose: text(),
        requester: Some(text()),
        roles: TaskRoles::default(),
        ttl: None,
        heartbeat: None,
        parent: None,
        labels: Labels::from_pairs(labels).unwrap(),
        max_credentials: None,
        key: None,
    }
}

/// An agent that does what fills the ledger fastest, as often as its rate allows.
struct Flood<'a> {
    bench: &'a Bench,
    start: StartTask,
    denied_start: StartTask,
    open: Vec<TaskId>,
    ended: Vec<TaskId>,
    calls: u64,
}

impl Flood<'_> {
    async fn call(&mut self) {
        let (engine, agent) = (&self.bench.engine, &self.bench.agent);
        self.calls += 1;
        match self.calls % 400 {
            0 => {
                let denied = engine.start_task(agent, None, &self.denied_start).await;
                drop(denied.unwrap_err());
            }
            // One of the many that have ended.
            1 => {
                if let Some(task) = self
                    .ended
                    .get(usize::try_from(self.calls).unwrap() % self.ended.len().max(1))
                {
                    end(self.bench, *task).await.unwrap();
                }
            }
            2 | 3 => drop(denied(self.bench, stranger(0)).await),
            number if number % 20 == 0 => drop(denied(self.bench, stranger(self.calls)).await),
            number if number % 2 == 0 => {
                if let Ok(started) = engine.start_task(agent, None, &self.start).await {
                    self.open.push(started.task.id);
                }
            }
            _ => {
                if let Some(task) = self.open.pop() {
                    end(self.bench, task).await.unwrap();
                    self.ended.push(task);
                }
            }
        }
    }
}

#[tokio::test]
async fn one_agent_at_full_rate_for_ten_minutes_leaves_room_and_time_for_others() {
    let log = MemoryLog::default();
    let bench = Bench::in_memory(&log, &["a"], settings(PART)).await;
    let other = bench.join("other").await;
    let before = log.since(0).len();
    let start = largest();
    let role = ("a/none".parse().unwrap(), Scope::default());
    let denied_start = StartTask {
        roles: TaskRoles::from_pairs([role]).unwrap(),
        ..start.clone()
    };
    let mut flood = Flood {
        bench: &bench,
        start,
        denied_start,
        open: Vec::new(),
        ended: Vec::new(),
        calls: 0,
    };
    let second = Duration::from_secs(1);
    let mut passed = Duration::ZERO;
    while passed < TEN_MINUTES {
        while bench.engine.check_rate(&bench.agent).is_ok() {
            flood.call().await;
        }
        // The second agent works as if it were alone.
        if passed.as_secs().is_multiple_of(10) {
            bench.engine.check_rate(&other).unwrap();
            let started = bench.engine.start_task(&other, None, &flood.start).await;
            let request = EndTask {
                task: started.unwrap().task.id,
                how: Ending::Complete,
                wait: Some(Duration::ZERO),
            };
            bench.engine.end_task(&other, &request).await.unwrap();
        }
        bench.engine.reap().await.unwrap();
        bench.engine.write_counted(false).await.unwrap();
        bench.clock.advance(second);
        passed += second;
    }
    bench.engine.close_counts().await.unwrap();
    assert!(flood.calls > 60_000 / u64::from(PART), "{}", flood.calls);
    assert!(
        flood.ended.len() > 500 / PART as usize,
        "{}",
        flood.ended.len()
    );
    let grown = grown(&log, before);
    assert!(grown < BYTES_MAX, "{grown} bytes");
    assert!(grown > BYTES_MAX / 4, "{grown} bytes are no flood");
}

/// All its folds and its budget are used up, and no budget refuses an end.
#[tokio::test]
async fn an_agent_that_ends_what_has_ended_for_ten_minutes_leaves_two_entries_a_minute() {
    let log = MemoryLog::default();
    let bench = Bench::in_memory(&log, &["a"], settings(50)).await;
    let mut ended = Vec::new();
    for _ in 0..30 {
        let task = start(&bench).await.unwrap().task.id;
        end(&bench, task).await.unwrap();
        ended.push(task);
    }
    let (second, mut passed, mut ends) = (Duration::from_secs(1), Duration::ZERO, 0_usize);
    let before = log.since(0).len();
    fill_folds(&bench);
    while passed < TEN_MINUTES {
        use_up(&bench);
        while bench.engine.check_rate(&bench.agent).is_ok() {
            end(&bench, ended[ends % ended.len()]).await.unwrap();
            ends += 1;
        }
        bench.clock.advance(second);
        passed += second;
        if passed.as_secs().is_multiple_of(60) {
            // Those of the last minute are over.
            bench.engine.write_counted(false).await.unwrap();
            fill_folds(&bench);
        }
    }
    bench.engine.close_counts().await.unwrap();
    assert!(ends > 60_000 / 50, "{ends}");
    let written = log.since(before);
    let is_shared =
        |entry: &&Vec<u8>| String::from_utf8_lossy(entry).contains("things that had ended before");
    let (shared, paid): (Vec<_>, Vec<_>) = written.iter().partition(is_shared);
    assert!(shared.len() <= 2 * 11, "{} of {ends} calls", shared.len());
    // The budget comes back at an even pace, and pays for a few entries in between.
    let refilled = budget_bytes(&bench) / 6;
    let bytes: usize = paid.iter().map(|entry| entry.len()).sum();
    assert!(bytes <= refilled, "{bytes} bytes, {refilled} came back");
}

/// What an agent may write to the ledger in an hour.
fn budget_bytes(bench: &Bench) -> usize {
    let snapshot = bench.engine.snapshot();
    snapshot.settings().budgets.agent_ledger_bytes_per_hour as usize
}

/// As many denials as an agent has folds, without a call for each.
fn fill_folds(bench: &Bench) {
    let (engine, now) = (&bench.engine, bench.engine.context.clock.monotonic());
    for number in 0..limits::FOLDS_PER_CALLER_MAX {
        let (call, resource) = (&bench.agent, number.to_string());
        let principal = call.caller.id();
        let record =
            engine.denial_by_rule(&call.snapshot, principal, Action::TaskRead, &resource, "no");
        let asked = Asked::new(None, None);
        engine.folds.begin(Decided { record, asked }, now);
    }
}
