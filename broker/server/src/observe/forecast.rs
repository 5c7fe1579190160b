//! When the disk will be full, if it goes on filling up as it did.

use std::{collections::VecDeque, time::Duration};

/// How far back the forecast looks.
const WINDOW: Duration = Duration::from_secs(86_400);
/// How long it must have looked before it says anything: the first minutes of a broker are not
/// typical.
const WINDOW_MIN: Duration = Duration::from_secs(600);
const DAY_SECONDS: f64 = 86_400.0;

/// Readings of the free room, oldest first. With one reading each minute there are at most 1,441.
#[derive(Debug, Default)]
pub(super) struct Forecast(VecDeque<Reading>);

#[derive(Debug, Clone, Copy)]
struct Reading {
    /// Monotonic.
    at: Duration,
    free: u64,
}

impl Forecast {
    /// Notes the bytes that are free now.
    pub(super) fn note(&mut self, at: Duration, free: u64) {
        let oldest = at.saturating_sub(WINDOW);
        while self.0.front().is_some_and(|reading| reading.at < oldest) {
            self.0.pop_front();
        }
        self.0.push_back(Reading { at, free });
    }

    /// Days until nothing is free; `None` while the free room does not shrink, or is not known for
    /// long enough.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a forecast needs no more than 53 bits of bytes"
    )]
    pub(super) fn days_left(&self) -> Option<f64> {
        let (first, last) = (self.0.front()?, self.0.back()?);
        let elapsed = last.at.saturating_sub(first.at);
        let shrunk = first.free.checked_sub(last.free).filter(|it| *it > 0)?;
        if elapsed < WINDOW_MIN {
            return None;
        }
        let per_day = shrunk as f64 / elapsed.as_secs_f64() * DAY_SECONDS;
        Some(last.free as f64 / per_day)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_disk_that_fills_up_evenly_is_full_in_time() {
        let mut forecast = Forecast::default();
        for hour in 0..=48_u32 {
            forecast.note(HOUR * hour, 1000 - u64::from(hour) * 10);
        }
        let days = forecast.days_left().unwrap();
        assert!((days - 520.0 / 240.0).abs() < 1e-9, "{days}");
        assert_eq!(forecast.0.len(), 25, "no more than the window is kept");
    }

    #[test]
    fn nothing_is_said_too_early_or_while_the_disk_empties() {
        let mut forecast = Forecast::default();
        assert_eq!(forecast.days_left(), None);
        forecast.note(Duration::ZERO, 1000);
        forecast.note(WINDOW_MIN / 2, 900);
        assert_eq!(forecast.days_left(), None);
        forecast.note(WINDOW_MIN, 1000);
        assert_eq!(forecast.days_left(), None);
        forecast.note(WINDOW_MIN * 2, 999);
        assert!(forecast.days_left().is_some());
    }
}
