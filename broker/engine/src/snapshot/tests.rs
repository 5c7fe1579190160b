//! The changes that a swap brings to each caller, and the work that goes on through it.

use std::{sync::atomic::Ordering, time::Duration};

use taskpass_core::{CredentialId, CredentialState, EndCause, TaskId, TaskState};
use taskpass_policy::PolicyFile;
use taskpass_store::Store as _;

use super::*;
use crate::{
    CallCounts, Credentials, EndTask, Ending, Engine, Error, ProviderState, Requests,
    credentials::GroupOutcome,
    testing::{Answer, Bench, builder_name},
};

const HALF: Duration = Duration::from_secs(1800);

fn nobody_may_anything() -> Arc<PolicySet> {
    let file = PolicyFile {
        name: "none.cedar".to_owned(),
        text: "@id(\"none\") forbid (principal, action, resource);".to_owned(),
    };
    Arc::new(PolicySet::parse(&[file]).unwrap())
}

fn name() -> ProviderName {
    "a".parse().unwrap()
}

fn providers(change: ProviderChange) -> BTreeMap<ProviderName, ProviderChange> {
    [(name(), change)].into()
}

#[tokio::test]
async fn the_same_configuration_changes_nothing() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let change = bench.swap(bench.configuration());
    assert!(change.is_none(), "{change:?}");
}

/// A request keeps the policy, roles and limits that were in force when it began.
#[tokio::test]
async fn a_request_keeps_the_snapshot_it_began_with() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let (fake, task) = (&bench.fakes[0], bench.task().await);
    let before = bench.engine.snapshot().policy().hash().to_owned();
    let change = bench.swap(Configuration {
        policy: nobody_may_anything(),
        providers: Vec::new(),
        settings: Settings {
            credentials: Credentials {
                live_per_agent: 0,
                ..Credentials::default()
            },
            ..Settings::default()
        },
    });
    assert_eq!(change.policy.0, before);
    assert_ne!(change.policy.1, before);
    assert!(change.settings_differ);
    assert_eq!(change.providers, providers(ProviderChange::Retired));

    bench.issued(fake, task, HALF).await;
    let late = bench.again(&bench.agent);
    let refused = bench.begin_as(&late, fake, task).await.await.unwrap();
    assert!(matches!(refused, Err(Error::NotFound { .. })));
    // The role exists again with its back end, so now policy refuses.
    let change = bench.swap(Configuration {
        policy: nobody_may_anything(),
        ..bench.configuration()
    });
    assert_eq!(change.providers, providers(ProviderChange::Resumed));
    let late = bench.again(&bench.agent);
    let refused = bench.begin_as(&late, fake, task).await.await.unwrap();
    assert!(matches!(refused, Err(Error::Denied { .. })));
}

/// A running call, an open breaker and a known outage go on through a swap.
#[tokio::test]
async fn a_back_end_with_the_same_configuration_goes_on() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let (fake, task) = (&bench.fakes[0], bench.task().await);
    let running = bench.begin(fake, task).await;
    let mut configuration = bench.configuration();
    configuration.settings.tasks.open_per_agent = 7;
    let change = bench.swap(configuration);
    assert!(change.settings_differ && change.providers.is_empty());
    let snapshot = bench.engine.snapshot();
    let (backend, _) = snapshot.backends().named(&name()).unwrap();
    let one_runs = CallCounts {
        running: 1,
        waiting: 0,
    };
    assert_eq!(backend.status().issue, one_runs);
    assert_eq!(backend.status().in_flight(), 1);
    fake.answer(Answer::Give(HALF));
    running.await.unwrap().unwrap().delivery.confirm();

    fake.is_down.store(true, Ordering::SeqCst);
    for _ in 0..Settings::default().provider.breaker_failures {
        // Each call has a task of its own, since a credential in doubt blocks the next one of its
        // task.
        let task = bench.task().await;
        assert!(bench.begin(fake, task).await.await.unwrap().is_err());
    }
    assert_eq!(backend.status().paused_roles, [fake.role().clone()]);
    let mut configuration = bench.configuration();
    configuration.settings.provider.issue_concurrency = 1;
    bench.swap(configuration);
    let snapshot = bench.engine.snapshot();
    let status = |name| snapshot.backends().named(name).unwrap().0.status();
    assert_eq!(status(&name()).paused_roles, [fake.role().clone()]);

    // Another configuration may mend the provider, so it begins with a closed breaker.
    let mut configuration = bench.configuration();
    configuration.providers[0].fingerprint = "another address".to_owned();
    let change = bench.swap(configuration);
    assert_eq!(change.providers, providers(ProviderChange::Replaced));
    let snapshot = bench.engine.snapshot();
    let status = |name| snapshot.backends().named(name).unwrap().0.status();
    assert!(status(&name()).paused_roles.is_empty());
}

/// A back end that left the configuration revokes the credentials that it minted until none is
/// left. Then the broker drops it.
#[tokio::test]
async fn a_back_end_that_is_taken_out_keeps_revoking() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let (fake, task) = (&bench.fakes[0], bench.task().await);
    let id = bench.issued(fake, task, HALF).await.id;
    let running = bench.begin(fake, task).await;
    bench.swap(Configuration {
        providers: Vec::new(),
        ..bench.configuration()
    });
    let states = |engine: &Engine| {
        let snapshot = engine.snapshot();
        let states = snapshot.backends().all().map(|(_, state)| state);
        states.collect::<Vec<_>>()
    };
    let is_retired = || states(&bench.engine) == [ProviderState::Retired];
    fake.answer(Answer::Give(HALF));
    let late = running.await.unwrap().unwrap();
    late.delivery.confirm();
    bench.engine.maintain_providers().await.unwrap();
    assert!(is_retired());
    // Operators see it, as what it is.
    let call = bench.again(&bench.operator);
    let listed = bench.engine.list_providers(&call).await.unwrap();
    let shown = bench.engine.provider(&call, &name()).await.unwrap();
    for view in listed.iter().chain([&shown]) {
        assert_eq!(view.state, ProviderState::Retired);
        assert_eq!(view.usage.live_credentials, 2);
    }
    assert_eq!(listed.len(), 1);
    // The call would hold the snapshot.
    drop(call);

    let end = EndTask {
        task,
        how: Ending::Complete,
        wait: Some(Duration::from_millis(1)),
    };
    bench.engine.end_task(&bench.agent, &end).await.unwrap();
    bench.engine.maintain_providers().await.unwrap();
    assert!(is_retired());
    fake.revokes.add_permits(9);
    let permit = bench
        .engine
        .revoke_permit(&name(), &builder_name(), true)
        .unwrap();
    let ids = [id, late.id];
    let done = bench.engine.revoke_group(&name(), task, &ids, permit).await;
    assert_eq!(done.unwrap(), GroupOutcome::Done);
    for id in ids {
        let state = bench.credential(id).await.state;
        assert_eq!(state, CredentialState::RevokedVerified);
    }
    bench.engine.reap().await.unwrap();
    let ended = bench.store.task(task).await.unwrap().unwrap().state;
    assert_eq!(ended, TaskState::Ended);

    // The bench's own calls began before the swap, and could still issue.
    bench.engine.maintain_providers().await.unwrap();
    assert!(is_retired());
    let Bench {
        engine,
        agent,
        operator,
        ..
    } = bench;
    drop((agent, operator));
    engine.maintain_providers().await.unwrap();
    assert_eq!(states(&engine), []);
}

/// Other limits on calls make another incarnation of a back end.
fn with_concurrency(bench: &Bench, issue_concurrency: usize) -> Configuration {
    let mut configuration = bench.configuration();
    configuration.settings.provider.issue_concurrency = issue_concurrency;
    configuration
}

fn without_providers(bench: &Bench) -> Configuration {
    Configuration {
        providers: Vec::new(),
        ..bench.configuration()
    }
}

/// Revokes all credentials of the provider as the revoker would, and ends the task.
async fn settle(bench: &Bench, task: TaskId, ids: &[CredentialId]) {
    let ended = bench.engine.end_by_broker(task, EndCause::Cancelled).await;
    ended.unwrap();
    bench.fakes[0].revokes.add_permits(9);
    let permit = bench
        .engine
        .revoke_permit(&name(), &builder_name(), true)
        .unwrap();
    let done = bench.engine.revoke_group(&name(), task, ids, permit).await;
    assert_eq!(done.unwrap(), GroupOutcome::Done);
    bench.engine.reap().await.unwrap();
}

/// A request that began under other limits may still issue from a back end that was taken out.
#[tokio::test]
async fn a_back_end_stays_while_an_older_incarnation_can_issue() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let (fake, task) = (&bench.fakes[0], bench.task().await);
    bench.swap(with_concurrency(&bench, 1));
    bench.swap(without_providers(&bench));
    let is_retired = || bench.engine.snapshot().backends().retired().len() == 1;
    bench.engine.maintain_providers().await.unwrap();
    assert!(is_retired());
    let id = bench.issued(fake, task, HALF).await.id;
    bench.engine.maintain_providers().await.unwrap();
    assert!(is_retired());
    settle(&bench, task, &[id]).await;
    let state = bench.credential(id).await.state;
    assert_eq!(state, CredentialState::RevokedVerified);
}

/// A back end that was resumed and retired anew since it was looked at may have minted meanwhile.
#[tokio::test]
async fn a_back_end_is_dropped_only_as_it_was_looked_at() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    bench.swap(without_providers(&bench));
    let looked_at = bench.engine.snapshot();
    bench.swap(bench.configuration());
    bench.swap(without_providers(&bench));
    let retired = || bench.engine.snapshot().backends().retired().len();
    bench.engine.drop_retired(&looked_at, &[name()]);
    assert_eq!(retired(), 1);
    let looked_at = bench.engine.snapshot();
    bench.engine.drop_retired(&looked_at, &[name()]);
    assert_eq!(retired(), 0);
}

/// Each incarnation holds the provider, so that the count of holders shows those that are left.
#[tokio::test]
async fn a_hundred_reloads_leave_no_back_end_behind() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let (fake, task) = (Arc::clone(&bench.fakes[0]), bench.task().await);
    let id = bench.issued(&fake, task, HALF).await.id;
    let running = bench.begin(&fake, task).await;
    for round in 0..100 {
        bench.swap(match round % 4 {
            0 => without_providers(&bench),
            3 => {
                let mut other = bench.configuration();
                other.providers[0].fingerprint = format!("number {round}");
                other
            }
            _ => with_concurrency(&bench, 1 + round),
        });
        bench.engine.maintain_providers().await.unwrap();
    }
    bench.swap(without_providers(&bench));
    fake.answer(Answer::Give(HALF));
    let late = running.await.unwrap().unwrap();
    late.delivery.confirm();
    bench.engine.maintain_providers().await.unwrap();
    assert_eq!(bench.engine.snapshot().backends().retired().len(), 1);
    settle(&bench, task, &[id, late.id]).await;

    let Bench {
        engine,
        agent,
        operator,
        fakes,
        ..
    } = bench;
    drop((agent, operator, fakes));
    engine.maintain_providers().await.unwrap();
    assert_eq!(engine.snapshot().backends().retired().len(), 0);
    assert_eq!(Arc::strong_count(&fake), 1);
}

/// A swap does not give a caller back the requests that it used up under the old limit.
#[tokio::test]
async fn requests_used_under_the_old_rate_stay_used() {
    let rate = |burst| Settings {
        requests: Requests {
            agent_requests_per_second: 1,
            agent_requests_burst: burst,
            ..Requests::default()
        },
        ..Settings::default()
    };
    let bench = Bench::new(&["a"], rate(3)).await;
    for _ in 0..3 {
        bench.engine.check_rate(&bench.agent).unwrap();
    }
    assert!(bench.engine.check_rate(&bench.agent).is_err());
    bench.swap(Configuration {
        settings: rate(4),
        ..bench.configuration()
    });
    let late = bench.again(&bench.agent);
    bench.engine.check_rate(&late).unwrap();
    assert!(bench.engine.check_rate(&late).is_err());
}
