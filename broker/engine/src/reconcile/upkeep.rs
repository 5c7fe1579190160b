//! Upkeep of providers: their own tokens are renewed, their deny lists pruned.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::Engine;

const PAUSE: Duration = Duration::from_secs(30);

pub(super) async fn run(engine: Arc<Engine>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        if let Err(error) = engine.maintain_providers().await {
            tracing::warn!(%error, "the providers could not be maintained; trying again");
        }
        tokio::select! {
            biased;
            () = engine.timer().sleep(PAUSE) => {}
            () = stop.cancelled() => {}
        }
    }
}
