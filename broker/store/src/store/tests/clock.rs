//! A wall clock that runs away, and the way back to the right time.

use std::{fs, sync::Arc, time::Duration};

use taskpass_core::{
    CLOCK_DISAGREEMENT_MAX, Clock, Event, JoinToken, ManualClock, Task, Timestamp, TrustedClock,
};
use taskpass_ledger::Reader;

use super::{Batch, CommitError, Fixture, HOUR, LogStore, NOW, Store, key_in};
use crate::{
    Conflict, Entry, MemoryLog,
    testing::{
        admin, agent, agent_name, credential_id, ending, initialized, intended, issued, joined,
        key, keyed, local_operator_svid, new_task, revoking, started, task_id, token, token_id,
    },
};

const YEARS: Duration = Duration::from_secs(5 * 365 * 86_400);

fn trusted(machine: &Arc<ManualClock>, log: &MemoryLog) -> LogStore {
    let clock = TrustedClock::new(Arc::<ManualClock>::clone(machine), None);
    LogStore::in_memory(log, Arc::new(clock)).unwrap()
}

/// Every jump, in both directions: no entry has a wrong time, and no record is forgotten.
#[tokio::test]
async fn a_clock_that_jumps_dates_no_entry_and_forgets_nothing() {
    let (second, day) = (Duration::from_secs(1), 24 * HOUR);
    for far in [second, 60 * second, HOUR, day, YEARS] {
        for jumped in [NOW.plus(far), NOW.minus(far)] {
            let machine = Arc::new(ManualClock::new(NOW));
            let log = MemoryLog::default();
            let store = trusted(&machine, &log);
            let svids = [joined("s1", 1, 1), local_operator_svid("o1")];
            let first = [initialized(), agent(1), token(1, 1)];
            let first = first.into_iter().chain(svids);
            store.commit(Batch::new(first)).await.unwrap();

            machine.set(jumped);
            let then = store.commit(Batch::new([agent(2)])).await.unwrap().time;
            let off = then.since(NOW).max(NOW.since(then));
            assert!(off <= CLOCK_DISAGREEMENT_MAX, "{then} after {jumped}");
            // Longer than the pause between two prunings.
            machine.advance(60 * second);
            store.commit(Batch::new([agent(3)])).await.unwrap();
            for serial in ["s1", "o1"] {
                let found = store.svid(serial).await.unwrap();
                assert!(found.is_some(), "{serial} after {jumped}");
            }
            assert!(store.matches(&log).unwrap());

            machine.set(NOW.plus(60 * second));
            let then = store.commit(Batch::new([agent(4)])).await.unwrap().time;
            assert!(then <= NOW.plus(120 * second), "{then} after {jumped}");
        }
    }
}

/// A clock that says that it is in doubt at a time at which everything is over.
#[derive(Debug)]
struct Doubtful(ManualClock);

impl Clock for Doubtful {
    fn now(&self) -> Timestamp {
        self.0.now()
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }

    fn doubt(&self) -> Option<taskpass_core::ClockDoubt> {
        let (wall, trusted) = (self.now(), NOW);
        (wall > NOW.plus(HOUR)).then_some(taskpass_core::ClockDoubt { wall, trusted })
    }
}

#[tokio::test]
async fn nothing_is_pruned_while_the_clock_is_in_doubt() {
    let clock = Arc::new(Doubtful(ManualClock::new(NOW)));
    let log = MemoryLog::default();
    let store = LogStore::in_memory(&log, Arc::<Doubtful>::clone(&clock)).unwrap();
    let first = [
        initialized(),
        agent(1),
        token(1, 1),
        local_operator_svid("o1"),
    ];
    store.commit(Batch::new(first)).await.unwrap();
    clock.0.advance(YEARS);
    store.commit(Batch::new([agent(2)])).await.unwrap();
    clock.0.set(NOW);
    assert_eq!(store.svid("o1").await.unwrap().map(|s| s.entry), Some(3));
}

fn accepted(previous: Timestamp, accepted: Timestamp) -> Event {
    Event::ClockAccepted { previous, accepted }
}

fn times(ledger: &Reader) -> Vec<Timestamp> {
    (0..ledger.size())
        .map(|i| Entry::parse(&ledger.entry(i).unwrap()).unwrap().time)
        .collect()
}

/// What an installation looked like that an earlier version had brought years ahead.
async fn years_ahead(fixture: &Fixture) -> Timestamp {
    let live = [started(new_task(1, 1)), intended(1, 1, 1), issued(1)];
    let first = [token(1, 1), joined("s1", 1, 1), local_operator_svid("o1")];
    fixture.all(first.into_iter().chain(live)).await;
    let later = NOW.plus(YEARS);
    fixture.clock.set(later);
    let task = Task {
        started_at: later,
        deadline: later.plus(8 * HOUR),
        ..new_task(2, 1)
    };
    fixture.all([started(task), intended(2, 2, 1)]).await;
    let token = Event::JoinTokenCreated {
        token: JoinToken {
            id: token_id(2),
            agent: agent_name(1),
            secret_sha256: JoinToken::digest_of(b"x"),
            expires_at: later.plus(HOUR),
            created_by: admin(),
            root: taskpass_core::RootNumber::FIRST,
        },
        idempotency: None,
    };
    let failed = Event::RevokeFailed {
        credential: credential_id(1),
        attempt: 1,
        error: "unreachable".to_owned(),
        retry_at: later.plus(HOUR),
        stuck: false,
    };
    fixture.all([keyed(token, "once"), ending(1), failed]).await;
    later
}

#[tokio::test]
async fn an_accepted_time_brings_an_installation_back_from_years_ahead() {
    let mut fixture = Fixture::new().await;
    let later = years_ahead(&fixture).await;
    let gone = fixture.store().svid("o1").await.unwrap();
    assert_eq!(gone, None, "the operator was forgotten");

    let now = NOW.plus(HOUR / 2);
    fixture.clock.set(now);
    let stuck = fixture.all([agent(5)]).await;
    assert_eq!(stuck.time, later);
    let moved = fixture.all([accepted(later, now)]).await;
    assert_eq!(moved.time, now);
    // The index is built again, so that those who were forgotten come back.
    rebuild(&mut fixture).await;
    assert_eq!(fixture.store().last_time(), now);

    for serial in ["o1", "s1"] {
        let found = fixture.store().svid(serial).await.unwrap();
        assert!(found.is_some(), "{serial}");
    }
    let due = fixture.store().revocations(now, 9).await.unwrap();
    assert_eq!(due.due.len(), 1, "{due:?}");
    let task = fixture.store().task(task_id(2)).await.unwrap().unwrap();
    assert_eq!((task.started_at, task.deadline), (now, now.plus(8 * HOUR)));
    let token = fixture.store().join_token(token_id(2)).await.unwrap();
    assert_eq!(token.unwrap().token.expires_at, now);
    let again = key("once", "a").unwrap();
    let known = fixture.store().idempotent(&again.caller, &again.key).await;
    assert!(known.unwrap().is_some());

    // Time goes on from there, and the records outlive another start.
    fixture.clock.advance(HOUR);
    let next = fixture.all([revoking(2)]).await;
    assert_eq!(next.time, now.plus(HOUR));
    let before = fixture.everything(3).await;
    fixture.reopen().await;
    assert_eq!(fixture.everything(3).await, before);
    let remembered = fixture.store().idempotent(&again.caller, &again.key);
    assert!(remembered.await.unwrap().is_some());
    fixture.clock.advance(24 * HOUR);
    let remembered = fixture.store().idempotent(&again.caller, &again.key);
    assert!(remembered.await.unwrap().is_none(), "a day is over");
}

/// A replay reads the ledger in portions. One of them ends while the clock was three weeks ahead,
/// and the index is built anew when real time is past all that the entries after it need.
#[tokio::test]
async fn a_rebuild_forgets_nothing_that_entries_after_an_accepted_time_need() {
    let mut fixture = Fixture::new().await;
    fixture.all([token(1, 1), local_operator_svid("o1")]).await;
    let ahead = NOW.plus(20 * 24 * HOUR);
    fixture.clock.set(ahead);
    fixture.all((10..1200).map(agent)).await;
    let now = NOW.plus(HOUR / 4);
    fixture.clock.set(now);
    fixture.all([accepted(ahead, now)]).await;
    // As `taskpassd clock accept` does.
    rebuild(&mut fixture).await;
    fixture.all([joined("s1", 1, 1)]).await;
    let later = NOW.plus(3 * 24 * HOUR);
    fixture.clock.set(later);
    fixture.all([agent(5)]).await;

    rebuild(&mut fixture).await;

    assert_eq!(fixture.store().last_time(), later);
    assert!(fixture.store().svid("o1").await.unwrap().is_some());
    let used = fixture.store().join_token(token_id(1)).await.unwrap();
    assert_eq!(used, None, "the portion after the accepted time forgets it");
}

/// Opens the store without its index.
async fn rebuild(fixture: &mut Fixture) {
    fixture.store().close().await.unwrap();
    fixture.store = None;
    fs::remove_dir_all(fixture.dir.path().join("index")).unwrap();
    fixture.open();
}

#[tokio::test]
async fn entries_are_found_by_time_on_both_sides_of_an_accepted_one() {
    let fixture = Fixture::new().await;
    let later = years_ahead(&fixture).await;
    let now = NOW.plus(HOUR);
    fixture.clock.set(now);
    let at = fixture.all([accepted(later, now)]).await.first_index;
    fixture.clock.advance(HOUR);
    fixture.all([agent(6)]).await;
    let times = times(fixture.ledger());
    let first_ahead = times.iter().position(|time| *time == later).unwrap();
    for (time, expected) in [
        (NOW, 0),
        (now, u64::try_from(first_ahead).unwrap()),
        (later, u64::try_from(first_ahead).unwrap()),
        (later.plus(HOUR), at + 2),
    ] {
        let found = fixture.store().first_index_since(time).await.unwrap();
        assert_eq!(found, expected, "{time}");
    }
}

#[tokio::test]
async fn an_accepted_time_says_from_where_it_moved_and_stands_alone() {
    let fixture = Fixture::new().await;
    let now = NOW.plus(HOUR);
    let false_word = Batch::new([accepted(NOW.plus(YEARS), now)]);
    let refused = fixture.store().commit(false_word).await.unwrap_err();
    let wrong =
        |error: &CommitError| matches!(error, CommitError::Conflict(Conflict::WrongState { .. }));
    assert!(wrong(&refused), "{refused}");
    let in_company = Batch::new([agent(5), accepted(NOW, now)]);
    let refused = fixture.store().commit(in_company).await.unwrap_err();
    assert!(wrong(&refused), "{refused}");
    assert_eq!(fixture.all([accepted(NOW, now)]).await.time, now);
}

/// The first entry of a store that opens must not have the time of a clock in doubt either.
#[tokio::test]
async fn a_store_that_is_opened_under_a_clock_years_ahead_records_no_wrong_time() {
    let mut fixture = Fixture::new().await;
    fixture.all((10..30).map(agent)).await;
    fixture.store().close().await.unwrap();
    fixture.store = None;
    fs::remove_dir_all(fixture.dir.path().join("index")).unwrap();
    let machine = Arc::new(ManualClock::new(NOW.plus(YEARS)));
    let clock = Arc::new(TrustedClock::new(machine, None));
    let config = crate::Config::new(fixture.dir.path());
    let opened = LogStore::open(&config, key_in(fixture.dir.path()), clock).unwrap();
    let last = times(&opened.ledger).pop();
    assert_eq!(last, Some(NOW), "the record of the new index");
    opened.store.close().await.unwrap();
}
