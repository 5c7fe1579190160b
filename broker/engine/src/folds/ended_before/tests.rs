//! The places alone.

use taskpass_core::{Event, Outcome};

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = limits::FOLD_WINDOW;

fn ended(agent: &str, action: &str, resource: &str) -> DecisionRecord {
    standing_for_all(DecisionRecord {
        principal: format!("spiffe://acme.test/agent/{agent}"),
        action: action.to_owned(),
        resource: resource.to_owned(),
        outcome: Outcome::Allow,
        reason: String::new(),
        policy_set: String::new(),
        policies: vec![resource.to_owned()],
        errors: Vec::new(),
        input_sha256: resource.to_owned(),
        duration_us: 1,
    })
}

fn repeats(places: &EndedBefore, record: &DecisionRecord, now: Duration) -> bool {
    places.repeats(record, Timestamp::EPOCH.plus(now), now)
}

/// The identities of tasks are principals of their own, and have no place of their own.
#[test]
fn all_tasks_and_things_of_an_agent_share_a_place_and_agents_share_none() {
    let places = EndedBefore::default();
    let first = ended("a/task/t1", "task.end", "task t1");
    assert!(!repeats(&places, &first, SECOND));
    places.begin(first.clone(), SECOND);
    for record in [
        ended("a", "task.end", "task t2"),
        ended("a/task/t2", "task.end", "task t3"),
    ] {
        assert!(repeats(&places, &record, SECOND));
    }
    assert!(!repeats(
        &places,
        &ended("b", "task.end", "task t1"),
        SECOND
    ));
    let other = ended("a", "credential.revoke", "credential c");
    assert!(!repeats(&places, &other, SECOND));
    // The minute is over.
    assert_eq!(places.next(SECOND * 2), Some(MINUTE - SECOND));
    assert!(places.due(MINUTE, false).is_empty());
    assert!(!repeats(&places, &first, MINUTE + SECOND));
    let due = places.due(MINUTE + SECOND, false);
    let Event::Decided { decision, repeated } = due[0].event() else {
        panic!("{due:?}")
    };
    assert_eq!((decision, repeated.unwrap().times), (first, 2));
    assert_eq!(due.len(), 1);
    assert!(places.0.lock().is_empty());
}

#[test]
fn an_agent_waits_for_its_own_calls_only() {
    let places = EndedBefore::default();
    let turn = |agent| places.turn(&ended(agent, "task.end", "task t"));
    let held = turn("a");
    let _held = held.try_lock().unwrap();
    assert!(turn("a/task/t").try_lock().is_err());
    assert!(turn("b").try_lock().is_ok());
    // The place of a call that waits is not dropped, or a second one would not wait for it.
    assert!(places.due(MINUTE * 2, true).is_empty());
    assert!(turn("a").try_lock().is_err());
}

#[test]
fn an_entry_that_was_not_written_stands_for_nothing_and_no_number_is_lost() {
    let places = EndedBefore::default();
    let record = ended("a", "task.end", "task t");
    places.begin(record.clone(), SECOND);
    places.withdraw(&record);
    assert!(!repeats(&places, &record, SECOND));
    // The next minute begins before the number is written, or the disk is full.
    places.begin(record.clone(), SECOND);
    assert!(repeats(&places, &record, SECOND));
    places.begin(record.clone(), MINUTE * 2);
    assert!(repeats(&places, &record, MINUTE * 2));
    places.put_back(places.due(MINUTE * 2, true));
    let due = places.due(MINUTE * 2, false);
    assert_eq!(due[0].repeated.times, 2);
}
