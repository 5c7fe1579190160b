//! Waiting for revocations with a deadline; the work itself is the reconcilers'.

use std::time::Duration;

use taskpass_core::{CredentialId, TaskId, TaskState};

use crate::{Call, Engine, Error, timer};

impl Engine {
    /// How long to wait for revocations when the caller asks for `wait`.
    pub(crate) fn wait_for(call: &Call, wait: Option<Duration>) -> Duration {
        let settings = call.snapshot.settings();
        match wait {
            None => settings.credentials.revoke_wait_default,
            Some(wait) => wait.min(settings.credentials.revoke_wait_max),
        }
    }

    /// Waits until the credential is in a final state, or until the time is over. Either is fine.
    pub(crate) async fn settled(&self, id: CredentialId, wait: Duration) -> Result<(), Error> {
        let settled = self.until(|| async {
            let credential = self.context.store.credential(id).await?;
            Ok(credential.is_none_or(|credential| credential.state.is_final()))
        });
        self.at_most(wait, settled).await
    }

    /// Waits until all of the tasks have ended, which each does after its last credential, or until
    /// the time is over.
    pub(crate) async fn all_ended(&self, tasks: &[TaskId], wait: Duration) -> Result<(), Error> {
        let ended = async {
            for id in tasks {
                self.until(|| async {
                    let task = self.context.store.task(*id).await?;
                    Ok(task.is_none_or(|task| task.state == TaskState::Ended))
                })
                .await?;
            }
            Ok(())
        };
        self.at_most(wait, ended).await
    }

    /// Asks again after each change.
    async fn until<F>(&self, is_over: impl Fn() -> F + Send + Sync) -> Result<(), Error>
    where
        F: Future<Output = Result<bool, Error>> + Send,
    {
        let mut changes = self.context.store.changes();
        loop {
            changes.borrow_and_update();
            if is_over().await? || changes.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    async fn at_most(
        &self,
        wait: Duration,
        work: impl Future<Output = Result<(), Error>> + Send,
    ) -> Result<(), Error> {
        timer::within(self.context.timer.as_ref(), wait, work)
            .await
            .unwrap_or(Ok(()))
    }
}
