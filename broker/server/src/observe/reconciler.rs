//! How a reconciler of a running broker stands, as the broker tells it to `taskpassd doctor`.

use std::fmt;

use serde::{Deserialize, Serialize};
use taskpass_core::Timestamp;
use taskpass_engine::{
    Engine,
    reconcile::{Failure, ReconcilerStatus},
};

/// How one reconciler stands. `taskpassd doctor -o json` has the same keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReconcilerReport {
    /// Its name.
    pub name: String,
    /// Its rounds since the broker started.
    pub runs: u64,
    /// The failed rounds among them.
    pub failures: u64,
    /// The rounds that failed in a row, up to the last one.
    pub failures_in_a_row: u32,
    /// When the last round was over.
    pub last_run_at: Timestamp,
    /// When the last round was over that did not fail.
    pub last_success_at: Option<Timestamp>,
    /// The last failure, also when it is mended.
    pub last_error: Option<LastError>,
}

/// A round that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastError {
    /// When.
    pub at: Timestamp,
    /// What failed, on one line.
    pub message: String,
}

impl ReconcilerReport {
    /// All reconcilers of this process that have run, by name.
    pub(crate) fn all(engine: &Engine) -> Vec<Self> {
        engine.reconcilers().into_iter().map(Self::from).collect()
    }

    /// Whether its last round failed.
    pub const fn fails(&self) -> bool {
        self.failures_in_a_row > 0
    }
}

impl From<ReconcilerStatus> for ReconcilerReport {
    fn from(status: ReconcilerStatus) -> Self {
        Self {
            name: status.name.to_owned(),
            runs: status.rounds,
            failures: status.failed_rounds,
            failures_in_a_row: status.failures,
            last_run_at: status.last_round,
            last_success_at: status.last_success,
            last_error: status.last_failure.map(LastError::from),
        }
    }
}

impl From<Failure> for LastError {
    fn from(failure: Failure) -> Self {
        let Failure { at, message } = failure;
        Self {
            at,
            message: message.replace(taskpass_core::is_hidden, " "),
        }
    }
}

/// On one line, without the name.
impl fmt::Display for ReconcilerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { runs, failures, .. } = self;
        if self.fails() {
            write!(f, "failed {} times in a row", self.failures_in_a_row)?;
            match self.last_success_at {
                Some(at) => write!(f, ", last succeeded at {at}")?,
                None => f.write_str(", never succeeded since the broker started")?,
            }
        } else {
            let at = self.last_run_at;
            write!(f, "last succeeded at {at}")?;
        }
        write!(f, " ({runs} runs, {failures} failed)")?;
        match &self.last_error {
            Some(LastError { at, message }) => write!(f, "; last error at {at}: {message}"),
            None => Ok(()),
        }
    }
}
