//! Latencies of calls while other things happen.

#![expect(
    clippy::disallowed_methods,
    reason = "latency is measured in real time, and each caller's task is awaited by its handle"
)]

use std::{
    future::Future,
    time::{Duration, Instant},
};

/// Latencies of a number of calls.
#[derive(Debug, Clone, Copy)]
pub struct Latency {
    /// The number of calls.
    pub calls: usize,
    /// The median.
    pub p50: Duration,
    /// The 99th percentile.
    pub p99: Duration,
}

impl Latency {
    /// From these times, of which there must be at least one.
    pub fn of(mut times: Vec<Duration>) -> Self {
        assert!(!times.is_empty(), "nothing was measured");
        times.sort_unstable();
        let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
        Self {
            calls: times.len(),
            p50: at(50),
            p99: at(99),
        }
    }

    /// Measures one caller that asks again as soon as it has an answer.
    pub async fn over<F>(span: Duration, mut call: impl FnMut() -> F) -> Self
    where
        F: Future<Output = ()>,
    {
        let (began, mut times) = (Instant::now(), Vec::new());
        while began.elapsed() < span {
            let asked = Instant::now();
            call().await;
            times.push(asked.elapsed());
        }
        Self::of(times)
    }
}
