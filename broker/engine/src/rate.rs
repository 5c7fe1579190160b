//! A limit on how often each key may be used: the generic cell rate algorithm, with a cell per key.
//!
//! It reads no clock; the caller says what time it is. The map is bounded: full cells carry no
//! information and are dropped when it grows.

use std::{collections::HashMap, hash::Hash, time::Duration};

use parking_lot::Mutex;

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

/// How often each of many keys was used. A cell holds the time at which its burst is whole again.
/// The rate comes with each use, so that it can change while earlier uses stay counted.
#[derive(Debug)]
pub struct Limiter<K> {
    cells: Mutex<HashMap<K, Duration>>,
}

impl<K> Default for Limiter<K> {
    fn default() -> Self {
        Self {
            cells: Mutex::default(),
        }
    }
}

impl<K: Eq + Hash> Limiter<K> {
    /// Counts a use against `rate`, or says how long to wait.
    pub fn check_rate(&self, rate: Rate, key: K, now: Duration) -> Result<(), Duration> {
        let interval = Duration::from_secs(1) / rate.per_second.max(1);
        let tolerance = interval * rate.burst.max(1).saturating_sub(1);
        let mut cells = self.cells.lock();
        if cells.len() >= CELLS_MAX {
            cells.retain(|_, whole_at| *whole_at > now);
        }
        let whole_at = cells.get(&key).copied().unwrap_or(now).max(now);
        let ahead = whole_at - now;
        if ahead > tolerance {
            return Err(ahead - tolerance);
        }
        cells.insert(key, whole_at + interval);
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
        assert_eq!(limiter.check_rate(rate, "a", at(99)), Err(at(1)));
        assert_eq!(limiter.check_rate(rate, "a", at(100)), Ok(()));
        assert_eq!(limiter.check_rate(rate, "a", at(100)), Err(at(100)));
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
