//! How much is handed to a provider at a time, and that one provider keeps no other waiting.

use std::{sync::atomic::Ordering, time::Duration};

use taskpass_core::EndCause;
use taskpass_store::Store;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{CallCounts, ProviderSettings, Settings, reconcile::drive, testing::Bench};

const TASKS: usize = 20;
const SLOTS: usize = 2;

/// Twenty tasks are to be revoked at a provider that hangs. The broker calls it for two at a time,
/// and meanwhile finishes all revocations of the other provider. When the first provider answers,
/// everything is revoked.
#[tokio::test]
async fn a_provider_is_asked_no_more_than_it_may_be_and_holds_up_no_other() {
    let settings = Settings {
        provider: ProviderSettings {
            revoke_concurrency: SLOTS,
            agent_share: 100,
            ..ProviderSettings::default()
        },
        ..Settings::default()
    };
    let bench = Bench::new(&["hangs", "works"], settings).await;
    let [hangs, works] = [0, 1].map(|n| Arc::clone(&bench.fakes[n]));
    let mut tasks = Vec::new();
    for _ in 0..TASKS {
        let task = bench.task().await;
        for fake in [&hangs, &works] {
            bench.issued(fake, task, Duration::from_secs(900)).await;
        }
        let ended = bench.engine.end_by_broker(task, EndCause::Cancelled);
        ended.await.unwrap();
        tasks.push(task);
    }
    works.revokes.add_permits(1000);
    let stop = CancellationToken::new();
    let revoker = drive(&bench.engine, Revoker::new(&bench.engine), &stop);
    let held = async |name: &str| {
        let name = name.parse().unwrap();
        bench
            .store
            .usage_of_provider(&name)
            .await
            .unwrap()
            .live_credentials
    };
    bench
        .eventually("the other provider is done", || async {
            held("works").await == 0
        })
        .await;
    assert_eq!(hangs.revoking.load(Ordering::SeqCst), SLOTS);
    assert_eq!(held("hangs").await as usize, TASKS);
    {
        let groups = hangs.orders.lock().len();
        assert_eq!(groups, SLOTS, "what cannot be called yet is not begun");
    }
    let calls = async |name: &str| {
        let views = bench.engine.provider_views().await.unwrap();
        let view = views.iter().find(|view| view.name.as_str() == name);
        view.unwrap().status.revoke
    };
    // The revoker counts what waits at the end of a round, of which nothing else tells.
    while calls("hangs").await.waiting != TASKS - SLOTS {
        tokio::task::yield_now().await;
    }
    assert_eq!(calls("hangs").await.running, SLOTS);
    let idle = CallCounts::default();
    assert_eq!(calls("works").await, idle);
    hangs.revokes.add_permits(1000);
    bench
        .eventually("the one that hung is done", || async {
            held("hangs").await == 0
        })
        .await;
    while calls("hangs").await != idle {
        tokio::task::yield_now().await;
    }
    for fake in [&hangs, &works] {
        assert!(fake.revoking_most.load(Ordering::SeqCst) <= SLOTS);
    }
    stop.cancel();
    revoker.await.unwrap();
}

/// Twenty tasks of one agent are to be revoked at a provider that hangs. The agent holds no more
/// than its share of the permits, so a revocation of another agent is called at once.
#[tokio::test]
async fn an_agent_whose_revocations_hang_delays_no_other_agents() {
    let settings = Settings {
        provider: ProviderSettings {
            revoke_concurrency: 2 * SLOTS,
            ..ProviderSettings::default()
        },
        ..Settings::default()
    };
    let bench = Bench::new(&["hangs"], settings).await;
    let (fake, other) = (&bench.fakes[0], bench.join("tester").await);
    let stop = CancellationToken::new();
    let revoker = drive(&bench.engine, Revoker::new(&bench.engine), &stop);
    let end_one = async |call: &crate::Call| {
        let task = bench.task_of(call).await;
        let issuing = bench.begin_as(call, fake, task).await;
        fake.answer(crate::testing::Answer::Give(Duration::from_secs(900)));
        issuing.await.unwrap().unwrap().delivery.confirm();
        let ended = bench.engine.end_by_broker(task, EndCause::Cancelled);
        ended.await.unwrap();
        task
    };
    for _ in 0..TASKS {
        end_one(&bench.agent).await;
    }
    bench
        .eventually("the share is used up", || async {
            fake.revoking.load(Ordering::SeqCst) == SLOTS
        })
        .await;
    let task = end_one(&other).await;
    bench
        .eventually("the other agent's task is revoked", || async {
            fake.orders.lock().iter().any(|order| order.task == task)
        })
        .await;
    assert_eq!(fake.revoking.load(Ordering::SeqCst), SLOTS + 1);
    fake.revokes.add_permits(1000);
    bench
        .eventually("all are done", || async {
            let name = "hangs".parse().unwrap();
            let usage = bench.store.usage_of_provider(&name).await.unwrap();
            usage.live_credentials == 0
        })
        .await;
    stop.cancel();
    revoker.await.unwrap();
}
