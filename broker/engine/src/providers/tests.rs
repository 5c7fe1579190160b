//! That no agent and no role takes a provider away from the others.

use taskpass_core::RoleName;
use taskpass_provider::ProviderError;

use super::*;
use crate::{
    IssueCredential, ProviderSettings, Settings,
    testing::{Answer, Bench, Fake, wish},
};

const HALF_AN_HOUR: std::time::Duration = std::time::Duration::from_secs(1800);

fn from_role(fake: &Fake, task: taskpass_core::TaskId, role: &RoleName) -> IssueCredential {
    IssueCredential {
        role: role.clone(),
        ..wish(fake, task)
    }
}

fn status(bench: &Bench) -> BackendStatus {
    let snapshot = bench.engine.snapshot();
    let name = "a".parse().unwrap();
    snapshot.backends().named(&name).unwrap().0.status()
}

/// Makes calls for the first role fail until a breaker opens.
async fn break_first_role(bench: &Bench, error: ProviderError) {
    let fake = &bench.fakes[0];
    *fake.sick.lock() = Some((fake.role().clone(), error));
    for _ in 0..Settings::default().provider.breaker_failures {
        // A credential in doubt blocks the next one of its task.
        let task = bench.task().await;
        assert!(bench.begin(fake, task).await.await.unwrap().is_err());
    }
}

async fn issue_from(bench: &Bench, role: &RoleName) -> Result<(), Error> {
    let fake = &bench.fakes[0];
    let request = from_role(fake, bench.task().await, role);
    let issuing = bench.begin_with(&bench.agent, fake, request).await;
    if !fake.issues.lock().is_empty() {
        fake.answer(Answer::Give(HALF_AN_HOUR));
    }
    issuing
        .await
        .unwrap()
        .map(|issued| issued.delivery.confirm())
}

#[tokio::test]
async fn a_role_that_fails_closes_no_other_role() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let fake = &bench.fakes[0];
    break_first_role(&bench, ProviderError::retryable("its database is down")).await;
    let refused = issue_from(&bench, fake.role()).await.unwrap_err();
    let words = refused.message();
    assert!(words.contains("role `a/r` failed several times"), "{words}");
    let shown = status(&bench);
    assert!(!shown.circuit_open);
    assert_eq!(shown.paused_roles, [fake.role().clone()]);
    issue_from(&bench, fake.other_role()).await.unwrap();
    // The pause ends as it always did.
    *fake.sick.lock() = None;
    bench
        .clock
        .advance(Settings::default().provider.breaker_pause);
    issue_from(&bench, fake.role()).await.unwrap();
    assert!(status(&bench).paused_roles.is_empty());
}

#[tokio::test]
async fn a_provider_that_is_not_reached_closes_all_roles() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let gone = ProviderError::Unreachable("connection refused".to_owned());
    break_first_role(&bench, gone).await;
    let shown = status(&bench);
    assert!(shown.circuit_open && shown.paused_roles.is_empty());
    let refused = issue_from(&bench, bench.fakes[0].other_role()).await;
    let words = refused.unwrap_err().message();
    assert!(words.contains("it could not be reached"), "{words}");
}

/// One agent's calls hang, as many as the provider lets it have. Another agent's call runs at once.
#[tokio::test]
async fn an_agent_whose_calls_hang_delays_no_other_agent() {
    let settings = Settings {
        provider: ProviderSettings {
            issue_concurrency: 4,
            issue_queue: 4,
            ..ProviderSettings::default()
        },
        ..Settings::default()
    };
    let bench = Bench::new(&["a"], settings).await;
    let (fake, other) = (&bench.fakes[0], bench.join("tester").await);
    let mut hanging = Vec::new();
    for _ in 0..2 {
        let task = bench.task().await;
        hanging.push(bench.begin(fake, task).await);
    }
    // Two more wait: half of all places are taken, and half of the calls that run.
    let engine = &bench.engine;
    for waiting in 1..=2 {
        let request = wish(fake, bench.task().await);
        let (engine, call) = (Arc::clone(engine), bench.agent.clone());
        hanging.push(
            bench
                .engine
                .tasks()
                .spawn(async move { engine.issue_credential(&call, None, &request).await }),
        );
        while status(&bench).issue.waiting < waiting {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(fake.issues.lock().len(), 2, "its share of calls runs");
    let request = wish(fake, bench.task().await);
    let refused = engine.issue_credential(&bench.agent, None, &request).await;
    let words = refused.unwrap_err().message();
    assert!(words.contains("`provider_calls.agent_share`"), "{words}");

    let task = bench.task_of(&other).await;
    let issuing = bench.begin_as(&other, fake, task).await;
    assert_eq!(fake.issues.lock().len(), 3);
    // The newest call is the other agent's.
    let (_, newest) = fake.issues.lock().pop_last().unwrap();
    newest.send(Answer::Give(HALF_AN_HOUR)).unwrap();
    issuing.await.unwrap().unwrap().delivery.confirm();
    for call in hanging {
        call.abort();
    }
}
