//! Looking up what is left: the difference between "revoked" and "told Vault to revoke".

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, future::join_all, stream};
use parking_lot::Mutex;
use serde_json::Value;
use taskpass_core::{Clock, Timestamp};
use taskpass_provider::{Liveness, ProviderError, RevokeItem, RevokeOrder, RevokeScope};

use crate::{
    api::{ListLeases, LookupLease, RevokeLease},
    fault::Fault,
    handle::{AnchorHandle, Handle},
    provider::VaultProvider,
};

/// Calls at once for one order. More would only queue inside Vault, before everybody else's.
pub(crate) const CALLS_AT_ONCE: usize = 16;
/// The pauses between looking a lease up: short at first, since Vault needs milliseconds for one.
const PAUSE_MIN: Duration = Duration::from_millis(4);
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// Fewer leases than this are looked up one by one.
const LIST_WORTH_MIN: usize = 32;
/// Leases below more paths than this are looked up one by one.
const LIST_PATHS_MAX: usize = 8;
/// The pause between two lists.
const LIST_PAUSE_MIN: Duration = Duration::from_millis(25);
/// When no lease of the task has died for this long, Vault is not getting on by itself.
const STALL: Duration = Duration::from_secs(5);
/// More leases than this below one path are not looked through.
const OVERDUE_SEARCH_MAX: usize = 4096;

/// The longest that one order waits for leases; the rest is for the next attempt.
const PATIENCE: Duration = Duration::from_secs(45);

/// What became of leases, by id.
pub(crate) type LeaseEnds = HashMap<String, Result<(), ProviderError>>;

/// Leases whose token was revoked, and which Vault takes down in an order of its own.
///
/// They are looked at in turns: watching a few until they die would miss that Vault gets on with the others.
#[derive(Debug)]
struct Dying {
    waiting: Mutex<VecDeque<String>>,
    ends: Mutex<LeaseEnds>,
    clock: Arc<dyn Clock>,
    /// Monotonic times.
    progress_at: Mutex<Duration>,
    began_at: Duration,
}

impl Dying {
    fn new(lease_ids: Vec<String>, clock: Arc<dyn Clock>) -> Self {
        let now = clock.monotonic();
        Self {
            clock,
            waiting: Mutex::new(lease_ids.into()),
            ends: Mutex::default(),
            progress_at: Mutex::new(now),
            began_at: now,
        }
    }

    fn next(&self) -> Option<String> {
        self.waiting.lock().pop_front()
    }

    fn look_again(&self, lease_id: String) {
        self.waiting.lock().push_back(lease_id);
    }

    fn settle(&self, lease_id: String, end: Result<(), ProviderError>) {
        if end.is_ok() {
            *self.progress_at.lock() = self.clock.monotonic();
        }
        self.ends.lock().insert(lease_id, end);
    }

    fn stalled(&self) -> bool {
        self.since(*self.progress_at.lock()) > STALL
    }

    fn out_of_patience(&self) -> bool {
        self.since(self.began_at) > PATIENCE
    }

    fn since(&self, at: Duration) -> Duration {
        self.clock.monotonic().saturating_sub(at)
    }
}

/// What is known of leases whose ids nobody learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Search {
    /// Nothing below the path is overdue.
    NothingLeft,
    /// Something is past its end and still there.
    Overdue,
    /// It cannot be looked at, for this reason.
    Impossible(String),
}

impl VaultProvider {
    /// Whether the lease exists, be it only as one that could not be revoked yet.
    pub(crate) async fn lease_is_there(&self, lease_id: &str) -> Result<bool, Fault> {
        match self.broker_call(|| LookupLease { lease_id }).await {
            Ok(_) => Ok(true),
            Err(fault) if fault.says_gone() => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// Waits for leases whose token was revoked; those that Vault does not get on with are revoked one by one.
    pub(crate) async fn await_lease_ends(&self, lease_ids: Vec<String>) -> LeaseEnds {
        let dying = Dying::new(lease_ids, Arc::clone(&self.clock));
        self.thin_out(&dying).await;
        let watchers = (0..CALLS_AT_ONCE)
            .map(|_| self.watch(&dying))
            .collect::<Vec<_>>();
        join_all(watchers).await;
        dying.ends.into_inner()
    }

    /// Settles most of many leases by listing: a thousand lookups would compete with the revoking they wait for.
    async fn thin_out(&self, dying: &Dying) {
        loop {
            let waiting = std::mem::take(&mut *dying.waiting.lock());
            let listed_at = self.clock.monotonic();
            let there = match self.which_are_there(&waiting).await {
                Some(there) if waiting.len() >= LIST_WORTH_MIN => there,
                _ => {
                    dying.waiting.lock().extend(waiting);
                    return;
                }
            };
            for lease_id in waiting {
                if there.contains(&lease_id) {
                    dying.look_again(lease_id);
                } else {
                    dying.settle(lease_id, Ok(()));
                }
            }
            if there.len() < LIST_WORTH_MIN || dying.stalled() || dying.out_of_patience() {
                return;
            }
            // A list of everybody's leases may be long: never more than a fifth of the time goes into it.
            let listing = dying.since(listed_at);
            tokio::time::sleep(LIST_PAUSE_MIN.max(listing.saturating_mul(4))).await;
        }
    }

    /// Which of the leases exist, from lists of the paths they are filed under; `None` when that cannot be had.
    async fn which_are_there(&self, lease_ids: &VecDeque<String>) -> Option<HashSet<String>> {
        if lease_ids.len() < LIST_WORTH_MIN {
            return None;
        }
        let paths: BTreeSet<&str> = lease_ids
            .iter()
            .filter_map(|id| Some(id.rsplit_once('/')?.0))
            .collect();
        if paths.len() > LIST_PATHS_MAX {
            return None;
        }
        let mut there = HashSet::new();
        for path in paths {
            there.extend(self.list_leases(path).await.ok()?);
        }
        Some(
            lease_ids
                .iter()
                .filter(|id| there.contains(*id))
                .cloned()
                .collect(),
        )
    }

    /// The ids of the leases right below a path.
    async fn list_leases(&self, path: &str) -> Result<Vec<String>, Fault> {
        let listed = match self.broker_call(|| ListLeases { path }).await {
            Ok(listed) => listed,
            Err(fault) if fault.says_empty() => return Ok(Vec::new()),
            Err(fault) => return Err(fault),
        };
        let keys = listed
            .data
            .as_ref()
            .and_then(|data| data.get("keys"))
            .and_then(Value::as_array);
        let ids = keys.and_then(|keys| {
            let id = |key: &Value| Some(format!("{path}/{}", key.as_str()?));
            keys.iter().map(id).collect()
        });
        // A key that was passed over would be a lease that is called gone.
        ids.ok_or_else(|| Fault::Garbled("the list of leases is none".to_owned()))
    }

    async fn watch(&self, dying: &Dying) {
        let mut pause = PAUSE_MIN;
        while let Some(lease_id) = dying.next() {
            match self.lease_is_there(&lease_id).await {
                Ok(false) => {
                    dying.settle(lease_id, Ok(()));
                    pause = PAUSE_MIN;
                }
                Ok(true) if dying.out_of_patience() => {
                    let error =
                        ProviderError::retryable("Vault is still revoking the leases of the task");
                    dying.settle(lease_id, Err(error));
                }
                Ok(true) if dying.stalled() => {
                    let end = self.end_lease(&lease_id).await;
                    dying.settle(lease_id, end);
                }
                Ok(true) => {
                    dying.look_again(lease_id);
                    tokio::time::sleep(pause).await;
                    pause = pause.saturating_mul(2).min(PAUSE_MAX);
                }
                Err(fault) => {
                    dying.settle(lease_id, Err(fault.while_doing("look up a revoked lease")));
                }
            }
        }
    }

    /// Revokes one lease and proves by a lookup that it is gone.
    pub(crate) async fn end_lease(&self, lease_id: &str) -> Result<(), ProviderError> {
        match self
            .broker_call(|| RevokeLease {
                lease_id,
                sync: true,
            })
            .await
        {
            Ok(_) => {}
            Err(fault) if fault.says_gone() => {}
            // The engine's failure comes with a 400 too; it is the target that must come back, not the order.
            Err(fault @ Fault::Refused { status: 400, .. }) => {
                return Err(ProviderError::retryable(
                    fault.while_doing("revoke a lease").to_string(),
                ));
            }
            Err(fault) => return Err(fault.while_doing("revoke a lease")),
        }
        match self.lease_is_there(lease_id).await {
            Ok(false) => Ok(()),
            Ok(true) => Err(ProviderError::retryable(
                "Vault revoked a lease, but still finds it",
            )),
            Err(fault) => Err(fault.while_doing("look up a revoked lease")),
        }
    }

    /// Looks for leases that should have ended with a session and did not.
    ///
    /// Ending a token moves the end of its leases to that moment, so what is left of them is overdue; leases of other
    /// tasks below the same path have time left and do not matter, nor do those that were made before `since` by Vault's clock:
    /// one that somebody else's engine fails to end would hold up every doubt for ever.
    pub(crate) async fn search_overdue(&self, path: &str, since: Timestamp) -> Search {
        let ids = match self.list_leases(path).await {
            Ok(ids) => ids,
            Err(fault) => return Search::Impossible(fault.while_doing("list leases").to_string()),
        };
        if ids.len() > OVERDUE_SEARCH_MAX {
            return Search::Impossible(format!(
                "more than {OVERDUE_SEARCH_MAX} leases share its path"
            ));
        }
        let found: Vec<Result<bool, Fault>> = stream::iter(ids)
            .map(|id| async move { self.lease_is_overdue(&id, since).await })
            .buffer_unordered(CALLS_AT_ONCE)
            .collect()
            .await;
        let mut verdict = Search::NothingLeft;
        for overdue in found {
            match overdue {
                Ok(true) => return Search::Overdue,
                Ok(false) => {}
                Err(fault) => {
                    verdict = Search::Impossible(fault.while_doing("look up a lease").to_string())
                }
            }
        }
        verdict
    }

    async fn lease_is_overdue(&self, lease_id: &str, since: Timestamp) -> Result<bool, Fault> {
        match self.broker_call(|| LookupLease { lease_id }).await {
            Ok(reply) => {
                let made = reply.text("issue_time").and_then(|text| text.parse().ok());
                let is_older = made.is_some_and(|made: Timestamp| made < since);
                Ok(!is_older && reply.number("ttl").unwrap_or(0) <= 0)
            }
            Err(fault) if fault.says_gone() => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// Says what is alive of an order; lookups only.
    pub(crate) async fn look_at(&self, order: &RevokeOrder) -> Result<Liveness, ProviderError> {
        self.must_be_the_one(order).await?;
        let unsure = order.items.iter().any(|item| !item.outcome_known);
        if order.scope == RevokeScope::Task || unsure {
            for (_, handle) in &order.anchors {
                let accessor = AnchorHandle::parse(handle)?.accessor;
                let alive = self.token_is_alive(&accessor).await;
                if alive.map_err(|e| e.while_doing("look up a session"))? {
                    return Ok(Liveness::Alive(
                        "a session of the task can still be used".to_owned(),
                    ));
                }
            }
        }
        let mut looking = Vec::with_capacity(order.items.len());
        for item in &order.items {
            looking.push(self.look_at_item(item));
        }
        let looks: Vec<Result<Liveness, ProviderError>> = stream::iter(looking)
            .buffer_unordered(CALLS_AT_ONCE)
            .collect()
            .await;
        let mut verdict =
            Liveness::Dead("Vault knows none of the tokens and leases any more".to_owned());
        for look in looks {
            match look? {
                alive @ Liveness::Alive(_) => return Ok(alive),
                unknown @ Liveness::Unknown(_) => verdict = unknown,
                Liveness::Dead(_) => {}
            }
        }
        Ok(verdict)
    }

    async fn look_at_item(&self, item: &RevokeItem) -> Result<Liveness, ProviderError> {
        let handle = item.handle.as_ref().map(Handle::parse).transpose()?;
        let is_there = match &handle {
            Some(Handle::LeaseId(lease_id)) => self.lease_is_there(lease_id).await,
            Some(Handle::Accessor(accessor)) => self.token_is_alive(accessor).await,
            Some(Handle::Unleased(_)) => {
                return Ok(Liveness::Unknown(
                    "it has no lease that could be looked up".to_owned(),
                ));
            }
            Some(Handle::Static(_)) => {
                return Ok(Liveness::Unknown(
                    "a static secret works until somebody changes it".to_owned(),
                ));
            }
            Some(Handle::LeasePath(_) | Handle::TimedLeasePath(_)) | None => {
                return Ok(Liveness::Unknown(
                    "its outcome was never learned".to_owned(),
                ));
            }
        };
        let is_there = is_there.map_err(|e| e.while_doing("look up a credential"))?;
        Ok(if is_there {
            Liveness::Alive(format!("Vault still knows credential {}", item.credential))
        } else {
            Liveness::Dead("Vault does not know it any more".to_owned())
        })
    }
}
