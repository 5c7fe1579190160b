//! Until when credentials can live at most, counted by the monotonic clock of this process.
//!
//! The wall clock alone proves no end: it may be ahead, and the credential lives. A credential is
//! called expired only after the life that the back end gave it has passed on the monotonic clock
//! since the back end's answer. A restarted broker has counted nothing, and revokes instead.

use std::{collections::BTreeMap, time::Duration};

use parking_lot::Mutex;
use taskpass_core::{Credential, CredentialId, RevocationClass, Timestamp};

/// Lives that the broker counts; far more than its quotas allow. One beyond them is revoked at its
/// end instead.
const LIVES_MAX: usize = 1 << 20;
/// Lives are dropped from memory this long after their end.
const KEPT_FOR: Duration = Duration::from_secs(600);
/// How many lives the broker counts before it looks for old ones to drop.
const KEPT_MIN: usize = 1024;
/// The reaper waits at most this long for the monotonic clock. The end on record may come a little
/// before the back end's own, since the call to mint took time and lives are rounded.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// The lives that began, or became longer, in this process.
#[derive(Debug, Default)]
pub(crate) struct Lives(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// The latest ends, as monotonic times.
    ends: BTreeMap<CredentialId, Duration>,
    /// The number of lives at which old ones are dropped.
    full_at: usize,
}

impl Lives {
    /// The back end answered `now` that a credential lives for `life` at most. Without a life, only
    /// the back end knows the end.
    pub(crate) fn record(&self, id: CredentialId, life: Option<Duration>, now: Duration) {
        let mut inner = self.0.lock();
        let Some(life) = life else {
            inner.ends.remove(&id);
            return;
        };
        if inner.ends.len() >= inner.full_at {
            inner.ends.retain(|_, end| now < *end + KEPT_FOR);
            inner.full_at = inner.ends.len().saturating_mul(2).max(KEPT_MIN);
        }
        if inner.ends.len() < LIVES_MAX {
            let end = now.saturating_add(life);
            // A renewal never shortens a life: the answer to an earlier one may still take effect.
            let known = inner.ends.entry(id).or_insert(end);
            *known = end.max(*known);
        }
    }

    /// How long a credential may still live after `now`; `None` if this process has not counted.
    pub(crate) fn left(&self, id: CredentialId, now: Duration) -> Option<Duration> {
        let inner = self.0.lock();
        Some(inner.ends.get(&id)?.saturating_sub(now))
    }
}

/// The treatment of a credential when its end comes by the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtEnd {
    /// It is dead, and is called expired.
    CallExpired,
    /// Its end is a moment away.
    Wait(Duration),
    /// It may live. The provider is called, and the receipt says what that came to.
    Revoke,
}

/// Decides for a credential whose recorded end is not after `now`. `left` is the life that it has
/// left by the monotonic clock, if that is known.
pub(crate) fn at_end(credential: &Credential, now: Timestamp, left: Option<Duration>) -> AtEnd {
    // The provider gave a longer life than was asked for, or may still carry out a renewal.
    let lives_on = credential.may_outlive(now);
    // A static secret has no end.
    let has_no_end = credential.revocation_class == RevocationClass::None;
    match left {
        _ if lives_on || has_no_end => AtEnd::Revoke,
        Some(Duration::ZERO) => AtEnd::CallExpired,
        Some(left) if left <= WAIT_MAX => AtEnd::Wait(left),
        // The wall clock ran ahead, or the broker was restarted.
        Some(_) | None => AtEnd::Revoke,
    }
}

#[cfg(test)]
mod tests {
    use taskpass_core::{
        CredentialIntent,
        RevocationClass::{Denylist, ExpiryOnly, Immediate, Inherits},
        Scope,
    };

    use super::*;

    const END: Timestamp = Timestamp::from_millis(1_000_000);

    fn credential(class: RevocationClass) -> Credential {
        let mut credential = Credential::from(CredentialIntent {
            id: "c0123456789abcdef".parse().unwrap(),
            task: "t0123456789abcdef".parse().unwrap(),
            agent: "builder".parse().unwrap(),
            role: "vault/pki".parse().unwrap(),
            scope: Scope::default(),
            revocation_class: class,
            intended_at: Timestamp::EPOCH,
            expires_at: END,
            anchor_key: None,
            handle: None,
        });
        credential.record_issued(Timestamp::EPOCH, END);
        credential
    }

    #[test]
    fn only_the_monotonic_clock_makes_a_credential_expired() {
        let seconds = |n| Some(Duration::from_secs(n));
        let hour = Duration::from_secs(3600);
        for (class, now, left, expected) in [
            (Immediate, END, seconds(0), AtEnd::CallExpired),
            (Inherits, END, seconds(0), AtEnd::CallExpired),
            (ExpiryOnly, END, seconds(0), AtEnd::CallExpired),
            (Denylist, END.plus(hour), seconds(0), AtEnd::CallExpired),
            // The call to mint took a second, so the back end's end is a second later.
            (
                Immediate,
                END,
                seconds(1),
                AtEnd::Wait(Duration::from_secs(1)),
            ),
            (
                Immediate,
                END,
                seconds(5),
                AtEnd::Wait(Duration::from_secs(5)),
            ),
            // The wall clock is ahead by six seconds, or by an hour.
            (Immediate, END, seconds(6), AtEnd::Revoke),
            (ExpiryOnly, END.plus(hour), seconds(3600), AtEnd::Revoke),
            // The broker was restarted, or the back end counts by its own clock.
            (Immediate, END, None, AtEnd::Revoke),
            (Denylist, END.plus(hour), None, AtEnd::Revoke),
            // A static secret never expires.
            (RevocationClass::None, END, seconds(0), AtEnd::Revoke),
        ] {
            let found = at_end(&credential(class), now, left);
            assert_eq!(found, expected, "{class:?} {now} {left:?}");
        }
        let mut extended = credential(Immediate);
        extended.record_renewal_asked(END.plus(hour));
        let found = at_end(&extended, END.plus(hour), seconds(0));
        assert_eq!(found, AtEnd::Revoke, "a renewal is in doubt");
    }

    #[test]
    fn lives_are_counted_from_the_latest_answer_and_forgotten_after_their_end() {
        let at = Duration::from_secs;
        let id = |n: u32| format!("c{n:016}").parse::<CredentialId>().unwrap();
        let lives = Lives::default();
        assert_eq!(lives.left(id(1), at(0)), None);
        lives.record(id(1), Some(at(60)), at(10));
        assert_eq!(lives.left(id(1), at(30)), Some(at(40)));
        assert_eq!(lives.left(id(1), at(99)), Some(Duration::ZERO));
        lives.record(id(1), Some(at(5)), at(20));
        assert_eq!(lives.left(id(1), at(30)), Some(at(40)));
        lives.record(id(1), Some(at(60)), at(50));
        assert_eq!(lives.left(id(1), at(50)), Some(at(60)));
        lives.record(id(1), None, at(51));
        assert_eq!(lives.left(id(1), at(51)), None);
        for n in 0..5_000 {
            lives.record(id(n), Some(at(60)), at(u64::from(n)));
        }
        let counted = lives.0.lock().ends.len();
        assert!(counted <= 2_048, "{counted} lives are in memory");
        assert_eq!(lives.left(id(4_999), at(5_000)), Some(at(59)));
    }
}
