//! Whether this broker issues anything, as gRPC health says it. Several watchers may each have a
//! reason to stop; it issues again when none is left.

use std::{collections::BTreeSet, sync::Arc};

use tokio::sync::Mutex;
use tonic_health::{ServingStatus, server::HealthReporter};

/// The name under which gRPC health says whether anything is issued.
const ISSUING: &str = "taskpass.issuing";

/// The reasons why nothing is issued; cheap to clone.
#[derive(Clone)]
pub(crate) struct Issuing {
    health: HealthReporter,
    stopped_by: Arc<Mutex<BTreeSet<&'static str>>>,
}

impl Issuing {
    pub(crate) fn new(health: HealthReporter) -> Self {
        Self {
            health,
            stopped_by: Arc::default(),
        }
    }

    /// Says whether `watcher` lets anything be issued.
    pub(crate) async fn say(&self, watcher: &'static str, goes_on: bool) {
        // Held until health has it, so that two watchers do not overtake each other.
        let mut stopped_by = self.stopped_by.lock().await;
        if goes_on {
            stopped_by.remove(watcher);
        } else {
            stopped_by.insert(watcher);
        }
        let status = match stopped_by.is_empty() {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        self.health.set_service_status(ISSUING, status).await;
    }
}
