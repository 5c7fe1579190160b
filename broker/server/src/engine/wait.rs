//! Waiting for revocations with a deadline; the work itself is the reconcilers'.

use std::time::Duration;

use taskpass_core::{Credential, CredentialId};

use super::{Engine, Error};

impl Engine {
    /// How long to wait when the caller asks for `wait_ms`, 0 meaning the default.
    pub(super) fn wait_for(&self, wait_ms: u32) -> Duration {
        match wait_ms {
            0 => self.settings.revoke_wait_default,
            ms => Duration::from_millis(u64::from(ms)).min(self.settings.revoke_wait_max),
        }
    }

    /// Waits until every one of the credentials is in a final state, or the time is over. Either is fine.
    pub(super) async fn settled(
        &self,
        credentials: &[CredentialId],
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
                if pending.is_empty() || changes.changed().await.is_err() {
                    return Ok(());
                }
            }
        };
        tokio::time::timeout(wait, all_final)
            .await
            .unwrap_or(Ok(()))
    }
}
