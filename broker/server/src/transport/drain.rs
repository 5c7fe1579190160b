//! When a connection has to end: first politely, then for good.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use taskpass_core::{Clock, Timestamp};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{ConnectionId, Limits};

/// How often a wait for a wall-clock time reads the clock again at least: the clock may jump.
const CLOCK_CHECK: Duration = Duration::from_secs(30);

/// Counts the requests of one connection, to tell whether it is idle.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// Requests in flight.
    pub(super) in_flight: Arc<AtomicUsize>,
    /// Requests since the start.
    pub(super) begun: AtomicU64,
}

/// Why a connection should end, and how long its requests in flight may go on.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) why: &'static str,
    pub(super) grace: Duration,
}

/// Everything that decides when one connection ends.
pub(super) struct Ends<'a> {
    pub(super) limits: &'a Limits,
    pub(super) clock: &'a dyn Clock,
    pub(super) shutdown: &'a CancellationToken,
    pub(super) id: ConnectionId,
    /// The end of the peer's certificate; `None` for a peer without one.
    pub(super) not_after: Option<Timestamp>,
    pub(super) activity: &'a Activity,
}

impl Ends<'_> {
    /// Returns when the connection should take no further requests.
    pub(super) async fn polite(&self) -> Ending {
        let grace = self.limits.connection_grace;
        // With little life left in the certificate, the connection is asked to end after half of
        // it.
        let left = self.not_after.map(|end| end.since(self.clock.now()));
        let lead = left.map_or(grace, |left| grace.min(left / 2));
        let renewed_by = self.not_after.map(|end| end.minus(lead));
        let why = tokio::select! {
            () = self.shutdown.cancelled() => {
                let grace = self.limits.drain_timeout;
                return Ending { why: "the broker shuts down", grace };
            }
            () = sleep(self.age()) => "it is old",
            () = self.idle() => "it is idle",
            () = until(self.clock, renewed_by) => "its certificate is about to expire",
        };
        Ending { why, grace }
    }

    /// Returns when the connection must be closed, whether it was asked to end or not.
    pub(super) async fn hard(&self) -> &'static str {
        let drained = async {
            self.shutdown.cancelled().await;
            sleep(self.limits.drain_timeout).await;
        };
        tokio::select! {
            () = drained => "it did not drain in time",
            () = until(self.clock, self.not_after) => "its certificate expired",
        }
    }

    /// The age at which the connection should end: spread over a fifth, so that peers which
    /// connected together do not come back together.
    fn age(&self) -> Duration {
        let age = match self.not_after {
            Some(_) => self.limits.connection_age,
            None => self.limits.unauthenticated_connection_age,
        };
        // 37 and 101 have no common divisor, so 101 neighbouring connections get 101 different
        // ages, far apart.
        let spread = u32::try_from(self.id.0 % 101 * 37 % 101).unwrap_or(0);
        age * 9 / 10 + age * spread / 500
    }

    /// Returns when no request was in flight or begun between two looks, one idle time apart.
    async fn idle(&self) {
        let mut begun = None;
        loop {
            let now = self.activity.begun.load(Ordering::Acquire);
            let in_flight = self.activity.in_flight.load(Ordering::Acquire);
            if in_flight == 0 && begun == Some(now) {
                return;
            }
            begun = (in_flight == 0).then_some(now);
            sleep(self.limits.idle_timeout).await;
        }
    }
}

/// Returns when the clock reaches `end`; without an `end`, never.
async fn until(clock: &dyn Clock, end: Option<Timestamp>) {
    let Some(end) = end else {
        return std::future::pending().await;
    };
    loop {
        let left = end.since(clock.now());
        if left.is_zero() {
            return;
        }
        sleep(left.min(CLOCK_CHECK)).await;
    }
}
