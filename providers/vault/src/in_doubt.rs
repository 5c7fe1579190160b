//! Issue calls in doubt: the broker has no answer, and Vault may still be working on the call.
//!
//! Vault files a lease under its token only at the end of a call. If the token is revoked before
//! that, the lease belongs to no token and lives out its time, so the session must outlive the
//! call. A closed connection does not tell when the call ends. Vault's own limit for a request
//! does, counted from when Vault is seen to answer again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use parking_lot::Mutex;
use taskpass_core::CredentialId;
use taskpass_provider::{ProviderError, RevokeItem, RevokeOrder};

use crate::{consistency::Index, handle::is_token, token::PROBATION, vault::Vault};

/// The least time for a call to end after Vault is seen to answer. Vault may have stood still, so
/// that the call goes on only now, however long ago it was sent.
const FINISH_MIN: Duration = Duration::from_secs(5);
/// When more calls than this are remembered, the calls that must be over are dropped.
const CALLS_MAX: usize = 16_384;
/// When more times of calls that no record names are remembered, the earliest is forgotten, and
/// would count from a later answer.
const UNNAMED_MAX: usize = 64;
/// A lease id that cannot exist: looking it up only shows whether Vault answers.
const NO_LEASE: &str = "taskpass/is-vault-there";

/// The observations of this process about one call in doubt.
#[derive(Debug, Clone, Copy)]
struct Observed {
    /// When Vault was first seen to answer after the call, on the monotonic clock.
    answering_since: Duration,
    /// Every session was seen alive once the call had to be over.
    sessions_outlived_it: bool,
}

/// The calls in doubt that this process knows of.
#[derive(Debug, Default)]
pub(crate) struct CallsInDoubt {
    by_credential: Mutex<HashMap<CredentialId, Observed>>,
    /// For calls of which no record names the credential: by when the last of them was sent, and
    /// when Vault was first seen to answer after that.
    unnamed: Mutex<BTreeMap<Duration, Duration>>,
}

impl CallsInDoubt {
    /// Fails while a call that was sent before `sent_before` may still run.
    pub(crate) async fn are_over(
        &self,
        vault: &Vault,
        sent_before: Duration,
    ) -> Result<(), ProviderError> {
        must_answer(vault).await?;
        let span = vault.request_max.max(FINISH_MIN);
        let left = self.unnamed_left(sent_before, vault.clock.monotonic(), span);
        if left.is_zero() {
            return Ok(());
        }
        Err(ProviderError::Retryable {
            message: format!(
                "Vault may still be working on a call that is not on record for {} s",
                left.as_secs() + 1
            ),
            after: Some(left),
        })
    }

    /// The rest of `span`, counted from the first answer after `sent_before`: this one, if there
    /// was none before.
    fn unnamed_left(&self, sent_before: Duration, now: Duration, span: Duration) -> Duration {
        let mut unnamed = self.unnamed.lock();
        let first = unnamed.range(sent_before..).map(|(_, first)| *first).min();
        let first = first.unwrap_or_else(|| {
            if unnamed.len() >= UNNAMED_MAX {
                unnamed.pop_first();
            }
            unnamed.insert(sent_before, now);
            now
        });
        span.saturating_sub(now.saturating_sub(first))
    }

    /// How long the sessions of this order must still live because Vault may be working on a call
    /// made with one. `None` if they can be revoked now.
    pub(crate) async fn sessions_needed_for(
        &self,
        vault: &Vault,
        order: &RevokeOrder,
    ) -> Result<Option<Duration>, ProviderError> {
        let in_doubt = order.items.iter().filter(|item| !item.outcome_known);
        if in_doubt.clone().next().is_none() {
            return Ok(None);
        }
        must_answer(vault).await?;
        let longest = in_doubt
            .map(|item| self.left_of(vault, item, vault.request_max))
            .max();
        // Without a session on record the call cannot have used one.
        let has_sessions = !order.anchors.is_empty();
        Ok(longest.filter(|left| has_sessions && !left.is_zero()))
    }

    /// How long a token that was minted for the item and never recorded may still live. Call
    /// [`CallsInDoubt::sessions_needed_for`] first: it sees whether Vault answers.
    pub(crate) fn unrecorded_token_left(&self, vault: &Vault, item: &RevokeItem) -> Duration {
        self.left_of(vault, item, vault.request_max + PROBATION)
    }

    /// The credentials in doubt with sessions that may have ended before the call did: the lease of
    /// such a call may belong to no token.
    ///
    /// A session ends early at the task's deadline, by a clock that was set back when it was
    /// minted, or because an operator revoked it. Only a session that still exists has outlived the
    /// call. Ask after [`CallsInDoubt::sessions_needed_for`] returned `None` and before the
    /// sessions are revoked. A standby that lags may take a session for alive that has ended, so
    /// there the revocation must show it: [`CallsInDoubt::ended_sessions`].
    pub(crate) async fn possibly_orphaned(
        &self,
        vault: &Vault,
        order: &RevokeOrder,
        sessions: &BTreeMap<String, Option<Index>>,
    ) -> Result<BTreeSet<CredentialId>, ProviderError> {
        // A token role's credential has an anchor of its own, which finds it.
        let has_lease = |item: &&RevokeItem| !item.outcome_known && !is_token(item);
        let in_doubt = order.items.iter().filter(has_lease);
        let possible: BTreeSet<CredentialId> = in_doubt
            .map(|item| item.credential)
            .filter(|credential| !self.sessions_outlived(*credential))
            .collect();
        if possible.is_empty() {
            return Ok(possible);
        }
        for (accessor, minted) in sessions {
            let exists = vault.token_exists(accessor, minted.as_ref()).await;
            if !exists.map_err(|e| e.while_doing("look up a session"))? {
                return Ok(possible);
            }
        }
        if vault.may_lag().await {
            return Ok(possible);
        }
        // Remembered, because the next attempt will find the sessions revoked.
        self.mark_outlived(&possible);
        Ok(BTreeSet::new())
    }

    /// The broker itself just ended every session of these credentials, so each session was alive
    /// until then and has outlived the calls. Remembered as above.
    pub(crate) fn ended_sessions(&self, possible: &mut BTreeSet<CredentialId>) {
        self.mark_outlived(possible);
        possible.clear();
    }

    /// Drops the observations about calls of `items`, which are revoked.
    pub(crate) fn remove(&self, items: &[RevokeItem]) {
        let mut calls = self.by_credential.lock();
        for item in items {
            calls.remove(&item.credential);
        }
    }

    /// The rest of `span`, counted from when Vault was first seen to answer after the call.
    ///
    /// Nothing on record shortens it: a Vault that stood still begins with a request only when it
    /// goes on, and the monotonic clock of this process is the only clock that cannot be set.
    fn left_of(&self, vault: &Vault, item: &RevokeItem, span: Duration) -> Duration {
        let keep = vault.request_max + PROBATION;
        let answering = self.answering_for(item.credential, vault.clock.monotonic(), keep);
        span.max(FINISH_MIN).saturating_sub(answering)
    }

    /// How long Vault has been seen to answer after the call. An entry matters for `keep`.
    fn answering_for(&self, credential: CredentialId, now: Duration, keep: Duration) -> Duration {
        let mut calls = self.by_credential.lock();
        if calls.len() >= CALLS_MAX {
            calls.retain(|_, call| now.saturating_sub(call.answering_since) < keep);
        }
        let call = calls.entry(credential).or_insert(Observed {
            answering_since: now,
            sessions_outlived_it: false,
        });
        now.saturating_sub(call.answering_since)
    }

    fn sessions_outlived(&self, credential: CredentialId) -> bool {
        let calls = self.by_credential.lock();
        calls
            .get(&credential)
            .is_some_and(|call| call.sessions_outlived_it)
    }

    fn mark_outlived(&self, credentials: &BTreeSet<CredentialId>) {
        let mut calls = self.by_credential.lock();
        for credential in credentials {
            if let Some(call) = calls.get_mut(credential) {
                call.sessions_outlived_it = true;
            }
        }
    }
}

/// Fails unless Vault answers.
async fn must_answer(vault: &Vault) -> Result<(), ProviderError> {
    let answered = vault.lease_exists(NO_LEASE, None).await;
    let answered = answered.map_err(|e| e.while_doing("see whether Vault answers"));
    answered.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use taskpass_core::{ManualClock, SeededEntropy, Timestamp};

    #[test]
    fn time_counts_from_the_first_answer_after_the_call() {
        let (clock, entropy) = (ManualClock::new(Timestamp::EPOCH), SeededEntropy::new(1));
        let credential = CredentialId::generate(&clock, &entropy).unwrap();
        let calls = CallsInDoubt::default();
        for (at, answering_for) in [(7, 0), (9, 2), (60, 53)] {
            assert_eq!(
                calls.answering_for(credential, Duration::from_secs(at), FINISH_MIN),
                Duration::from_secs(answering_for)
            );
        }
    }

    /// A call that no record names counts from the first answer after it was sent, and a later one
    /// is not over because an earlier one is.
    #[test]
    fn an_unnamed_call_counts_from_the_first_answer_after_it() {
        let calls = CallsInDoubt::default();
        let seconds = Duration::from_secs;
        let left = |sent, now| calls.unnamed_left(seconds(sent), seconds(now), seconds(9));
        assert_eq!(left(0, 3), seconds(9));
        assert_eq!(left(0, 5), seconds(7));
        assert_eq!(left(4, 6), seconds(9));
        assert_eq!((left(0, 12), left(4, 12)), (seconds(0), seconds(3)));
        assert_eq!(left(0, 100), seconds(0), "it stays over");
        // An answer after a later call came after the earlier call, too.
        assert_eq!(left(2, 101), seconds(0));
    }

    #[test]
    fn only_a_call_that_was_observed_is_outlived() {
        let (clock, entropy) = (ManualClock::new(Timestamp::EPOCH), SeededEntropy::new(1));
        let [observed, unknown] =
            [(); 2].map(|()| CredentialId::generate(&clock, &entropy).unwrap());
        let calls = CallsInDoubt::default();
        calls.answering_for(observed, Duration::ZERO, FINISH_MIN);
        assert!(!calls.sessions_outlived(observed));
        calls.mark_outlived(&BTreeSet::from([observed, unknown]));
        assert!(calls.sessions_outlived(observed) && !calls.sessions_outlived(unknown));
    }
}
