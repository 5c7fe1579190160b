//! The revoker hands every due revocation to its provider, and treats each provider on its own.
//!
//! It never gives up and keeps nothing: due revocations, attempts and pauses are in the ledger. At
//! each provider it works on as many groups as there are permits for revoking
//! (`provider_calls.revoke_concurrency`); the others stay in the ledger until a permit is free. So
//! a provider that hangs delays only its own revocations, and many groups cost no memory. An agent
//! takes no more of these permits than its share, so an agent with many groups that hang delays no
//! other agent's. In an outage one group at a time finds out whether the provider works again.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use taskpass_core::{CredentialId, ProviderName, TaskId, limits};
use taskpass_store::DueRevocation;
use tokio::sync::{Notify, watch};

use super::{Reconciler, Round};
use crate::{Engine, credentials::GroupOutcome, providers::RevokePermit};

/// The longest pause between two looks.
const PAUSE_MAX: Duration = Duration::from_secs(1);
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// How long a group rests after an attempt without a retry time in the ledger: the attempt could
/// not be recorded, or was about anchors alone. For anchors the pause doubles up to the longest.
const REST: Duration = Duration::from_secs(2);
const REST_MAX: Duration = Duration::from_secs(60);
/// Attempts further apart than this do not count as in a row. It is longer than the pauses of an
/// outage.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);
/// How long it rests while calls to issue are being cancelled.
const REST_SHORT: Duration = Duration::from_millis(20);

type Group = (ProviderName, TaskId);

/// Groups that are being worked on, or rest.
#[derive(Debug, Default)]
struct Busy {
    groups: Mutex<HashMap<Group, Standing>>,
    done: Notify,
}

/// The state of a group of revocations that the ledger calls due.
#[derive(Debug, Clone, Copy, Default)]
struct Standing {
    works: bool,
    /// On the monotonic clock: a wall clock that is set back would prolong the pause.
    rests_until: Duration,
    /// Attempts in a row to revoke its anchors.
    attempts: u32,
}

pub(super) struct Revoker {
    engine: Arc<Engine>,
    changes: watch::Receiver<u64>,
    busy: Arc<Busy>,
}

impl Revoker {
    pub(super) fn new(engine: &Arc<Engine>) -> Self {
        Self {
            engine: Arc::clone(engine),
            changes: engine.store().changes(),
            busy: Arc::default(),
        }
    }
}

#[async_trait]
impl Reconciler for Revoker {
    fn name(&self) -> &'static str {
        "revoker"
    }

    async fn round(&mut self) -> Round {
        let (engine, busy) = (&self.engine, &self.busy);
        self.changes.borrow_and_update();
        match engine.revocations().await {
            Ok(revocations) => {
                busy.tidy(engine.clock().monotonic());
                let mut waiting = BTreeMap::new();
                for due in revocations.due {
                    let provider = due.provider.clone();
                    if begin(engine, busy, due) == Begun::Waits {
                        *waiting.entry(provider).or_default() += 1;
                    }
                }
                engine.note_waiting(&waiting);
                let next = revocations.next.map(|at| at.since(engine.now()));
                let rested = busy.next_rested(engine.clock().monotonic());
                let next = next.into_iter().chain(rested).min();
                Round::Done(next.unwrap_or(PAUSE_MAX).clamp(PAUSE_MIN, PAUSE_MAX))
            }
            Err(error) => {
                let message = error.message();
                tracing::warn!(error = %message, "the due revocations could not be listed; trying again");
                Round::Failed {
                    pause: PAUSE_MAX,
                    message,
                }
            }
        }
    }

    async fn signal(&mut self) {
        tokio::select! {
            biased;
            () = self.engine.changed(&mut self.changes) => {}
            () = self.busy.done.notified() => {}
        }
    }
}

/// Whether work goes on at a due group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begun {
    Works,
    /// It rests, or its provider has no permit for it.
    Waits,
}

/// Starts work on a group, unless it is worked on, rests, or its provider has no permit for it.
fn begin(engine: &Arc<Engine>, busy: &Arc<Busy>, due: DueRevocation) -> Begun {
    let group = (due.provider, due.task);
    if let Some(standing) = busy.standing(&group, engine.clock().monotonic()) {
        return standing;
    }
    let Some(permit) = engine.revoke_permit(&group.0, &due.agent, due.attempts == 0) else {
        return Begun::Waits;
    };
    let attempts = busy.begin(&group);
    let (worker, busy) = (Arc::clone(engine), Arc::clone(busy));
    engine.tasks().spawn(async move {
        let (rest, attempts) = carry_out(&worker, &group, &due.credentials, attempts, permit).await;
        busy.end(&group, worker.clock().monotonic(), rest, attempts);
    });
    Begun::Works
}

/// Works on a group. Returns how long it rests, where the ledger does not say when to try again,
/// and how often in a row its anchors could not be revoked.
async fn carry_out(
    engine: &Engine,
    (provider, task): &Group,
    credentials: &[CredentialId],
    attempts: u32,
    permit: RevokePermit,
) -> (Duration, u32) {
    match engine
        .revoke_group(provider, *task, credentials, permit)
        .await
    {
        Ok(GroupOutcome::NotYet) => (REST_SHORT, attempts),
        Ok(GroupOutcome::AnchorsWait(left)) => (left.clamp(REST_SHORT, REST_MAX), attempts),
        Ok(GroupOutcome::Done | GroupOutcome::Failed) => (Duration::ZERO, 0),
        Ok(GroupOutcome::AnchorsLeft(error)) => {
            let attempt = attempts.saturating_add(1);
            if attempt == limits::REVOKE_ATTEMPTS_BEFORE_STUCK {
                tracing::error!(
                    %provider, %task, attempt, %error,
                    "an anchor of an ended task cannot be ended, so the task stays `ending`; it is tried again for ever, but a person must look: `taskpass provider check {provider}`, `taskpass task show {task}`"
                );
            } else {
                tracing::warn!(
                    %provider, %task, attempt, %error,
                    "an anchor of an ended task could not be ended; it is tried again: see `taskpass provider check {provider}`"
                );
            }
            let rest = REST.saturating_mul(1 << attempts.min(8)).min(REST_MAX);
            (rest, attempt)
        }
        Err(error) => {
            tracing::warn!(%provider, %task, error = %error.message(), "revoking could not be recorded");
            (REST, attempts)
        }
    }
}

impl Busy {
    /// Whether a group is worked on or rests; `None` when work may begin.
    fn standing(&self, group: &Group, now: Duration) -> Option<Begun> {
        let groups = self.groups.lock();
        let standing = groups.get(group)?;
        if standing.works {
            return Some(Begun::Works);
        }
        (standing.rests_until > now).then_some(Begun::Waits)
    }

    /// Notes that a group is worked on; returns the attempts so far.
    fn begin(&self, group: &Group) -> u32 {
        let mut groups = self.groups.lock();
        let standing = groups.entry(group.clone()).or_default();
        standing.works = true;
        standing.attempts
    }

    fn end(&self, group: &Group, now: Duration, rest: Duration, attempts: u32) {
        let mut groups = self.groups.lock();
        if rest.is_zero() && attempts == 0 {
            groups.remove(group);
        } else {
            let standing = Standing {
                works: false,
                rests_until: now + rest,
                attempts,
            };
            groups.insert(group.clone(), standing);
        }
        drop(groups);
        self.done.notify_one();
    }

    /// Drops groups that rested long ago and are no longer due.
    fn tidy(&self, now: Duration) {
        let mut groups = self.groups.lock();
        groups.retain(|_, standing| standing.works || standing.rests_until + FORGOTTEN_AFTER > now);
    }

    /// How long until the next group has rested.
    fn next_rested(&self, now: Duration) -> Option<Duration> {
        let groups = self.groups.lock();
        let resting = groups.values().filter(|standing| !standing.works);
        let left = resting.filter_map(|standing| standing.rests_until.checked_sub(now));
        left.filter(|left| !left.is_zero()).min()
    }
}

#[cfg(test)]
mod tests;
