//! A closed loop: so many callers, each asks again as soon as it has its answer.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

/// What a load came to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) per_second: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

/// Runs `call` for `span` with `in_flight` callers; each is told which caller it is and how many calls it made before.
/// A first tenth is not counted; each caller's
/// last call may end after `span`, and counts.
pub(crate) fn closed_loop<F, R>(in_flight: usize, span: Duration, call: F) -> Sample
where
    F: Fn(usize, usize) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    taskpass_tests::wire::runtime().block_on(async move {
        let call = Arc::new(call);
        let (warm, end) = (
            Instant::now() + span / 10,
            Instant::now() + span / 10 + span,
        );
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

/// Median and 99th percentile.
pub(crate) fn of(mut latencies: Vec<Duration>) -> Sample {
    assert!(!latencies.is_empty(), "nothing was measured");
    latencies.sort_unstable();
    let at = |percent: usize| latencies[(latencies.len() * percent / 100).min(latencies.len() - 1)];
    Sample {
        per_second: 0.0,
        p50: at(50),
        p99: at(99),
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
