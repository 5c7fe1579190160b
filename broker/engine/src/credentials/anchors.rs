//! Recording anchors while a provider mints: an anchor is durable before the provider gives it a
//! long life.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use taskpass_core::{
    Anchor, AnchorId, AnchorKey, AnchorState, CredentialId, CredentialState, Event, Handle,
    ProviderName, TaskId, Timestamp,
};
use taskpass_provider::{Anchors, ProviderError};
use taskpass_store::Guard;

use super::ahead::IntentRecord;
use crate::{Engine, failpoint};

/// When an intent that could not be recorded may be tried again.
const RECORD_AGAIN: Duration = Duration::from_secs(1);

/// Records the anchors of one credential that is being issued.
#[derive(Debug)]
pub(crate) struct AnchorRecorder<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) task: TaskId,
    pub(crate) credential: CredentialId,
    pub(crate) provider: ProviderName,
    /// Of the credential.
    pub(crate) key: Option<AnchorKey>,
    pub(crate) intent: &'a IntentRecord,
}

#[async_trait]
impl Anchors for AnchorRecorder<'_> {
    async fn intent_durable(&self) -> Result<(), ProviderError> {
        let durable = self.intent.durable().await;
        // Nothing was minted, and the provider is not to blame.
        durable.map_err(|error| ProviderError::Exhausted {
            message: format!("the intent could not be recorded: {error}"),
            after: RECORD_AGAIN,
        })
    }

    async fn record(
        &self,
        handle: Value,
        expires_at: Timestamp,
    ) -> Result<AnchorId, ProviderError> {
        let handle =
            Handle::recordable(handle).map_err(|e| ProviderError::Unsupported(e.to_string()))?;
        let refused = |why: String| {
            ProviderError::retryable(format!("the anchor could not be recorded: {why}"))
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
            key: self.key,
            handle,
            recorded_at: self.engine.now(),
            expires_at,
            state: AnchorState::Live,
        };
        failpoint::reached("anchor.made");
        // Nothing is recorded for a task that ended meanwhile, nor for a credential that is already
        // to be revoked: its revocation was planned without this anchor. The provider then drops
        // the anchor that it just made.
        let guards = vec![
            Guard::TaskOpen(self.task),
            Guard::CredentialState(self.credential, &[CredentialState::Intended]),
        ];
        self.engine
            .commit(vec![Event::AnchorRecorded { anchor }], guards)
            .await
            .map_err(|e| refused(e.to_string()))?;
        self.engine.ahead.recorded(id);
        failpoint::reached("anchor.recorded");
        Ok(id)
    }
}
