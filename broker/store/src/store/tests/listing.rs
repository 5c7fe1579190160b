//! Pages: each record once, none left out, in order, also when records are added meanwhile.

use std::collections::BTreeSet;

use super::{Batch, Fixture, Page, Store, agent, ended, ending, intended, new_task, started};
use crate::{
    CredentialFilter, StoreError, TaskFilter,
    testing::{agent_name, task_id},
};
use taskpass_core::TaskState;

#[tokio::test]
async fn pages_are_complete_while_others_write() {
    let fixture = Fixture::new().await;
    for n in 0..50 {
        fixture.all([started(new_task(n, n % 2 + 1))]).await;
        if n % 5 == 0 {
            fixture.all([ending(n), ended(n)]).await;
        }
    }
    for (agent, state, expected) in [
        (None, None, 50),
        (Some(1), None, 25),
        (None, Some(TaskState::Ended), 10),
        (None, Some(TaskState::Open), 40),
        (Some(2), Some(TaskState::Open), 20),
        (Some(2), Some(TaskState::Ended), 5),
    ] {
        let filter = TaskFilter {
            agent: agent.map(agent_name),
            state,
        };
        let (mut token, mut seen, mut extra) = (String::new(), Vec::new(), 1000);
        loop {
            let page = Page::new(7, &token).unwrap();
            let listing = fixture.store().list_tasks(&filter, &page).await.unwrap();
            // Only the last page may be short.
            let full = listing.rows.len() == 7;
            assert!(full || listing.rows.len() < 7 && listing.next.is_none());
            seen.extend(listing.rows.iter().map(|task| task.id));
            // Newer than everything: belongs to no later page.
            let id = extra + expected as u64 * 100 + u64::from(agent.is_some()) * 50;
            let batch = Batch::new([started(new_task(id, 1)), ending(id), ended(id)]);
            drop(fixture.store().commit(batch).await);
            extra += 1;
            match listing.next {
                Some(next) => token = next,
                None => break,
            }
        }
        let mine: Vec<_> = seen.iter().filter(|id| **id < task_id(1000)).collect();
        let once: BTreeSet<_> = mine.iter().collect();
        assert_eq!((mine.len(), once.len()), (expected, expected), "{filter:?}");
        assert!(seen.is_sorted_by(|a, b| a > b));
    }
}

#[tokio::test]
async fn credentials_and_agents_page_too() {
    let fixture = Fixture::new().await;
    fixture
        .all([started(new_task(1, 1)), started(new_task(2, 2))])
        .await;
    fixture
        .all((0..30).map(|n| intended(n, n % 2 + 1, n % 2 + 1)))
        .await;
    fixture.all((0..10).map(crate::testing::abandoned)).await;
    fixture.all((10..45).map(agent)).await;
    let filter = |task: Option<u64>, agent: Option<u64>, live| CredentialFilter {
        task: task.map(task_id),
        agent: agent.map(agent_name),
        live,
    };
    for (filter, expected) in [
        (filter(None, None, false), 30),
        (filter(None, None, true), 20),
        (filter(Some(1), None, false), 15),
        (filter(Some(1), None, true), 10),
        (filter(None, Some(2), false), 15),
        (filter(Some(1), Some(2), false), 0),
        (filter(Some(1), Some(2), true), 0),
    ] {
        let (mut token, mut rows) = (String::new(), Vec::new());
        loop {
            let page = Page::new(4, &token).unwrap();
            let listing = fixture
                .store()
                .list_credentials(&filter, &page)
                .await
                .unwrap();
            let full = listing.rows.len() == 4;
            assert!(full || listing.rows.len() < 4 && listing.next.is_none());
            rows.extend(listing.rows.iter().map(|c| c.id));
            match listing.next {
                Some(next) => token = next,
                None => break,
            }
        }
        assert_eq!(rows.len(), expected, "{filter:?}");
        assert!(rows.is_sorted_by(|a, b| a > b));
    }
    let first = fixture
        .store()
        .list_agents(&Page::new(30, "").unwrap())
        .await
        .unwrap();
    let rest = fixture
        .store()
        .list_agents(&Page::new(30, &first.next.unwrap()).unwrap())
        .await
        .unwrap();
    assert_eq!(
        (first.rows.len(), rest.rows.len(), rest.next),
        (30, 7, None)
    );
}

#[tokio::test]
async fn foreign_page_tokens_are_refused() {
    let fixture = Fixture::new().await;
    let page = Page::new(1, "agent-1").unwrap();
    let refused = fixture
        .store()
        .list_tasks(&TaskFilter::default(), &page)
        .await;
    assert!(matches!(refused, Err(StoreError::PageToken(_))));
    assert!(Page::new(1001, "").is_err());
    assert!(Page::new(1, &"x".repeat(100)).is_err());
    assert_eq!(Page::new(0, "").unwrap().size(), 100);
}

/// The index lists many entries under one key; a reader can ask for any part of the list.
#[tokio::test]
async fn entries_of_a_task_can_be_asked_for_from_anywhere() {
    let fixture = Fixture::new().await;
    fixture
        .all([started(new_task(1, 1)), started(new_task(2, 1))])
        .await;
    fixture
        .all((0..300).map(|n| intended(n, n % 2 + 1, 1)))
        .await;
    fixture.all((300..310).map(|n| intended(n, 1, 1))).await;
    let entries = async |from, limit| {
        let store = fixture.store();
        store
            .entries_of_task(task_id(1), from, limit)
            .await
            .unwrap()
    };
    let all = entries(0, 1000).await;
    assert_eq!(all.len(), 1 + 150 + 10);
    for (from, limit) in [
        (0, 5),
        (3, 1),
        (4, 2),
        (200, 1000),
        (261, 9),
        (300, 3),
        (314, 9),
        (400, 9),
    ] {
        let expected: Vec<u64> = all
            .iter()
            .copied()
            .filter(|i| *i >= from)
            .take(limit)
            .collect();
        assert_eq!(entries(from, limit).await, expected, "{from} {limit}");
    }
}
