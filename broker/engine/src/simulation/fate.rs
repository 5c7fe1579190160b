//! What a seed decides: choices, the order in which things run, and where the broker is killed.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use parking_lot::Mutex;
use taskpass_core::{Entropy, SeededEntropy};

/// Rounds without anybody asking chance after which everybody waits for time to pass.
const QUIET_ROUNDS: u32 = 6;

/// Choices, the same for the same seed.
#[derive(Debug)]
pub(super) struct Fate {
    random: SeededEntropy,
    /// How often chance was asked.
    asked: AtomicU64,
    /// Places where the broker could be killed that are left until it is; negative when it is not
    /// to be.
    kill_in: AtomicI64,
    killed: AtomicBool,
    /// Nothing goes wrong any more.
    calm: AtomicBool,
    trace: Mutex<Option<Vec<String>>>,
}

impl Fate {
    pub(super) fn new(seed: u64, traced: bool) -> Self {
        Self {
            random: SeededEntropy::new(seed),
            asked: AtomicU64::new(0),
            kill_in: AtomicI64::new(-1),
            killed: AtomicBool::new(false),
            calm: AtomicBool::new(false),
            trace: Mutex::new(traced.then(Vec::new)),
        }
    }

    /// A number below `limit`.
    pub(super) fn below(&self, limit: u64) -> u64 {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.random.next_u64().unwrap() % limit.max(1)
    }

    /// A number from `least` to `most`.
    pub(super) fn between(&self, least: u64, most: u64) -> u64 {
        least + self.below(most - least + 1)
    }

    /// Whether something happens that happens in so many of 100 cases.
    pub(super) fn percent(&self, cases: u64) -> bool {
        self.below(100) < cases
    }

    /// Whether something goes wrong that goes wrong in so many of 1000 cases.
    pub(super) fn wrong(&self, cases: u64) -> bool {
        self.below(1000) < cases && !self.is_calm()
    }

    pub(super) fn pick<'a, T>(&self, from: &'a [T]) -> Option<&'a T> {
        let at = self.below(u64::try_from(from.len()).unwrap());
        from.get(usize::try_from(at).unwrap())
    }

    pub(super) fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    /// From now on nothing goes wrong.
    pub(super) fn calm_down(&self) {
        self.calm.store(true, Ordering::Relaxed);
        self.kill_in.store(-1, Ordering::Relaxed);
    }

    /// Has the broker killed at the `place`-th place from here.
    pub(super) fn kill_at(&self, place: u64) {
        self.kill_in
            .store(i64::try_from(place).unwrap(), Ordering::Relaxed);
    }

    pub(super) fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Relaxed)
    }

    /// Another broker process begins.
    pub(super) fn live_again(&self) {
        self.killed.store(false, Ordering::Relaxed);
        self.kill_in.store(-1, Ordering::Relaxed);
    }

    /// A place where the broker may be killed and others may run. After the kill nothing the
    /// process does has an effect.
    pub(super) async fn place(&self) {
        if self.kill_in.load(Ordering::Relaxed) >= 0
            && self.kill_in.fetch_sub(1, Ordering::Relaxed) == 0
        {
            self.killed.store(true, Ordering::Relaxed);
        }
        if self.is_killed() {
            std::future::pending::<()>().await;
        }
        self.others_first().await;
    }

    /// Lets others run first, perhaps.
    pub(super) async fn others_first(&self) {
        for _ in 0..self.below(4).saturating_sub(1) {
            tokio::task::yield_now().await;
        }
        if self.is_killed() {
            std::future::pending::<()>().await;
        }
    }

    /// Lets everybody run who can, without time passing. Nothing goes on without asking chance for
    /// long.
    pub(super) async fn settle(&self) {
        let mut quiet = 0;
        while quiet < QUIET_ROUNDS {
            let before = self.asked.load(Ordering::Relaxed);
            tokio::task::yield_now().await;
            let moved = before != self.asked.load(Ordering::Relaxed);
            quiet = if moved { 0 } else { quiet + 1 };
        }
    }

    pub(super) fn note(&self, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut *self.trace.lock() {
            lines.push(line());
        }
    }

    pub(super) fn trace(&self) -> Vec<String> {
        self.trace.lock().clone().unwrap_or_default()
    }
}
