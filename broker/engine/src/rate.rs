//! How often something may happen: the generic cell rate algorithm, one cell for each key.
//!
//! It reads no clock; the caller says what time it is. The map is bounded: cells that are full again say nothing and are
//! dropped when it grows.

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

/// One limit for many keys. A cell holds the time at which its burst is whole again.
#[derive(Debug)]
pub struct Limiter<K> {
    interval: Duration,
    tolerance: Duration,
    cells: Mutex<HashMap<K, Duration>>,
}

impl<K: Eq + Hash> Limiter<K> {
    /// A limit of `rate` for each key.
    pub fn new(rate: Rate) -> Self {
        let interval = Duration::from_secs(1) / rate.per_second.max(1);
        Self {
            interval,
            tolerance: interval * rate.burst.max(1).saturating_sub(1),
            cells: Mutex::new(HashMap::new()),
        }
    }

    /// Counts a request, or says how long to wait.
    pub fn admit(&self, key: K, now: Duration) -> Result<(), Duration> {
        let mut cells = self.cells.lock();
        if cells.len() >= CELLS_MAX {
            cells.retain(|_, whole_at| *whole_at > now);
        }
        let whole_at = cells.get(&key).copied().unwrap_or(now).max(now);
        let ahead = whole_at - now;
        if ahead > self.tolerance {
            return Err(ahead - self.tolerance);
        }
        cells.insert(key, whole_at + self.interval);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_the_steady_rate() {
        let limiter = Limiter::new(Rate {
            per_second: 10,
            burst: 3,
        });
        let at = Duration::from_millis;
        for _ in 0..3 {
            assert_eq!(limiter.admit("a", at(0)), Ok(()));
        }
        assert_eq!(limiter.admit("a", at(0)), Err(at(100)));
        assert_eq!(limiter.admit("b", at(0)), Ok(()));
        assert_eq!(limiter.admit("a", at(99)), Err(at(1)));
        assert_eq!(limiter.admit("a", at(100)), Ok(()));
        assert_eq!(limiter.admit("a", at(100)), Err(at(100)));
    }

    #[test]
    fn the_map_does_not_grow_without_end() {
        let limiter = Limiter::new(Rate {
            per_second: 1000,
            burst: 1,
        });
        for key in 0..100_000_u64 {
            assert_eq!(limiter.admit(key, Duration::from_millis(key)), Ok(()));
        }
        assert!(limiter.cells.lock().len() <= CELLS_MAX);
    }
}
