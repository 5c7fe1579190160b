use std::time::Duration;

use taskpass_ca::NewKey;
use taskpass_core::{Clock as _, EndCause, OperatorName, RevokeCause, Timestamp};
use taskpass_ledger::SignedRoots;
use taskpass_store::{Batch, CommitError, JoinTokenState, Store as _};

use super::*;
use crate::{CreateJoinToken, Settings, testing::Bench};

async fn bench() -> Bench {
    let bench = Bench::new(&["a"], Settings::default()).await;
    bench.engine.rotate_authority().await.unwrap();
    bench
}

async fn stages(bench: &Bench) -> Vec<(String, &'static str)> {
    let roots = bench.engine.roots().await.unwrap();
    let shown = |view: &RootView| (view.record.number.to_string(), view.record.stage.as_str());
    roots.iter().map(shown).collect()
}

async fn token(bench: &Bench) -> taskpass_core::JoinTokenId {
    let request = CreateJoinToken {
        agent: "builder".parse().unwrap(),
        ttl: None,
    };
    let made = bench
        .engine
        .create_join_token(&bench.operator, None, &request);
    made.await.unwrap().token.id
}

async fn recorded(bench: &Bench, root: RootNumber) -> Option<RootStage> {
    let roots = bench.store.recorded_roots().await.unwrap();
    roots.get(&root).map(|root| root.stage)
}

fn two() -> RootNumber {
    RootNumber::FIRST.next()
}

/// Everything on record at the start hangs on the first root: an agent, an operator, a join token.
#[tokio::test]
async fn a_root_is_not_retired_while_something_hangs_on_it() {
    let bench = bench().await;
    let old_token = token(&bench).await;
    bench.engine.prepare_root().await.unwrap();
    bench.engine.activate_root().await.unwrap();
    let new_token = token(&bench).await;

    let refused = bench.engine.retire_root(RetireRoot::Unused).await;
    let message = refused.unwrap_err().message();
    for part in [
        "root 1 is still needed",
        "1 agents, 0 tasks, 1 operators (admin) and 1 join tokens",
        "taskpassd root retire --force",
    ] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(stages(&bench).await.len(), 2);
    let roots = bench.engine.roots().await.unwrap();
    assert_eq!(
        roots[0].used.join_tokens, 1,
        "the new token hangs on the new root"
    );

    // A renewal moves the operator to the new root once it is used, and no sooner.
    let key = NewKey::generate().unwrap();
    let renewed = bench.engine.renew_svid(&bench.operator, key.public_key());
    let renewed = renewed.await.unwrap();
    assert_eq!(renewed.signed.root, two());
    let message = bench.engine.retire_root(RetireRoot::Unused).await;
    assert!(message.unwrap_err().message().contains("admin"));
    let svid = bench.store.svid(&renewed.signed.serial).await.unwrap();
    bench.engine.activate_svid(&svid.unwrap()).await.unwrap();
    let message = bench.engine.retire_root(RetireRoot::Unused).await;
    let message = message.unwrap_err().message();
    assert!(
        message.contains("1 agents, 0 tasks, 0 operators and 1 join"),
        "{message}"
    );

    let task = bench.task().await;
    let issued = bench.issued(&bench.fakes[0], task, Duration::from_secs(600));
    let credential = issued.await.id;
    let retired = bench.engine.retire_root(RetireRoot::Forced).await.unwrap();
    let used = &retired.view.used;
    assert_eq!((used.agents.len(), used.join_tokens), (1, 1));
    // The agent has no identity any more with which it could end its task.
    assert_eq!((retired.tasks, retired.revoking), (vec![task], 1));
    let task = bench.store.task(task).await.unwrap().unwrap();
    assert_eq!(task.end_cause, Some(EndCause::IdentityReplaced));
    let cause = bench
        .credential(credential)
        .await
        .revocation
        .clone()
        .unwrap()
        .cause;
    assert_eq!(cause, RevokeCause::TaskEnded(EndCause::IdentityReplaced));
    assert_eq!(stages(&bench).await, [("2".to_owned(), "active")]);
    let agents = bench.store.svid(bench.agent.caller.serial()).await.unwrap();
    assert!(agents.is_none(), "it ended with its root");
    for (id, state) in [
        (old_token, JoinTokenState::Withdrawn),
        (new_token, JoinTokenState::Unused),
    ] {
        let record = bench.store.join_token(id).await.unwrap().unwrap();
        assert_eq!(record.state(Timestamp::EPOCH), state);
    }
    let stage = recorded(&bench, RootNumber::FIRST).await;
    assert_eq!(stage, Some(RootStage::Retired));
}

/// A client with an identity of before the replacement learns from them which root it may follow.
#[tokio::test]
async fn the_signed_roots_are_those_of_the_bundle_at_each_step() {
    let bench = bench().await;
    let engine = &bench.engine;
    let (first, _) = engine.authority().pinned_root();
    let signed = || SignedRoots::open(&engine.signed_roots(), engine.ledger_key()).unwrap();
    assert!(signed().has(first.bytes()));
    engine.prepare_root().await.unwrap();
    engine.activate_root().await.unwrap();
    let (second, _) = engine.authority().pinned_root();
    assert!(signed().has(first.bytes()) && signed().has(second.bytes()));
    engine.retire_root(RetireRoot::Forced).await.unwrap();
    assert!(!signed().has(first.bytes()) && signed().has(second.bytes()));
    assert_eq!(signed().time(), bench.clock.now());
}

/// The answer to the person is not the last word: the store checks again in ledger order.
#[tokio::test]
async fn the_store_retires_no_root_in_use_and_records_nothing_under_a_retired_one() {
    let bench = bench().await;
    bench.engine.prepare_root().await.unwrap();
    bench.engine.activate_root().await.unwrap();
    let outgoing = bench.engine.roots().await.unwrap().pop().unwrap();
    let retire = |forced| root_changed(&outgoing.record, RootStage::Retired, forced);
    let refused = bench.store.commit(Batch::new([retire(false)])).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("root 1 is in use"), "{refused}");

    bench
        .store
        .commit(Batch::new([retire(true)]))
        .await
        .unwrap();
    let late = Event::OperatorSvidIssued {
        operator: "admin".parse().unwrap(),
        serial: "f".repeat(32),
        key_sha256: String::new(),
        not_after: outgoing.record.not_after,
        renews: None,
        local: true,
        origin: Some(taskpass_core::SvidOrigin::Machine),
        root: RootNumber::FIRST,
    };
    let refused = bench.store.commit(Batch::new([late])).await;
    assert!(
        matches!(refused, Err(CommitError::Conflict(_))),
        "{refused:?}"
    );
}

/// An entry `initialized` of an earlier version names no root, and the first start records it.
#[tokio::test]
async fn the_first_root_is_on_record_before_its_first_step() {
    let bench = bench().await;
    assert_eq!(recorded(&bench, RootNumber::FIRST).await, None);
    bench.engine.settle_roots().await.unwrap();
    let roots = bench.store.recorded_roots().await.unwrap();
    let root = bench.engine.authority().roots().remove(0);
    let first = &roots[&RootNumber::FIRST];
    assert_eq!(first.stage, RootStage::Active);
    assert_eq!(first.certificate, root.certificate());
}

/// The store refuses what the engine would not ask for.
#[tokio::test]
async fn a_root_keeps_the_certificate_that_it_was_recorded_with() {
    let bench = bench().await;
    bench.engine.prepare_root().await.unwrap();
    let mut another = bench.engine.authority().roots().pop().unwrap();
    another.certificate_sha256 = "a".repeat(64);
    let step = root_changed(&another, RootStage::Active, false);
    let refused = bench.store.commit(Batch::new([step])).await.unwrap_err();
    assert!(
        refused.to_string().contains("another certificate"),
        "{refused}"
    );
}

/// The disk takes the record and not the step. The broker ends it by itself, and an order that
/// comes first succeeds.
#[tokio::test]
async fn a_retirement_that_the_disk_was_too_full_for_is_finished() {
    for by_itself in [true, false] {
        let bench = bench().await;
        bench.engine.prepare_root().await.unwrap();
        bench.engine.activate_root().await.unwrap();
        let in_the_way = bench.ca_dir().join("state.json.tmp");
        std::fs::create_dir(&in_the_way).unwrap();
        let refused = bench.engine.retire_root(RetireRoot::Forced).await;
        let message = refused.unwrap_err().message();
        for part in ["root 1 is retired in the ledger", "tries again by itself"] {
            assert!(message.contains(part), "{message}");
        }
        let first = recorded(&bench, RootNumber::FIRST).await;
        assert_eq!(first, Some(RootStage::Retired));
        assert_eq!(stages(&bench).await.len(), 2);
        std::fs::remove_dir(&in_the_way).unwrap();
        if by_itself {
            let round = crate::reconcile::authority_round(&bench.engine).await;
            assert!(
                matches!(round, crate::reconcile::Round::Done(_)),
                "{round:?}"
            );
        } else {
            let retired = bench.engine.retire_root(RetireRoot::Unused).await.unwrap();
            assert_eq!(retired.view.record.number, RootNumber::FIRST);
        }
        assert_eq!(stages(&bench).await, [("2".to_owned(), "active")]);
        assert_eq!(bench.engine.authority().bundle().roots_der.len(), 1);
    }
}

/// Two people at once: one order is carried out, and the other meets its result.
#[tokio::test]
async fn orders_to_the_roots_wait_for_each_other() {
    let bench = bench().await;
    let (one, other) = tokio::join!(bench.engine.prepare_root(), bench.engine.prepare_root());
    let refused = [one, other].into_iter().filter_map(Result::err);
    let refused: Vec<_> = refused.map(|error| error.message()).collect();
    assert_eq!(refused.len(), 1);
    assert!(
        refused[0].contains("root 2 is prepared already"),
        "{refused:?}"
    );
    bench.engine.activate_root().await.unwrap();
    let retire = || bench.engine.retire_root(RetireRoot::Forced);
    let (one, other) = tokio::join!(retire(), retire());
    let refused = [one, other].into_iter().filter_map(Result::err);
    let refused: Vec<_> = refused.map(|error| error.message()).collect();
    assert_eq!(refused.len(), 1);
    assert!(refused[0].contains("no root is outgoing"), "{refused:?}");
}

/// The broker was killed between the disk and the record, or between the record and the disk.
#[tokio::test]
async fn a_start_finishes_what_was_begun() {
    let bench = bench().await;
    let authority = Arc::clone(bench.engine.authority());
    authority.prepare_root().unwrap();
    assert_eq!(recorded(&bench, two()).await, None);
    bench.engine.settle_roots().await.unwrap();
    let stage = recorded(&bench, two()).await;
    assert_eq!(stage, Some(RootStage::Prepared));

    authority.activate_root().unwrap();
    bench.engine.settle_roots().await.unwrap();
    let stage = async |root| recorded(&bench, root).await;
    assert_eq!(stage(two()).await, Some(RootStage::Active));
    assert_eq!(stage(RootNumber::FIRST).await, Some(RootStage::Outgoing));

    let outgoing = authority.roots().pop().unwrap();
    let retired = root_changed(&outgoing, RootStage::Retired, true);
    bench.store.commit(Batch::new([retired])).await.unwrap();
    assert_eq!(authority.roots().len(), 2);
    bench.engine.settle_roots().await.unwrap();
    assert_eq!(authority.roots().len(), 1);
    let entries = bench.store.last_time();
    bench.engine.settle_roots().await.unwrap();
    assert_eq!(
        bench.store.last_time(),
        entries,
        "nothing is left to settle"
    );
}

#[tokio::test]
async fn moves_out_of_turn_are_preconditions() {
    let bench = bench().await;
    for refused in [
        bench.engine.activate_root().await.unwrap_err(),
        bench
            .engine
            .retire_root(RetireRoot::Forced)
            .await
            .unwrap_err(),
    ] {
        assert!(matches!(refused, Error::Precondition(_)), "{refused:?}");
    }
    let first = recorded(&bench, RootNumber::FIRST).await;
    assert_eq!(first, Some(RootStage::Active), "no move, but its record");
}

#[tokio::test]
async fn a_withdrawn_operator_is_refused_and_its_use_is_a_conflict() {
    let bench = bench().await;
    let admin: OperatorName = "admin".parse().unwrap();
    let serial = bench.operator.caller.serial();
    let reason = "the laptop is gone".parse().unwrap();
    let counted = bench
        .engine
        .withdraw_operator(&admin, reason)
        .await
        .unwrap();
    assert_eq!(counted, 1);
    assert!(bench.store.svid(serial).await.unwrap().is_none());
    let superseded = bench.store.superseded_svid(serial).await.unwrap();
    assert!(!superseded.unwrap().noticed);
    // There is none left, and the person may ask twice.
    let reason = "again".parse().unwrap();
    let counted = bench
        .engine
        .withdraw_operator(&admin, reason)
        .await
        .unwrap();
    assert_eq!(counted, 0);
}
