//! Ten times as many callers as permits, and one caller that wants all of them.

use std::time::Duration;

use taskpass_tests::{
    Installation,
    overload::{self, Outcome, Retry},
    wire::Certificate,
};

use super::peak_memory;

const AGENTS: usize = 8;
/// Requests in flight that this broker takes, where a test sets no other limit.
const PERMITS: usize = 8;
const SPAN: Duration = Duration::from_millis(1500);
/// The flooding agent asks again this soon, and ignores the time in the broker's refusal.
const EARLY_RETRY: Retry = Retry::After(Duration::from_millis(200));
/// A busy machine can spoil a measurement but cannot improve one, so the best round counts.
const ROUNDS: usize = 4;

fn installation(permits: usize, requests_per_caller: usize) -> Installation {
    let installation = Installation::new();
    installation.configure(&format!(
        "[limits]\nrequests = {permits}\nrequests_per_caller = {requests_per_caller}\n\
         agent_requests_per_second = 100000\nagent_requests_burst = 1000000\n\
         agent_ledger_bytes_per_hour = 4000000000\n"
    ));
    installation
}

/// The quotient of two durations.
fn ratio(one: Duration, other: Duration) -> f64 {
    one.as_secs_f64() / other.as_secs_f64()
}

fn nothing_else_went_wrong(outcome: &Outcome) {
    let first = outcome.other.first();
    assert!(first.is_none(), "{} more: {first:?}", outcome.other.len());
}

/// With a permit for each processor no request waits for another.
#[test]
fn at_ten_times_its_capacity_the_broker_serves_as_fast_as_a_single_caller_and_refuses_the_rest() {
    serves_as_usual(2, 1);
}

/// With more permits than processors, requests share the processors, with and without the refused
/// callers.
#[test]
fn at_ten_times_its_capacity_the_broker_serves_as_fast_as_at_its_capacity_and_refuses_the_rest() {
    serves_as_usual(PERMITS, PERMITS);
}

/// Compares ten times as many callers as `permits` with `usual` callers.
fn serves_as_usual(permits: usize, usual: usize) {
    // The share of one agent is large enough that no agent is refused because of its own requests.
    let installation = installation(permits, 10 * permits);
    let broker = installation.start_after("true");
    let agents: Vec<Certificate> = (0..AGENTS)
        .map(|n| Certificate::load(broker.agent(&format!("agent-{n}")).identity()))
        .collect();
    let load = |callers| overload::run(broker.address(), &agents, callers, SPAN, Retry::AsTold);
    let before = peak_memory(broker.pid());
    let mut seen = Vec::new();
    for _ in 0..ROUNDS {
        let (before, over) = (load(usual), load(10 * permits));
        nothing_else_went_wrong(&before);
        nothing_else_went_wrong(&over);
        assert_eq!(before.refused, 0, "there are {permits} permits");
        // Each of the other callers was refused at least once.
        assert!(over.refused >= 9 * permits / 2, "no overload: {over:?}");
        let (over, before) = (over.served, before.served);
        let median = ratio(over.p50, before.p50);
        seen.push(median.max(ratio(over.p99, before.p99)));
        if seen.last().is_some_and(|ratio| *ratio < 2.0) {
            break;
        }
    }
    assert!(
        seen.iter().any(|ratio| *ratio < 2.0),
        "served requests waited {seen:?} times as long"
    );
    let grown = peak_memory(broker.pid()) - before;
    assert!(grown < 64 << 20, "the broker grew by {} MiB", grown >> 20);
    broker.stop();
}

/// An agent that makes as many requests as it can uses its own share of the permits and no more.
#[test]
fn a_flooding_agent_is_refused_alone() {
    let installation = installation(PERMITS, PERMITS / 2);
    let broker = installation.start_after("true");
    let [flooding, other] =
        ["flooding", "other"].map(|name| [Certificate::load(broker.agent(name).identity())]);
    let address = broker.address().to_owned();
    let alone = overload::run(&address, &other, 1, SPAN, Retry::AsTold);
    let mut seen = Vec::new();
    for _ in 0..ROUNDS {
        let (flood, beside) = std::thread::scope(|threads| {
            let flood = threads
                .spawn(|| overload::run(&address, &flooding, 20 * PERMITS, 2 * SPAN, EARLY_RETRY));
            let beside = overload::run(&address, &other, 1, SPAN, Retry::AsTold);
            (flood.join().expect("no panic"), beside)
        });
        nothing_else_went_wrong(&flood);
        nothing_else_went_wrong(&beside);
        assert!(flood.refused > 0, "no flood: {flood:?}");
        assert_eq!(
            flood.exhausted, flood.refused,
            "it came to permits of others"
        );
        assert_eq!(beside.refused, 0, "the other agent was refused");
        seen.push(ratio(beside.served.p99, alone.served.p99));
        if seen.last().is_some_and(|ratio| *ratio < 10.0) {
            break;
        }
    }
    assert!(
        seen.iter().any(|ratio| *ratio < 10.0),
        "the other agent waited {seen:?} times as long"
    );
    broker.stop();
}
