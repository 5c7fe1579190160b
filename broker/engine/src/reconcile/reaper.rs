//! The reaper: deadlines, lost heartbeats, interrupted intents, expired credentials, finished tasks.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::Engine;

/// The longest pause between two looks, however quiet it is.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// The shortest, so that a wrong clock cannot make it spin.
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// The pause after a failure, such as a full disk.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(250);

pub(super) async fn run(engine: Arc<Engine>, stop: CancellationToken) {
    let mut changes = engine.store().changes();
    while !stop.is_cancelled() {
        changes.borrow_and_update();
        let pause = match engine.reap().await {
            Ok(next) => next.unwrap_or(PAUSE_MAX).clamp(PAUSE_MIN, PAUSE_MAX),
            Err(error) => {
                tracing::warn!(%error, "the reaper could not do everything; it tries again");
                engine.timer().sleep(PAUSE_AFTER_ERROR).await;
                continue;
            }
        };
        tokio::select! {
            biased;
            () = engine.changed(&mut changes) => {}
            () = engine.timer().sleep(pause) => {}
            () = stop.cancelled() => {}
        }
    }
}
