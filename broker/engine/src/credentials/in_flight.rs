//! Calls to issue that run right now.
//!
//! An intended credential without a running call is in doubt: the broker crashed, or could not
//! write the outcome. The reconcilers revoke it. When a task ends its calls are cancelled, so that
//! revoking need not wait for them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use parking_lot::Mutex;
use taskpass_core::{AnchorKey, Credential, CredentialId, ProviderName, TaskId};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

impl AheadOf {
    pub(crate) fn of(credential: &Credential) -> Self {
        Self {
            provider: credential.role.provider().clone(),
            key: credential.anchor_key,
        }
    }
}

/// The running calls by credential.
#[derive(Debug, Default)]
pub(crate) struct InFlight(Arc<Calls>);

#[derive(Debug, Default)]
struct Calls {
    running: Mutex<BTreeMap<CredentialId, Call>>,
    left: Notify,
}

#[derive(Debug)]
struct Call {
    task: TaskId,
    cancelled: CancellationToken,
    /// Set where the call may begin before its intent is durable.
    ahead: Option<AheadOf>,
}

/// The provider and the key of a call that no intent may name yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AheadOf {
    pub(crate) provider: ProviderName,
    /// Of the credential and its anchor.
    pub(crate) key: Option<AnchorKey>,
}

impl InFlight {
    /// Registers a call. Must be done before its intent is committed.
    pub(crate) fn enter(
        &self,
        credential: CredentialId,
        task: TaskId,
        ahead: Option<AheadOf>,
    ) -> InFlightCall {
        let cancelled = CancellationToken::new();
        let call = Call {
            task,
            cancelled: cancelled.clone(),
            ahead,
        };
        self.0.running.lock().insert(credential, call);
        InFlightCall {
            calls: Arc::clone(&self.0),
            credential,
            cancelled,
        }
    }

    /// Whether a call for this credential runs.
    pub(crate) fn contains(&self, credential: CredentialId) -> bool {
        self.0.running.lock().contains_key(&credential)
    }

    /// The credentials of a task for which a call runs.
    pub(crate) fn of_task(&self, task: TaskId) -> BTreeSet<CredentialId> {
        let running = self.0.running.lock();
        let of_task = running.iter().filter(|(_, call)| call.task == task);
        of_task.map(|(id, _)| *id).collect()
    }

    /// The calls of a task that may run ahead of their intents.
    pub(crate) fn ahead_of_task(&self, task: TaskId) -> Vec<(CredentialId, AheadOf)> {
        let running = self.0.running.lock();
        let of_task = running.iter().filter(|(_, call)| call.task == task);
        of_task
            .filter_map(|(id, call)| Some((*id, call.ahead.clone()?)))
            .collect()
    }

    /// The calls of all tasks that may run ahead of their intents.
    pub(crate) fn ahead(&self) -> Vec<CredentialId> {
        let running = self.0.running.lock();
        let ahead = running.iter().filter(|(_, call)| call.ahead.is_some());
        ahead.map(|(id, _)| *id).collect()
    }

    /// Ends when a call has ended: reconcilers may wait for it.
    pub(crate) async fn one_ended(&self) {
        self.0.left.notified().await;
    }

    /// Cancels the calls of a task.
    pub(crate) fn cancel(&self, task: TaskId) {
        for call in self.0.running.lock().values() {
            if call.task == task {
                call.cancelled.cancel();
            }
        }
    }
}

/// A registered call; it ends on drop.
#[derive(Debug)]
pub(crate) struct InFlightCall {
    calls: Arc<Calls>,
    credential: CredentialId,
    cancelled: CancellationToken,
}

impl InFlightCall {
    /// Ends when the call is cancelled, because its task ends.
    pub(crate) async fn cancelled(&self) {
        self.cancelled.cancelled().await;
    }
}

impl Drop for InFlightCall {
    fn drop(&mut self) {
        self.calls.running.lock().remove(&self.credential);
        self.calls.left.notify_one();
    }
}
