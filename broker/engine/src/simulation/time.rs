//! Time that passes only when the history says so. The true time never jumps; the broker's wall
//! clock may be wrong.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use taskpass_core::{Clock, Timestamp};

use crate::Timer;

/// The right time at the beginning of a history.
pub(super) const BEGIN: Timestamp = Timestamp::from_millis(1_795_341_600_000);

/// Milliseconds of true time since the history began.
pub(super) type Millis = u64;

#[derive(Debug, Default)]
pub(super) struct SimTime(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    now: Millis,
    /// How far the broker's wall clock is ahead of the truth.
    skew: i64,
    sleepers: u64,
    /// Ordered by the time when they wake, then by the order in which they went to sleep.
    waiting: BTreeMap<(Millis, u64), Waker>,
}

impl SimTime {
    pub(super) fn now(&self) -> Millis {
        self.0.lock().now
    }

    /// The true time of a moment that the broker's wall clock names.
    pub(super) fn truth(&self, wall: Timestamp) -> Millis {
        let skew = self.0.lock().skew;
        u64::try_from(wall.millis() - BEGIN.millis() - skew).unwrap_or(0)
    }

    pub(super) fn set_skew(&self, skew: i64) {
        self.0.lock().skew = skew;
    }

    /// When the next sleeper wakes.
    pub(super) fn next_alarm(&self) -> Option<Millis> {
        self.0.lock().waiting.keys().next().map(|(at, _)| *at)
    }

    /// Lets time pass until `at`, and wakes the sleepers that are due by then.
    pub(super) fn pass_until(&self, at: Millis) {
        let mut inner = self.0.lock();
        inner.now = inner.now.max(at);
        let later = inner.waiting.split_off(&(at + 1, 0));
        let due = std::mem::replace(&mut inner.waiting, later);
        drop(inner);
        due.into_values().for_each(Waker::wake);
    }

    fn sleep(self: &Arc<Self>, span: Duration) -> Sleep {
        let mut inner = self.0.lock();
        inner.sleepers += 1;
        let span = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let key = (inner.now.saturating_add(span.max(1)), inner.sleepers);
        Sleep {
            time: Arc::clone(self),
            key,
        }
    }
}

impl Clock for SimTime {
    fn now(&self) -> Timestamp {
        let inner = self.0.lock();
        let since = i64::try_from(inner.now).unwrap_or(i64::MAX);
        Timestamp::from_millis(BEGIN.millis() + since + inner.skew)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.now())
    }
}

/// The timer of a broker in a simulation.
#[derive(Debug, Clone)]
pub(super) struct SimTimer(pub(super) Arc<SimTime>);

#[async_trait]
impl Timer for SimTimer {
    async fn sleep(&self, span: Duration) {
        self.0.sleep(span).await;
    }
}

struct Sleep {
    time: Arc<SimTime>,
    key: (Millis, u64),
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.time.0.lock();
        if inner.now >= self.key.0 {
            return Poll::Ready(());
        }
        inner.waiting.insert(self.key, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.time.0.lock().waiting.remove(&self.key);
    }
}
