//! Time as a parameter. The composition root makes the one [`SystemClock`]; all other code takes a
//! [`Clock`].

use std::{
    fmt,
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use crate::Timestamp;

/// Where the time comes from.
pub trait Clock: fmt::Debug + Send + Sync {
    /// The wall clock, UTC. It may jump in either direction.
    fn now(&self) -> Timestamp;

    /// Time since an arbitrary start; it never goes back. Measure with it. A deadline that must
    /// survive a restart needs the wall clock.
    fn monotonic(&self) -> Duration;
}

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock {
    started: std::time::Instant,
}

impl SystemClock {
    /// Reads the machine's clocks from now on. Only composition roots and binaries call this.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the monotonic clock"
    )]
    #[expect(
        clippy::new_without_default,
        reason = "a default would hide that the wall clock is read"
    )]
    pub fn new() -> Self {
        Self {
            started: std::time::Instant::now(),
        }
    }
}

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the wall clock"
    )]
    fn now(&self) -> Timestamp {
        let since_epoch = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        Timestamp::from_millis(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the monotonic clock"
    )]
    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}

/// The machine's clock, put wrong by the number of milliseconds in a file, for tests of whole
/// programs: their clock must jump while they run. The file is read at each call; without a file or
/// a number in it the clock is right. The monotonic clock never jumps, as on a real machine.
#[cfg(feature = "failpoints")]
#[derive(Debug)]
pub struct ShiftedClock {
    right: SystemClock,
    file: std::path::PathBuf,
}

#[cfg(feature = "failpoints")]
impl ShiftedClock {
    /// A clock that is wrong by the milliseconds in `file`.
    pub fn new(file: impl Into<std::path::PathBuf>) -> Self {
        Self {
            right: SystemClock::new(),
            file: file.into(),
        }
    }
}

#[cfg(feature = "failpoints")]
impl Clock for ShiftedClock {
    fn now(&self) -> Timestamp {
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        let shift: i64 = text.trim().parse().unwrap_or(0);
        Timestamp::from_millis(self.right.now().millis().saturating_add(shift))
    }

    fn monotonic(&self) -> Duration {
        self.right.monotonic()
    }
}

/// A clock that stands still until it is moved; for tests and simulations.
#[derive(Debug)]
pub struct ManualClock {
    now_ms: AtomicI64,
    monotonic_ms: AtomicI64,
}

impl ManualClock {
    /// A clock that says `now`.
    pub fn new(now: Timestamp) -> Self {
        Self {
            now_ms: AtomicI64::new(now.millis()),
            monotonic_ms: AtomicI64::new(0),
        }
    }

    /// Moves both clocks forward.
    pub fn advance(&self, span: Duration) {
        let millis = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        self.now_ms.fetch_add(millis, Ordering::SeqCst);
        self.monotonic_ms.fetch_add(millis, Ordering::SeqCst);
    }

    /// Sets the wall clock, also backwards, as a bad NTP server would.
    pub fn set(&self, now: Timestamp) {
        self.now_ms.store(now.millis(), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.now_ms.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.monotonic_ms.load(Ordering::SeqCst)).unwrap_or(0))
    }
}
