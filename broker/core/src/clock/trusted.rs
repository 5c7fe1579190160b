//! The time that a broker trusts: the machine's wall clock, for as long as it agrees with the time
//! that has passed.
//!
//! A wall clock jumps when a time server lies, when a virtual machine's host sets it, or when the
//! battery of the hardware clock is empty. A time that was once recorded stays in the ledger for
//! good, so a wrong one must be noticed first. The clock that never jumps says how much time has
//! passed since a time that was good. Where the wall clock is further from that than
//! [`CLOCK_DISAGREEMENT_MAX`], it is in doubt, and the last good time is counted on instead. When
//! the wall clock comes back by itself, the doubt is over.
//!
//! The first good time of a process comes from a [`ClockMark`] that an earlier process left since
//! the machine was switched on. Without a mark it is the wall clock itself, unless that is further
//! ahead of the ledger than [`DOWNTIME_MAX`]. Any program that writes the broker's data can write a
//! mark, so a mark that does not fit the ledger counts as none: see [`MarkError`].

#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::Clock;
use crate::Timestamp;

/// How far the wall clock may be from the time that has passed. Time servers step by seconds.
pub const CLOCK_DISAGREEMENT_MAX: Duration = Duration::from_secs(300);

/// How far the first good time of a process may be ahead of the newest ledger entry. A broker that
/// was stopped for longer needs a person to confirm the time.
pub const DOWNTIME_MAX: Duration = Duration::from_secs(30 * 86_400);

/// The share of the time that has passed by which the wall clock may gain or lose for ever: a
/// thousandth. Steps of time servers add up over months, and crystals are off by a ten-thousandth.
/// A clock that is off by more than this share is noticed sooner or later.
const DRIFT_SHARE: u32 = 1000;

/// How often the drift is taken over.
const DRIFT_EVERY: Duration = Duration::from_secs(60);

/// Why the machine's wall clock is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockDoubt {
    /// The time by the wall clock.
    pub wall: Timestamp,
    /// The last good time, counted on.
    pub trusted: Timestamp,
}

impl ClockDoubt {
    /// How far the wall clock is ahead; negative when it is behind.
    pub fn ahead_seconds(&self) -> i64 {
        self.wall.seconds().saturating_sub(self.trusted.seconds())
    }
}

impl fmt::Display for ClockDoubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wall, trusted } = self;
        let (far, way) = match self.ahead_seconds() {
            seconds @ 0.. => (seconds, "ahead of"),
            seconds => (seconds.saturating_neg(), "behind"),
        };
        write!(
            f,
            "the machine's clock says {wall}, which is {far} seconds {way} the time that the broker counted on to, {trusted}"
        )
    }
}

/// A good time and when it was, for the next process on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockMark {
    /// The machine's run, by [`Clock::boot`].
    pub boot: String,
    /// The monotonic clock.
    pub monotonic_ms: u64,
    /// The good time at that moment.
    pub time: Timestamp,
    /// How far the wall clock was ahead while it was in doubt; 0 while it was not.
    #[serde(default)]
    pub ahead_ms: i64,
}

/// Why a mark is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MarkError {
    /// The monotonic clock of this run of the machine has not come so far.
    #[error("it is of a moment that this run of the machine has not reached yet")]
    NotYet,
    /// It leads to a time at which the newest ledger entry cannot have been made, or not within
    /// [`DOWNTIME_MAX`].
    #[error("it leads to {time}, which does not fit the newest ledger entry, of {newest}")]
    Unfit {
        /// The time that it leads to.
        time: Timestamp,
        /// The newest time on record.
        newest: Timestamp,
    },
}

/// A clock that notices when the machine's wall clock runs away.
#[derive(Debug)]
pub struct TrustedClock {
    machine: Arc<dyn Clock>,
    mark: Option<ClockMark>,
    /// Absent until [`Clock::resumes_after`].
    course: Mutex<Option<Course>>,
    /// Set by [`Clock::resumes_after`].
    refused: OnceLock<MarkError>,
}

impl TrustedClock {
    /// Watches the machine's clock. The last process left `mark`. Until the newest time on
    /// record is known, the wall clock is believed.
    pub fn new(machine: Arc<dyn Clock>, mark: Option<ClockMark>) -> Self {
        Self {
            machine,
            mark,
            course: Mutex::default(),
            refused: OnceLock::new(),
        }
    }

    /// Why the mark that the last process left is not believed; `None` if it is, or if there is
    /// none.
    pub fn refused_mark(&self) -> Option<MarkError> {
        self.refused.get().copied()
    }

    /// A mark for the next process; none while nothing is known, or where the machine does not name
    /// its runs.
    pub fn mark(&self) -> Option<ClockMark> {
        let seen = self.look();
        let course = (*self.course())?;
        Some(ClockMark {
            boot: self.machine.boot()?.to_owned(),
            monotonic_ms: u64::try_from(course.at.as_millis()).unwrap_or(u64::MAX),
            time: course.time,
            ahead_ms: match seen.doubt {
                None => 0,
                Some(doubt) => doubt.wall.millis().saturating_sub(doubt.trusted.millis()),
            },
        })
    }

    fn course(&self) -> MutexGuard<'_, Option<Course>> {
        self.course.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self) -> Seen {
        let mut course = self.course();
        // Read under the lock: a reading that waited for it would look like a clock that stands
        // still.
        let wall = self.machine.now();
        match course.as_mut() {
            None => Seen::good(wall),
            Some(course) => course.look(wall, self.machine.monotonic()),
        }
    }
}

impl Clock for TrustedClock {
    fn now(&self) -> Timestamp {
        self.look().time
    }

    fn monotonic(&self) -> Duration {
        self.machine.monotonic()
    }

    fn boot(&self) -> Option<&str> {
        self.machine.boot()
    }

    fn doubt(&self) -> Option<ClockDoubt> {
        self.look().doubt
    }

    /// Only the first call counts: from then on the clock goes by its own observations.
    fn resumes_after(&self, newest: Timestamp) {
        let mut course = self.course();
        if course.is_none() {
            let start = Start {
                wall: self.machine.now(),
                at: self.machine.monotonic(),
                boot: self.machine.boot(),
                newest,
            };
            let checked = self.mark.as_ref().map(|mark| (mark, start.check(mark)));
            let mark = match checked {
                Some((_, Err(error))) => {
                    self.refused.get_or_init(|| error);
                    None
                }
                Some((mark, Ok(()))) => Some(mark),
                None => None,
            };
            *course = Some(start.course(mark));
        }
    }
}

/// What one look at the clocks gave.
struct Seen {
    time: Timestamp,
    doubt: Option<ClockDoubt>,
}

impl Seen {
    const fn good(time: Timestamp) -> Self {
        Self { time, doubt: None }
    }
}

/// The times that a process knows at its start.
struct Start<'a> {
    wall: Timestamp,
    at: Duration,
    boot: Option<&'a str>,
    /// The newest time on record.
    newest: Timestamp,
}

impl Start<'_> {
    fn is_of_this_run(&self, mark: &ClockMark) -> bool {
        self.boot == Some(mark.boot.as_str())
    }

    /// A mark must not date entries in the far future, which no later mark could take back.
    fn check(&self, mark: &ClockMark) -> Result<(), MarkError> {
        let newest = self.newest;
        let mut time = mark.time;
        let mut earliest = Timestamp::EPOCH;
        if self.is_of_this_run(mark) {
            let passed = self
                .at
                .checked_sub(Duration::from_millis(mark.monotonic_ms));
            let passed = passed.ok_or(MarkError::NotYet)?;
            time = time.plus(passed);
            // The wall clock may have gained so much on it before the last process ended.
            earliest = newest.minus(CLOCK_DISAGREEMENT_MAX + passed / DRIFT_SHARE);
        }
        if time < earliest || time.since(newest) > DOWNTIME_MAX {
            return Err(MarkError::Unfit { time, newest });
        }
        Ok(())
    }

    /// The mark has been checked.
    fn course(&self, mark: Option<&ClockMark>) -> Course {
        if let Some(mark) = mark.filter(|mark| self.is_of_this_run(mark)) {
            let at = Duration::from_millis(mark.monotonic_ms);
            return Course::new(mark.time, at);
        }
        // An empty ledger says nothing about the time.
        let is_first = self.newest == Timestamp::EPOCH;
        let stopped_long = self.wall.since(self.newest) > DOWNTIME_MAX && !is_first;
        // The machine was switched off and on while its clock was in doubt, and the clock is as far
        // ahead as before.
        let still_ahead = mark.is_some_and(|mark| {
            let was = Duration::from_millis(u64::try_from(mark.ahead_ms).unwrap_or(0));
            !was.is_zero() && self.wall.since(mark.time) + CLOCK_DISAGREEMENT_MAX >= was
        });
        let last_good = mark.map_or(self.newest, |mark| mark.time.max(self.newest));
        if stopped_long || still_ahead {
            Course::new(last_good, self.at)
        } else {
            Course::new(self.wall, self.at)
        }
    }
}

/// A good time, from which time is counted on.
#[derive(Debug, Clone, Copy)]
struct Course {
    time: Timestamp,
    /// The monotonic clock at that time.
    at: Duration,
    /// How far the wall clock was ahead when it was last believed, in milliseconds.
    ahead_ms: i64,
}

impl Course {
    const fn new(time: Timestamp, at: Duration) -> Self {
        Self {
            time,
            at,
            ahead_ms: 0,
        }
    }

    fn look(&mut self, wall: Timestamp, at: Duration) -> Seen {
        let passed = at.saturating_sub(self.at);
        let counted = self.time.plus(passed);
        let ahead_ms = wall.millis().saturating_sub(counted.millis());
        if Duration::from_millis(ahead_ms.unsigned_abs()) > CLOCK_DISAGREEMENT_MAX {
            let trusted = moved(counted, self.ahead_ms);
            return Seen {
                time: trusted,
                doubt: Some(ClockDoubt { wall, trusted }),
            };
        }
        self.ahead_ms = ahead_ms;
        if passed >= DRIFT_EVERY {
            let share = i64::try_from((passed / DRIFT_SHARE).as_millis()).unwrap_or(i64::MAX);
            let drift = ahead_ms.clamp(-share, share);
            *self = Self {
                time: moved(counted, drift),
                at,
                ahead_ms: ahead_ms.saturating_sub(drift),
            };
        }
        Seen::good(wall)
    }
}

fn moved(time: Timestamp, by_ms: i64) -> Timestamp {
    Timestamp::from_millis(time.millis().saturating_add(by_ms))
}
