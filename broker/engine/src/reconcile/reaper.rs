//! The reaper: deadlines, lost heartbeats, intents in doubt, expired credentials, finished tasks.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::watch;

use super::{Reconciler, Round};
use crate::Engine;

/// The longest pause between two rounds, however quiet it is.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// The shortest, so that a wrong clock cannot make it spin.
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// The pause after a failure, such as a full disk.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(250);

pub(super) struct Reaper {
    engine: Arc<Engine>,
    changes: watch::Receiver<u64>,
}

impl Reaper {
    pub(super) fn new(engine: &Arc<Engine>) -> Self {
        Self {
            engine: Arc::clone(engine),
            changes: engine.store().changes(),
        }
    }
}

#[async_trait]
impl Reconciler for Reaper {
    fn name(&self) -> &'static str {
        "reaper"
    }

    async fn round(&mut self) -> Round {
        self.changes.borrow_and_update();
        match self.engine.reap().await {
            Ok(next) => Round::Done(next.unwrap_or(PAUSE_MAX).clamp(PAUSE_MIN, PAUSE_MAX)),
            Err(error) => {
                let message = error.message();
                tracing::warn!(error = %message, "the reaper could not do everything; it tries again");
                Round::Failed {
                    pause: PAUSE_AFTER_ERROR,
                    message,
                }
            }
        }
    }

    async fn signal(&mut self) {
        self.engine.changed(&mut self.changes).await;
    }
}
