//! CA rotation: keys move from prepared to retired when their time comes, also after a long downtime.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::Engine;

const PAUSE_MAX: Duration = Duration::from_secs(60);
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(5);

pub(super) async fn run(engine: Arc<Engine>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let pause = match engine.rotate_authority().await {
            Ok(next) => next.since(engine.now()).clamp(PAUSE_MIN, PAUSE_MAX),
            Err(error) => {
                tracing::error!(%error, "the certificate authority could not be rotated; trying again");
                PAUSE_AFTER_ERROR
            }
        };
        tokio::select! {
            biased;
            () = engine.timer().sleep(pause) => {}
            () = stop.cancelled() => {}
        }
    }
}
