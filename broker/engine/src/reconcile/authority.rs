//! The rotation of the certificate authority: keys move from prepared to retired when their time
//! comes, also after a long downtime. And the end of a step of a root that the disk was too full
//! for: a root that is retired in the ledger must leave the bundle without another order.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{Reconciler, Round};
use crate::Engine;

const PAUSE_MAX: Duration = Duration::from_secs(60);
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(5);

pub(super) struct Rotation(Arc<Engine>);

impl Rotation {
    pub(super) fn new(engine: &Arc<Engine>) -> Self {
        Self(Arc::clone(engine))
    }
}

#[async_trait]
impl Reconciler for Rotation {
    fn name(&self) -> &'static str {
        "authority"
    }

    async fn round(&mut self) -> Round {
        let settled = self.0.settle_roots().await;
        let rotated = self.0.rotate_authority().await;
        match settled.and(rotated) {
            Ok(next) => Round::Done(next.since(self.0.now()).clamp(PAUSE_MIN, PAUSE_MAX)),
            Err(error) => {
                let message = error.message();
                tracing::error!(error = %message, "the certificate authority could not be rotated or settled; trying again");
                Round::Failed {
                    pause: PAUSE_AFTER_ERROR,
                    message,
                }
            }
        }
    }
}
