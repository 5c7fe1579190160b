//! Reconcilers: loops that bring what is in line with what should be.
//!
//! Each is idempotent, takes no input, runs on a signal and on a timer, and has one path for the usual case and for
//! recovery after a crash.

mod authority;
mod reaper;
mod revoker;
mod upkeep;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::Engine;

/// Starts all reconcilers. They stop when `stop` is cancelled; the engine's task tracker waits for them.
pub fn start(engine: &Arc<Engine>, stop: &CancellationToken) {
    start_release(engine, stop);
    let tasks = engine.tasks();
    tasks.spawn(authority::run(Arc::clone(engine), stop.clone()));
    tasks.spawn(upkeep::run(Arc::clone(engine), stop.clone()));
}

/// Starts those that take back what was given.
pub(crate) fn start_release(engine: &Arc<Engine>, stop: &CancellationToken) {
    let tasks = engine.tasks();
    tasks.spawn(reaper::run(Arc::clone(engine), stop.clone()));
    tasks.spawn(revoker::run(Arc::clone(engine), stop.clone()));
}
