//! Revoking: sessions first, since everything hangs on them, then proof for each credential.

use std::{collections::BTreeSet, time::Duration};

use futures_util::{StreamExt, stream};
use taskpass_core::{CredentialId, RevocationClass, Timestamp};
use taskpass_provider::{ProviderError, RevokeItem, RevokeOrder, RevokeScope, Revoked};

use crate::{
    handle::{AnchorHandle, Handle},
    prove::{CALLS_AT_ONCE, LeaseEnds, Search},
    provider::VaultProvider,
};

/// A lease that is older than its credential by so much is another's, whatever our clock and Vault's differ by.
const OLDER: Duration = Duration::from_secs(86_400);

/// How often, and with which pause, overdue leases are looked for again before the next attempt.
const OVERDUE_LOOKS: u32 = 40;
const OVERDUE_PAUSE: Duration = Duration::from_millis(250);

/// What became of the sessions that an order covers.
#[derive(Debug, Clone)]
pub(crate) enum Sessions {
    /// Not touched: no item of the order needs it.
    Kept,
    /// There was none.
    NoneOnRecord,
    /// All are proven to be gone.
    Ended {
        /// Among them are the tokens that were to be handed out as these credentials.
        tokens: BTreeSet<CredentialId>,
        /// For these, one may have been gone before the call that used it was over.
        too_early: BTreeSet<CredentialId>,
    },
    /// At least one is not.
    Failed(ProviderError),
}

impl VaultProvider {
    pub(crate) async fn revoke_all(
        &self,
        order: &RevokeOrder,
    ) -> Result<Vec<Result<Revoked, ProviderError>>, ProviderError> {
        self.must_be_the_one(order).await?;
        if let Some(left) = self.calls_under_way(order).await? {
            return Ok(self.revoke_known(order, left).await);
        }
        let sessions = match order.scope {
            RevokeScope::Task => self.end_sessions(order).await,
            RevokeScope::Credentials if order.items.iter().any(|item| !item.outcome_known) => {
                self.end_sessions(order).await
            }
            RevokeScope::Credentials => Sessions::Kept,
        };
        // While the task's session lives, things that nobody knows of may live: then nothing is settled.
        if let (RevokeScope::Task, Sessions::Failed(error)) = (&order.scope, &sessions) {
            return Err(error.clone());
        }
        let ends = match (&order.scope, &sessions) {
            (RevokeScope::Task, Sessions::Ended { .. }) => {
                self.await_lease_ends(leases_of_sessions(order)).await
            }
            _ => LeaseEnds::new(),
        };
        let mut settling = Vec::with_capacity(order.items.len());
        for item in &order.items {
            settling.push(self.settle(item, &sessions, &ends));
        }
        let results: Vec<_> = stream::iter(settling)
            .buffered(CALLS_AT_ONCE)
            .collect()
            .await;
        if results.iter().all(Result::is_ok) {
            self.doubts.settled(&order.items);
        }
        Ok(results)
    }

    /// Ends the sessions that the order names, and with the whole task also the one in memory.
    async fn end_sessions(&self, order: &RevokeOrder) -> Sessions {
        let (mut drawn_with, mut accessors) = (BTreeSet::new(), BTreeSet::new());
        let mut tokens = BTreeSet::new();
        let of_items = order
            .items
            .iter()
            .filter(|item| order.scope == RevokeScope::Task || !item.outcome_known);
        let handles = order.anchors.iter().map(|(_, handle)| handle);
        for handle in handles.chain(of_items.filter_map(|item| item.anchor.as_ref())) {
            match AnchorHandle::parse(handle) {
                Ok(anchor) => {
                    if anchor.credential.is_none() {
                        drawn_with.insert(anchor.accessor.clone());
                    }
                    accessors.insert(anchor.accessor);
                    tokens.extend(anchor.credential);
                }
                Err(error) => return Sessions::Failed(error),
            }
        }
        match order.scope {
            RevokeScope::Task => accessors.extend(self.sessions.close(order.task).await),
            // One that was made since the order was written holds what nobody has a doubt about.
            RevokeScope::Credentials => self.sessions.drop_any_of(order.task, &accessors).await,
        }
        if accessors.is_empty() {
            return Sessions::NoneOnRecord;
        }
        let too_early = match self.perhaps_orphaned(order, &drawn_with).await {
            Ok(too_early) => too_early,
            Err(error) => return Sessions::Failed(error),
        };
        let outcomes: Vec<Result<(), ProviderError>> = stream::iter(accessors)
            .map(|accessor| async move { self.end_token(&accessor).await })
            .buffer_unordered(CALLS_AT_ONCE)
            .collect()
            .await;
        match outcomes.into_iter().find_map(Result::err) {
            Some(error) => Sessions::Failed(error),
            None => Sessions::Ended { tokens, too_early },
        }
    }

    pub(crate) async fn settle(
        &self,
        item: &RevokeItem,
        sessions: &Sessions,
        ends: &LeaseEnds,
    ) -> Result<Revoked, ProviderError> {
        let handle = item.handle.as_ref().map(Handle::parse).transpose()?;
        match handle {
            Some(Handle::LeaseId(lease_id)) => {
                if let Some(end) = ends.get(&lease_id) {
                    end.clone()?;
                    return Ok(proven(
                        "Vault revoked the task's token, and does not know the lease any more",
                    ));
                }
                self.end_lease(&lease_id).await?;
                Ok(proven(
                    "Vault revoked the lease, and does not know it any more",
                ))
            }
            Some(Handle::Accessor(accessor)) => {
                self.end_token(&accessor).await?;
                Ok(proven(
                    "Vault revoked the token, and does not know it any more",
                ))
            }
            Some(Handle::Unleased(ends_at)) => Ok(unleased(item, ends_at)),
            Some(Handle::Static(_)) => Ok(static_secret()),
            None if item.revocation_class == RevocationClass::None => Ok(static_secret()),
            Some(Handle::LeasePath(_) | Handle::TimedLeasePath(_)) | None if item.outcome_known => {
                Ok(unproven(item, "how to find it was not recorded"))
            }
            Some(Handle::LeasePath(path)) => {
                let lost = Lost {
                    path: Some(&path),
                    is_timed: false,
                };
                self.settle_unknown(item, lost, sessions).await
            }
            Some(Handle::TimedLeasePath(path)) => {
                let lost = Lost {
                    path: Some(&path),
                    is_timed: true,
                };
                self.settle_unknown(item, lost, sessions).await
            }
            None => self.settle_unknown(item, Lost::default(), sessions).await,
        }
    }

    /// An intent without outcome. Whatever it minted is a recorded token, hangs on a session that was recorded before it
    /// was used, or is a token that was never recorded and has a short life.
    async fn settle_unknown(
        &self,
        item: &RevokeItem,
        lost: Lost<'_>,
        sessions: &Sessions,
    ) -> Result<Revoked, ProviderError> {
        let (tokens, too_early) = match sessions {
            Sessions::Failed(error) => return Err(error.clone()),
            Sessions::Kept => {
                return Err(ProviderError::retryable(
                    "its session was not ended, so what it may have minted may live",
                ));
            }
            Sessions::NoneOnRecord => {
                return self.settle_unrecorded(
                    item,
                    "no session of the task is on record, so nothing was drawn, and an unrecorded token has expired by now",
                );
            }
            Sessions::Ended { tokens, too_early } => (tokens, too_early),
        };
        if item.revocation_class == RevocationClass::Immediate {
            if tokens.contains(&item.credential) {
                return Ok(proven(
                    "the token that was made for it was on record, was revoked, and Vault does not know it any more",
                ));
            }
            return self.settle_unrecorded(
                item,
                "no token that was made for it is on record, and an unrecorded one has expired by now",
            );
        }
        match self.search_for_left(item, lost.path).await {
            Search::NothingLeft if too_early.contains(&item.credential) => Ok(self.lost(
                item,
                lost,
                "its session had ended before the broker ended it, when the call that was to issue it may still have been under way",
            )),
            Search::NothingLeft => Ok(proven(
                "the task's whole session was revoked, and no lease at the role's path is past its end",
            )),
            Search::Overdue => Err(ProviderError::retryable(
                "the task's whole session was revoked, but a lease at the role's path is past its end and still there",
            )),
            Search::Impossible(why) => Ok(self.lost(
                item,
                lost,
                &format!(
                    "the task's whole session was revoked, which ends its leases; that this one ended cannot be seen: {why}"
                ),
            )),
        }
    }

    /// Vault takes the leases of an ended session down in a moment; those of others it has just ended look the same.
    async fn search_for_left(&self, item: &RevokeItem, lease_path: Option<&str>) -> Search {
        let Some(path) = lease_path else {
            return Search::Impossible("where it would be filed was not recorded".to_owned());
        };
        if self.unleased.lock().contains(&item.role) {
            return Search::Impossible("the role's engine gives no leases".to_owned());
        }
        let since = item.intended_at.minus(OLDER);
        let mut found = self.search_overdue(path, since).await;
        for _ in 0..OVERDUE_LOOKS {
            if found != Search::Overdue {
                break;
            }
            tokio::time::sleep(OVERDUE_PAUSE).await;
            found = self.search_overdue(path, since).await;
        }
        found
    }

    /// What an unanswered call may have made. Where the engine was told a time, that counts from when it carried out the call,
    /// which is over by now; else it lives as long as the engine likes. What the configuration says today does not matter.
    fn lost(&self, item: &RevokeItem, lost: Lost<'_>, why: &str) -> Revoked {
        // A clock that was set back must not make it earlier than what is on record.
        let over = self.clock.now().plus(item.lifetime).max(item.expires_at);
        let until = lost.is_timed.then_some(over);
        Revoked {
            may_live_until: Some(until.unwrap_or(Timestamp::MAX)),
            ..unproven(item, why)
        }
    }

    /// A token that was made and never recorded has its short life to live; after it, `proof` is true.
    fn settle_unrecorded(&self, item: &RevokeItem, proof: &str) -> Result<Revoked, ProviderError> {
        let left = self.unrecorded_left(item);
        if left.is_zero() {
            return Ok(proven(proof));
        }
        Err(ProviderError::Retryable {
            message: "a token may have been made without being recorded; it is dead in a moment"
                .to_owned(),
            after: Some(left),
        })
    }
}

/// What is on record of a call that gave no answer.
#[derive(Debug, Clone, Copy, Default)]
struct Lost<'a> {
    /// Where its lease would be filed.
    path: Option<&'a str>,
    /// Whether the engine was told how long it shall live.
    is_timed: bool,
}

/// The leases that end because their session did.
fn leases_of_sessions(order: &RevokeOrder) -> Vec<String> {
    let drawn = order.items.iter().filter(|item| item.anchor.is_some());
    let handles = drawn.filter_map(|item| Handle::parse(item.handle.as_ref()?).ok());
    let lease_id = |handle| match handle {
        Handle::LeaseId(lease_id) => Some(lease_id),
        Handle::Accessor(_)
        | Handle::Unleased(_)
        | Handle::Static(_)
        | Handle::LeasePath(_)
        | Handle::TimedLeasePath(_) => None,
    };
    handles.filter_map(lease_id).collect()
}

fn proven(proof: &str) -> Revoked {
    Revoked {
        verified: true,
        proof: proof.to_owned(),
        may_live_until: None,
    }
}

fn unproven(item: &RevokeItem, why: &str) -> Revoked {
    Revoked {
        verified: false,
        proof: why.to_owned(),
        may_live_until: Some(item.expires_at),
    }
}

fn static_secret() -> Revoked {
    Revoked {
        verified: false,
        proof: "a static secret: whoever read it can use it until somebody changes it".to_owned(),
        may_live_until: Some(Timestamp::MAX),
    }
}

fn unleased(item: &RevokeItem, ends_at: Option<i64>) -> Revoked {
    let told = ends_at.map(|seconds| Timestamp::from_millis(seconds.saturating_mul(1000)));
    let until = match item.revocation_class {
        RevocationClass::None => Timestamp::MAX,
        _ => told.unwrap_or(item.expires_at),
    };
    Revoked {
        verified: false,
        proof: "the engine gave no lease, so nothing can end it early".to_owned(),
        may_live_until: Some(until),
    }
}
