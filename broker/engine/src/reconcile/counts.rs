//! Writes the entries that stand for many: repeats of a decision within a minute, and calls that
//! were refused over a budget.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{Reconciler, Round};
use crate::{Engine, Error};

const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(5);

pub(super) struct Counts(Arc<Engine>);

impl Counts {
    pub(super) fn new(engine: &Arc<Engine>) -> Self {
        Self(Arc::clone(engine))
    }
}

#[async_trait]
impl Reconciler for Counts {
    fn name(&self) -> &'static str {
        "counts"
    }

    async fn round(&mut self) -> Round {
        match self.0.write_counted(false).await {
            Ok(next) => Round::Done(next.max(PAUSE_MIN)),
            Err(error) => {
                let message = error.message();
                // A full disk has its own alarm, and the numbers wait in memory.
                if !matches!(error, Error::DiskFull) {
                    tracing::warn!(error = %message, "repeated decisions could not be recorded; trying again");
                }
                Round::Failed {
                    pause: PAUSE_AFTER_ERROR,
                    message,
                }
            }
        }
    }

    /// A person who looks at the ledger finds the agent at once that is refused.
    async fn signal(&mut self) {
        self.0.exceeded.began().await;
    }
}
