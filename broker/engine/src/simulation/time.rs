//! Time that passes only when the history says so. The true time never jumps; the machine's wall
//! clock may, or it runs twice too fast. The broker has the real clock that watches for that.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, Waker},
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use taskpass_core::{Clock, ClockDoubt, ClockMark, Timestamp, TrustedClock};

use crate::Timer;

/// The right time at the beginning of a history.
pub(super) const BEGIN: Timestamp = Timestamp::from_millis(1_795_341_600_000);

/// Milliseconds of true time since the history began.
pub(super) type Millis = u64;

/// The name of the machine's run: the machine is never switched off.
const BOOT: &str = "this run";

/// As a [`Clock`] it is the clock of the broker that runs.
#[derive(Debug, Default)]
pub(super) struct SimTime(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    now: Millis,
    /// How far the machine's wall clock is ahead of the truth.
    skew: i64,
    /// Since when the wall clock gains a second for each second.
    fast_since: Option<Millis>,
    /// The clock of the broker that runs; until there is one, the machine's.
    broker: Option<Arc<TrustedClock>>,
    sleepers: u64,
    /// Ordered by the time when they wake, then by the order in which they went to sleep.
    waiting: BTreeMap<(Millis, u64), Waker>,
}

impl SimTime {
    pub(super) fn now(&self) -> Millis {
        self.0.lock().now
    }

    /// The true time of a moment that the broker's clock names.
    pub(super) fn truth(&self, named: Timestamp) -> Millis {
        let ahead = named.millis() - Clock::now(self).millis();
        let now = i64::try_from(self.now()).unwrap_or(i64::MAX);
        u64::try_from(now.saturating_add(ahead)).unwrap_or(0)
    }

    /// How far a time is ahead of the truth, in milliseconds.
    pub(super) fn ahead(&self, time: Timestamp) -> i64 {
        let now = i64::try_from(self.now()).unwrap_or(i64::MAX);
        time.millis() - BEGIN.millis() - now
    }

    /// Sets the machine's wall clock, which runs at the right pace from now on.
    pub(super) fn set_skew(&self, skew: i64) {
        let mut inner = self.0.lock();
        (inner.skew, inner.fast_since) = (skew, None);
    }

    /// The machine's wall clock runs twice too fast from now on.
    pub(super) fn run_fast(&self) {
        let mut inner = self.0.lock();
        inner.skew = inner.error();
        inner.fast_since = Some(inner.now);
    }

    /// A broker process starts, with the mark that the last one left.
    pub(super) fn start_broker(self: &Arc<Self>, mark: Option<ClockMark>) {
        let machine = Machine(Arc::downgrade(self));
        let clock = TrustedClock::new(Arc::new(machine), mark);
        self.0.lock().broker = Some(Arc::new(clock));
    }

    /// The mark for the next broker process.
    pub(super) fn mark(&self) -> Option<ClockMark> {
        self.broker()?.mark()
    }

    fn broker(&self) -> Option<Arc<TrustedClock>> {
        self.0.lock().broker.clone()
    }

    fn wall(&self) -> Timestamp {
        let inner = self.0.lock();
        let since = i64::try_from(inner.now).unwrap_or(i64::MAX);
        Timestamp::from_millis(BEGIN.millis() + since + inner.error())
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

impl Inner {
    /// How far the machine's wall clock is ahead of the truth now.
    fn error(&self) -> i64 {
        let gained = self.fast_since.map_or(0, |since| self.now - since);
        self.skew
            .saturating_add(i64::try_from(gained).unwrap_or(i64::MAX))
    }
}

impl Clock for SimTime {
    fn now(&self) -> Timestamp {
        self.broker()
            .map_or_else(|| self.wall(), |clock| clock.now())
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.now())
    }

    fn doubt(&self) -> Option<ClockDoubt> {
        self.broker()?.doubt()
    }

    fn resumes_after(&self, newest: Timestamp) {
        if let Some(clock) = self.broker() {
            clock.resumes_after(newest);
        }
    }
}

/// The machine's own clocks.
#[derive(Debug)]
struct Machine(Weak<SimTime>);

impl Clock for Machine {
    fn now(&self) -> Timestamp {
        let time = self.0.upgrade();
        time.map_or(Timestamp::EPOCH, |time| time.wall())
    }

    fn monotonic(&self) -> Duration {
        let time = self.0.upgrade();
        time.map_or(Duration::ZERO, |time| Duration::from_millis(time.now()))
    }

    fn boot(&self) -> Option<&str> {
        Some(BOOT)
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
