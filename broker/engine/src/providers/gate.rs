//! The gate in front of a back end: every call that may mint passes it.
//!
//! The same provider under other settings is another [`Backend`](super::Backend), and requests of
//! an older snapshot go on with theirs. All these incarnations share one gate. It tells whether
//! any of them is still in use, and it closes for all of them at once.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// More calls than any queue admits.
const CALLS_MAX: u32 = 1 << 28;

/// One gate for all incarnations of a back end.
#[derive(Debug, Clone)]
pub(crate) struct Gate(Arc<Semaphore>);

/// A call that passed the gate. It is over on drop.
#[derive(Debug)]
pub(crate) struct Passed(
    #[expect(dead_code, reason = "held, never looked at")] OwnedSemaphorePermit,
);

/// A closed gate. It opens again on drop.
#[derive(Debug)]
pub(crate) struct Closed(OwnedSemaphorePermit);

impl Gate {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(CALLS_MAX as usize)))
    }

    /// Lets a call through; `None` when the gate is closed.
    pub(crate) fn pass(&self) -> Option<Passed> {
        let passed = Arc::clone(&self.0).try_acquire_owned().ok()?;
        Some(Passed(passed))
    }

    /// Closes the gate; `None` while a call that passed it runs.
    pub(crate) fn close(&self) -> Option<Closed> {
        let all = Arc::clone(&self.0).try_acquire_many_owned(CALLS_MAX).ok()?;
        Some(Closed(all))
    }

    /// Whether another incarnation holds the gate, or a call that passed it runs.
    pub(crate) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl Closed {
    /// Leaves the gate closed.
    pub(crate) fn for_good(self) {
        self.0.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_closes_when_no_call_runs_and_opens_unless_it_closed_for_good() {
        let gate = Gate::new();
        let call = gate.pass().unwrap();
        assert!(gate.is_shared() && gate.close().is_none());
        drop(call);
        assert!(!gate.is_shared());
        let closed = gate.close().unwrap();
        assert!(gate.pass().is_none() && gate.close().is_none());
        drop(closed);
        gate.pass().unwrap();
        gate.close().unwrap().for_good();
        assert!(gate.pass().is_none());
    }
}
