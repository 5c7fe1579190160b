//! Races that need a provider which answers when the test says so.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use taskpass_core::{
    CredentialId, CredentialState, Labels, RevocationClass, RevokeCause, TaskState, Ttl,
};
use taskpass_policy::{PolicyFile, PolicySet};
use taskpass_provider::{Anchors, RevokeScope};
use taskpass_store::Store;

use crate::{
    Call, CallCounts, Configuration, CreateJoinToken, Credentials, EndTask, Ending, Error,
    ProviderSettings, RegisterAgent, RenewCredential, Requests, Settings,
    testing::{Answer, Bench, NOW, builder_name, grants, key_of, wish},
};

use super::{GroupOutcome, IntentRecord, anchors::AnchorRecorder};

const HALF: Duration = Duration::from_secs(1800);

/// Revoking an anchor also ends the credentials that are just being issued through it: the broker
/// neither delivers them nor calls them active.
#[tokio::test]
async fn a_credential_issued_through_an_anchor_in_doubt_is_never_active() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let (fake, task) = (&bench.fakes[0], bench.task().await);
    let first = bench.begin(fake, task).await;
    let second = bench.begin(fake, task).await;
    let ids: Vec<_> = fake.issues.lock().keys().copied().collect();
    fake.answer(Answer::Doubt);
    assert!(first.await.unwrap().is_err());
    assert_eq!(
        bench.credential(ids[0]).await.state,
        CredentialState::Revoking
    );

    // The broker issues no more credentials through that anchor, and does not call the provider.
    let refused = bench.begin(fake, task).await.await.unwrap().unwrap_err();
    assert!(
        matches!(&refused, Error::Provider { source, .. } if source.is_retryable()),
        "{refused}"
    );
    assert_eq!(fake.issues.lock().len(), 1);

    // The anchor lives until the other call is over. The broker marks that call's credential before
    // it revokes anything.
    let group = async || {
        let name = "a".parse().unwrap();
        let permit = bench
            .engine
            .revoke_permit(&name, &builder_name(), true)
            .unwrap();
        let ids = &ids[..1];
        bench.engine.revoke_group(&name, task, ids, permit).await
    };
    assert_eq!(group().await.unwrap(), GroupOutcome::NotYet);
    assert!(fake.orders.lock().is_empty());
    assert_eq!(
        bench.credential(ids[1]).await.state,
        CredentialState::Revoking
    );
    fake.answer(Answer::Give(HALF));
    let refused = second.await.unwrap().unwrap_err();
    assert!(
        matches!(&refused, Error::Provider { source, .. } if source.is_retryable()),
        "{refused}"
    );
    let marked = bench.credential(ids[1]).await;
    assert_eq!(marked.state, CredentialState::Revoking);
    assert!(marked.anchor.is_some(), "it can be found");

    fake.revokes.add_permits(9);
    assert_eq!(group().await.unwrap(), GroupOutcome::Done);
    {
        let orders = fake.orders.lock();
        assert_eq!(orders.len(), 1);
        assert_eq!(
            (orders[0].scope, orders[0].anchors.len()),
            (RevokeScope::Credentials, 2)
        );
    }
    bench.issued(fake, task, HALF).await;
}

/// A credential issued after another one came into doubt has a newer anchor: it neither dies nor
/// waits.
#[tokio::test]
async fn a_doubt_leaves_later_anchors_alone() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let (fake, task) = (&bench.fakes[0], bench.task().await);
    fake.is_down.store(true, Ordering::SeqCst);
    assert!(bench.begin(fake, task).await.await.unwrap().is_err());
    fake.is_down.store(false, Ordering::SeqCst);
    let all = bench.store.credentials_of_task(task).await.unwrap();
    let doubt = all[0].id;
    assert_eq!(all[0].state, CredentialState::Revoking);

    bench.clock.advance(Duration::from_secs(1));
    let later = bench.issued(fake, task, HALF).await.id;
    let running = bench.begin(fake, task).await;
    fake.revokes.add_permits(9);
    let name = "a".parse().unwrap();
    let permit = bench
        .engine
        .revoke_permit(&name, &builder_name(), true)
        .unwrap();
    let doubts = [doubt];
    let group = bench.engine.revoke_group(&name, task, &doubts, permit);
    assert_eq!(group.await.unwrap(), GroupOutcome::Done);

    assert_eq!(fake.orders.lock()[0].anchors, []);
    assert_eq!(bench.credential(later).await.state, CredentialState::Active);
    fake.answer(Answer::Give(HALF));
    running.await.unwrap().unwrap().delivery.confirm();
}

/// A call records no anchor once its credential is revoking. The revocation was planned without
/// this anchor, so it would not end the thing behind it.
#[tokio::test]
async fn a_revoking_credential_records_no_anchor() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let (fake, task) = (&bench.fakes[0], bench.task().await);
    let issued = bench.issued(fake, task, HALF).await.id;
    let late = AnchorRecorder {
        engine: &bench.engine,
        task,
        credential: issued,
        provider: "a".parse().unwrap(),
        key: None,
        intent: &IntentRecord::Durable,
    };
    let refused = late.record(serde_json::json!({}), NOW.plus(HALF)).await;
    assert!(refused.is_err(), "{refused:?}");
}

/// The broker revokes a credential when its secret is dropped on the way to the caller, no matter
/// where.
#[tokio::test]
async fn an_undelivered_credential_is_revoked() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let (fake, task) = (&bench.fakes[0], bench.task().await);
    let kept = bench.issued(fake, task, HALF).await.id;
    let issuing = bench.begin(fake, task).await;
    fake.answer(Answer::Give(HALF));
    let issued = issuing.await.unwrap().unwrap();
    let lost = issued.id;
    assert_eq!(bench.credential(lost).await.state, CredentialState::Active);
    drop(issued);
    bench
        .eventually("it is revoked", || async {
            let lost = bench.credential(lost).await;
            lost.revocation
                .as_ref()
                .is_some_and(|r| r.cause == RevokeCause::NotDelivered)
        })
        .await;
    // The caller goes away after the outcome was sent to it, and before it looked.
    let issuing = bench.begin(fake, task).await;
    let id = *fake.issues.lock().keys().next().unwrap();
    issuing.abort();
    fake.answer(Answer::Give(HALF));
    bench
        .eventually("that one too", || async {
            bench.credential(id).await.state == CredentialState::Revoking
        })
        .await;
    assert_eq!(bench.credential(kept).await.state, CredentialState::Active);
}

/// If the provider gives a longer life than requested, the broker revokes the credential at the
/// requested end.
#[tokio::test]
async fn the_end_that_was_asked_for_is_kept() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let (fake, task) = (&bench.fakes[0], bench.task().await);
    let issued = bench.issued(fake, task, 3 * HALF).await;
    assert_eq!(issued.expires_at, NOW.plus(HALF));
    assert_eq!(
        bench.credential(issued.id).await.expires_at,
        NOW.plus(3 * HALF)
    );
    bench.clock.advance(HALF);
    bench.engine.reap().await.unwrap();
    let ended = bench.credential(issued.id).await;
    assert_eq!(ended.state, CredentialState::Revoking);
    assert_eq!(
        ended.revocation.as_ref().map(|r| r.cause),
        Some(RevokeCause::Expired)
    );
}

#[tokio::test]
async fn a_repeated_request_makes_no_second_join_token() {
    let bench = Bench::new(&[], Settings::default()).await;
    let request = CreateJoinToken {
        agent: "builder".parse().unwrap(),
        ttl: Some(Ttl::from_seconds(60).unwrap()),
    };
    let make = async |key: &str| {
        let key = key_of(key);
        let made = bench
            .engine
            .create_join_token(&bench.operator, key.as_ref(), &request);
        made.await
    };
    let name = "builder".parse().unwrap();
    make("k").await.unwrap();
    let repeated = make("k").await.unwrap_err();
    assert!(matches!(repeated, Error::AlreadyExists(_)), "{repeated}");
    let tokens = async || bench.store.usage_of_agent(&name).await.unwrap().join_tokens;
    assert_eq!(tokens().await, 1);
    make("l").await.unwrap();
    assert_eq!(tokens().await, 2);
}

/// The broker refuses one key too many, and names the time at which it forgets the oldest.
#[tokio::test]
async fn keys_of_one_caller_are_limited_and_requests_without_one_go_on() {
    let settings = Settings {
        requests: Requests {
            idempotency_keys_per_caller: 1,
            ..Requests::default()
        },
        ..Settings::default()
    };
    let bench = Bench::new(&[], settings).await;
    let register = async |name: &str, key: &str| {
        let request = RegisterAgent {
            name: name.parse().unwrap(),
            owner: "alice@acme.test".parse().unwrap(),
            team: None,
            class: None,
            labels: Labels::default(),
        };
        let key = key_of(key);
        let registered = bench
            .engine
            .register_agent(&bench.operator, key.as_ref(), &request);
        registered.await.map(|agent| agent.name.to_string())
    };
    register("one", "k1").await.unwrap();
    match register("two", "k2").await {
        Err(Error::Exhausted { retry_after, .. }) => {
            assert_eq!(retry_after, Duration::from_secs(86_400));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(register("one", "k1").await.unwrap(), "one");
    register("two", "").await.unwrap();
}

/// A task that requests without end, each time with a new key, does not block the agent's other
/// tasks.
#[tokio::test]
async fn one_task_never_uses_up_the_keys_of_its_agent() {
    let settings = Settings {
        requests: Requests {
            idempotency_keys_per_caller: 8,
            ..Requests::default()
        },
        credentials: Credentials {
            live_per_task: 100,
            ..Credentials::default()
        },
        ..Settings::default()
    };
    let bench = Bench::new(&["a"], settings).await;
    let (fake, greedy, other) = (&bench.fakes[0], bench.task().await, bench.task().await);
    let renew = async |id: CredentialId, key: &str| {
        let request = RenewCredential {
            credential: id,
            ttl: None,
        };
        let key = key_of(key);
        let renewed = bench
            .engine
            .renew_credential(&bench.agent, key.as_ref(), &request);
        renewed.await.map(drop)
    };
    let id = bench.issued(fake, greedy, HALF).await.id;
    let others = bench.issued(fake, other, HALF).await.id;
    for n in 0..4 {
        renew(id, &format!("greedy-{n}")).await.unwrap();
    }
    match renew(id, "greedy-4").await {
        Err(Error::Exhausted {
            message,
            retry_after,
        }) => {
            assert!(message.contains(&greedy.to_string()), "{message}");
            assert_eq!(retry_after, Duration::from_secs(86_400));
        }
        outcome => panic!("{outcome:?}"),
    }
    // The broker still knows the earlier renewals of the greedy task, which goes on without keys.
    // The other task does not notice.
    renew(id, "greedy-0").await.unwrap();
    renew(id, "").await.unwrap();
    renew(others, "other-0").await.unwrap();
    renew(others, "other-1").await.unwrap();

    // With the task its keys are gone.
    let end = EndTask {
        task: greedy,
        how: Ending::Complete,
        wait: Some(Duration::from_millis(1)),
    };
    bench.engine.end_task(&bench.agent, &end).await.unwrap();
    fake.revokes.add_permits(1);
    let name = "a".parse().unwrap();
    let permit = bench
        .engine
        .revoke_permit(&name, &builder_name(), true)
        .unwrap();
    let done = bench
        .engine
        .revoke_group(&name, greedy, &[id], permit)
        .await;
    assert_eq!(done.unwrap(), GroupOutcome::Done);
    bench.engine.reap().await.unwrap();
    assert_eq!(
        bench.store.task(greedy).await.unwrap().unwrap().state,
        TaskState::Ended
    );
    for n in 2..4 {
        renew(others, &format!("other-{n}")).await.unwrap();
    }
}

/// The broker takes as many calls as may run and wait, however many come at the same moment.
#[tokio::test]
async fn the_queue_of_a_provider_has_an_end() {
    let settings = Settings {
        provider: ProviderSettings {
            issue_concurrency: 2,
            issue_queue: 3,
            agent_share: 100,
            ..ProviderSettings::default()
        },
        ..Settings::default()
    };
    let bench = Bench::new(&["a"], settings).await;
    let snapshot = bench.engine.snapshot();
    let (backend, _) = snapshot.backends().named(&"a".parse().unwrap()).unwrap();
    let role = bench.fakes[0].role();
    let acquire = || backend.acquire(&builder_name(), role);
    let mut permits: Vec<_> = (0..5).map(|_| acquire().unwrap()).collect();
    assert!(matches!(acquire(), Err(Error::Exhausted { .. })));
    assert_eq!(backend.status().in_flight(), 5);
    let none_runs = CallCounts {
        running: 0,
        waiting: 5,
    };
    assert_eq!(backend.status().issue, none_runs);
    permits.pop();
    assert!(acquire().is_ok());
}

/// A task that ends in good order waits for its credentials alone, and its anchor is not shown.
#[tokio::test]
async fn an_anchor_is_not_shown_while_credentials_are_being_revoked() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let (fake, task) = (&bench.fakes[0], bench.task().await);
    let id = bench.issued(fake, task, HALF).await.id;
    let end = EndTask {
        task,
        how: Ending::Complete,
        wait: Some(Duration::from_millis(1)),
    };
    bench.engine.end_task(&bench.agent, &end).await.unwrap();
    fake.is_down.store(true, Ordering::SeqCst);
    fake.revokes.add_permits(9);
    let name = "a".parse().unwrap();
    let permit = bench
        .engine
        .revoke_permit(&name, &builder_name(), true)
        .unwrap();
    let progress = bench.engine.revoke_group(&name, task, &[id], permit).await;
    assert_eq!(progress.unwrap(), GroupOutcome::Failed);
    let view = bench.engine.task(&bench.agent, task).await;
    let view = view.unwrap();
    assert_eq!(view.task.state, TaskState::Ending);
    assert!(view.anchors.is_empty(), "{:?}", view.anchors);
    // The provider's own words are for operators.
    let why = &view.receipts[0].proof;
    assert!(
        why.starts_with("not yet: ") && !why.contains("it is down"),
        "{why}"
    );
    let view = bench.engine.task(&bench.operator, task).await.unwrap();
    assert_eq!(view.receipts[0].proof, "not yet: it is down");
}

/// While an anchor cannot be revoked, its task does not end, and people see the anchor.
#[tokio::test]
async fn an_anchor_that_cannot_be_ended_is_shown() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let (fake, task) = (&bench.fakes[0], bench.task().await);
    bench.issued(fake, task, Duration::ZERO).await;
    bench.engine.reap().await.unwrap();
    let end = EndTask {
        task,
        how: Ending::Complete,
        wait: Some(Duration::from_millis(1)),
    };
    bench.engine.end_task(&bench.agent, &end).await.unwrap();
    fake.is_down.store(true, Ordering::SeqCst);
    fake.revokes.add_permits(9);
    let name = "a".parse().unwrap();
    let permit = bench
        .engine
        .revoke_permit(&name, &builder_name(), true)
        .unwrap();
    let progress = bench.engine.revoke_group(&name, task, &[], permit).await;
    assert!(matches!(progress, Ok(GroupOutcome::AnchorsLeft(_))));
    let view = bench.engine.task(&bench.agent, task).await;
    let anchors = view.unwrap().anchors;
    assert_eq!(anchors.len(), 1);
    assert_eq!(anchors[0].provider, name);
}

/// Parallel requests do not pass a limit of policy that each of them alone would keep.
#[tokio::test]
async fn counts_that_policy_reads_still_hold_when_the_intent_is_recorded() {
    const REQUESTS: usize = 16;
    let bench = Bench::new(&["a"], Settings::default()).await;
    let (fake, task) = (&bench.fakes[0], bench.task().await);
    let one = PolicyFile {
        name: "one.cedar".to_owned(),
        text: "@id(\"one\") forbid (principal, action == Taskpass::Action::\"credential.issue\", \
               resource) when { context.liveOfAgent >= 1 };"
            .to_owned(),
    };
    bench.swap(Configuration {
        policy: Arc::new(PolicySet::parse(&[grants(), one]).unwrap()),
        ..bench.configuration()
    });
    let call = Call {
        snapshot: bench.engine.snapshot(),
        ..bench.agent.clone()
    };
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..REQUESTS {
        let (engine, call, request) = (Arc::clone(&bench.engine), call.clone(), wish(fake, task));
        requests.spawn(async move { engine.issue_credential(&call, None, &request).await });
    }
    for _ in 1..REQUESTS {
        let refused = requests.join_next().await.unwrap().unwrap().unwrap_err();
        assert!(matches!(refused, Error::Denied { .. }), "{refused}");
    }
    // Refusals do not wait for each other's records, and come before the provider is asked.
    bench
        .eventually("one reaches the provider", || async {
            fake.issues.lock().len() == 1
        })
        .await;
    fake.answer(Answer::Give(HALF));
    let issued = requests.join_next().await.unwrap().unwrap().unwrap();
    issued.delivery.confirm();
}

/// An agent at the limit can still renew: the credential does not count against itself.
#[tokio::test]
async fn a_renewed_credential_does_not_count_against_itself() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let (fake, task) = (&bench.fakes[0], bench.task().await);
    let id = bench.issued(fake, task, HALF).await.id;
    let one = PolicyFile {
        name: "one.cedar".to_owned(),
        text: "@id(\"one\") forbid (principal, action in Taskpass::Action::\"access\", resource) \
               when { context.liveOfAgent >= 1 || context.liveInTask >= 1 };"
            .to_owned(),
    };
    bench.swap(Configuration {
        policy: Arc::new(PolicySet::parse(&[grants(), one]).unwrap()),
        ..bench.configuration()
    });
    let call = Call {
        snapshot: bench.engine.snapshot(),
        ..bench.agent.clone()
    };
    let request = RenewCredential {
        credential: id,
        ttl: Some(Ttl::from_seconds(3000).unwrap()),
    };
    bench
        .engine
        .renew_credential(&call, None, &request)
        .await
        .unwrap();
}

/// Policy decides again when the provider finds, while it mints, that the credential can be revoked
/// less well than the role said. A refusal keeps the secret in the broker.
#[tokio::test]
async fn policy_decides_again_on_a_class_that_only_the_provider_knew() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let (fake, task) = (&bench.fakes[0], bench.task().await);
    let limits = |class: &str| PolicyFile {
        name: "limits.cedar".to_owned(),
        text: format!(
            "@id(\"limits\") forbid (principal, action == Taskpass::Action::\"credential.issue\", resource) \
             when {{ context.liveInTask >= 1 || resource.revocationClass == \"{class}\" }};"
        ),
    };
    let swap = |class: &str| {
        bench.swap(Configuration {
            policy: Arc::new(PolicySet::parse(&[grants(), limits(class)]).unwrap()),
            ..bench.configuration()
        });
    };
    let issue = async |task| {
        let call = bench.again(&bench.agent);
        let issuing = bench.begin_as(&call, fake, task).await;
        fake.answer(Answer::GiveIrrevocable(HALF));
        issuing.await.unwrap()
    };

    swap("expiry_only");
    let refused = issue(task).await.unwrap_err();
    assert!(matches!(refused, Error::Denied { .. }), "{refused}");
    let all = bench.store.credentials_of_task(task).await.unwrap();
    let id = all[0].id;
    bench
        .eventually("it is revoked", async || {
            bench.credential(id).await.state == CredentialState::Revoking
        })
        .await;

    // A policy that allows the class allows it, and does not count the credential itself.
    let task = bench.task().await;
    swap("none");
    let issued = issue(task).await.unwrap();
    issued.delivery.confirm();
    assert_eq!(issued.revocation_class, RevocationClass::ExpiryOnly);
}

/// The words of a back end go to the log and to operators. An agent learns whether trying again
/// helps.
#[tokio::test]
async fn an_agent_is_not_told_the_words_of_a_back_end() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let (fake, task) = (&bench.fakes[0], bench.task().await);
    fake.is_down.store(true, Ordering::SeqCst);
    let failed = bench.begin(fake, task).await.await.unwrap().unwrap_err();
    let told = failed.message();
    assert!(!told.contains("it is down"), "{told}");
    assert!(
        told.contains("try again later") && told.contains("log"),
        "{told}"
    );
}
