//! A limit on how often each key may be used: the generic cell rate algorithm, with a cell per key.
//!
//! It reads no clock; the caller says what time it is. The map is bounded: full cells carry no
//! information and are dropped when it grows.

use std::{collections::HashMap, hash::Hash, time::Duration};

use parking_lot::Mutex;

/// The longest that a caller is told to wait beyond the next free place, behind other callers. A
/// caller that comes too early again and again must not send the others away for long.
const WAIT_MORE_MAX: Duration = Duration::from_secs(1);
/// Cells kept before full ones are dropped.
const CELLS_MAX: usize = 16_384;

/// A steady rate with a burst on top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How often per second in the long run.
    pub per_second: u32,
    /// How often at once.
    pub burst: u32,
}

/// How often each of many keys was used. The rate comes with each use, so that it can change while
/// earlier uses stay counted.
#[derive(Debug)]
pub struct Limiter<K> {
    cells: Mutex<HashMap<K, Cell>>,
}

/// The use of one key.
#[derive(Debug, Clone, Copy)]
struct Cell {
    /// When its burst is whole again.
    whole_at: Duration,
    /// The last time that was named to a caller who came too early.
    named: Duration,
}

impl<K> Default for Limiter<K> {
    fn default() -> Self {
        Self {
            cells: Mutex::default(),
        }
    }
}

impl<K: Eq + Hash> Limiter<K> {
    /// Counts a use against `rate`, or says how long to wait. Callers that wait at the same time
    /// hear different times, up to a second later than the next place: otherwise all of them would
    /// come back for that one. It is a hint and no reservation.
    pub fn check_rate(&self, rate: Rate, key: K, now: Duration) -> Result<(), Duration> {
        let interval = Duration::from_secs(1) / rate.per_second.max(1);
        let tolerance = interval * rate.burst.max(1).saturating_sub(1);
        let mut cells = self.cells.lock();
        if cells.len() >= CELLS_MAX {
            cells.retain(|_, cell| cell.whole_at > now);
        }
        let cell = cells.entry(key).or_insert(Cell {
            whole_at: now,
            named: now,
        });
        cell.whole_at = cell.whole_at.max(now);
        let free_at = cell.whole_at.saturating_sub(tolerance);
        if free_at > now {
            let behind_others = (cell.named + interval).min(free_at + WAIT_MORE_MAX);
            cell.named = free_at.max(behind_others);
            return Err(cell.named - now);
        }
        cell.whole_at += interval;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_the_steady_rate() {
        let rate = Rate {
            per_second: 10,
            burst: 3,
        };
        let limiter = Limiter::default();
        let at = Duration::from_millis;
        for _ in 0..3 {
            assert_eq!(limiter.check_rate(rate, "a", at(0)), Ok(()));
        }
        assert_eq!(limiter.check_rate(rate, "a", at(0)), Err(at(100)));
        assert_eq!(limiter.check_rate(rate, "b", at(0)), Ok(()));
        assert_eq!(limiter.check_rate(rate, "a", at(100)), Ok(()));
        assert_eq!(limiter.check_rate(rate, "a", at(100)), Err(at(100)));
    }

    #[test]
    fn callers_that_wait_together_hear_different_times() {
        let rate = Rate {
            per_second: 100,
            burst: 1,
        };
        let limiter = Limiter::default();
        let at = Duration::from_millis;
        assert_eq!(limiter.check_rate(rate, "a", at(0)), Ok(()));
        let waits: Vec<_> = (0..8)
            .map(|_| limiter.check_rate(rate, "a", at(0)).unwrap_err())
            .collect();
        assert_eq!(waits, (1..=8).map(|n| at(n * 10)).collect::<Vec<_>>());
        // Each that waits as it was told comes through.
        for wait in waits {
            assert_eq!(limiter.check_rate(rate, "a", wait), Ok(()));
        }
    }

    #[test]
    fn a_caller_that_does_not_wait_sends_no_other_away_for_long() {
        let rate = Rate {
            per_second: 100,
            burst: 1,
        };
        let limiter = Limiter::default();
        let at = Duration::from_millis;
        assert_eq!(limiter.check_rate(rate, "a", at(0)), Ok(()));
        for _ in 0..10_000 {
            assert!(limiter.check_rate(rate, "a", at(1)).is_err());
        }
        let longest = limiter.check_rate(rate, "a", at(1));
        assert_eq!(longest, Err(at(9) + WAIT_MORE_MAX));
    }

    /// A new rate neither forgets earlier uses nor adds any.
    #[test]
    fn earlier_uses_stay_counted_when_the_rate_changes() {
        let (slow, fast) = ((1, 2), (10, 2));
        let limiter = Limiter::default();
        let use_at = |(per_second, burst): (u32, u32), seconds: u64| {
            let rate = Rate { per_second, burst };
            limiter.check_rate(rate, "a", Duration::from_millis(seconds * 1000))
        };
        assert_eq!(use_at(slow, 0), Ok(()));
        assert_eq!(use_at(slow, 0), Ok(()));
        assert_eq!(use_at(fast, 0), Err(Duration::from_millis(1900)));
        assert_eq!(use_at(fast, 2), Ok(()));
        assert_eq!(use_at(fast, 2), Ok(()));
        assert!(use_at(fast, 2).is_err());
    }

    #[test]
    fn the_map_does_not_grow_without_end() {
        let rate = Rate {
            per_second: 1000,
            burst: 1,
        };
        let limiter = Limiter::default();
        for key in 0..100_000_u64 {
            assert_eq!(
                limiter.check_rate(rate, key, Duration::from_millis(key)),
                Ok(())
            );
        }
        assert!(limiter.cells.lock().len() <= CELLS_MAX);
    }
}
