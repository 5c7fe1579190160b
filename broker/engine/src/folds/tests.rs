//! The table of folds alone.

use taskpass_core::Outcome;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn record(agent: &str, resource: &str) -> Decided {
    let record = DecisionRecord {
        principal: format!("spiffe://acme.test/agent/{agent}"),
        action: "task.read".to_owned(),
        resource: resource.to_owned(),
        outcome: Outcome::Deny,
        reason: "no policy permits it".to_owned(),
        policy_set: String::new(),
        policies: Vec::new(),
        errors: Vec::new(),
        input_sha256: resource.to_owned(),
        duration_us: 1,
    };
    let asked = Asked::new(None, None);
    Decided { record, asked }
}

/// The same with other parts.
fn with(decided: &Decided, change: impl FnOnce(&mut DecisionRecord)) -> Decided {
    let mut other = decided.clone();
    change(&mut other.record);
    other
}

fn at(second: u32) -> (Timestamp, Duration) {
    let now = SECOND * second;
    (Timestamp::EPOCH.plus(now), now)
}

#[test]
fn the_first_needs_an_entry_and_its_repeats_of_a_minute_share_one() {
    let folds = Folds::default();
    let denied = record("a", "task t");
    let repeats = |record: &Decided, second| {
        let (time, now) = at(second);
        folds.repeats(record, time, now)
    };
    assert!(!repeats(&denied, 0), "the first is recorded");
    assert!(!repeats(&denied, 0), "what is not on record has no repeats");
    folds.begin(denied.clone(), at(0).1);
    for second in 1..60 {
        let later = with(&denied, |record| {
            record.duration_us = u64::from(second);
            record.input_sha256 = second.to_string();
        });
        assert!(repeats(&later, second));
    }
    assert!(folds.due(at(59).1, false).is_empty());
    assert_eq!(folds.next(at(50).1), Some(SECOND * 10));
    // The minute is over: the next one is a first one again, whether or not the entry is written.
    assert!(!repeats(&denied, 60));
    let due = folds.due(at(60).1, false);
    assert_eq!(due.len(), 1);
    let Event::Decided { decision, repeated } = due[0].event() else {
        panic!("{due:?}")
    };
    assert_eq!(decision, denied.record);
    let (first, last) = (at(1).0, at(59).0);
    let times = 59;
    assert_eq!(repeated, Some(Repeated { times, first, last }));
    // The disk was full.
    folds.put_back(due);
    assert_eq!(folds.due(at(61).1, false).len(), 1);
    assert!(folds.due(at(61).1, true).is_empty());
}

#[test]
fn another_decision_is_no_repeat() {
    let folds = Folds::default();
    let denied = record("a", "task t");
    folds.begin(denied.clone(), SECOND);
    let asked = |ip: Option<&str>, bucket: Option<&str>| {
        let scope = bucket.map(|name| Scope::from_pairs([("bucket", name)]).unwrap());
        let ip = ip.map(|text| text.parse().unwrap());
        Decided {
            asked: Asked::new(ip, scope.as_ref()),
            ..denied.clone()
        }
    };
    let others = [
        record("b", "task t"),
        record("a", "task u"),
        with(&denied, |record| record.action = "task.end".to_owned()),
        with(&denied, |record| record.outcome = Outcome::Allow),
        with(&denied, |record| record.reason = "another".to_owned()),
        with(&denied, |record| record.policies = vec!["p".to_owned()]),
        with(&denied, |record| record.policy_set = "other".to_owned()),
        with(&denied, |record| record.errors = vec!["e".to_owned()]),
        asked(Some("192.0.2.1"), None),
        asked(Some("192.0.2.1"), Some("one")),
        asked(None, Some("one")),
    ];
    for other in &others {
        assert!(!folds.repeats(other, Timestamp::EPOCH, SECOND), "{other:?}");
    }
    assert!(folds.repeats(&denied, Timestamp::EPOCH, SECOND));
}

#[test]
fn a_decision_without_repeats_leaves_no_second_entry() {
    let folds = Folds::default();
    folds.begin(record("a", "task t"), SECOND);
    assert!(folds.due(SECOND, true).is_empty());
    assert_eq!(folds.next(SECOND), None);
}

#[test]
fn no_caller_takes_all_places_and_all_places_are_bounded() {
    let folds = Folds::default();
    for number in 0..limits::FOLDS_PER_CALLER_MAX * 2 {
        // The tasks of an agent count with it.
        folds.begin(record(&format!("a/task/t{number}"), "task t"), SECOND);
    }
    assert_eq!(folds.table.lock().open.len(), limits::FOLDS_PER_CALLER_MAX);
    folds.begin(record("b", "task t"), SECOND);
    assert!(folds.repeats(&record("b", "task t"), Timestamp::EPOCH, SECOND));
    for number in 0..limits::FOLDS_MAX * 2 {
        folds.begin(record(&format!("c{number}"), "task t"), SECOND);
    }
    assert_eq!(folds.table.lock().open.len(), limits::FOLDS_MAX);
    assert_eq!(folds.due(SECOND, true).len(), 1);
    let table = folds.table.lock();
    assert!(table.open.is_empty() && table.of_caller.is_empty());
}
