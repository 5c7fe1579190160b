//! Outages of revoking: while a provider can revoke nothing, one revocation at a time tries it.
//!
//! A provider is out when it is down, when it refuses the broker's token, or when it is not
//! configured. Each failed attempt is an entry of the ledger: ten thousand of them every five
//! minutes would be three million a day. The revocations that wait stay due, so once one attempt
//! gets through, all others follow at once.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;

/// Failed orders in a row after which the others wait.
const FAILURES: u32 = 8;
/// The first pause between two attempts; it doubles up to the longest.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest pause. A provider that works again is tried after this time at the latest.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Why a revocation may call the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    /// There is no outage, or the revocation is new and has its first try at once.
    Free,
    /// It is the trial of an outage, for which all others wait. Holds when it expires.
    Trial(Duration),
}

/// The right of one revocation to call its provider. A trial that is dropped unused is free for the
/// next revocation.
#[derive(Debug)]
pub(crate) struct OutagePermit {
    outage: Arc<Outage>,
    access: Access,
    spent: bool,
}

impl OutagePermit {
    /// The provider is called now. The result goes to [`Outage::answered`] or [`Outage::failed`].
    pub(crate) fn spend(mut self) -> Attempt {
        self.spent = true;
        Attempt(self.access)
    }
}

impl Drop for OutagePermit {
    fn drop(&mut self) {
        if !self.spent {
            self.outage.give_back(self.access);
        }
    }
}

/// A call that is under way, and why it may be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempt(Access);

/// Whether a provider can revoke, as its last calls showed.
#[derive(Debug, Default)]
pub(crate) struct Outage(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// Failed trials of this outage.
    trials: u32,
    /// Monotonic time of the next trial.
    trial_at: Duration,
}

impl Outage {
    /// A permit to call the provider now, if there is one. In an outage the trial makes all others
    /// wait.
    pub(crate) fn acquire(self: &Arc<Self>, is_new: bool, now: Duration) -> Option<OutagePermit> {
        let access = self.0.lock().acquire(is_new, now)?;
        Some(OutagePermit {
            outage: Arc::clone(self),
            access,
            spent: false,
        })
    }

    fn give_back(&self, access: Access) {
        let mut state = self.0.lock();
        // An expired trial is not given back: another revocation may hold the next one.
        if access == Access::Trial(state.trial_at) {
            state.trial_at = Duration::ZERO;
        }
    }

    /// The provider answered. Returns whether that ends an outage.
    pub(crate) fn answered(&self) -> bool {
        std::mem::take(&mut *self.0.lock()).failures >= FAILURES
    }

    /// The call failed. Returns whether an outage begins with it.
    pub(crate) fn failed(&self, Attempt(access): Attempt, now: Duration) -> bool {
        let mut state = self.0.lock();
        state.failures = state.failures.saturating_add(1);
        let begins = state.failures == FAILURES;
        // A failure of a new revocation does not postpone the next trial.
        if begins || matches!(access, Access::Trial(_)) {
            let pause = PAUSE_MIN.saturating_mul(1 << state.trials.min(8));
            state.trial_at = now + pause.min(PAUSE_MAX);
            state.trials = state.trials.saturating_add(1);
        }
        begins
    }
}

impl State {
    fn acquire(&mut self, is_new: bool, now: Duration) -> Option<Access> {
        if is_new || self.failures < FAILURES {
            return Some(Access::Free);
        }
        if now < self.trial_at {
            return None;
        }
        self.trial_at = now + PAUSE_MAX;
        Some(Access::Trial(self.trial_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A permit that is used at once.
    fn ask(outage: &Arc<Outage>, is_new: bool, now: Duration) -> Option<Attempt> {
        outage.acquire(is_new, now).map(OutagePermit::spend)
    }

    fn is_trial(attempt: Option<Attempt>) -> Option<bool> {
        attempt.map(|Attempt(access)| access != Access::Free)
    }

    /// An outage that began just now.
    fn down(now: Duration) -> Arc<Outage> {
        let outage = Arc::<Outage>::default();
        for failure in 1..=FAILURES {
            let attempt = ask(&outage, false, now).unwrap();
            assert_eq!(is_trial(Some(attempt)), Some(false));
            assert_eq!(outage.failed(attempt, now), failure == FAILURES);
        }
        outage
    }

    #[test]
    fn while_a_provider_is_down_one_calls_at_a_time() {
        let mut now = Duration::from_secs(7);
        let outage = down(now);
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            // A new revocation calls, fails, and postpones no trial.
            now += Duration::from_secs(pause).saturating_sub(Duration::from_millis(1));
            let new = ask(&outage, true, now).unwrap();
            assert_eq!(is_trial(Some(new)), Some(false));
            assert!(!outage.failed(new, now));
            assert!(ask(&outage, false, now).is_none());
            now += Duration::from_millis(1);
            let trial = ask(&outage, false, now).unwrap();
            assert_eq!(is_trial(Some(trial)), Some(true));
            assert!(
                ask(&outage, false, now).is_none(),
                "a second beside the first"
            );
            assert!(!outage.failed(trial, now), "it began long ago");
        }
        // A trial that never ends blocks the others only until it expires.
        now += PAUSE_MAX;
        assert_eq!(is_trial(ask(&outage, false, now)), Some(true));
        assert!(ask(&outage, false, now).is_none());
        assert_eq!(is_trial(ask(&outage, false, now + PAUSE_MAX)), Some(true));
        assert!(outage.answered(), "that ends it");
        assert!(!outage.answered());
        assert_eq!(is_trial(ask(&outage, false, now)), Some(false));
    }

    #[test]
    fn whoever_asks_nothing_after_all_gives_its_turn_back() {
        let mut now = Duration::from_secs(7);
        let outage = down(now);
        now += PAUSE_MIN;
        let permit = outage.acquire(false, now).unwrap();
        assert!(ask(&outage, false, now).is_none());
        drop(permit);
        assert_eq!(is_trial(ask(&outage, false, now)), Some(true));
        // An expired trial that is dropped later frees nothing: the trial is another's.
        now += PAUSE_MAX;
        let late = outage.acquire(false, now).unwrap();
        now += PAUSE_MAX;
        assert_eq!(is_trial(ask(&outage, false, now)), Some(true));
        drop(late);
        assert!(ask(&outage, false, now).is_none());
    }
}
