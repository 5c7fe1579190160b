//! What policy is told about a request for access, and the guard that keeps it true.

use std::time::Duration;

use taskpass_core::{Scope, Task, Timestamp, Ttl};
use taskpass_policy::CredentialRequest;
use taskpass_store::Guard;

use crate::{Call, Engine, Error, Field};

impl Engine {
    /// What policy is told about a request for a credential.
    pub(super) async fn policy_request<'a>(
        &self,
        task: &'a Task,
        scope: &'a Scope,
        expires_at: Timestamp,
        now: Timestamp,
    ) -> Result<CredentialRequest<'a>, Error> {
        let store = &self.context.store;
        let usage = store.usage_of_agent(&task.agent).await?;
        Ok(CredentialRequest {
            task,
            ttl: lifetime(expires_at.since(now))?,
            scope,
            live_in_task: u64::from(store.live_in_task(task.id).await?),
            live_of_agent: u64::from(usage.live_credentials),
        })
    }

    /// The guard for the counts that policy decided on: parallel requests must not pass a limit
    /// that each of them alone would keep. `None` where no policy reads counts, because requests of
    /// one agent would hold each other up for nothing.
    pub(crate) fn counts_guard(call: &Call, request: &CredentialRequest<'_>) -> Option<Guard> {
        let reads_counts = call.snapshot.policy().reads_counts();
        reads_counts.then(|| Guard::LiveCredentialsAtMost {
            agent: request.task.agent.clone(),
            of_agent: request.live_of_agent,
            task: request.task.id,
            in_task: request.live_in_task,
        })
    }
}

/// A remaining lifetime as policy sees it: at least a second.
pub(crate) fn lifetime(left: Duration) -> Result<Ttl, Error> {
    Ttl::from_seconds(left.as_secs().max(1)).map_err(|e| Error::invalid(Field::Ttl, e))
}
