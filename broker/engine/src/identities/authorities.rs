//! The certificate authority's keys, from prepared to retired, and their record.

use std::sync::Arc;

use taskpass_ca::CaStep;
use taskpass_core::{Event, Timestamp};

use crate::{Engine, Error, failpoint};

impl Engine {
    /// Moves the certificate authority's keys one step where that is due, and records it.
    pub async fn rotate_authority(&self) -> Result<Timestamp, Error> {
        let authority = Arc::clone(&self.context.authority);
        // Key generation and file syncs: off the async threads.
        let steps = tokio::task::spawn_blocking(move || authority.rotate())
            .await
            .map_err(Error::authority)?
            .map_err(Error::authority)?;
        if !steps.is_empty() {
            failpoint::reached("rotate.moved");
            let events = steps.into_iter().map(ca_changed).collect();
            self.commit_reserved(events, Vec::new()).await?;
        }
        Ok(self.context.authority.next_rotation_at())
    }

    /// Records the stage of every authority. The broker does this at each start: a broker that was
    /// killed between a step and its record left the ledger one step behind.
    pub async fn record_authorities(&self) -> Result<(), Error> {
        let events = self
            .context
            .authority
            .authorities()
            .into_iter()
            .map(ca_changed)
            .collect();
        self.commit_reserved(events, Vec::new()).await.map(|_| ())
    }
}

pub(super) fn ca_changed(step: CaStep) -> Event {
    Event::CaChanged {
        serial: step.serial,
        stage: step.stage.as_str().to_owned(),
        not_after: step.not_after,
        certificate_sha256: step.certificate_sha256,
    }
}
