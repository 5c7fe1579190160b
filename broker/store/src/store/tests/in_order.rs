//! Batches that are in order before they are durable.

use taskpass_core::{AnchorId, AnchorKey, Event, TaskId};

use super::{
    Batch, CommitError, Fixture, Guard, GuardFailure, Store, anchor, credential_id, intended,
    new_task, role, started, task_id,
};
use crate::testing::anchor_id;

async fn with_task() -> Fixture {
    let fixture = Fixture::new().await;
    let first = [started(new_task(1, 1)), started(new_task(2, 1))];
    fixture.all(first).await;
    fixture
}

/// Later batches are decided behind it, and no reader sees it before it is durable.
#[tokio::test]
async fn a_batch_in_order_counts_for_guards_and_not_for_readers() {
    let fixture = with_task().await;
    let (store, size) = (fixture.store(), fixture.ledger().size());
    let seen = async || store.credential(credential_id(1)).await.unwrap().is_some();
    let syncs = fixture.disk.hold_syncs();
    let batch = Batch::new([intended(1, 1, 1)]);
    let in_order = store.commit_in_order(batch.clone()).await.unwrap();
    assert!(!seen().await && fixture.ledger().size() == size);
    let again = store.commit(batch);
    drop(syncs);
    let again = again.await;
    assert!(matches!(again, Err(CommitError::Conflict(_))), "{again:?}");
    assert_eq!(in_order.durable().await.unwrap().first_index, size);
    assert!(seen().await);
}

/// A guard refuses it before the caller goes on.
#[tokio::test]
async fn a_refused_batch_is_never_in_order() {
    let fixture = with_task().await;
    let batch = Batch::new([intended(1, 1, 1)]).guard(Guard::TaskOpen(task_id(9)));
    let refused = fixture.store().commit_in_order(batch).await;
    let gone = CommitError::Guard(GuardFailure::TaskGone(task_id(9)));
    assert_eq!(refused.map(drop), Err(gone));
}

/// Its caller learns that it was lost, and a start knows nothing of it.
#[tokio::test]
async fn a_batch_in_order_can_be_lost() {
    let mut fixture = with_task().await;
    fixture.disk.fail_syncs(1);
    let batch = Batch::new([intended(1, 1, 1)]);
    let in_order = fixture.store().commit_in_order(batch).await.unwrap();
    let lost = in_order.durable().await;
    assert!(matches!(lost, Err(CommitError::Unavailable(_))), "{lost:?}");
    fixture.store = None;
    fixture.open();
    let store = fixture.store();
    assert_eq!(store.credential(credential_id(1)).await.unwrap(), None);
}

#[tokio::test]
async fn an_anchor_is_live_for_its_task_provider_and_key() {
    let fixture = with_task().await;
    fixture.all([anchor(1, 1)]).await;
    let live = |anchor: AnchorId, task: TaskId, provider: &str, key| Guard::AnchorLive {
        anchor,
        task,
        provider: provider.parse().unwrap(),
        key,
    };
    let (own, name) = (task_id(1), role().provider().to_string());
    let right = live(anchor_id(1), own, &name, None);
    let wrong = [
        live(anchor_id(2), own, &name, None),
        live(anchor_id(1), task_id(2), &name, None),
        live(anchor_id(1), own, "other", None),
        live(anchor_id(1), own, &name, Some(AnchorKey::of(["k"]))),
    ];
    let store = fixture.store();
    let holds = async |guard: &Guard| store.holds(std::slice::from_ref(guard)).await.unwrap();
    assert!(holds(&right).await);
    for guard in wrong {
        assert!(!holds(&guard).await, "{guard:?}");
    }
    let gone = Event::AnchorGone {
        anchor: anchor_id(1),
    };
    fixture.all([gone]).await;
    assert!(!holds(&right).await);
}
