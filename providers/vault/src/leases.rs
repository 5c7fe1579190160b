//! Whether leases are gone: the difference between "revoked" and "told Vault to revoke".

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    time::Duration,
};

use futures_util::{StreamExt, future::join_all, stream};
use parking_lot::Mutex;
use taskpass_core::{Clock, Timestamp};
use taskpass_provider::ProviderError;

use crate::{
    api::LookupLease,
    consistency::Index,
    fault::Fault,
    vault::{CONCURRENT_CALLS_MAX, Vault},
};

/// The pauses between two lookups of leases that still exist. Vault revokes one in a millisecond or
/// two, and the more there are the longer the last one takes: an eighth of the time so far is late
/// by no more than that.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(200);
const PAUSE_PART: u32 = 8;
/// Lookups at the same time. One lease that exists is enough to know that Vault is not ready, and
/// each lookup takes time from the revocations that it waits for.
const LOOKUPS: usize = 2;
/// Fewer leases than this are looked up one by one.
const LISTED_LEASES_MIN: usize = 32;
/// Leases below more paths than this are looked up one by one.
const LISTED_PATHS_MAX: usize = 8;
/// The least pause between two lists.
const LIST_PAUSE_MIN: Duration = Duration::from_millis(25);
/// If no lease of the task was revoked for this long, Vault does not get on by itself.
const STALL: Duration = Duration::from_secs(5);
/// A path with more leases than this is not searched.
const SEARCHED_LEASES_MAX: usize = 4096;
/// The longest that one order waits for leases; the next attempt waits for the rest.
const WAIT_MAX: Duration = Duration::from_secs(45);

/// The outcomes of leases, by id.
pub(crate) type LeaseOutcomes = HashMap<String, Result<(), ProviderError>>;

/// Waits for the leases of a revoked token. If Vault does not get on with some, they are revoked
/// one by one. A place that is as far as `after` has seen all of them; without it, no place may lag
/// behind.
pub(crate) async fn await_revoked(
    vault: &Vault,
    lease_ids: Vec<String>,
    after: Option<&Index>,
) -> LeaseOutcomes {
    let pending = PendingLeases::new(lease_ids, after, &*vault.clock);
    resolve_by_listing(vault, &pending).await;
    let lookups = (0..LOOKUPS)
        .map(|_| resolve_by_lookup(vault, &pending))
        .collect::<Vec<_>>();
    join_all(lookups).await;
    pending.outcomes.into_inner()
}

/// The result of a search for leases with unknown ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Search {
    /// No lease below the path is overdue.
    NothingLeft,
    /// A lease is past its end and still exists.
    Overdue,
    /// The path cannot be searched, for this reason.
    Impossible(String),
}

/// Searches a path for leases that should have been revoked with their session and were not.
///
/// Revoking a token moves the end of its leases to that moment, so a lease that is left over is
/// overdue. Other tasks' leases below the path have time left and do not count. Nor do leases
/// issued before `since` by Vault's clock: a single old lease that its engine cannot revoke would
/// keep every credential of the role in doubt for ever.
pub(crate) async fn search_overdue(
    vault: &Vault,
    path: &str,
    since: Timestamp,
    after: Option<&Index>,
) -> Search {
    let ids = match vault.list_leases(path, after).await {
        Ok(ids) => ids,
        Err(fault) => return Search::Impossible(fault.while_doing("list leases").to_string()),
    };
    if ids.len() > SEARCHED_LEASES_MAX {
        return Search::Impossible(format!(
            "more than {SEARCHED_LEASES_MAX} leases share its path"
        ));
    }
    let found: Vec<Result<bool, Fault>> = stream::iter(ids)
        .map(|id| async move { is_overdue(vault, &id, since, after).await })
        .buffer_unordered(CONCURRENT_CALLS_MAX)
        .collect()
        .await;
    let mut verdict = Search::NothingLeft;
    for overdue in found {
        match overdue {
            Ok(true) => return Search::Overdue,
            Ok(false) => {}
            Err(fault) => {
                verdict = Search::Impossible(fault.while_doing("look up a lease").to_string());
            }
        }
    }
    verdict
}

/// A place that has not seen the lease would say "gone" of it, hence `after`.
async fn is_overdue(
    vault: &Vault,
    lease_id: &str,
    since: Timestamp,
    after: Option<&Index>,
) -> Result<bool, Fault> {
    match vault.call_after(after, || LookupLease { lease_id }).await {
        Ok(reply) => {
            let issued = reply.text("issue_time").and_then(|text| text.parse().ok());
            let is_older = issued.is_some_and(|issued: Timestamp| issued < since);
            Ok(!is_older && reply.number("ttl").unwrap_or(0) <= 0)
        }
        Err(fault) if fault.says_gone() => Ok(false),
        Err(fault) => Err(fault),
    }
}

/// Leases of a revoked token; Vault revokes them in an order of its own.
///
/// The lookups go around all of them: staying with a few until they are gone would miss that Vault
/// gets on with others.
struct PendingLeases<'a> {
    waiting: Mutex<VecDeque<String>>,
    outcomes: Mutex<LeaseOutcomes>,
    after: Option<&'a Index>,
    clock: &'a dyn Clock,
    /// Monotonic times.
    progress_at: Mutex<Duration>,
    began_at: Duration,
}

impl<'a> PendingLeases<'a> {
    fn new(lease_ids: Vec<String>, after: Option<&'a Index>, clock: &'a dyn Clock) -> Self {
        let now = clock.monotonic();
        Self {
            clock,
            after,
            waiting: Mutex::new(lease_ids.into()),
            outcomes: Mutex::default(),
            progress_at: Mutex::new(now),
            began_at: now,
        }
    }

    fn next(&self) -> Option<String> {
        self.waiting.lock().pop_front()
    }

    fn put_back(&self, lease_id: String) {
        self.waiting.lock().push_back(lease_id);
    }

    fn record(&self, lease_id: String, outcome: Result<(), ProviderError>) {
        if outcome.is_ok() {
            *self.progress_at.lock() = self.clock.monotonic();
        }
        self.outcomes.lock().insert(lease_id, outcome);
    }

    fn has_stalled(&self) -> bool {
        self.since(*self.progress_at.lock()) > STALL
    }

    fn pause(&self) -> Duration {
        (self.since(self.began_at) / PAUSE_PART).clamp(PAUSE_MIN, PAUSE_MAX)
    }

    fn is_out_of_time(&self) -> bool {
        self.since(self.began_at) > WAIT_MAX
    }

    fn since(&self, at: Duration) -> Duration {
        self.clock.monotonic().saturating_sub(at)
    }
}

/// Resolves most of many leases by listing: a thousand lookups would compete with the revocations
/// they wait for.
async fn resolve_by_listing(vault: &Vault, pending: &PendingLeases<'_>) {
    loop {
        let waiting = std::mem::take(&mut *pending.waiting.lock());
        let listed_at = pending.clock.monotonic();
        let Some(existing) = existing_of(vault, &waiting, pending.after).await else {
            pending.waiting.lock().extend(waiting);
            return;
        };
        for lease_id in waiting {
            if existing.contains(&lease_id) {
                pending.put_back(lease_id);
            } else {
                pending.record(lease_id, Ok(()));
            }
        }
        if existing.len() < LISTED_LEASES_MIN || pending.has_stalled() || pending.is_out_of_time() {
            return;
        }
        // A list has the leases of all tasks and may be long: listing takes at most a fifth of the
        // time.
        let listing = pending.since(listed_at);
        tokio::time::sleep(LIST_PAUSE_MIN.max(listing.saturating_mul(4))).await;
    }
}

/// Which of the leases exist, by lists of their paths; `None` if they are few, or the paths many or
/// not to be listed.
async fn existing_of(
    vault: &Vault,
    lease_ids: &VecDeque<String>,
    after: Option<&Index>,
) -> Option<HashSet<String>> {
    if lease_ids.len() < LISTED_LEASES_MIN {
        return None;
    }
    let paths: BTreeSet<&str> = lease_ids
        .iter()
        .filter_map(|id| Some(id.rsplit_once('/')?.0))
        .collect();
    if paths.len() > LISTED_PATHS_MAX {
        return None;
    }
    let mut listed = HashSet::new();
    for path in paths {
        listed.extend(vault.list_leases(path, after).await.ok()?);
    }
    let existing = lease_ids.iter().filter(|id| listed.contains(*id));
    Some(existing.cloned().collect())
}

async fn resolve_by_lookup(vault: &Vault, pending: &PendingLeases<'_>) {
    while let Some(lease_id) = pending.next() {
        match vault.lease_exists(&lease_id, pending.after).await {
            Ok(false) => pending.record(lease_id, Ok(())),
            Ok(true) if pending.is_out_of_time() => {
                let error = ProviderError::retryable("Vault is still revoking the task's leases");
                pending.record(lease_id, Err(error));
            }
            Ok(true) if pending.has_stalled() => {
                let outcome = vault.revoke_lease(&lease_id, pending.after).await;
                pending.record(lease_id, outcome.map(drop));
            }
            Ok(true) => {
                pending.put_back(lease_id);
                tokio::time::sleep(pending.pause()).await;
            }
            Err(fault) => {
                let error = fault.while_doing("look up a revoked lease");
                pending.record(lease_id, Err(error));
            }
        }
    }
}
