use std::sync::{Arc, atomic::Ordering};

use taskpass_core::{AnchorState, CredentialState, TaskState, Timestamp};
use taskpass_store::Store as _;

use super::*;
use crate::{
    EndTask, Ending, IssuedCredential, Settings,
    credentials::GroupOutcome,
    testing::{Answer, Bench, Fake, builder_name, wish},
};

const HALF: Duration = Duration::from_secs(1800);
/// How often the runtime may go on with everything that need not wait.
const ROUNDS: u32 = 200;

/// A bench whose provider holds a session of the task, and the credential through which it got it.
async fn with_session() -> (Bench, TaskId, IssuedCredential) {
    let bench = Bench::new(&["a", "b"], Settings::default()).await;
    let (fake, task) = (Arc::clone(&bench.fakes[0]), bench.task().await);
    fake.keeps_sessions.store(true, Ordering::SeqCst);
    let first = bench.issued(&fake, task, HALF).await;
    (bench, task, first)
}

async fn go_on() {
    for _ in 0..ROUNDS {
        tokio::task::yield_now().await;
    }
}

async fn revoke_group(
    bench: &Bench,
    task: TaskId,
    ids: &[taskpass_core::CredentialId],
) -> GroupOutcome {
    let name = "a".parse().unwrap();
    let permit = bench.engine.revoke_permit(&name, &builder_name(), true);
    let revoking = bench.engine.revoke_group(&name, task, ids, permit.unwrap());
    revoking.await.unwrap()
}

async fn end(bench: &Bench, task: TaskId) {
    let end = EndTask {
        task,
        how: Ending::Complete,
        wait: Some(Duration::from_millis(1)),
    };
    bench.engine.end_task(&bench.agent, &end).await.unwrap();
}

async fn on_record(bench: &Bench) -> bool {
    bench.engine.every_call_is_on_record().await.unwrap()
}

fn asked(fake: &Fake) -> usize {
    fake.issues.lock().len()
}

/// The provider is called while the intent is on its way to the disk. The secret waits for both.
#[tokio::test]
async fn the_provider_is_called_while_the_intent_is_on_its_way() {
    let (bench, task, _) = with_session().await;
    let fake = &bench.fakes[0];
    let (before, syncs) = (bench.store.size(), bench.disk.hold_syncs());
    let issuing = bench.begin(fake, task).await;
    assert_eq!((asked(fake), bench.store.size()), (1, before));
    fake.answer(Answer::Give(HALF));
    go_on().await;
    assert!(!issuing.is_finished(), "nothing of it is durable");
    assert!(!on_record(&bench).await);

    drop(syncs);
    let issued = issuing.await.unwrap().unwrap();
    issued.delivery.confirm();
    let states: Vec<_> = bench.events_since(before);
    assert!(
        matches!(
            &states[..],
            [
                Event::Decided { .. },
                Event::CredentialIntended { .. },
                Event::CredentialIssued { .. }
            ]
        ),
        "{states:?}"
    );
    assert!(on_record(&bench).await);
}

/// Only an anchor of the task at this provider counts, which this broker has seen become durable
/// and which is alive.
#[tokio::test]
async fn without_a_durable_anchor_of_its_own_the_call_waits_for_the_disk() {
    let (bench, task, first) = with_session().await;
    let fake = &bench.fakes[0];
    let own = bench.credential(first.id).await.anchor.unwrap();
    let other_task = bench.task().await;
    let of_other_task = bench.issued(fake, other_task, HALF).await.id;
    let of_other_task = bench.credential(of_other_task).await.anchor.unwrap();
    let elsewhere = bench.issued(&bench.fakes[1], task, HALF).await.id;
    let elsewhere = bench.credential(elsewhere).await.anchor.unwrap();
    let never_recorded = AnchorId::first_at(Timestamp::EPOCH);
    for wrong in [of_other_task, elsewhere, never_recorded] {
        fake.sessions.lock().insert(task, wrong);
        let syncs = bench.disk.hold_syncs();
        let engine = Arc::clone(&bench.engine);
        let (call, request) = (bench.agent.clone(), wish(fake, task));
        let issuing = bench
            .engine
            .tasks()
            .spawn(async move { engine.issue_credential(&call, None, &request).await });
        go_on().await;
        assert_eq!(asked(fake), 0, "it was asked before the intent was durable");
        drop(syncs);
        bench
            .eventually("the provider is asked", || async { asked(fake) == 1 })
            .await;
        fake.answer(Answer::Doubt);
        assert!(issuing.await.unwrap().is_err());
        // The credential in doubt is out of the way again.
        let all = bench.store.credentials_of_task(task).await.unwrap();
        let doubt = all.iter().find(|c| c.in_doubt()).unwrap().id;
        fake.revokes.add_permits(1);
        assert_eq!(
            revoke_group(&bench, task, &[doubt]).await,
            GroupOutcome::Done
        );
    }
    assert!(bench.engine.ahead.is_own(own));
}

/// On a full disk the engine keeps the secret, records the credential from the reserve, and revokes
/// it.
/// Then no call runs ahead any more until there is room.
#[tokio::test]
async fn an_intent_without_room_is_recorded_from_the_reserve_and_revoked() {
    let (bench, task, first) = with_session().await;
    let fake = &bench.fakes[0];
    bench.fill().await;
    let before = bench.store.size();
    let issuing = bench.begin(fake, task).await;
    fake.answer(Answer::Give(HALF));
    let refused = issuing.await.unwrap().unwrap_err();
    assert!(matches!(refused, Error::DiskFull), "{refused}");
    let all = bench.store.credentials_of_task(task).await.unwrap();
    let minted = all.iter().find(|c| c.id != first.id).unwrap();
    assert_eq!(minted.state, CredentialState::Revoking);
    assert!(minted.is_issued() && minted.anchor == bench.credential(first.id).await.anchor);
    fake.revokes.add_permits(1);
    assert_eq!(
        revoke_group(&bench, task, &[minted.id]).await,
        GroupOutcome::Done
    );
    assert_eq!(fake.orders.lock()[0].anchors, [], "its anchor goes on");
    assert!(bench.store.size() > before && on_record(&bench).await);

    let refused = bench.begin(fake, task).await.await.unwrap().unwrap_err();
    assert!(matches!(refused, Error::DiskFull), "{refused}");
    assert_eq!(asked(fake), 0, "a call ahead would use up the reserve");

    bench.disk.set_free(None);
    for ahead in [false, true] {
        let issuing = bench.begin(fake, task).await;
        assert_eq!(bench.engine.in_flight.ahead().len(), usize::from(ahead));
        fake.answer(Answer::Give(HALF));
        issuing.await.unwrap().unwrap().delivery.confirm();
    }
}

/// A call whose intent was lost, and whose answer is not known, keeps its anchor until it must be
/// over, also where the ledger takes no record of it.
#[tokio::test]
async fn a_call_that_cannot_be_recorded_keeps_its_anchor() {
    let (bench, task, first) = with_session().await;
    let fake = &bench.fakes[0];
    bench.fill().await;
    let issuing = bench.begin(fake, task).await;
    end(&bench, task).await;
    fake.revokes.add_permits(9);
    assert_eq!(
        revoke_group(&bench, task, &[first.id]).await,
        GroupOutcome::Done
    );
    assert_eq!(revoke_group(&bench, task, &[]).await, GroupOutcome::NotYet);
    fake.answer(Answer::Doubt);
    assert!(issuing.await.unwrap().is_err());
    assert!(!on_record(&bench).await);

    *fake.lost_calls_run.lock() = Some(HALF);
    let waits = GroupOutcome::AnchorsWait(HALF);
    assert_eq!(revoke_group(&bench, task, &[]).await, waits);
    assert!(
        fake.orders
            .lock()
            .iter()
            .all(|order| order.anchors.is_empty())
    );
    *fake.lost_calls_run.lock() = None;
    assert_eq!(revoke_group(&bench, task, &[]).await, GroupOutcome::Done);
    let anchors = bench.store.anchors_of_task(task).await.unwrap();
    assert!(
        anchors
            .iter()
            .all(|anchor| anchor.state == AnchorState::Gone)
    );
    assert!(on_record(&bench).await);
}

/// A broker that was killed may have lost a call at each anchor. A task that ends soon after the
/// start gets its receipts at once, and the anchor goes when such a call must be over.
#[tokio::test]
async fn after_a_kill_an_anchor_outlives_the_calls_that_may_be_lost() {
    let (mut bench, task, first) = with_session().await;
    bench.restart(Settings::default(), false).await;
    let fake = Arc::clone(&bench.fakes[0]);
    *fake.lost_calls_run.lock() = Some(HALF);
    end(&bench, task).await;
    fake.revokes.add_permits(9);
    assert_eq!(
        revoke_group(&bench, task, &[first.id]).await,
        GroupOutcome::Done
    );
    assert!(fake.orders.lock()[0].calls_may_run);
    let revoked = bench.credential(first.id).await;
    assert_eq!(revoked.state, CredentialState::RevokedVerified);
    let waits = GroupOutcome::AnchorsWait(HALF);
    assert_eq!(revoke_group(&bench, task, &[]).await, waits);
    assert_eq!(fake.orders.lock().len(), 1, "nothing ended the anchor");
    // Nor may the process after the next one forget it.
    assert!(!on_record(&bench).await);
    let state = async || bench.store.task(task).await.unwrap().unwrap().state;
    assert_eq!(state().await, TaskState::Ending);

    *fake.lost_calls_run.lock() = None;
    assert_eq!(revoke_group(&bench, task, &[]).await, GroupOutcome::Done);
    bench.engine.reap().await.unwrap();
    assert_eq!(state().await, TaskState::Ended);
    assert!(on_record(&bench).await);
}

/// A task of the new process waits for nothing, nor does any after a stop in good order.
#[tokio::test]
async fn nothing_waits_for_calls_that_cannot_be_lost() {
    for stopped in [false, true] {
        let (mut bench, earlier, first) = with_session().await;
        bench.restart(Settings::default(), stopped).await;
        let fake = Arc::clone(&bench.fakes[0]);
        *fake.lost_calls_run.lock() = Some(HALF);
        let (task, id) = if stopped {
            (earlier, first.id)
        } else {
            let task = bench.task().await;
            (task, bench.issued(&fake, task, HALF).await.id)
        };
        end(&bench, task).await;
        fake.revokes.add_permits(9);
        assert_eq!(revoke_group(&bench, task, &[id]).await, GroupOutcome::Done);
        bench.engine.reap().await.unwrap();
        let ended = bench.store.task(task).await.unwrap().unwrap();
        assert_eq!(ended.state, TaskState::Ended);
    }
}

/// A call of one provider says nothing about another, nor does an earlier call about a later one.
#[test]
fn a_lost_call_is_over_where_and_when_its_provider_says() {
    let [began, later] = [5, 9].map(Duration::from_secs);
    let task = TaskId::first_at(Timestamp::EPOCH);
    let [a, b] = ["a", "b"].map(|name| name.parse::<ProviderName>().unwrap());
    let anchor = |provider: &ProviderName| {
        Arc::new(Anchor {
            id: AnchorId::first_at(Timestamp::EPOCH),
            task,
            provider: provider.clone(),
            key: None,
            handle: serde_json::json!({}).into(),
            recorded_at: Timestamp::EPOCH,
            expires_at: Timestamp::EPOCH,
            state: AnchorState::Live,
        })
    };
    let (of_a, of_b) = ([anchor(&a)], [anchor(&b)]);
    let ahead = Ahead::new(began, true);
    assert_eq!(ahead.sent_before(task, &a, &[]), None);
    assert_eq!(ahead.sent_before(task, &a, &of_a), Some(began));
    ahead.lose(task, a.clone(), later);
    assert_eq!(ahead.sent_before(task, &a, &of_a), Some(later));
    ahead.are_over(&a, began);
    assert_eq!(ahead.sent_before(task, &a, &of_a), Some(later));
    assert_eq!(ahead.of_earlier(&a), None);
    assert_eq!(ahead.sent_before(task, &b, &of_b), Some(began));
    ahead.are_over(&a, later);
    assert_eq!(ahead.sent_before(task, &a, &of_a), None);
    ahead.recorded(of_b[0].id);
    assert_eq!(ahead.sent_before(task, &b, &of_b), None);
}
