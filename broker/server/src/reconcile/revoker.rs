//! The revoker: whatever is due to be revoked is handed to its provider, each provider on its own.
//!
//! It never gives up and holds nothing: what is due stands in the ledger, attempts and pauses included. Groups of one
//! provider run as long as it has places free, so a provider that hangs keeps only its own waiting.

use std::{collections::HashSet, sync::Arc, time::Duration};

use parking_lot::Mutex;
use taskpass_core::{CredentialId, ProviderName, TaskId};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::engine::{Engine, Progress};

/// The longest pause between two looks.
const PAUSE_MAX: Duration = Duration::from_secs(1);
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// How long a group rests after an attempt that could not even be recorded, or that was about anchors alone: those
/// have no retry time in the ledger. For anchors it doubles up to the longest.
const REST: Duration = Duration::from_secs(2);
const REST_MAX: Duration = Duration::from_secs(60);
/// How long it rests while calls to issue are being broken off.
const REST_SHORT: Duration = Duration::from_millis(20);

type Group = (ProviderName, TaskId);

/// Groups that are being worked on, or rest. Resting is real time: by a wall clock that was set back it would not end.
#[derive(Debug, Default)]
struct Busy {
    groups: Mutex<HashSet<Group>>,
    done: Notify,
}

pub(super) async fn run(engine: Arc<Engine>, stop: CancellationToken) {
    let busy = Arc::new(Busy::default());
    let mut changes = engine.store().changes();
    while !stop.is_cancelled() {
        changes.borrow_and_update();
        let pause = match engine.work().await {
            Ok(work) => {
                for (provider, task, credentials) in work.due_revocations {
                    hand_over(&engine, &busy, &stop, (provider, task), credentials);
                }
                for (provider, task, _) in work.live_anchors {
                    hand_over(&engine, &busy, &stop, (provider, task), Vec::new());
                }
                let next = work.next_due.map(|at| at.since(engine.now()));
                next.unwrap_or(PAUSE_MAX).clamp(PAUSE_MIN, PAUSE_MAX)
            }
            Err(error) => {
                tracing::warn!(%error, "what is to be revoked could not be listed; trying again");
                PAUSE_MAX
            }
        };
        tokio::select! {
            () = engine.changed(&mut changes) => {}
            () = busy.done.notified() => {}
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Starts work on a group unless it is worked on, rests, or its provider has no place free.
fn hand_over(
    engine: &Arc<Engine>,
    busy: &Arc<Busy>,
    stop: &CancellationToken,
    group: Group,
    credentials: Vec<CredentialId>,
) {
    if !engine.can_revoke(&group.0) || !busy.groups.lock().insert(group.clone()) {
        return;
    }
    let (worker, busy, stop) = (Arc::clone(engine), Arc::clone(busy), stop.clone());
    engine.tasks().spawn(async move {
        carry_out(&worker, &group, &credentials, &stop).await;
        busy.groups.lock().remove(&group);
        busy.done.notify_one();
    });
}

/// Works on a group, and rests afterwards where the ledger does not say when to try again.
async fn carry_out(
    engine: &Engine,
    (provider, task): &Group,
    credentials: &[CredentialId],
    stop: &CancellationToken,
) {
    let mut rest = REST;
    loop {
        let (pause, again) = match engine.revoke_group(provider, *task, credentials).await {
            Ok(Progress::NotYet) => (REST_SHORT, false),
            Ok(Progress::Failed) if credentials.is_empty() => (rest, true),
            Ok(Progress::Done | Progress::Failed) => return,
            Err(error) => {
                tracing::warn!(%provider, %task, %error, "revoking could not be recorded");
                (REST, false)
            }
        };
        let rested = stop.run_until_cancelled(tokio::time::sleep(pause)).await;
        if rested.is_none() || !again {
            return;
        }
        rest = rest.saturating_mul(2).min(REST_MAX);
    }
}
