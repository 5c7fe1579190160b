//! `[ledger] keep`: once a day, the broker itself moves older segments to the archive.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use rustix::fs::{Access, access};
use taskpass_core::Clock;
use taskpass_engine::reconcile::{Reconciler, Round};
use tokio::sync::watch;

use super::{Archiving, Order, Progress, in_words};

/// How often old segments are looked for.
const EVERY: Duration = Duration::from_secs(86_400);
/// The pause after a failure.
const RETRY: Duration = Duration::from_secs(3600);

/// Keeps no more of the ledger on this machine than a configuration says.
#[derive(Debug)]
pub(crate) struct KeepLimit {
    pub(super) archiving: Arc<Archiving>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) keep: Duration,
    pub(super) archive: PathBuf,
}

impl KeepLimit {
    pub(crate) fn new(
        archiving: Arc<Archiving>,
        clock: Arc<dyn Clock>,
        keep: Duration,
        archive: PathBuf,
    ) -> Self {
        Self {
            archiving,
            clock,
            keep,
            archive,
        }
    }

    async fn archive(&self) -> Result<(), String> {
        if let Some(doubt) = self.clock.doubt() {
            return Err(format!(
                "{doubt}; old segments stay until the clock is right"
            ));
        }
        writable(&self.archive)?;
        let order = Order {
            before: self.clock.now().minus(self.keep),
            to: self.archive.clone(),
        };
        let (progress, _unwatched) = watch::channel(Progress::default());
        let archiving = Arc::clone(&self.archiving);
        let archived = archiving.archive(order, None, progress).await;
        archived.map(drop).map_err(|error| in_words(&error))
    }
}

/// Why the archive's directory cannot be written. A missing directory may be a volume that is not
/// mounted: making it would fill the disk that archiving is to empty. The archiver finds out later
/// whether the directory has the archive.
fn writable(archive: &Path) -> Result<(), String> {
    let reason = if archive.is_dir() {
        let granted = access(archive, Access::WRITE_OK | Access::EXEC_OK);
        granted.err().map(|error| error.to_string())
    } else {
        Some("there is no such directory".to_owned())
    };
    match reason {
        None => Ok(()),
        Some(reason) => Err(format!(
            "the archive `{}` cannot be written ({reason}); make or mount it, so that the broker's user can write there",
            archive.display()
        )),
    }
}

#[async_trait]
impl Reconciler for KeepLimit {
    fn name(&self) -> &'static str {
        "archive"
    }

    async fn round(&mut self) -> Round {
        match self.archive().await {
            Ok(()) => Round::Done(EVERY),
            Err(message) => {
                tracing::warn!(
                    error = message,
                    "old segments of the ledger stay on this machine"
                );
                Round::Failed {
                    pause: RETRY,
                    message,
                }
            }
        }
    }
}
