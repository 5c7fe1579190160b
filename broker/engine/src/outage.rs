//! A provider that can revoke nothing is asked by one revocation at a time, however many are due: it is down, refuses the
//! broker's token, or is no longer configured.
//!
//! Each failed attempt is an entry of the ledger: ten thousand of them every five minutes would be three million a day, for
//! nothing. Those that wait stay due, so once one attempt gets through, all others follow in turn at once.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;

/// Orders in a row of which nothing came, from which on the others wait.
const FAILURES: u32 = 8;
/// The first pause between two attempts; it doubles up to the longest.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest pause, and so the longest time that a provider is back before it is asked.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How a revocation came to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Like all others, or because it is new.
    Free,
    /// In an outage, to find out for all others, who wait until then.
    Turn(Duration),
}

/// Leave for one revocation to ask its provider. A turn that is dropped unspent is the next one's.
#[derive(Debug)]
pub(super) struct Leave {
    outage: Arc<Outage>,
    way: Way,
    spent: bool,
}

impl Leave {
    /// The provider is asked now, and how that went is told to [`Outage`].
    pub(super) fn spend(mut self) -> Asked {
        self.spent = true;
        Asked(self.way)
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        if !self.spent {
            self.outage.take_back(self.way);
        }
    }
}

/// That a revocation asked, and how it came to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked(Way);

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
    pub(super) fn admit(self: &Arc<Self>, is_new: bool, now: Duration) -> Option<Leave> {
        let way = self.0.lock().admit(is_new, now)?;
        Some(Leave {
            outage: Arc::clone(self),
            way,
            spent: false,
        })
    }

    fn take_back(&self, way: Way) {
        let mut stand = self.0.lock();
        // One that took longer than it had holds no turn any more.
        if way == Way::Turn(stand.turn_at) {
            stand.turn_at = Duration::ZERO;
        }
    }

    /// The provider answered. Returns whether that ends an outage.
    pub(super) fn answered(&self) -> bool {
        std::mem::take(&mut *self.0.lock()).failures >= FAILURES
    }

    /// Nothing came of an order. Returns whether an outage begins with that.
    pub(super) fn failed(&self, Asked(way): Asked, now: Duration) -> bool {
        let mut stand = self.0.lock();
        stand.failures = stand.failures.saturating_add(1);
        let begins = stand.failures == FAILURES;
        // What is new, however much of it, takes nobody's turn away.
        if begins || matches!(way, Way::Turn(_)) {
            let pause = PAUSE_MIN.saturating_mul(1 << stand.turns.min(8));
            stand.turn_at = now + pause.min(PAUSE_MAX);
            stand.turns = stand.turns.saturating_add(1);
        }
        begins
    }
}

impl Stand {
    fn admit(&mut self, is_new: bool, now: Duration) -> Option<Way> {
        if is_new || self.failures < FAILURES {
            return Some(Way::Free);
        }
        if now < self.turn_at {
            return None;
        }
        self.turn_at = now + PAUSE_MAX;
        Some(Way::Turn(self.turn_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether one may ask, and whether that is a turn; it asks.
    fn ask(outage: &Arc<Outage>, is_new: bool, now: Duration) -> Option<Asked> {
        outage.admit(is_new, now).map(Leave::spend)
    }

    fn is_turn(asked: Option<Asked>) -> Option<bool> {
        asked.map(|Asked(way)| way != Way::Free)
    }

    /// Down since a moment before `now`.
    fn down(now: Duration) -> Arc<Outage> {
        let outage = Arc::<Outage>::default();
        for failure in 1..=FAILURES {
            let asked = ask(&outage, false, now).unwrap();
            assert_eq!(is_turn(Some(asked)), Some(false));
            assert_eq!(outage.failed(asked, now), failure == FAILURES);
        }
        outage
    }

    #[test]
    fn while_a_provider_is_down_one_asks_at_a_time() {
        let mut now = Duration::from_secs(7);
        let outage = down(now);
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            // What is new asks, fails, and moves nobody's turn.
            now += Duration::from_secs(pause).saturating_sub(Duration::from_millis(1));
            let new = ask(&outage, true, now).unwrap();
            assert_eq!(is_turn(Some(new)), Some(false));
            assert!(!outage.failed(new, now));
            assert!(ask(&outage, false, now).is_none());
            now += Duration::from_millis(1);
            let turn = ask(&outage, false, now).unwrap();
            assert_eq!(is_turn(Some(turn)), Some(true));
            assert!(
                ask(&outage, false, now).is_none(),
                "a second beside the first"
            );
            assert!(!outage.failed(turn, now), "it began long ago");
        }
        // One that never came back holds up nobody for ever.
        now += PAUSE_MAX;
        assert_eq!(is_turn(ask(&outage, false, now)), Some(true));
        assert!(ask(&outage, false, now).is_none());
        assert_eq!(is_turn(ask(&outage, false, now + PAUSE_MAX)), Some(true));
        assert!(outage.answered(), "that ends it");
        assert!(!outage.answered());
        assert_eq!(is_turn(ask(&outage, false, now)), Some(false));
    }

    #[test]
    fn whoever_asks_nothing_after_all_gives_its_turn_back() {
        let mut now = Duration::from_secs(7);
        let outage = down(now);
        now += PAUSE_MIN;
        let leave = outage.admit(false, now).unwrap();
        assert!(ask(&outage, false, now).is_none());
        drop(leave);
        assert_eq!(is_turn(ask(&outage, false, now)), Some(true));
        // One that comes back too late has nothing to give: the turn is another's.
        now += PAUSE_MAX;
        let late = outage.admit(false, now).unwrap();
        now += PAUSE_MAX;
        assert_eq!(is_turn(ask(&outage, false, now)), Some(true));
        drop(late);
        assert!(ask(&outage, false, now).is_none());
    }
}
