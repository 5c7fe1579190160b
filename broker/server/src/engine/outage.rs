//! A provider that can revoke nothing is asked by one revocation at a time, however many are due: it is down, refuses the
//! broker's token, or is no longer configured.
//!
//! Each failed attempt is an entry of the ledger: ten thousand of them every five minutes would be three million a day, for
//! nothing. Those that wait stay due, so once one attempt gets through, all others follow in turn at once.

use std::time::Duration;

use parking_lot::Mutex;

/// Orders in a row of which nothing came, from which on the others wait.
const FAILURES: u32 = 8;
/// The first pause between two attempts; it doubles up to the longest.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest pause, and so the longest time that a provider is back before it is asked.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How a revocation came to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Like all others, or because it is new.
    Free,
    /// In an outage, to find out for all others.
    Turn,
}

/// Whether a provider can revoke, as its revocations find it.
#[derive(Debug, Default)]
pub(super) struct Outage(Mutex<Stand>);

#[derive(Debug, Default)]
struct Stand {
    failures: u32,
    /// Turns of this outage of which nothing came.
    turns: u32,
    /// Monotonic time of the next turn.
    turn_at: Duration,
}

impl Outage {
    /// Whether a revocation may ask the provider now. In an outage whoever has the turn keeps the others waiting.
    pub(super) fn admit(&self, is_new: bool, now: Duration) -> Option<Way> {
        let mut stand = self.0.lock();
        if is_new || stand.failures < FAILURES {
            return Some(Way::Free);
        }
        if now < stand.turn_at {
            return None;
        }
        stand.turn_at = now + PAUSE_MAX;
        Some(Way::Turn)
    }

    /// The provider answered. Returns whether that ends an outage.
    pub(super) fn answered(&self) -> bool {
        std::mem::take(&mut *self.0.lock()).failures >= FAILURES
    }

    /// Nothing came of an order. Returns whether an outage begins with that.
    pub(super) fn failed(&self, way: Way, now: Duration) -> bool {
        let mut stand = self.0.lock();
        stand.failures = stand.failures.saturating_add(1);
        let begins = stand.failures == FAILURES;
        // What is new, however much of it, takes nobody's turn away.
        if begins || way == Way::Turn {
            let pause = PAUSE_MIN.saturating_mul(1 << stand.turns.min(8));
            stand.turn_at = now + pause.min(PAUSE_MAX);
            stand.turns = stand.turns.saturating_add(1);
        }
        begins
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn while_a_provider_is_down_one_asks_at_a_time() {
        let outage = Outage::default();
        let mut now = Duration::from_secs(7);
        for failure in 1..=FAILURES {
            assert_eq!(outage.admit(false, now), Some(Way::Free));
            assert_eq!(outage.failed(Way::Free, now), failure == FAILURES);
        }
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            // What is new asks, fails, and moves nobody's turn.
            now += Duration::from_secs(pause).saturating_sub(Duration::from_millis(1));
            assert_eq!(outage.admit(true, now), Some(Way::Free));
            assert!(!outage.failed(Way::Free, now));
            assert_eq!(outage.admit(false, now), None);
            now += Duration::from_millis(1);
            assert_eq!(outage.admit(false, now), Some(Way::Turn));
            assert_eq!(outage.admit(false, now), None, "a second beside the first");
            assert!(!outage.failed(Way::Turn, now), "it began long ago");
        }
        // One that never came back holds up nobody for ever.
        now += PAUSE_MAX;
        assert_eq!(outage.admit(false, now), Some(Way::Turn));
        assert_eq!(outage.admit(false, now), None);
        assert_eq!(outage.admit(false, now + PAUSE_MAX), Some(Way::Turn));
        assert!(outage.answered(), "that ends it");
        assert!(!outage.answered());
        assert_eq!(outage.admit(false, now), Some(Way::Free));
    }
}
