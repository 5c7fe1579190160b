//! How the rounds of the reconcilers went.

use std::{collections::BTreeMap, time::Duration};

use parking_lot::Mutex;
use taskpass_core::Timestamp;

/// How a round went, and how long to rest.
#[derive(Debug)]
pub enum Round {
    /// Everything was done. The next round comes after this pause, or with a signal.
    Done(Duration),
    /// A step failed. The next round comes after this pause; a signal would only repeat the failure
    /// sooner.
    Failed {
        /// How long to wait.
        pause: Duration,
        /// What failed.
        message: String,
    },
}

/// The status of a reconciler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReconcilerStatus {
    /// Its name.
    pub name: &'static str,
    /// Rounds since the process began.
    pub rounds: u64,
    /// Rounds that failed.
    pub failed_rounds: u64,
    /// When the last round was over.
    pub last_round: Timestamp,
    /// When the last round was over that did not fail.
    pub last_success: Option<Timestamp>,
    /// Failed rounds in a row, up to the last one.
    pub failures: u32,
    /// The last failure, also when it is mended.
    pub last_failure: Option<Failure>,
}

/// A round that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// When.
    pub at: Timestamp,
    /// What failed.
    pub message: String,
}

/// The statuses of all reconcilers, by name.
#[derive(Debug, Default)]
pub(crate) struct Statuses(Mutex<BTreeMap<&'static str, ReconcilerStatus>>);

impl Statuses {
    pub(crate) fn all(&self) -> Vec<ReconcilerStatus> {
        self.0.lock().values().cloned().collect()
    }

    pub(super) fn note(&self, name: &'static str, at: Timestamp, round: &Round) {
        let mut statuses = self.0.lock();
        let status = statuses.entry(name).or_insert(ReconcilerStatus {
            name,
            rounds: 0,
            failed_rounds: 0,
            last_round: at,
            last_success: None,
            failures: 0,
            last_failure: None,
        });
        status.rounds = status.rounds.saturating_add(1);
        status.last_round = at;
        match round {
            Round::Done(_) => {
                status.last_success = Some(at);
                status.failures = 0;
            }
            Round::Failed { message, .. } => {
                status.failed_rounds = status.failed_rounds.saturating_add(1);
                status.failures = status.failures.saturating_add(1);
                let message = message.clone();
                status.last_failure = Some(Failure { at, message });
            }
        }
    }
}
