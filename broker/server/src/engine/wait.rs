//! Waiting for revocations with a deadline; the work itself is the reconcilers'.

use std::time::Duration;

use taskpass_core::{Credential, CredentialId, TaskId, TaskState};

use super::{Engine, Error, timer};

impl Engine {
    /// How long to wait when the caller asks for `wait_ms`, 0 meaning the default.
    pub(super) fn wait_for(&self, wait_ms: u32) -> Duration {
        match wait_ms {
            0 => self.settings.revoke_wait_default,
            ms => Duration::from_millis(u64::from(ms)).min(self.settings.revoke_wait_max),
        }
    }

    /// Waits until every one of the credentials is in a final state, and the task, if one is named, has ended; or
    /// until the time is over. Either is fine.
    pub(super) async fn settled(
        &self,
        credentials: &[CredentialId],
        task: Option<TaskId>,
        wait: Duration,
    ) -> Result<(), Error> {
        let mut changes = self.store.changes();
        let all_final = async {
            let mut pending: Vec<CredentialId> = credentials.to_vec();
            loop {
                changes.borrow_and_update();
                let mut still = Vec::with_capacity(pending.len());
                for id in pending {
                    let credential = self.store.credential(id).await?;
                    if credential.is_some_and(|c: std::sync::Arc<Credential>| !c.state.is_final()) {
                        still.push(id);
                    }
                }
                pending = still;
                // The end of the task is recorded after that of its last credential.
                let is_over = pending.is_empty() && self.has_ended(task).await?;
                if is_over || changes.changed().await.is_err() {
                    return Ok(());
                }
            }
        };
        timer::within(self.timer.as_ref(), wait, all_final)
            .await
            .unwrap_or(Ok(()))
    }

    async fn has_ended(&self, task: Option<TaskId>) -> Result<bool, Error> {
        let Some(id) = task else { return Ok(true) };
        let task = self.store.task(id).await?;
        Ok(task.is_none_or(|task| task.state == TaskState::Ended))
    }
}
