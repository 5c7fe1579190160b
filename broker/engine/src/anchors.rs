//! Recording anchors while a provider mints: durable before the provider lets the thing live long.

use async_trait::async_trait;
use serde_json::Value;
use taskpass_core::{
    Anchor, AnchorId, AnchorState, CredentialId, CredentialState, Event, Handle, ProviderName,
    TaskId, Timestamp, limits,
};
use taskpass_provider::{Anchors, ProviderError};
use taskpass_store::Guard;

use crate::failpoint;

use super::Engine;

/// Records for one credential of a task, while it is being minted.
#[derive(Debug)]
pub(super) struct AnchorRecorder<'a> {
    pub(super) engine: &'a Engine,
    pub(super) task: TaskId,
    pub(super) credential: CredentialId,
    pub(super) provider: ProviderName,
}

#[async_trait]
impl Anchors for AnchorRecorder<'_> {
    async fn record(
        &self,
        handle: Value,
        expires_at: Timestamp,
    ) -> Result<AnchorId, ProviderError> {
        let handle = Handle::from(handle);
        if handle.bytes() > limits::HANDLE_BYTES_MAX {
            return Err(ProviderError::Unsupported(
                "the provider's handle is too long to be recorded".to_owned(),
            ));
        }
        let refused = |why: String| {
            ProviderError::retryable(format!("the session could not be recorded: {why}"))
        };
        let id = AnchorId::generate(
            self.engine.context.clock.as_ref(),
            self.engine.context.entropy.as_ref(),
        )
        .map_err(|e| refused(e.to_string()))?;
        let anchor = Anchor {
            id,
            task: self.task,
            provider: self.provider.clone(),
            handle,
            recorded_at: self.engine.now(),
            expires_at,
            state: AnchorState::Live,
        };
        failpoint::reached("anchor.made");
        // A task that ended meanwhile takes no more, nor does a credential that is already to be revoked: what is
        // recorded later than that has nothing to do with it. The provider then lets go of what it just made.
        let guards = vec![
            Guard::TaskOpen(self.task),
            Guard::CredentialState(self.credential, &[CredentialState::Intended]),
        ];
        self.engine
            .commit(vec![Event::AnchorRecorded { anchor }], guards)
            .await
            .map_err(|e| refused(e.to_string()))?;
        failpoint::reached("anchor.recorded");
        Ok(id)
    }
}
