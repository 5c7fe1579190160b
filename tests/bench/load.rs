//! A closed loop: a fixed number of callers, each of which asks again as soon as it has its answer.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use taskpass_tests::load::Latency;

use crate::report::Rounds;

/// The latencies of a load and its duration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) per_second: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

/// The samples of one load, one per round.
#[derive(Debug, Clone)]
pub(crate) struct Samples(Vec<Sample>);

impl Samples {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn push(&mut self, sample: Sample) {
        self.0.push(sample);
    }

    pub(crate) fn rate(&self) -> Rounds {
        self.0.iter().map(|s| s.per_second).collect()
    }

    /// Milliseconds.
    pub(crate) fn p50(&self) -> Rounds {
        self.0.iter().map(|s| ms(s.p50)).collect()
    }

    /// Milliseconds.
    pub(crate) fn p99(&self) -> Rounds {
        self.0.iter().map(|s| ms(s.p99)).collect()
    }
}

/// Runs `call` for `span` with `in_flight` callers. `call` receives the caller's number and the
/// number of its earlier calls. The first tenth is not counted. Each caller's last call may end
/// after `span`, and counts.
pub(crate) fn closed_loop<F, R>(in_flight: usize, span: Duration, call: F) -> Sample
where
    F: Fn(usize, usize) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    taskpass_tests::wire::runtime().block_on(async move {
        let call = Arc::new(call);
        let warm = Instant::now() + span / 10;
        let end = warm + span;
        let callers: Vec<_> = (0..in_flight)
            .map(|caller| {
                let call = Arc::clone(&call);
                tokio::spawn(async move {
                    let mut latencies = Vec::new();
                    for number in 0.. {
                        let began = Instant::now();
                        if began >= end && !latencies.is_empty() {
                            break;
                        }
                        call(caller, number).await;
                        if began >= warm {
                            latencies.push(began.elapsed());
                        }
                    }
                    latencies
                })
            })
            .collect();
        let mut all = Vec::new();
        for caller in callers {
            all.extend(caller.await.expect("a caller ends"));
        }
        let took = Instant::now().duration_since(warm);
        Sample {
            per_second: as_f64(all.len()) / took.as_secs_f64(),
            ..of(all)
        }
    })
}

/// Makes `calls` calls with `in_flight` callers. `call` receives the number of the call.
pub(crate) fn closed_loop_of<F, R>(in_flight: usize, calls: usize, call: F)
where
    F: Fn(usize) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    taskpass_tests::wire::runtime().block_on(async move {
        let (call, next) = (Arc::new(call), Arc::new(AtomicUsize::new(0)));
        let callers: Vec<_> = (0..in_flight)
            .map(|_| {
                let (call, next) = (Arc::clone(&call), Arc::clone(&next));
                tokio::spawn(async move {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= calls {
                            break;
                        }
                        call(number).await;
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.await.expect("a caller ends");
        }
    });
}

/// Median and 99th percentile.
pub(crate) fn of(latencies: Vec<Duration>) -> Sample {
    let Latency { p50, p99, .. } = Latency::of(latencies);
    Sample {
        per_second: 0.0,
        p50,
        p99,
    }
}

/// Counts here are far below 2^52.
pub(crate) fn as_f64(count: usize) -> f64 {
    f64::from(u32::try_from(count).expect("a small count"))
}

/// Milliseconds with their fractions.
pub(crate) fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}
