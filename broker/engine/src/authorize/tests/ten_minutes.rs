//! One agent at full rate for ten minutes of virtual time.

use taskpass_core::{Labels, Scope, limits};
use taskpass_store::MemoryLog;

use super::*;

const TEN_MINUTES: Duration = Duration::from_secs(600);
/// The most that the ledger may grow.
const BYTES_MAX: usize = 20_000_000;
/// Bytes that the files hold for an entry beside it: length, checksum, and a hash in a tile.
const BESIDE_AN_ENTRY: usize = 48;

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
    let bench = Bench::in_memory(&log, &["a"], Settings::default()).await;
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
    assert!(flood.calls > 60_000, "{}", flood.calls);
    assert!(flood.ended.len() > 500, "{}", flood.ended.len());
    let grown: usize = log
        .since(before)
        .iter()
        .map(|entry| entry.len() + BESIDE_AN_ENTRY)
        .sum();
    assert!(grown < BYTES_MAX, "{grown} bytes");
    assert!(grown > BYTES_MAX / 4, "{grown} bytes are no flood");
}
