//! Revoking: the sessions first, since every lease belongs to one, and then proof for each
//! credential.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use taskpass_core::{CredentialId, RevocationClass, Timestamp};
use taskpass_provider::{ProviderError, RevokeItem, RevokeOrder, RevokeScope, Revoked};

use crate::{
    consistency::{Death, Index, UNSEEN},
    engine::{EngineRevokes, engine_revokes, forgotten},
    handle::{AnchorHandle, Handle, is_by_token_role, is_token},
    identity::must_have_minted,
    in_doubt::CallsInDoubt,
    leases::{LeaseOutcomes, Search, await_revoked, search_overdue},
    roles::Roles,
    session::Sessions,
    vault::{CONCURRENT_CALLS_MAX, RevokedToken, Vault},
};

/// A lease this much older than its credential is another's, however much our clock and Vault's
/// differ.
const OLDER: Duration = Duration::from_secs(86_400);

/// When an item in doubt is tried again while only a call that no record names may still run.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How often, and with which pause, one attempt searches for overdue leases.
const SEARCHES_MAX: u32 = 40;
const SEARCH_PAUSE: Duration = Duration::from_millis(250);

/// One order to revoke, and all that it takes.
pub(crate) struct Revoking<'a> {
    pub(crate) vault: &'a Vault,
    pub(crate) roles: &'a Roles,
    pub(crate) sessions: &'a Sessions,
    pub(crate) calls: &'a CallsInDoubt,
    pub(crate) order: &'a RevokeOrder,
}

/// The outcomes of the sessions that an order covers.
#[derive(Debug, Clone)]
enum SessionsOutcome {
    /// Not touched: no item of the order needs it.
    Kept,
    /// There was none.
    NoneOnRecord,
    /// All are gone.
    Revoked {
        /// What that is worth.
        proof: SessionsProof,
        /// Some of the tokens were these credentials themselves.
        tokens: BTreeSet<CredentialId>,
        /// For these, a session may have been gone before the call that used it ended.
        possibly_orphaned: BTreeSet<CredentialId>,
    },
    /// At least one may live.
    Failed(ProviderError),
}

/// What "Vault knows none of the sessions" is worth.
#[derive(Debug, Clone)]
enum SessionsProof {
    /// The broker revoked one, and Vault's storage was as far as this then: a place that is as far
    /// has seen everything that was issued through any of them.
    RevokedAt(Index),
    /// They are dead; whether the answering place has seen their leases is not known.
    Dead,
    /// The answering place may not have seen them.
    Unseen,
}

type ItemResult = Result<Revoked, ProviderError>;

impl Revoking<'_> {
    pub(crate) async fn revoke(&self) -> Result<Vec<ItemResult>, ProviderError> {
        let (vault, order) = (self.vault, self.order);
        must_have_minted(vault, order).await?;
        let needed_for = self.calls.sessions_needed_for(vault, order).await?;
        let needed_for = needed_for.or_else(|| order.calls_may_run.then_some(LOOK_AGAIN));
        if let Some(left) = needed_for {
            return Ok(self.revoke_known(left).await);
        }
        let sessions = match order.scope {
            RevokeScope::Credentials if order.items.iter().all(|item| item.outcome_known) => {
                SessionsOutcome::Kept
            }
            RevokeScope::Task | RevokeScope::Credentials => self.revoke_sessions().await,
        };
        // While a session of the task lives, leases that are not on record may live: no item is
        // proven then.
        if let (RevokeScope::Task, SessionsOutcome::Failed(error)) = (&order.scope, &sessions) {
            return Err(error.clone());
        }
        let leases = self.leases_of(&sessions).await;
        let mut revoking = Vec::with_capacity(order.items.len());
        for item in &order.items {
            revoking.push(self.revoke_item(item, &sessions, &leases));
        }
        let results: Vec<_> = stream::iter(revoking)
            .buffered(CONCURRENT_CALLS_MAX)
            .collect()
            .await;
        if results.iter().all(Result::is_ok) {
            self.calls.remove(&order.items);
        }
        Ok(results)
    }

    /// Waits for the leases that end with the sessions of a task. Where the answering place may not
    /// have seen them, each is revoked by itself.
    async fn leases_of(&self, sessions: &SessionsOutcome) -> LeaseOutcomes {
        let (RevokeScope::Task, SessionsOutcome::Revoked { proof, .. }) =
            (&self.order.scope, sessions)
        else {
            return LeaseOutcomes::new();
        };
        let after = match proof {
            SessionsProof::RevokedAt(index) => Some(index),
            SessionsProof::Dead | SessionsProof::Unseen if self.vault.may_lag().await => {
                return LeaseOutcomes::new();
            }
            SessionsProof::Dead | SessionsProof::Unseen => None,
        };
        await_revoked(self.vault, leases_of_sessions(self.order), after).await
    }

    /// Revokes the items with a known outcome now and leaves the items in doubt to the next
    /// attempt. No client has a credential in doubt, and the session itself never leaves the
    /// broker.
    async fn revoke_known(&self, left: Duration) -> Vec<ItemResult> {
        let leases = LeaseOutcomes::new();
        let mut revoking = Vec::with_capacity(self.order.items.len());
        for item in &self.order.items {
            revoking.push(async {
                if item.outcome_known {
                    return self
                        .revoke_item(item, &SessionsOutcome::Kept, &leases)
                        .await;
                }
                Err(ProviderError::Retryable {
                    message: format!(
                        "Vault may still be working on the call to issue it for {} s; its session is revoked then",
                        left.as_secs() + 1
                    ),
                    after: Some(left),
                })
            });
        }
        stream::iter(revoking)
            .buffered(CONCURRENT_CALLS_MAX)
            .collect()
            .await
    }

    /// Revokes the sessions that the order names. If the whole task ends, also the session in
    /// memory.
    async fn revoke_sessions(&self) -> SessionsOutcome {
        let (vault, order) = (self.vault, self.order);
        let (mut sessions, mut accessors) = (BTreeMap::new(), BTreeMap::new());
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
                        sessions.insert(anchor.accessor.clone(), anchor.index.clone());
                    }
                    accessors.insert(anchor.accessor, anchor.index);
                    tokens.extend(anchor.credential);
                }
                Err(error) => return SessionsOutcome::Failed(error),
            }
        }
        match order.scope {
            RevokeScope::Task => accessors.extend(self.sessions.remove(order.task).await),
            // A session minted since the order was written has no credential in doubt and stays.
            RevokeScope::Credentials => {
                let named = accessors.keys().cloned().collect();
                self.sessions.remove_any_of(order.task, &named).await;
            }
        }
        if accessors.is_empty() {
            return SessionsOutcome::NoneOnRecord;
        }
        let orphaned = self.calls.possibly_orphaned(vault, order, &sessions).await;
        let mut possibly_orphaned = match orphaned {
            Ok(credentials) => credentials,
            Err(error) => return SessionsOutcome::Failed(error),
        };
        let sessions = &sessions;
        let revoked: Vec<Result<(bool, RevokedToken), ProviderError>> = stream::iter(accessors)
            .map(|(accessor, minted)| async move {
                let revoked = vault.revoke_token(&accessor, minted.as_ref()).await?;
                Ok((sessions.contains_key(&accessor), revoked))
            })
            .buffer_unordered(CONCURRENT_CALLS_MAX)
            .collect()
            .await;
        let revoked = match revoked.into_iter().collect::<Result<Vec<_>, _>>() {
            Err(error) => return SessionsOutcome::Failed(error),
            Ok(revoked) => revoked,
        };
        if revoked
            .iter()
            .all(|(is_session, token)| token.was_alive || !is_session)
        {
            self.calls.ended_sessions(&mut possibly_orphaned);
        }
        SessionsOutcome::Revoked {
            proof: SessionsProof::of(revoked.into_iter().map(|(_, token)| token)),
            tokens,
            possibly_orphaned,
        }
    }

    async fn revoke_item(
        &self,
        item: &RevokeItem,
        sessions: &SessionsOutcome,
        leases: &LeaseOutcomes,
    ) -> ItemResult {
        let handle = item.handle.as_ref().map(Handle::parse).transpose()?;
        let minted = item.handle.as_ref().and_then(Index::recorded);
        let minted = minted.as_ref();
        match handle {
            Some(Handle::LeaseId(lease_id)) => {
                self.revoke_leased(item, &lease_id, leases.get(&lease_id))
                    .await
            }
            Some(Handle::Accessor(accessor)) => Ok(
                match self.vault.revoke_token(&accessor, minted).await?.death {
                    Death::Proven => proven(
                        "Vault revoked the token, and does not know it any more; what it was used to mint ends as its engines allow",
                    ),
                    Death::Unknown => unproven_until(self.token_ends_by(item), UNSEEN),
                },
            ),
            Some(Handle::Unleased(ends_at)) => Ok(unleased(item, ends_at)),
            Some(Handle::Static(_)) => Ok(static_secret()),
            None if item.revocation_class == RevocationClass::None => Ok(static_secret()),
            Some(Handle::Token | Handle::LeasePath(_) | Handle::TimedLeasePath(_)) | None
                if item.outcome_known =>
            {
                Ok(unproven(item, "how to find it was not recorded"))
            }
            located => {
                let locator = Locator::of(located.as_ref());
                self.revoke_in_doubt(item, locator, sessions).await
            }
        }
    }

    /// The latest end that the holder of a token can have given it.
    fn token_ends_by(&self, item: &RevokeItem) -> Timestamp {
        if is_by_token_role(item.handle.as_ref()) {
            return Timestamp::MAX;
        }
        self.order.task_deadline.max(item.expires_at)
    }

    /// Revokes a lease, unless it ended with its session. That Vault does not know the lease is a
    /// proof only if its engine makes the credential useless.
    async fn revoke_leased(
        &self,
        item: &RevokeItem,
        lease_id: &str,
        with_session: Option<&Result<(), ProviderError>>,
    ) -> ItemResult {
        let minted = item.handle.as_ref().and_then(Index::recorded);
        let minted = minted.as_ref();
        let (death, proof) = match with_session {
            Some(outcome) => {
                outcome.clone()?;
                let proof = "Vault revoked the task's token, and does not know the lease any more";
                (Death::Proven, proof)
            }
            None => (
                self.vault.revoke_lease(lease_id, minted).await?,
                "Vault revoked the lease, and does not know it any more",
            ),
        };
        let revokes = engine_revokes(self.vault, item, lease_id, minted).await?;
        Ok(match (revokes, death) {
            (EngineRevokes::Never, _) => forgotten(item, true),
            (EngineRevokes::AtExpiry, _) => forgotten(item, false),
            (EngineRevokes::Now, Death::Unknown) => unproven(item, UNSEEN),
            (EngineRevokes::Now, Death::Proven) => proven(proof),
        })
    }

    /// Revokes an intent without outcome. The call may have minted a token that is on record, a
    /// lease of a session that was recorded before it was used, or a token that was never recorded
    /// and has a short life.
    async fn revoke_in_doubt(
        &self,
        item: &RevokeItem,
        locator: Locator<'_>,
        sessions: &SessionsOutcome,
    ) -> ItemResult {
        let (proof, tokens, possibly_orphaned) = match sessions {
            SessionsOutcome::Failed(error) => return Err(error.clone()),
            SessionsOutcome::Kept => {
                return Err(ProviderError::retryable(
                    "its session was not revoked, so a lease that the call minted may live",
                ));
            }
            SessionsOutcome::NoneOnRecord => {
                return self.once_unrecorded_expired(
                    item,
                    "no session of the task is on record, so it was never issued, and an unrecorded token has expired by now",
                );
            }
            SessionsOutcome::Revoked {
                proof: SessionsProof::Unseen,
                ..
            } if is_token(item) => {
                return Ok(unproven(item, UNSEEN));
            }
            SessionsOutcome::Revoked {
                proof: SessionsProof::Unseen,
                ..
            } => return Ok(self.unfound(item, locator, UNSEEN)),
            SessionsOutcome::Revoked {
                proof,
                tokens,
                possibly_orphaned,
            } => (proof, tokens, possibly_orphaned),
        };
        if is_token(item) {
            if tokens.contains(&item.credential) {
                return Ok(proven(
                    "the token that was minted for it was on record, was revoked, and Vault does not know it any more",
                ));
            }
            return self.once_unrecorded_expired(
                item,
                "no token that was minted for it is on record, and an unrecorded one has expired by now",
            );
        }
        match self.search(item, locator.path, proof).await? {
            Search::NothingLeft if possibly_orphaned.contains(&item.credential) => Ok(self.unfound(
                item,
                locator,
                "its session was gone before the broker revoked it, when Vault may still have been working on the call to issue it",
            )),
            Search::NothingLeft => Ok(proven(
                "the task's whole session was revoked, and no lease at the role's path is past its end",
            )),
            Search::Overdue => Err(ProviderError::retryable(
                "the task's whole session was revoked, but a lease at the role's path is past its end and still there",
            )),
            Search::Impossible(why) => Ok(self.unfound(
                item,
                locator,
                &format!(
                    "the task's whole session was revoked, which ends its leases; a search for this one is not possible: {why}"
                ),
            )),
        }
    }

    /// Vault takes a moment to revoke the leases of a revoked session. Leases of another session
    /// that was just revoked look the same, so the search is repeated.
    async fn search(
        &self,
        item: &RevokeItem,
        lease_path: Option<&str>,
        proof: &SessionsProof,
    ) -> Result<Search, ProviderError> {
        let impossible = |why: &str| Ok(Search::Impossible(why.to_owned()));
        let Some(path) = lease_path else {
            return impossible("the path of its lease was not recorded");
        };
        if self.roles.is_unleased(&item.role) {
            return impossible("the role's engine gives no leases");
        }
        let after = match proof {
            SessionsProof::RevokedAt(index) => Some(index),
            SessionsProof::Dead | SessionsProof::Unseen if self.vault.may_lag().await => {
                return impossible("the server that answers may not have seen it being minted");
            }
            SessionsProof::Dead | SessionsProof::Unseen => None,
        };
        let since = item.intended_at.minus(OLDER);
        let mut found = search_overdue(self.vault, path, since, after).await;
        for _ in 0..SEARCHES_MAX {
            if found != Search::Overdue {
                break;
            }
            tokio::time::sleep(SEARCH_PAUSE).await;
            found = search_overdue(self.vault, path, since, after).await;
        }
        let is_gone = found == Search::NothingLeft;
        if is_gone && engine_revokes(self.vault, item, path, after).await? != EngineRevokes::Now {
            return impossible("the role's engine is not known to end what it minted");
        }
        Ok(found)
    }

    /// The receipt for a lease that the call may have minted and that cannot be found. An engine
    /// that is told a lifetime counts it from the call, which is over by now; other leases live as
    /// long as the engine likes. Today's configuration does not matter.
    fn unfound(&self, item: &RevokeItem, locator: Locator<'_>, why: &str) -> Revoked {
        // A clock that was set back must not make it earlier than the end on record.
        let latest_end = self
            .vault
            .clock
            .now()
            .plus(item.lifetime)
            .max(item.expires_at);
        let until = locator.is_timed.then_some(latest_end);
        Revoked {
            may_live_until: Some(until.unwrap_or(Timestamp::MAX)),
            identity_until: None,
            ..unproven(item, why)
        }
    }

    /// `proof` holds once a token that was minted and never recorded has lived out its short life.
    fn once_unrecorded_expired(&self, item: &RevokeItem, proof: &str) -> ItemResult {
        let left = self.calls.unrecorded_token_left(self.vault, item);
        if left.is_zero() {
            return Ok(proven(proof));
        }
        Err(ProviderError::Retryable {
            message: format!(
                "a token may have been minted without being recorded; it expires within {} s",
                left.as_secs() + 1
            ),
            after: Some(left),
        })
    }
}

impl SessionsProof {
    fn of(revoked: impl Iterator<Item = RevokedToken>) -> Self {
        let mut proof = Self::Dead;
        for token in revoked {
            if token.death == Death::Unknown {
                return Self::Unseen;
            }
            // Everything was issued before the first of them was revoked.
            if let (Self::Dead, Some(index)) = (&proof, token.revoked_at) {
                proof = Self::RevokedAt(index);
            }
        }
        proof
    }
}

/// Where the intent says that the lease of a call in doubt is found.
#[derive(Debug, Clone, Copy)]
struct Locator<'a> {
    /// The path below which Vault files the lease.
    path: Option<&'a str>,
    /// Whether the engine was told the lease's lifetime.
    is_timed: bool,
}

impl<'a> Locator<'a> {
    fn of(handle: Option<&'a Handle>) -> Self {
        let (path, is_timed) = match handle {
            Some(Handle::LeasePath(path)) => (Some(path.as_str()), false),
            Some(Handle::TimedLeasePath(path)) => (Some(path.as_str()), true),
            _ => (None, false),
        };
        Self { path, is_timed }
    }
}

/// The leases that Vault revokes with their sessions.
fn leases_of_sessions(order: &RevokeOrder) -> Vec<String> {
    let anchored = order.items.iter().filter(|item| item.anchor.is_some());
    let handles = anchored.filter_map(|item| Handle::parse(item.handle.as_ref()?).ok());
    let lease_id = |handle| match handle {
        Handle::LeaseId(lease_id) => Some(lease_id),
        Handle::Accessor(_)
        | Handle::Unleased(_)
        | Handle::Static(_)
        | Handle::Token
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
        identity_until: None,
    }
}

fn unproven(item: &RevokeItem, why: &str) -> Revoked {
    unproven_until(item.expires_at, why)
}

fn unproven_until(until: Timestamp, why: &str) -> Revoked {
    Revoked {
        verified: false,
        proof: why.to_owned(),
        may_live_until: Some(until),
        identity_until: None,
    }
}

fn static_secret() -> Revoked {
    unproven_until(
        Timestamp::MAX,
        "a static secret stays valid for everyone who read it; change it at its source",
    )
}

fn unleased(item: &RevokeItem, ends_at: Option<i64>) -> Revoked {
    let told = ends_at.map(|seconds| Timestamp::from_millis(seconds.saturating_mul(1000)));
    let until = match item.revocation_class {
        RevocationClass::None => Timestamp::MAX,
        _ => told.unwrap_or(item.expires_at),
    };
    unproven_until(
        until,
        "the engine gave no lease, so it cannot be revoked early",
    )
}
