//! The pace at which a provider is called: whether it may be called now, else when.
//!
//! Issuing from a role stops for a while after some failures of that role in a row: its *breaker*
//! is open. Callers learn when to come back, and the part of the back end behind the role gets a
//! rest. An agent that makes one role fail stops no other role. Only failures to reach the provider
//! at all open the breaker of the provider, which stops issuing from all its roles.
//!
//! Revoking never stops. In an *outage* one revocation at a time tries the provider. A provider is
//! out when it is down, when it refuses the broker's token, or when it is not configured. Each
//! failed attempt is an entry of the ledger: ten thousand of them every five minutes would be three
//! million a day. The revocations that wait stay due, so once one attempt gets through, all others
//! follow at once.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use taskpass_core::RoleName;
use taskpass_provider::ProviderError;

use crate::ProviderSettings;

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
pub(crate) struct PacerPermit {
    pacer: Arc<Pacer>,
    access: Access,
    spent: bool,
}

impl PacerPermit {
    /// The provider is called now.
    pub(crate) fn spend(mut self) -> Attempt {
        self.spent = true;
        Attempt {
            pacer: Arc::clone(&self.pacer),
            access: self.access,
        }
    }
}

impl Drop for PacerPermit {
    fn drop(&mut self) {
        if !self.spent {
            self.pacer.0.lock().outage.give_back(self.access);
        }
    }
}

/// A call to revoke that is under way. A call dropped without an answer says nothing about the
/// provider.
#[derive(Debug)]
#[must_use = "the pacer learns from the result"]
pub(crate) struct Attempt {
    pacer: Arc<Pacer>,
    access: Access,
}

impl Attempt {
    /// The provider answered, so it can be reached for issuing as well. What this shows of a role
    /// is not known. Returns whether that ends an outage.
    pub(crate) fn succeeded(self) -> bool {
        let state = &mut *self.pacer.0.lock();
        state.of_provider = Breaker::default();
        std::mem::take(&mut state.outage).is_known()
    }

    /// The provider cannot revoke. Returns whether an outage begins with this.
    pub(crate) fn failed(self, now: Duration) -> bool {
        self.pacer.0.lock().outage.failed(self.access, now)
    }
}

/// How a provider does, as its last calls showed. It outlives a change of the settings.
#[derive(Debug, Default)]
pub(crate) struct Pacer(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    of_provider: Breaker,
    /// Of roles that failed since they last worked.
    of_roles: BTreeMap<RoleName, Breaker>,
    outage: Outage,
}

/// The breaker that refuses to issue, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pause {
    /// The provider's.
    Provider(Duration),
    /// The role's.
    Role(Duration),
}

impl Pacer {
    /// How long issuing from a role is still refused. One failure after that refuses it again.
    pub(crate) fn issue_pause(&self, role: &RoleName, now: Duration) -> Option<Pause> {
        let state = self.0.lock();
        let of_provider = state.of_provider.left(now).map(Pause::Provider);
        let of_role = || state.of_roles.get(role)?.left(now).map(Pause::Role);
        of_provider.or_else(of_role)
    }

    /// How long issuing from every role is still refused.
    pub(crate) fn provider_pause(&self, now: Duration) -> Option<Duration> {
        self.0.lock().of_provider.left(now)
    }

    /// The roles with an open breaker of their own.
    pub(crate) fn paused_roles(&self, now: Duration) -> Vec<RoleName> {
        let state = self.0.lock();
        let roles = state.of_roles.iter();
        let paused = roles.filter(|(_, breaker)| breaker.left(now).is_some());
        paused.map(|(role, _)| role.clone()).collect()
    }

    /// A call to issue from a role or to renew is over; a check of the provider has no role.
    pub(crate) fn issued(
        &self,
        role: Option<&RoleName>,
        error: Option<&ProviderError>,
        settings: &ProviderSettings,
        now: Duration,
    ) {
        let state = &mut *self.0.lock();
        match (error, role) {
            // The back end was not called.
            (Some(ProviderError::Exhausted { .. }), _) => {}
            (Some(ProviderError::Unreachable(_)), _) => state.of_provider.failed(settings, now),
            // Neither the provider nor the other roles need be any worse.
            (Some(ProviderError::Retryable { .. }), Some(role)) => {
                let of_role = state.of_roles.entry(role.clone()).or_default();
                of_role.failed(settings, now);
            }
            (Some(ProviderError::Retryable { .. }), None) => {}
            // A refusal is an answer.
            (_, role) => {
                state.of_provider = Breaker::default();
                if let Some(role) = role {
                    state.of_roles.remove(role);
                }
            }
        }
    }

    /// A permit to revoke now, if there is one. In an outage the trial makes all others wait; a new
    /// revocation has its first try at once, since not everything behind the provider need be down.
    pub(crate) fn acquire(self: &Arc<Self>, is_new: bool, now: Duration) -> Option<PacerPermit> {
        let access = self.0.lock().outage.acquire(is_new, now)?;
        Some(PacerPermit {
            pacer: Arc::clone(self),
            access,
            spent: false,
        })
    }
}

#[derive(Debug, Default)]
struct Breaker {
    /// In a row.
    failures: u32,
    /// Monotonic time until which issuing is refused.
    open_until: Duration,
}

impl Breaker {
    /// How long it stays open.
    fn left(&self, now: Duration) -> Option<Duration> {
        let left = self.open_until.checked_sub(now)?;
        (!left.is_zero()).then_some(left)
    }

    fn failed(&mut self, settings: &ProviderSettings, now: Duration) {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= settings.breaker_failures {
            self.open_until = now + settings.breaker_pause;
        }
    }
}

#[derive(Debug, Default)]
struct Outage {
    /// In a row.
    failures: u32,
    /// Failed trials of this outage.
    trials: u32,
    /// Monotonic time of the next trial.
    trial_at: Duration,
}

impl Outage {
    const fn is_known(&self) -> bool {
        self.failures >= FAILURES
    }

    fn acquire(&mut self, is_new: bool, now: Duration) -> Option<Access> {
        if is_new || !self.is_known() {
            return Some(Access::Free);
        }
        if now < self.trial_at {
            return None;
        }
        self.trial_at = now + PAUSE_MAX;
        Some(Access::Trial(self.trial_at))
    }

    fn give_back(&mut self, access: Access) {
        // An expired trial is not given back: another revocation may hold the next one.
        if access == Access::Trial(self.trial_at) {
            self.trial_at = Duration::ZERO;
        }
    }

    fn failed(&mut self, access: Access, now: Duration) -> bool {
        self.failures = self.failures.saturating_add(1);
        let begins = self.failures == FAILURES;
        // A failure of a new revocation does not postpone the next trial.
        if begins || matches!(access, Access::Trial(_)) {
            let pause = PAUSE_MIN.saturating_mul(1 << self.trials.min(8));
            self.trial_at = now + pause.min(PAUSE_MAX);
            self.trials = self.trials.saturating_add(1);
        }
        begins
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A permit that is used at once.
    fn ask(pacer: &Arc<Pacer>, is_new: bool, now: Duration) -> Option<Attempt> {
        pacer.acquire(is_new, now).map(PacerPermit::spend)
    }

    fn is_trial(attempt: Option<&Attempt>) -> Option<bool> {
        attempt.map(|attempt| attempt.access != Access::Free)
    }

    fn answers(pacer: &Arc<Pacer>, now: Duration) -> bool {
        ask(pacer, true, now).unwrap().succeeded()
    }

    /// An outage that began just now.
    fn down(now: Duration) -> Arc<Pacer> {
        let pacer = Arc::<Pacer>::default();
        for failure in 1..=FAILURES {
            let attempt = ask(&pacer, false, now).unwrap();
            assert_eq!(is_trial(Some(&attempt)), Some(false));
            assert_eq!(attempt.failed(now), failure == FAILURES);
        }
        pacer
    }

    #[test]
    fn while_a_provider_is_down_one_calls_at_a_time() {
        let mut now = Duration::from_secs(7);
        let pacer = down(now);
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            // A new revocation calls, fails, and postpones no trial.
            now += Duration::from_secs(pause).saturating_sub(Duration::from_millis(1));
            let new = ask(&pacer, true, now).unwrap();
            assert_eq!(is_trial(Some(&new)), Some(false));
            assert!(!new.failed(now));
            assert!(ask(&pacer, false, now).is_none());
            now += Duration::from_millis(1);
            let trial = ask(&pacer, false, now).unwrap();
            assert_eq!(is_trial(Some(&trial)), Some(true));
            assert!(
                ask(&pacer, false, now).is_none(),
                "a second beside the first"
            );
            assert!(!trial.failed(now), "it began long ago");
        }
        // A trial that never ends blocks the others only until it expires.
        now += PAUSE_MAX;
        assert_eq!(is_trial(ask(&pacer, false, now).as_ref()), Some(true));
        assert!(ask(&pacer, false, now).is_none());
        assert_eq!(
            is_trial(ask(&pacer, false, now + PAUSE_MAX).as_ref()),
            Some(true)
        );
        assert!(answers(&pacer, now), "that ends it");
        assert!(!answers(&pacer, now));
        assert_eq!(is_trial(ask(&pacer, false, now).as_ref()), Some(false));
    }

    #[test]
    fn a_trial_that_is_dropped_unused_is_free_for_the_next() {
        let mut now = Duration::from_secs(7);
        let pacer = down(now);
        now += PAUSE_MIN;
        let permit = pacer.acquire(false, now).unwrap();
        assert!(ask(&pacer, false, now).is_none());
        drop(permit);
        assert_eq!(is_trial(ask(&pacer, false, now).as_ref()), Some(true));
        // An expired trial that is dropped later frees nothing: the trial is another's.
        now += PAUSE_MAX;
        let late = pacer.acquire(false, now).unwrap();
        now += PAUSE_MAX;
        assert_eq!(is_trial(ask(&pacer, false, now).as_ref()), Some(true));
        drop(late);
        assert!(ask(&pacer, false, now).is_none());
    }

    fn role(name: &str) -> RoleName {
        format!("vault-main/{name}").parse().unwrap()
    }

    #[test]
    fn failures_in_a_row_of_a_role_pause_that_role_until_it_answers() {
        let settings = ProviderSettings::default();
        let (pacer, error) = (Arc::<Pacer>::default(), ProviderError::retryable("down"));
        let (sick, sound) = (role("sick"), role("sound"));
        let now = Duration::from_secs(7);
        let fail = |now| pacer.issued(Some(&sick), Some(&error), &settings, now);
        let paused = Some(Pause::Role(settings.breaker_pause));
        for _ in 1..settings.breaker_failures {
            fail(now);
            assert_eq!(pacer.issue_pause(&sick, now), None);
        }
        fail(now);
        assert_eq!(pacer.issue_pause(&sick, now), paused);
        assert_eq!(pacer.issue_pause(&sound, now), None);
        assert_eq!(pacer.provider_pause(now), None);
        assert_eq!(pacer.paused_roles(now), std::slice::from_ref(&sick));
        // What shows that others work shows nothing of this role.
        pacer.issued(Some(&sound), None, &settings, now);
        assert!(!answers(&pacer, now));
        pacer.issued(None, None, &settings, now);
        assert_eq!(pacer.issue_pause(&sick, now), paused);
        let over = now + settings.breaker_pause;
        assert_eq!(pacer.issue_pause(&sick, over), None);
        assert!(pacer.paused_roles(over).is_empty());
        // One more failure is enough.
        fail(over);
        assert_eq!(pacer.issue_pause(&sick, over), paused);
        // A refusal is an answer: the role works.
        let refused = ProviderError::Denied("no".to_owned());
        pacer.issued(Some(&sick), Some(&refused), &settings, over);
        assert_eq!(pacer.issue_pause(&sick, over), None);
        assert!(pacer.0.lock().of_roles.is_empty(), "it is forgotten");
    }

    #[test]
    fn a_provider_that_cannot_be_reached_pauses_all_its_roles() {
        let settings = ProviderSettings::default();
        let pacer = Arc::<Pacer>::default();
        let (one, other) = (role("one"), role("other"));
        let now = Duration::from_secs(7);
        let gone = ProviderError::Unreachable("connection refused".to_owned());
        let paused = Some(Pause::Provider(settings.breaker_pause));
        let lose = || {
            for _ in 0..settings.breaker_failures {
                assert_eq!(pacer.provider_pause(now), None);
                pacer.issued(Some(&one), Some(&gone), &settings, now);
            }
            assert_eq!(pacer.issue_pause(&other, now), paused);
            assert!(pacer.paused_roles(now).is_empty(), "no role is to blame");
        };
        lose();
        // A role that fails does not show that the provider works.
        let failed = ProviderError::retryable("down");
        pacer.issued(Some(&other), Some(&failed), &settings, now);
        let share = ProviderError::Exhausted {
            message: "full".to_owned(),
            after: Duration::ZERO,
        };
        pacer.issued(Some(&other), Some(&share), &settings, now);
        assert_eq!(pacer.issue_pause(&other, now), paused);
        pacer.issued(None, None, &settings, now);
        assert_eq!(pacer.issue_pause(&other, now), None);
        // A revocation that gets through shows that it is reached, too.
        lose();
        assert!(!answers(&pacer, now), "there was no outage of revoking");
        assert_eq!(pacer.issue_pause(&other, now), None);
    }
}
