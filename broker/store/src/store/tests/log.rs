//! The port to the log: brokers that share a log decide in its order, and each sees the entries of
//! the others.

use std::sync::Arc;

use taskpass_core::{Clock, ManualClock, TaskId};

use super::{Batch, CommitError, LogStore, NOW, Store};
use crate::{
    GuardFailure, MemoryLog, Page, TaskFilter,
    testing::{
        agent, agent_name, ended, ending, initialized, intended, issued, joined, new_task, started,
        task_id, token, token_id,
    },
};

fn store(log: &MemoryLog) -> LogStore {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(NOW));
    LogStore::in_memory(log, clock).unwrap()
}

async fn ended_tasks(store: &LogStore) -> Vec<TaskId> {
    let (all, page) = (TaskFilter::default(), Page::first());
    let rows = store.list_tasks(&all, &page).await.unwrap().rows;
    rows.iter().map(|task| task.id).collect()
}

#[tokio::test]
async fn two_stores_over_one_log_have_one_winner() {
    let log = MemoryLog::default();
    let (one, other) = (store(&log), store(&log));
    let first = [initialized(), agent(1), token(1, 1)];
    one.commit(Batch::new(first)).await.unwrap();
    // The other store has not read since; its turn shows it the installation.
    let won = other.commit(Batch::new([joined("s1", 1, 1)])).await;
    assert_eq!(won.unwrap().first_index, 3);
    let lost = one.commit(Batch::new([joined("s2", 1, 1)])).await;
    let used = GuardFailure::JoinTokenUsed(token_id(1));
    assert_eq!(lost, Err(CommitError::Guard(used)));
    // A refusal, too, is decided at the end of the log.
    assert!(one.svid("s1").await.unwrap().is_some());
    assert_eq!(log.since(0).len(), 4);
}

#[tokio::test]
async fn entries_of_another_store_are_alive_and_history_here() {
    let log = MemoryLog::default();
    let (one, other) = (store(&log), store(&log));
    let live = [started(new_task(1, 1)), intended(1, 1, 1), issued(1)];
    let first = [initialized(), agent(1)].into_iter().chain(live);
    one.commit(Batch::new(first)).await.unwrap();
    let gone = [started(new_task(2, 1)), ending(2), ended(2)];
    one.commit(Batch::new(gone)).await.unwrap();
    let mut changes = other.changes();
    assert_eq!(*changes.borrow_and_update(), 0);
    other.commit(Batch::new([agent(2)])).await.unwrap();
    assert_eq!(*changes.borrow_and_update(), 9);
    one.commit(Batch::new([agent(3)])).await.unwrap();
    for store in [&one, &other] {
        assert!(store.agent(&agent_name(2)).await.unwrap().is_some());
        assert_eq!(ended_tasks(store).await, [task_id(2), task_id(1)]);
        let again = store.commit(Batch::new([started(new_task(2, 1))])).await;
        assert!(matches!(again, Err(CommitError::Conflict(_))), "{again:?}");
        assert!(store.matches(&log).unwrap());
    }
}
