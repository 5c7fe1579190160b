//! Revoking: sessions first, since everything hangs on them, then proof for each credential.

use std::{collections::BTreeSet, time::Duration};

use futures_util::{StreamExt, stream};
use taskpass_core::{RevocationClass, Timestamp};
use taskpass_provider::{ProviderError, RevokeItem, RevokeOrder, RevokeScope, Revoked};

use crate::{
    handle::{AnchorHandle, Handle},
    prove::{CALLS_AT_ONCE, LeaseEnds, Search},
    provider::VaultProvider,
    session::PROBATION,
};

/// How long after its intent a call may still have been under way to make a token that was then never recorded.
const ISSUE_TAIL: Duration = Duration::from_secs(60);

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
    Ended,
    /// At least one is not.
    Failed(ProviderError),
}

impl VaultProvider {
    pub(crate) async fn revoke_all(
        &self,
        order: &RevokeOrder,
    ) -> Result<Vec<Result<Revoked, ProviderError>>, ProviderError> {
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
            (RevokeScope::Task, Sessions::Ended) => {
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

    /// Ends every session of the task: those on record, and the one in memory.
    async fn end_sessions(&self, order: &RevokeOrder) -> Sessions {
        let mut accessors = BTreeSet::new();
        accessors.extend(self.sessions.close(order.task).await);
        let of_items = order
            .items
            .iter()
            .filter(|item| order.scope == RevokeScope::Task || !item.outcome_known);
        let handles = order.anchors.iter().map(|(_, handle)| handle);
        for handle in handles.chain(of_items.filter_map(|item| item.anchor.as_ref())) {
            match AnchorHandle::parse(handle) {
                Ok(anchor) => accessors.insert(anchor.accessor),
                Err(error) => return Sessions::Failed(error),
            };
        }
        if accessors.is_empty() {
            return Sessions::NoneOnRecord;
        }
        let outcomes: Vec<Result<(), ProviderError>> = stream::iter(accessors)
            .map(|accessor| async move { self.end_token(&accessor).await })
            .buffer_unordered(CALLS_AT_ONCE)
            .collect()
            .await;
        outcomes
            .into_iter()
            .find_map(Result::err)
            .map_or(Sessions::Ended, Sessions::Failed)
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
            None => self.settle_unknown(item, sessions).await,
        }
    }

    /// An intent without outcome. Whatever it minted hangs on a session that was recorded before it was used.
    async fn settle_unknown(
        &self,
        item: &RevokeItem,
        sessions: &Sessions,
    ) -> Result<Revoked, ProviderError> {
        match sessions {
            Sessions::Failed(error) => Err(error.clone()),
            Sessions::Kept | Sessions::NoneOnRecord => self.settle_unminted(item),
            Sessions::Ended if item.revocation_class == RevocationClass::Immediate => Ok(proven(
                "every token that was recorded for the task is gone; one that was not recorded never left the broker",
            )),
            Sessions::Ended => match self.search_for_left(item).await {
                Search::NothingLeft => Ok(proven(
                    "the task's whole session was revoked, and no lease at the role's path is past its end",
                )),
                Search::Overdue => Err(ProviderError::retryable(
                    "the task's whole session was revoked, but a lease at the role's path is past its end and still there",
                )),
                Search::Impossible(why) => Ok(Revoked {
                    verified: false,
                    proof: format!(
                        "the task's whole session was revoked, which ends its leases; that this one ended cannot be seen: {why}"
                    ),
                    may_live_until: Some(item.expires_at),
                }),
            },
        }
    }

    /// Vault takes the leases of an ended session down in a moment; those of others it has just ended look the same.
    async fn search_for_left(&self, item: &RevokeItem) -> Search {
        let mut found = self.search_overdue(&item.role, &item.scope).await;
        for _ in 0..OVERDUE_LOOKS {
            if found != Search::Overdue {
                break;
            }
            tokio::time::sleep(OVERDUE_PAUSE).await;
            found = self.search_overdue(&item.role, &item.scope).await;
        }
        found
    }

    /// No session, so nothing was drawn; a token that was made and never recorded has its short life to live.
    fn settle_unminted(&self, item: &RevokeItem) -> Result<Revoked, ProviderError> {
        let settled_at = item.intended_at.plus(PROBATION + ISSUE_TAIL);
        let now = self.clock.now();
        if now < settled_at {
            return Err(ProviderError::Retryable {
                message:
                    "a token may have been made without being recorded; it is dead in a moment"
                        .to_owned(),
                after: Some(settled_at.since(now)),
            });
        }
        Ok(proven(
            "no session of the task is on record, so nothing was drawn, and an unrecorded token has expired by now",
        ))
    }
}

/// The leases that end because their session did.
fn leases_of_sessions(order: &RevokeOrder) -> Vec<String> {
    let drawn = order.items.iter().filter(|item| item.anchor.is_some());
    let handles = drawn.filter_map(|item| Handle::parse(item.handle.as_ref()?).ok());
    let lease_id = |handle| match handle {
        Handle::LeaseId(lease_id) => Some(lease_id),
        Handle::Accessor(_) | Handle::Unleased(_) | Handle::Static(_) => None,
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
