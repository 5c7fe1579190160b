//! Waiting as a parameter, like the clock: a simulation lets hours pass in no time, in an order
//! that can be repeated.

use std::{fmt, future::Future, time::Duration};

use async_trait::async_trait;

/// Lets time pass.
#[async_trait]
pub trait Timer: fmt::Debug + Send + Sync {
    /// Ends after `span`.
    async fn sleep(&self, span: Duration);
}

/// The machine's time, by the runtime's timers.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemTimer;

#[async_trait]
impl Timer for SystemTimer {
    async fn sleep(&self, span: Duration) {
        tokio::time::sleep(span).await;
    }
}

/// The result of `work`; `None` when it takes longer than `limit`. A result that is ready counts,
/// however late it is looked at.
pub(crate) async fn within<T>(
    timer: &dyn Timer,
    limit: Duration,
    work: impl Future<Output = T> + Send,
) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = timer.sleep(limit) => None,
    }
}
