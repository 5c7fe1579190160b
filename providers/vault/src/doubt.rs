//! Calls whose answer nobody got may still be under way inside Vault.
//!
//! A lease is filed under its token only at the end of such a call. If the token is gone before that, the lease hangs on
//! nothing and lives out its time, so the token must outlive the call. Ending the connection does not tell when that is;
//! Vault's own limit for a request does, counted from when Vault is known to answer again.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use taskpass_core::{CredentialId, RevocationClass};
use taskpass_provider::{ProviderError, RevokeItem, RevokeOrder, Revoked};

use crate::{
    api::LookupLease,
    prove::{CALLS_AT_ONCE, LeaseEnds},
    provider::VaultProvider,
    revoke::Sessions,
    session::PROBATION,
};

/// The least time for a call to end after Vault is known to answer, however long ago it began: Vault may have stood still.
const SETTLE: Duration = Duration::from_secs(5);
/// Calls remembered before those that are long over are forgotten.
const DOUBTS_MAX: usize = 16_384;
/// A lease id that cannot exist: asking for it only shows whether Vault answers.
const NO_LEASE: &str = "taskpass/is-vault-there";

/// What is known of one doubtful call.
#[derive(Debug, Clone, Copy)]
struct Doubt {
    /// When Vault was first seen to answer after it, on the monotonic clock.
    answers_since: Duration,
    /// The sessions were seen alive when it was over.
    outlived: bool,
}

/// The doubtful calls of this process.
#[derive(Debug, Default)]
pub(crate) struct Doubts(Mutex<HashMap<CredentialId, Doubt>>);

impl Doubts {
    /// How long Vault has been known to answer after the call. `keep` is how long that matters.
    fn answers_for(&self, credential: CredentialId, now: Duration, keep: Duration) -> Duration {
        let mut seen = self.0.lock();
        if seen.len() >= DOUBTS_MAX {
            seen.retain(|_, doubt| now.saturating_sub(doubt.answers_since) < keep);
        }
        let doubt = seen.entry(credential).or_insert(Doubt {
            answers_since: now,
            outlived: false,
        });
        now.saturating_sub(doubt.answers_since)
    }

    fn outlived(&self, credential: CredentialId) -> bool {
        self.0.lock().get(&credential).is_some_and(|d| d.outlived)
    }

    fn mark_outlived(&self, credentials: &BTreeSet<CredentialId>) {
        let mut seen = self.0.lock();
        for credential in credentials {
            if let Some(doubt) = seen.get_mut(credential) {
                doubt.outlived = true;
            }
        }
    }

    /// Forgets what is settled.
    pub(crate) fn settled(&self, items: &[RevokeItem]) {
        let mut seen = self.0.lock();
        for item in items {
            seen.remove(&item.credential);
        }
    }
}

impl VaultProvider {
    /// How long the sessions of this order must still live, because a call made with one may be under way. `None`
    /// when they can be ended.
    pub(crate) async fn calls_under_way(
        &self,
        order: &RevokeOrder,
    ) -> Result<Option<Duration>, ProviderError> {
        let in_doubt = order.items.iter().filter(|item| !item.outcome_known);
        if in_doubt.clone().next().is_none() {
            return Ok(None);
        }
        match self
            .broker_call(|| LookupLease { lease_id: NO_LEASE })
            .await
        {
            Ok(_) => {}
            Err(fault) if fault.says_gone() => {}
            Err(fault) => return Err(fault.while_doing("see whether Vault answers")),
        }
        let longest = in_doubt.map(|item| self.left(item, self.request_max)).max();
        // Without a recorded session nothing can have been drawn, and no session has to live on.
        let has_sessions = !order.anchors.is_empty();
        Ok(longest.filter(|left| has_sessions && !left.is_zero()))
    }

    /// How long a token made for the item and never recorded may still live. [`VaultProvider::calls_under_way`] has
    /// been asked before.
    pub(crate) fn unrecorded_left(&self, item: &RevokeItem) -> Duration {
        self.left(item, self.request_max + PROBATION)
    }

    /// What is left of `span`, counted from when Vault was first seen to answer after the call.
    ///
    /// Nothing that is on record shortens it: a Vault that stood still begins with a request only when it goes on, however
    /// long ago that was sent, and only the monotonic clock of this process is one that nobody sets.
    fn left(&self, item: &RevokeItem, span: Duration) -> Duration {
        let keep = self.request_max + PROBATION;
        let answers_for = self
            .doubts
            .answers_for(item.credential, self.clock.monotonic(), keep);
        span.max(SETTLE).saturating_sub(answers_for)
    }

    /// The credentials in doubt whose sessions may have ended before the call was over: nothing proves that what such a call
    /// filed is gone. A session ends early with the task's deadline, by a clock that was set back when it was made, or
    /// because somebody revoked it; so only one that is still there has outlived the call. To be asked when no call is
    /// under way any more, before the sessions are ended.
    pub(crate) async fn perhaps_orphaned(
        &self,
        order: &RevokeOrder,
        sessions: &BTreeSet<String>,
    ) -> Result<BTreeSet<CredentialId>, ProviderError> {
        // What was to be a token of its own is found by its own record.
        let drawn = |item: &&RevokeItem| {
            !item.outcome_known && item.revocation_class != RevocationClass::Immediate
        };
        let in_doubt = order.items.iter().filter(drawn);
        let mut perhaps: BTreeSet<CredentialId> = in_doubt
            .map(|item| item.credential)
            .filter(|credential| !self.doubts.outlived(*credential))
            .collect();
        if perhaps.is_empty() {
            return Ok(perhaps);
        }
        for accessor in sessions {
            let alive = self.token_is_alive(accessor).await;
            if !alive.map_err(|e| e.while_doing("look up a session"))? {
                return Ok(perhaps);
            }
        }
        // Remembered, since the next attempt will find them ended.
        self.doubts.mark_outlived(&perhaps);
        perhaps.clear();
        Ok(perhaps)
    }

    /// Ends what is known at once, and leaves the rest to the next attempt. Nobody holds a credential whose answer was
    /// lost, and the session itself never leaves the broker.
    pub(crate) async fn revoke_known(
        &self,
        order: &RevokeOrder,
        left: Duration,
    ) -> Vec<Result<Revoked, ProviderError>> {
        let ends = LeaseEnds::new();
        let mut settling = Vec::with_capacity(order.items.len());
        for item in &order.items {
            settling.push(async {
                if item.outcome_known {
                    return self.settle(item, &Sessions::Kept, &ends).await;
                }
                Err(ProviderError::Retryable {
                    message: format!(
                        "the call that was to issue it may be under way inside Vault for {} s; its session ends then",
                        left.as_secs() + 1
                    ),
                    after: Some(left),
                })
            });
        }
        stream::iter(settling)
            .buffered(CALLS_AT_ONCE)
            .collect()
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use taskpass_core::{ManualClock, SeededEntropy, Timestamp};

    #[test]
    fn a_doubtful_call_is_given_time_once() {
        let (clock, entropy) = (ManualClock::new(Timestamp::EPOCH), SeededEntropy::new(1));
        let credential = CredentialId::generate(&clock, &entropy).unwrap();
        let doubts = Doubts::default();
        for (at, known_for) in [(7, 0), (9, 2), (60, 53)] {
            assert_eq!(
                doubts.answers_for(credential, Duration::from_secs(at), SETTLE),
                Duration::from_secs(known_for)
            );
        }
    }

    #[test]
    fn only_a_call_that_was_asked_about_is_outlived() {
        let (clock, entropy) = (ManualClock::new(Timestamp::EPOCH), SeededEntropy::new(1));
        let [asked, unknown] = [(); 2].map(|()| CredentialId::generate(&clock, &entropy).unwrap());
        let doubts = Doubts::default();
        doubts.answers_for(asked, Duration::ZERO, SETTLE);
        assert!(!doubts.outlived(asked));
        doubts.mark_outlived(&BTreeSet::from([asked, unknown]));
        assert!(doubts.outlived(asked) && !doubts.outlived(unknown));
    }
}
