//! Calls whose answer nobody got may still be under way inside Vault.
//!
//! A lease is filed under its token only at the end of such a call. If the token is revoked before that, the lease
//! hangs on nothing and lives out its time, so the token must outlive the call. Ending the connection does not tell
//! when that is; Vault being able to answer, and then some time, does.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use taskpass_core::{CredentialId, Timestamp};
use taskpass_provider::{ProviderError, RevokeItem, RevokeOrder, Revoked};

use crate::{
    api::LookupLease, provider::VaultProvider, revoke::Sessions, server::Server, session::PROBATION,
};

/// How long a call may go on inside Vault after nobody waits for it and Vault is known to answer again.
const SETTLE: Duration = Duration::from_secs(5);
/// The longest that Vault works on one request (its `default_max_request_duration`), and something for clocks that differ.
const REQUEST_MAX: Duration = Duration::from_secs(90 + 30);
/// Calls remembered; the oldest are forgotten first, and then wait once more.
const DOUBTS_MAX: usize = 16_384;
/// A lease id that cannot exist: asking for it only shows whether Vault answers.
const NO_LEASE: &str = "taskpass/is-vault-there";

/// When Vault was first seen to answer after each doubtful call, on the monotonic clock.
#[derive(Debug, Default)]
pub(crate) struct Doubts(Mutex<HashMap<CredentialId, Duration>>);

impl Doubts {
    /// How much longer a call for this credential may be under way, Vault having just answered.
    fn left(&self, credential: CredentialId, now: Duration) -> Duration {
        SETTLE.saturating_sub(self.since(credential, now))
    }

    /// How much longer a token may live that such a call made and that was never recorded.
    fn unrecorded_left(&self, credential: CredentialId, now: Duration) -> Duration {
        (SETTLE + PROBATION).saturating_sub(self.since(credential, now))
    }

    /// Since when Vault is known to answer after the call.
    fn since(&self, credential: CredentialId, now: Duration) -> Duration {
        let mut seen = self.0.lock();
        if seen.len() >= DOUBTS_MAX {
            seen.retain(|_, at| now.saturating_sub(*at) < SETTLE + PROBATION);
        }
        now.saturating_sub(*seen.entry(credential).or_insert(now))
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
        let mut in_doubt = Vec::new();
        for item in &order.items {
            if !item.outcome_known {
                in_doubt.push(item.credential);
            }
        }
        if in_doubt.is_empty() {
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
        let now = self.clock.monotonic();
        let longest = in_doubt
            .into_iter()
            .map(|credential| self.doubts.left(credential, now))
            .max();
        // Without a recorded session nothing can have been drawn, and no session has to live on.
        let has_sessions = !order.anchors.is_empty();
        Ok(longest.filter(|left| has_sessions && !left.is_zero()))
    }

    /// How long a token made for the item and never recorded may still live. [`VaultProvider::calls_under_way`] has
    /// been asked before.
    ///
    /// What this process has seen itself is measured on the monotonic clock, which no time server can move. What was
    /// before it is told by two clocks, the broker's and Vault's, of which the one that is behind counts.
    pub(crate) fn unrecorded_left(
        &self,
        item: &RevokeItem,
        server_time: Option<Timestamp>,
    ) -> Duration {
        let seen = self
            .doubts
            .unrecorded_left(item.credential, self.clock.monotonic());
        let Some(server_time) = server_time else {
            return seen;
        };
        let dead_at = item.intended_at.plus(REQUEST_MAX + PROBATION);
        seen.min(dead_at.since(self.clock.now().min(server_time)))
    }

    /// Ends what is known at once, and leaves the rest to the next attempt. Nobody holds a credential whose answer was
    /// lost, and the session itself never leaves the broker.
    pub(crate) async fn revoke_known(
        &self,
        order: &RevokeOrder,
        left: Duration,
        server: &Server,
    ) -> Vec<Result<Revoked, ProviderError>> {
        let under_way = || {
            Err(ProviderError::Retryable {
                message: "the call that was to issue it may be under way inside Vault; its session ends in a moment"
                    .to_owned(),
                after: Some(left),
            })
        };
        let mut results = Vec::with_capacity(order.items.len());
        for item in &order.items {
            results.push(if item.outcome_known {
                self.settle(item, &Sessions::Kept, &HashMap::new(), server)
                    .await
            } else {
                under_way()
            });
        }
        results
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use taskpass_core::{ManualClock, SeededEntropy};

    #[test]
    fn a_doubtful_call_is_given_time_once() {
        let (clock, entropy) = (ManualClock::new(Timestamp::EPOCH), SeededEntropy::new(1));
        let credential = CredentialId::generate(&clock, &entropy).unwrap();
        let doubts = Doubts::default();
        assert_eq!(doubts.left(credential, Duration::from_secs(7)), SETTLE);
        assert_eq!(
            doubts.left(credential, Duration::from_secs(9)),
            SETTLE - Duration::from_secs(2)
        );
        assert_eq!(
            doubts.left(credential, Duration::from_secs(60)),
            Duration::ZERO
        );
        let life = SETTLE + PROBATION;
        for (passed, left) in [(1, 1), (60, 60), (65, 65), (100, 65)] {
            assert_eq!(
                doubts.unrecorded_left(credential, Duration::from_secs(7 + passed)),
                life - Duration::from_secs(left)
            );
        }
    }
}
