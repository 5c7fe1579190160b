//! Time as a parameter. The composition root makes the one [`SystemClock`]; all other code takes a
//! [`Clock`]. A broker puts a [`TrustedClock`] around the machine's clock, so that no part of it
//! sees the time of a clock that ran away.

mod trusted;

pub use self::trusted::{
    CLOCK_DISAGREEMENT_MAX, ClockDoubt, ClockMark, DOWNTIME_MAX, MarkError, TrustedClock,
};

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

    /// Time since an arbitrary start; it never goes back, and it counts on while the machine
    /// sleeps. Measure with it. A deadline that must survive a restart needs the wall clock.
    fn monotonic(&self) -> Duration;

    /// The run of the machine since it was switched on, by name. Two clocks with the same name
    /// count [`Clock::monotonic`] from the same start.
    fn boot(&self) -> Option<&str> {
        None
    }

    /// Why the machine's wall clock is not believed at present. Nothing is issued and nothing is
    /// pruned meanwhile. [`Clock::now`] then gives the last good time, counted on.
    fn doubt(&self) -> Option<ClockDoubt> {
        None
    }

    /// Tells the clock the newest time on record, before anything else is recorded.
    fn resumes_after(&self, _newest: Timestamp) {}
}

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock {
    #[cfg(not(target_os = "linux"))]
    started: std::time::Instant,
    boot: Option<String>,
}

/// Where Linux names the machine's present run.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

impl SystemClock {
    /// Reads the machine's clocks from now on. Only composition roots and binaries call this.
    #[cfg_attr(
        not(target_os = "linux"),
        expect(
            clippy::disallowed_methods,
            reason = "the one place that reads the monotonic clock"
        )
    )]
    #[expect(
        clippy::new_without_default,
        reason = "a default would hide that the wall clock is read"
    )]
    pub fn new() -> Self {
        let boot = std::fs::read_to_string(BOOT_ID).ok();
        Self {
            #[cfg(not(target_os = "linux"))]
            started: std::time::Instant::now(),
            boot: boot.map(|id| plain(&id)),
        }
    }

    /// The same clocks, where a supervisor told the process the name of the machine's run: a
    /// confined process may not be able to read it.
    #[must_use]
    pub fn in_run(mut self, boot: &str) -> Self {
        self.boot = Some(plain(boot));
        self
    }
}

/// The name of a run without line break and hyphens, which not every source of it has.
fn plain(boot: &str) -> String {
    boot.trim().replace('-', "")
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

    // CLOCK_BOOTTIME, unlike CLOCK_MONOTONIC, counts on while a laptop or a virtual machine sleeps.
    // Otherwise the wall clock would look as if it had jumped after each sleep.
    #[cfg(target_os = "linux")]
    fn monotonic(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
    }

    #[cfg(not(target_os = "linux"))]
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the monotonic clock"
    )]
    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }

    fn boot(&self) -> Option<&str> {
        self.boot.as_deref()
    }
}

/// The machine's clock, put wrong by a file, for tests of whole programs: their clock must jump
/// while they run.
///
/// The file holds up to three words: by how many milliseconds the wall clock is wrong, how many
/// milliseconds have passed beyond the real ones (on both clocks; may be negative), and the name of
/// the machine's run, as [`Clock::boot`] gives it. Missing words mean 0, 0 and no name. The file is
/// read at each call, and at the start for the name.
#[cfg(feature = "failpoints")]
#[derive(Debug)]
pub struct ShiftedClock {
    right: SystemClock,
    file: std::path::PathBuf,
    boot: Option<String>,
}

#[cfg(feature = "failpoints")]
impl ShiftedClock {
    /// A clock that is wrong by the milliseconds in `file`.
    pub fn new(file: impl Into<std::path::PathBuf>) -> Self {
        let file = file.into();
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        Self {
            right: SystemClock::new(),
            file,
            boot: text.split_whitespace().nth(2).map(str::to_owned),
        }
    }

    /// How far the wall clock is wrong, and how much more time has passed, in milliseconds.
    fn shift(&self) -> (i64, i64) {
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        let mut words = text
            .split_whitespace()
            .map(|word| word.parse().unwrap_or(0));
        (words.next().unwrap_or(0), words.next().unwrap_or(0))
    }
}

#[cfg(feature = "failpoints")]
impl Clock for ShiftedClock {
    fn now(&self) -> Timestamp {
        let (wrong, passed) = self.shift();
        let shift = wrong.saturating_add(passed);
        Timestamp::from_millis(self.right.now().millis().saturating_add(shift))
    }

    fn monotonic(&self) -> Duration {
        /// More than a test lets pass, so that less than none can have passed.
        const START: Duration = Duration::from_secs(10 * 365 * 86_400);
        let passed = self.shift().1;
        let span = Duration::from_millis(passed.unsigned_abs());
        let right = self.right.monotonic().saturating_add(START);
        if passed < 0 {
            right.saturating_sub(span)
        } else {
            right.saturating_add(span)
        }
    }

    fn boot(&self) -> Option<&str> {
        self.boot.as_deref()
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
