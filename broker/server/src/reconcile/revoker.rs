//! The revoker: whatever is due to be revoked is handed to its provider, each provider on its own.
//!
//! It never gives up and holds nothing: what is due stands in the ledger, attempts and pauses included. Groups of one
//! provider run as long as it has places free, so a provider that hangs keeps only its own waiting.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use taskpass_core::{CredentialId, ProviderName, TaskId, Timestamp};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::engine::{Engine, Progress};

/// The longest pause between two looks.
const PAUSE_MAX: Duration = Duration::from_secs(1);
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// How long a group rests after an attempt that could not even be recorded, or that was about anchors alone: those
/// have no retry time in the ledger.
const REST: Duration = Duration::from_secs(2);
/// How long it rests while calls to issue are being broken off.
const REST_SHORT: Duration = Duration::from_millis(20);

type Group = (ProviderName, TaskId);

/// Groups that are being worked on, or rest.
#[derive(Debug, Default)]
struct Busy {
    groups: Mutex<HashMap<Group, State>>,
    done: Notify,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Running,
    RestsUntil(Timestamp),
}

pub(super) async fn run(engine: Arc<Engine>, stop: CancellationToken) {
    let busy = Arc::new(Busy::default());
    let mut changes = engine.store().changes();
    while !stop.is_cancelled() {
        changes.borrow_and_update();
        let pause = match engine.work().await {
            Ok(work) => {
                for (provider, task, credentials) in work.due_revocations {
                    hand_over(&engine, &busy, (provider, task), credentials);
                }
                for (provider, task, _) in work.live_anchors {
                    hand_over(&engine, &busy, (provider, task), Vec::new());
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
fn hand_over(engine: &Arc<Engine>, busy: &Arc<Busy>, group: Group, credentials: Vec<CredentialId>) {
    if !engine.can_revoke(&group.0) {
        return;
    }
    let now = engine.now();
    let mut groups = busy.groups.lock();
    match groups.get(&group) {
        Some(State::Running) => return,
        Some(State::RestsUntil(until)) if *until > now => return,
        _ => {}
    }
    groups.insert(group.clone(), State::Running);
    drop(groups);
    let (worker, done) = (Arc::clone(engine), Arc::clone(busy));
    engine.tasks().spawn(async move {
        let rest = match worker.revoke_group(&group.0, group.1, &credentials).await {
            Ok(Progress::NotYet) => Some(REST_SHORT),
            Ok(Progress::Failed) if credentials.is_empty() => Some(REST),
            Ok(Progress::Done | Progress::Failed) => None,
            Err(error) => {
                tracing::warn!(provider = %group.0, task = %group.1, %error, "revoking could not be recorded");
                Some(REST)
            }
        };
        let mut groups = done.groups.lock();
        match rest {
            Some(rest) => groups.insert(group, State::RestsUntil(worker.now().plus(rest))),
            None => groups.remove(&group),
        };
        groups.retain(|_, state| !matches!(state, State::RestsUntil(until) if *until <= now));
        drop(groups);
        done.done.notify_one();
    });
}
