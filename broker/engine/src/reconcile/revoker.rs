//! The revoker: whatever is due to be revoked is handed to its provider, each provider on its own.
//!
//! It never gives up and holds nothing: what is due stands in the ledger, attempts and pauses included. At each provider
//! as many groups are worked on as it has slots for revoking (`provider_calls.revoke_concurrency`); the others stay in
//! the ledger until one is free. So a provider that hangs keeps only its own waiting, and many groups cost no memory. Where
//! a provider is down, one group at a time finds out when it is back.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use taskpass_core::{CredentialId, ProviderName, TaskId, limits};
use taskpass_store::DueRevocation;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{Engine, Progress, RevokeSlot};

/// The longest pause between two looks.
const PAUSE_MAX: Duration = Duration::from_secs(1);
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// How long a group rests after an attempt that could not even be recorded, or that was about sessions alone: those
/// have no retry time in the ledger. For sessions it doubles up to the longest.
const REST: Duration = Duration::from_secs(2);
const REST_MAX: Duration = Duration::from_secs(60);
/// After so long without another attempt, attempts are no longer in a row: longer than turns are waited for.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);
/// How long it rests while calls to issue are being broken off.
const REST_SHORT: Duration = Duration::from_millis(20);

type Group = (ProviderName, TaskId);

/// Groups that are being worked on, or rest.
#[derive(Debug, Default)]
struct Busy {
    groups: Mutex<HashMap<Group, Stand>>,
    done: Notify,
}

/// How a group stands that is in the ledger as due.
#[derive(Debug, Clone, Copy, Default)]
struct Stand {
    works: bool,
    /// Monotonic, since by a wall clock that was set back it would not end.
    rests_until: Duration,
    /// Attempts in a row to end its sessions.
    attempts: u32,
}

pub(super) async fn run(engine: Arc<Engine>, stop: CancellationToken) {
    let busy = Arc::new(Busy::default());
    let mut changes = engine.store().changes();
    while !stop.is_cancelled() {
        changes.borrow_and_update();
        let pause = match engine.revocations().await {
            Ok(revocations) => {
                busy.tidy(engine.clock().monotonic());
                for due in revocations.due {
                    hand_over(&engine, &busy, due);
                }
                let next = revocations.next.map(|at| at.since(engine.now()));
                let rested = busy.next_rested(engine.clock().monotonic());
                let next = next.into_iter().chain(rested).min();
                next.unwrap_or(PAUSE_MAX).clamp(PAUSE_MIN, PAUSE_MAX)
            }
            Err(error) => {
                tracing::warn!(%error, "what is to be revoked could not be listed; trying again");
                PAUSE_MAX
            }
        };
        tokio::select! {
            biased;
            () = engine.changed(&mut changes) => {}
            () = busy.done.notified() => {}
            () = engine.timer().sleep(pause) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Starts work on a group unless it is worked on, rests, or its provider has no slot for it.
fn hand_over(engine: &Arc<Engine>, busy: &Arc<Busy>, due: DueRevocation) {
    let group = (due.provider, due.task);
    if !busy.may_begin(&group, engine.clock().monotonic()) {
        return;
    }
    let Some(slot) = engine.revoke_slot(&group.0, due.attempts == 0) else {
        return;
    };
    let attempts = busy.begin(&group);
    let (worker, busy) = (Arc::clone(engine), Arc::clone(busy));
    engine.tasks().spawn(async move {
        let (rest, attempts) = carry_out(&worker, &group, &due.credentials, attempts, slot).await;
        busy.end(&group, worker.clock().monotonic(), rest, attempts);
    });
}

/// Works on a group. Returns how long it is to rest where the ledger does not say when to try again, and how often in a
/// row its sessions could not be ended.
async fn carry_out(
    engine: &Engine,
    (provider, task): &Group,
    credentials: &[CredentialId],
    attempts: u32,
    slot: RevokeSlot,
) -> (Duration, u32) {
    match engine
        .revoke_group(provider, *task, credentials, slot)
        .await
    {
        Ok(Progress::NotYet) => (REST_SHORT, attempts),
        Ok(Progress::Done | Progress::Failed) => (Duration::ZERO, 0),
        Ok(Progress::SessionsLeft(error)) => {
            let attempt = attempts.saturating_add(1);
            if attempt == limits::REVOKE_ATTEMPTS_BEFORE_STUCK {
                tracing::error!(
                    %provider, %task, attempt, %error,
                    "a session of an ended task cannot be ended, so the task stays `ending`; it is tried again for ever, but a person must look: `taskpass provider check {provider}`, `taskpass task show {task}`"
                );
            } else {
                tracing::warn!(
                    %provider, %task, attempt, %error,
                    "a session of an ended task could not be ended; it is tried again: see `taskpass provider check {provider}`"
                );
            }
            let rest = REST.saturating_mul(1 << attempts.min(8)).min(REST_MAX);
            (rest, attempt)
        }
        Err(error) => {
            tracing::warn!(%provider, %task, %error, "revoking could not be recorded");
            (REST, attempts)
        }
    }
}

impl Busy {
    fn may_begin(&self, group: &Group, now: Duration) -> bool {
        let groups = self.groups.lock();
        groups
            .get(group)
            .is_none_or(|stand| !stand.works && stand.rests_until <= now)
    }

    /// Notes that a group is worked on; returns the attempts so far.
    fn begin(&self, group: &Group) -> u32 {
        let mut groups = self.groups.lock();
        let stand = groups.entry(group.clone()).or_default();
        stand.works = true;
        stand.attempts
    }

    fn end(&self, group: &Group, now: Duration, rest: Duration, attempts: u32) {
        let mut groups = self.groups.lock();
        if rest.is_zero() && attempts == 0 {
            groups.remove(group);
        } else {
            let stand = Stand {
                works: false,
                rests_until: now + rest,
                attempts,
            };
            groups.insert(group.clone(), stand);
        }
        drop(groups);
        self.done.notify_one();
    }

    /// Forgets groups that rested and that nobody took up again, since they are no longer due.
    fn tidy(&self, now: Duration) {
        let mut groups = self.groups.lock();
        groups.retain(|_, stand| stand.works || stand.rests_until + FORGOTTEN_AFTER > now);
    }

    /// How long until the next group has rested.
    fn next_rested(&self, now: Duration) -> Option<Duration> {
        let groups = self.groups.lock();
        let resting = groups.values().filter(|stand| !stand.works);
        let left = resting.filter_map(|stand| stand.rests_until.checked_sub(now));
        left.filter(|left| !left.is_zero()).min()
    }
}

#[cfg(test)]
mod tests;
