//! Reconcilers: loops that take no input and repeat a use case.
//!
//! Each is idempotent, and has one path for the usual case and for recovery after a crash. One
//! driver runs them all, on a signal and on a timer, and keeps how their last rounds went.

mod authority;
mod counts;
mod driver;
mod maintenance;
mod reaper;
mod revoker;
mod status;

pub use driver::{Reconciler, drive};
pub(crate) use status::Statuses;
pub use status::{Failure, ReconcilerStatus, Round};

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::Engine;

/// Starts all reconcilers. They stop when `stop` is cancelled; the engine's task tracker waits for
/// them.
pub fn start(engine: &Arc<Engine>, stop: &CancellationToken) {
    start_revoking(engine, stop);
    drive(engine, authority::Rotation::new(engine), stop);
    drive(engine, maintenance::Maintenance::new(engine), stop);
    drive(engine, counts::Counts::new(engine), stop);
}

/// One round of the authority's reconciler.
#[cfg(test)]
pub(crate) async fn authority_round(engine: &Arc<Engine>) -> Round {
    authority::Rotation::new(engine).round().await
}

/// Starts the reconcilers that end tasks and revoke credentials.
pub(crate) fn start_revoking(engine: &Arc<Engine>, stop: &CancellationToken) {
    drive(engine, reaper::Reaper::new(engine), stop);
    drive(engine, revoker::Revoker::new(engine), stop);
}
