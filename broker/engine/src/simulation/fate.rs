//! The decisions of a seed: choices, the order in which futures run, and the place of a kill.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use parking_lot::Mutex;
use taskpass_core::{Entropy, SeededEntropy};

/// After so many rounds in which no future asked for a choice, all futures wait for time to pass.
const QUIET_ROUNDS: u32 = 6;

/// Choices, the same for the same seed.
#[derive(Debug)]
pub(super) struct Fate {
    random: SeededEntropy,
    /// How many choices were made.
    asked: AtomicU64,
    /// How many places for a kill the broker still passes before the kill; negative when none is
    /// planned.
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

    /// True in so many of 100 cases.
    pub(super) fn percent(&self, cases: u64) -> bool {
        self.below(100) < cases
    }

    /// True in so many of 1000 cases, and never once the history is calm.
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

    /// Whether a kill is planned.
    pub(super) fn kills_soon(&self) -> bool {
        self.kill_in.load(Ordering::Relaxed) >= 0
    }

    pub(super) fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Relaxed)
    }

    /// Another broker process begins.
    pub(super) fn live_again(&self) {
        self.killed.store(false, Ordering::Relaxed);
        self.kill_in.store(-1, Ordering::Relaxed);
    }

    /// A place where the broker may be killed and other futures may run. After the kill the calling
    /// future never goes on, so the dead process has no effect.
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

    /// Lets other futures run first, perhaps.
    pub(super) async fn others_first(&self) {
        for _ in 0..self.below(4).saturating_sub(1) {
            tokio::task::yield_now().await;
        }
        if self.is_killed() {
            std::future::pending::<()>().await;
        }
    }

    /// Lets all futures run that can, without time passing. A future that still runs soon asks for
    /// a choice, so rounds without one mean that all are waiting.
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
