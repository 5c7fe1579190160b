//! Provider calls that run right now: whose outcome is still to be recorded by somebody.
//!
//! An intended credential that is not here was interrupted, by a crash or by a ledger that could not be written, and
//! is the reconcilers' to clean up. Ending a task breaks its calls off, so that revoking need not wait for them.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use taskpass_core::{CredentialId, TaskId};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Calls by the credential they are for.
#[derive(Debug, Default)]
pub(crate) struct InFlight(Arc<Calls>);

#[derive(Debug, Default)]
struct Calls {
    running: Mutex<BTreeMap<CredentialId, (TaskId, CancellationToken)>>,
    left: Notify,
}

impl InFlight {
    /// Enters a call. Must be done before its intent is committed.
    pub(super) fn enter(&self, credential: CredentialId, task: TaskId) -> InFlightCall {
        let broken_off = CancellationToken::new();
        self.0
            .running
            .lock()
            .insert(credential, (task, broken_off.clone()));
        InFlightCall {
            calls: Arc::clone(&self.0),
            credential,
            broken_off,
        }
    }

    /// Whether a call for this credential runs.
    pub(crate) fn contains(&self, credential: CredentialId) -> bool {
        self.0.running.lock().contains_key(&credential)
    }

    /// Ends when some call has left: reconcilers may have waited for it.
    pub(crate) async fn one_left(&self) {
        self.0.left.notified().await;
    }

    /// Breaks off the calls of a task.
    pub(super) fn break_off(&self, task: TaskId) {
        for (owner, token) in self.0.running.lock().values() {
            if *owner == task {
                token.cancel();
            }
        }
    }
}

/// Leaves on drop.
#[derive(Debug)]
pub(super) struct InFlightCall {
    calls: Arc<Calls>,
    credential: CredentialId,
    broken_off: CancellationToken,
}

impl InFlightCall {
    /// Ends when the task ends.
    pub(super) async fn broken_off(&self) {
        self.broken_off.cancelled().await;
    }
}

impl Drop for InFlightCall {
    fn drop(&mut self) {
        self.calls.running.lock().remove(&self.credential);
        self.calls.left.notify_one();
    }
}
