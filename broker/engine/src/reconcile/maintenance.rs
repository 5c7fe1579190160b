//! The maintenance of providers: each renews its own token and prunes its deny lists.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{Reconciler, Round};
use crate::Engine;

const PAUSE: Duration = Duration::from_secs(30);

pub(super) struct Maintenance(Arc<Engine>);

impl Maintenance {
    pub(super) fn new(engine: &Arc<Engine>) -> Self {
        Self(Arc::clone(engine))
    }
}

#[async_trait]
impl Reconciler for Maintenance {
    fn name(&self) -> &'static str {
        "maintenance"
    }

    async fn round(&mut self) -> Round {
        self.0.report_refusals();
        match self.0.maintain_providers().await {
            Ok(()) => Round::Done(PAUSE),
            Err(error) => {
                let message = error.message();
                tracing::warn!(error = %message, "the providers could not be maintained; trying again");
                Round::Failed {
                    pause: PAUSE,
                    message,
                }
            }
        }
    }
}
