//! Ten times as many callers as there are places, and one caller who wants all of them.

use std::time::Duration;

use taskpass_tests::{
    Installation,
    overload::{self, Again, Outcome},
    wire::Certificate,
};

use super::peak_memory;

const AGENTS: usize = 8;
/// Requests in flight that the broker takes here, where nothing else is said.
const PLACES: usize = 8;
const SPAN: Duration = Duration::from_millis(1500);
/// How soon the flooding agent asks again.
const IMPATIENT: Again = Again::After(Duration::from_millis(200));
/// A busy machine spoils a measurement; it does not improve one.
const ROUNDS: usize = 4;

fn installation(places: usize, requests_per_caller: usize) -> Installation {
    let installation = Installation::new();
    installation.configure(&format!(
        "[limits]\nrequests = {places}\nrequests_per_caller = {requests_per_caller}\n\
         agent_requests_per_second = 100000\nagent_requests_burst = 1000000\n"
    ));
    installation
}

/// How many times as long one took as the other.
fn ratio(one: Duration, other: Duration) -> f64 {
    one.as_secs_f64() / other.as_secs_f64()
}

fn nothing_else_went_wrong(outcome: &Outcome) {
    let first = outcome.other.first();
    assert!(first.is_none(), "{} more: {first:?}", outcome.other.len());
}

/// With a place for each processor, as many as can be worked on at a time: nobody waits for another.
#[test]
fn at_ten_times_its_capacity_the_broker_serves_as_fast_as_a_single_caller_and_refuses_the_rest() {
    serves_as_usual(2, 1);
}

/// With more places than processors, those in them share what there is, with and without the refused.
#[test]
fn at_ten_times_its_capacity_the_broker_serves_as_fast_as_at_its_capacity_and_refuses_the_rest() {
    serves_as_usual(PLACES, PLACES);
}

/// Ten times as many callers as `places`, compared with `usual` callers.
fn serves_as_usual(places: usize, usual: usize) {
    // No agent is refused for its own sake.
    let installation = installation(places, 10 * places);
    let broker = installation.start_after("true");
    let agents: Vec<Certificate> = (0..AGENTS)
        .map(|n| Certificate::load(broker.agent(&format!("agent-{n}")).identity()))
        .collect();
    let load = |callers| overload::run(broker.address(), &agents, callers, SPAN, Again::AsTold);
    let before = peak_memory(broker.pid());
    let mut seen = Vec::new();
    for _ in 0..ROUNDS {
        let (before, over) = (load(usual), load(10 * places));
        nothing_else_went_wrong(&before);
        nothing_else_went_wrong(&over);
        assert_eq!(before.refused, 0, "there are {places} places");
        // Each of the others heard it at least once.
        assert!(over.refused >= 9 * places / 2, "no overload: {over:?}");
        let (over, before) = (over.admitted, before.admitted);
        let median = ratio(over.p50, before.p50);
        seen.push(median.max(ratio(over.p99, before.p99)));
        if seen.last().is_some_and(|ratio| *ratio < 2.0) {
            break;
        }
    }
    assert!(
        seen.iter().any(|ratio| *ratio < 2.0),
        "whoever was let in waited {seen:?} times as long"
    );
    let grown = peak_memory(broker.pid()) - before;
    assert!(grown < 64 << 20, "the broker grew by {} MiB", grown >> 20);
    broker.stop();
}

/// One agent with as many requests as it can make takes its own share of the places, and nobody else's.
#[test]
fn a_flooding_agent_is_refused_alone() {
    let installation = installation(PLACES, PLACES / 2);
    let broker = installation.start_after("true");
    let [flooding, other] =
        ["flooding", "other"].map(|name| [Certificate::load(broker.agent(name).identity())]);
    let address = broker.address().to_owned();
    let alone = overload::run(&address, &other, 1, SPAN, Again::AsTold);
    let mut seen = Vec::new();
    for _ in 0..ROUNDS {
        let (flood, beside) = std::thread::scope(|threads| {
            let flood = threads
                .spawn(|| overload::run(&address, &flooding, 20 * PLACES, 2 * SPAN, IMPATIENT));
            let beside = overload::run(&address, &other, 1, SPAN, Again::AsTold);
            (flood.join().expect("no panic"), beside)
        });
        nothing_else_went_wrong(&flood);
        nothing_else_went_wrong(&beside);
        assert!(flood.refused > 0, "no flood: {flood:?}");
        assert_eq!(
            flood.exhausted, flood.refused,
            "it came to places of others"
        );
        assert_eq!(beside.refused, 0, "somebody else was refused");
        seen.push(ratio(beside.admitted.p99, alone.admitted.p99));
        if seen.last().is_some_and(|ratio| *ratio < 10.0) {
            break;
        }
    }
    assert!(
        seen.iter().any(|ratio| *ratio < 10.0),
        "somebody else waited {seen:?} times as long"
    );
    broker.stop();
}
