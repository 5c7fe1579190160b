//! How long things take while other things happen.

#![expect(
    clippy::disallowed_methods,
    reason = "latency is measured in real time, and each caller's task is awaited by its handle"
)]

use std::{
    future::Future,
    time::{Duration, Instant},
};

/// How long calls took.
#[derive(Debug, Clone, Copy)]
pub struct Latency {
    /// How many calls there were.
    pub calls: usize,
    /// Half of them took no longer.
    pub p50: Duration,
    /// 99 of 100 took no longer.
    pub p99: Duration,
}

impl Latency {
    /// Of these times, at least one.
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

    /// Of one caller who asks again as soon as there is an answer.
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
