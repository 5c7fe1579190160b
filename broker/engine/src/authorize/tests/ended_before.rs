//! Ending things that had ended, by an agent without a budget, and denials that only read the same.

use taskpass_core::{RoleName, Scope, limits};

use super::*;

/// An agent fills its own folds by reading, and the things that it ends again are many.
#[tokio::test]
async fn ends_of_the_ended_share_an_entry_when_their_agent_has_no_fold_left() {
    let bench = bench(Budgets::default()).await;
    let mut ended = Vec::new();
    for _ in 0..20 {
        let task = start(&bench).await.unwrap().task.id;
        end(&bench, task).await.unwrap();
        ended.push(task);
    }
    for number in 0..limits::FOLDS_PER_CALLER_MAX as u64 {
        denied(&bench, stranger(number)).await;
    }
    use_up(&bench);
    let first = bench.store.size();
    for round in 0..1000 {
        end(&bench, ended[round % ended.len()]).await.unwrap();
    }
    bench.engine.close_counts().await.unwrap();
    let written = decisions(&bench, first);
    let times: Vec<_> = written.iter().map(|(_, r)| r.map(|r| r.times)).collect();
    assert_eq!(times, [None, Some(999)]);
}

/// A thief beside the owner is denied the same thing from another place.
#[tokio::test]
async fn a_denial_from_another_address_has_an_entry_of_its_own() {
    let bench = bench(Budgets::default()).await;
    let first = bench.store.size();
    for address in ["192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.2"] {
        let call = Call {
            ip: Some(address.parse().unwrap()),
            ..bench.agent.clone()
        };
        bench.engine.task(&call, stranger(1)).await.unwrap_err();
    }
    let denial = (Outcome::Deny, None);
    assert_eq!(decisions(&bench, first), [denial, denial]);
}

#[tokio::test]
async fn a_denial_for_other_parameters_has_an_entry_of_its_own() {
    let bench = bench(Budgets::default()).await;
    // The starter policy grants no role.
    let starter = taskpass_policy::starter_policy(&taskpass_policy::StarterOptions {
        admin: &"admin".parse().unwrap(),
    });
    let policy = Arc::new(taskpass_policy::PolicySet::parse(&[starter]).unwrap());
    bench.swap(crate::Configuration {
        policy,
        ..bench.configuration()
    });
    let call = bench.again(&bench.agent);
    let task = start_with(&bench, "").await.unwrap().task;
    let known = crate::testing::wish(&bench.fakes[0], task.id).role;
    let unknown: RoleName = "a/none".parse().unwrap();
    for name in [&known, &unknown] {
        let first = bench.store.size();
        for bucket in ["one", "two", "one", "two"] {
            let scope = Scope::from_pairs([("bucket", bucket)]).unwrap();
            let request = CredentialRequest {
                task: &task,
                ttl: Ttl::from_seconds(60).unwrap(),
                scope: &scope,
                live_in_task: 0,
                live_of_agent: 0,
            };
            let (engine, action) = (&bench.engine, Action::CredentialIssue);
            let verdict = engine.authorize_role(&call, name, action, request).await;
            let error = verdict.granted().unwrap_err();
            assert!(matches!(error, Error::Denied { .. }), "{error}");
        }
        let denial = (Outcome::Deny, None);
        assert_eq!(decisions(&bench, first), [denial, denial], "{name}");
    }
}
