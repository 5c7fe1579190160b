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

/// Whether a provider can revoke, as its revocations find it.
#[derive(Debug, Default)]
pub(super) struct Outage(Mutex<Stand>);

#[derive(Debug, Default)]
struct Stand {
    failures: u32,
    /// Monotonic time from which on the next may ask.
    ask_at: Duration,
}

impl Outage {
    /// Whether a revocation may ask the provider now. In an outage, whoever may ask keeps the others waiting.
    pub(super) fn may_ask(&self, now: Duration) -> bool {
        let mut stand = self.0.lock();
        if stand.failures < FAILURES {
            return true;
        }
        if now < stand.ask_at {
            return false;
        }
        stand.ask_at = now + PAUSE_MAX;
        true
    }

    /// The provider answered. Returns whether that ends an outage.
    pub(super) fn answered(&self) -> bool {
        let mut stand = self.0.lock();
        std::mem::take(&mut stand.failures) >= FAILURES
    }

    /// Nothing came of an order. Returns whether an outage begins with that.
    pub(super) fn failed(&self, now: Duration) -> bool {
        let mut stand = self.0.lock();
        stand.failures = stand.failures.saturating_add(1);
        let doublings = stand.failures.saturating_sub(FAILURES).min(8);
        stand.ask_at = now + PAUSE_MIN.saturating_mul(1 << doublings).min(PAUSE_MAX);
        stand.failures == FAILURES
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
            assert!(outage.may_ask(now) && outage.may_ask(now));
            assert_eq!(outage.failed(now), failure == FAILURES);
        }
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            now += Duration::from_secs(pause);
            assert!(!outage.may_ask(now.saturating_sub(Duration::from_millis(1))));
            assert!(outage.may_ask(now));
            assert!(!outage.may_ask(now), "the second beside the first");
            assert!(!outage.failed(now), "it began long ago");
        }
        // One that never came back holds up nobody for ever.
        assert!(outage.may_ask(now + PAUSE_MAX));
        assert!(!outage.may_ask(now + PAUSE_MAX));
        assert!(outage.may_ask(now + 2 * PAUSE_MAX));
        assert!(outage.answered(), "that ends it");
        assert!(!outage.answered());
        assert!(outage.may_ask(now));
    }
}
