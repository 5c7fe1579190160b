//! Log lines that unauthenticated callers cause: a few in each minute, and a count of the others.
//!
//! A caller with a wrong join token can be refused fifty times a second, day and night. A line for
//! each would push everything else out of the log.

use std::time::Duration;

use parking_lot::Mutex;
use taskpass_core::limits;

/// An interval of the log.
const INTERVAL: Duration = Duration::from_secs(60);

/// The refusals of this interval.
#[derive(Debug, Default)]
pub(crate) struct RefusalLog(Mutex<Interval>);

#[derive(Debug, Default)]
struct Interval {
    began: Duration,
    refusals: u64,
}

/// What the log says of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    /// All about it.
    Whole,
    /// It is only counted.
    LeftOut,
}

impl RefusalLog {
    /// Counts a refusal.
    pub(crate) fn note(&self, now: Duration) -> Line {
        self.report(now);
        let interval = &mut *self.0.lock();
        if interval.refusals == 0 {
            interval.began = now;
        }
        interval.refusals = interval.refusals.saturating_add(1);
        if interval.refusals > limits::REFUSALS_LOGGED_PER_MINUTE {
            Line::LeftOut
        } else {
            Line::Whole
        }
    }

    /// Says in the log how many lines were left out of an interval that is over.
    pub(crate) fn report(&self, now: Duration) {
        if let Some(left_out) = self.left_out(now) {
            tracing::warn!(
                left_out,
                seconds = INTERVAL.as_secs(),
                "evidence was refused more often than the log shows"
            );
        }
    }

    fn left_out(&self, now: Duration) -> Option<u64> {
        let interval = &mut *self.0.lock();
        if now.saturating_sub(interval.began) < INTERVAL {
            return None;
        }
        let refusals = std::mem::take(interval).refusals;
        let left_out = refusals.saturating_sub(limits::REFUSALS_LOGGED_PER_MINUTE);
        (left_out > 0).then_some(left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_leaves_a_few_lines_and_a_count() {
        let (log, shown) = (RefusalLog::default(), limits::REFUSALS_LOGGED_PER_MINUTE);
        let began = Duration::from_secs(3600);
        for _ in 0..shown {
            assert_eq!(log.note(began), Line::Whole);
        }
        for _ in 0..40 {
            assert_eq!(log.note(began + INTERVAL / 2), Line::LeftOut);
        }
        assert_eq!(log.left_out(began + INTERVAL / 2), None, "it is not over");
        assert_eq!(log.left_out(began + INTERVAL), Some(40));
        assert_eq!(log.left_out(began + INTERVAL * 3), None, "it was said once");
        assert_eq!(log.note(began + INTERVAL * 3), Line::Whole);
    }
}
