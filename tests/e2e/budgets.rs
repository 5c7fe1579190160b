//! Budgets per agent and hour: an agent that floods the broker fills no disk and holds up no other
//! agent, and the ledger says so in few entries.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use prost::Message;
use serde_json::Value;
use taskpass_proto::v1 as pb;
use taskpass_tests::{
    Installation, eventually,
    flood::{self, Flood},
    wire::{Certificate, Wire},
};
use tonic::Code;
use tonic_types::StatusExt;

use crate::{
    metrics::Metrics,
    support::{History, text},
};

const GET: &str = "/taskpass.v1.TaskService/GetTask";
/// Pairs of measurements; the best one counts, since a busy machine can only spoil one.
const ROUNDS: usize = 6;
/// Latencies below this prove nothing on a machine that other tests share, whatever their ratio is.
const FLOOR: Duration = Duration::from_millis(250);
const TASKS: u32 = 40;
const EVERY: Duration = Duration::from_millis(10);

/// Bytes of the files in a directory and below it.
fn bytes_below(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).expect("a directory").flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => bytes_below(&entry.path()),
            Ok(data) => data.len(),
            Err(_) => 0,
        })
        .sum()
}

#[test]
fn an_agent_at_full_rate_leaves_others_their_latency_and_the_disk_its_room() {
    let installation = Installation::new();
    let on = "[listen]\nmetrics = \"0\"";
    installation.edit(|text| text.replace("[listen]", on));
    // So that a few seconds of the flood use up the denials, and all rounds of the other agent fit
    // into its own task starts.
    installation
        .configure("[limits]\nagent_task_starts_per_hour = 600\nagent_denials_per_hour = 20\n");
    let broker = installation.start_after("true");
    let [flooding, other] =
        ["flooding", "other"].map(|name| Certificate::load(broker.agent(name).identity()));
    let other = Wire::new(broker.address(), Some(&other));
    let mut seen = Vec::new();
    let mut over_budget = 0;
    for _ in 0..ROUNDS {
        let alone = flood::work(&other, TASKS, EVERY);
        let flood = Flood::begin(broker.address(), &flooding);
        let beside = flood::work(&other, TASKS, EVERY);
        let noted = flood.end();
        assert!(noted.other.is_empty(), "{:?}", noted.other.first());
        over_budget += noted.over_budget;
        seen.push((alone.p99, beside.p99));
        if beside.p99 <= FLOOR.max(alone.p99 * 2) && over_budget > 0 {
            break;
        }
    }
    let is_fair = |(alone, beside): &(Duration, Duration)| *beside <= FLOOR.max(*alone * 2);
    assert!(seen.iter().any(is_fair), "alone and beside it: {seen:?}");
    assert!(over_budget > 0, "the flood stayed within its budgets");
    let counted = eventually("the metrics count them", || {
        let metrics = Metrics::read(&broker);
        let of = |budget| metrics.value("taskpass_budget_refusals_total", &[("budget", budget)]);
        let sum = of("task_starts").unwrap_or(0.0) + of("denials").unwrap_or(0.0);
        (sum > 0.0).then_some(sum)
    });
    assert!(counted > 0.0);

    let operator = broker.operator();
    eventually("the ledger says so", || {
        let history = History::verified(&installation, &operator, "some.jsonl");
        fs::remove_file(installation.scratch().join("some.jsonl")).expect("the export");
        history
            .of_type("budget_exceeded")
            .next()
            .is_some()
            .then_some(())
    });
    broker.stop();
    let broker = installation.start();
    let history = History::verified(&installation, &broker.operator(), "all.jsonl");
    // At once, and once more with the number when the broker stopped.
    let mut entries: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for event in history.of_type("budget_exceeded") {
        assert_eq!(text(event, "agent"), "flooding");
        let of_budget = entries.entry(text(event, "budget")).or_default();
        of_budget.push(event);
    }
    assert!(!entries.is_empty());
    for (budget, events) in &entries {
        assert!(events.len() <= 2, "{budget}: {events:?}");
    }
    let refused = entries.values().flatten();
    let refused: u64 = refused
        .filter_map(|event| event["refused"]["times"].as_u64())
        .sum();
    assert_eq!(refused, over_budget);
    let grown = bytes_below(&installation.home().join("data/ledger"));
    assert!(grown < 20_000_000, "{grown} bytes");
    broker.stop();
}

/// The first denial is on record when its answer arrives, also if the broker is killed right then;
/// its repeats are one entry that an auditor reads in the export.
#[test]
fn a_denial_that_is_repeated_is_two_entries_with_its_number() {
    let installation = Installation::new();
    installation.configure("[limits]\nagent_denials_per_hour = 2\n");
    let broker = installation.start();
    let agent = Certificate::load(broker.agent("builder").identity());
    let wire = Wire::new(broker.address(), Some(&agent));
    let read = |task_id: &str| {
        let request = pb::GetTaskRequest {
            task_id: task_id.to_owned(),
        };
        wire.call(GET, request.encode_to_vec())
            .expect_err("a denial")
    };
    let (one, two) = ("t0000000000000001", "t0000000000000002");
    for _ in 0..5 {
        assert_eq!(read(one).code(), Code::PermissionDenied);
    }
    assert_eq!(read(two).code(), Code::PermissionDenied);
    let over = read("t0000000000000003");
    assert_eq!(over.code(), Code::ResourceExhausted, "{over}");
    let details = over.get_error_details();
    let info = details.error_info().expect("an ErrorInfo");
    assert_eq!(info.reason, "BUDGET_EXCEEDED");
    assert_eq!(info.metadata["budget"], "denials");
    assert_eq!(info.metadata["key"], "limits.agent_denials_per_hour");
    let wait = details.retry_info().and_then(|info| info.retry_delay);
    let wait = wait.expect("a hint");
    assert!(wait > Duration::from_secs(1000) && wait <= Duration::from_secs(1800));
    assert_eq!(read(one).code(), Code::PermissionDenied, "a repeat is free");
    broker.stop();

    let broker = installation.start();
    let history = History::verified(&installation, &broker.operator(), "all.jsonl");
    let denials = |task: &str| -> Vec<Option<u64>> {
        let decided = history.of_type("decided");
        decided
            .filter(|event| text(&event["decision"], "resource").contains(task))
            .map(|event| event["repeated"]["times"].as_u64())
            .collect()
    };
    assert_eq!(denials(one), [None, Some(5)]);
    assert_eq!(denials(two), [None]);
    assert!(denials("t0000000000000003").is_empty());
    broker.stop();
}
