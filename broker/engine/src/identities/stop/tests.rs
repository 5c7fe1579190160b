use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use taskpass_core::{AgentState, EndCause, ShownState, TaskState, Ttl};
use taskpass_store::{JoinTokenState, Store as _};

use super::*;
use crate::{
    ChangeOwner, Connections, CreateJoinToken, EndTask, Ending, OwnerDeparted, Settings,
    testing::Bench,
};

/// Counts how often the connections of an agent are cut.
#[derive(Debug, Default)]
struct Cuts(AtomicUsize);

impl Connections for Cuts {
    fn cut_agent(&self, _name: &AgentName) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

fn name() -> AgentName {
    "builder".parse().unwrap()
}

fn stop() -> StopAgent {
    StopAgent {
        agent: name(),
        reason: "it misbehaves".parse().unwrap(),
        wait: Some(Duration::from_millis(1)),
    }
}

fn release() -> ReleaseAgent {
    ReleaseAgent {
        agent: name(),
        reason: "it was looked at".parse().unwrap(),
    }
}

async fn token(bench: &Bench) -> Result<taskpass_core::JoinTokenId, Error> {
    let request = CreateJoinToken {
        agent: name(),
        ttl: Some(Ttl::from_seconds(60).unwrap()),
    };
    let engine = &bench.engine;
    let made = engine.create_join_token(&bench.operator, None, &request);
    made.await.map(|made| made.token.id)
}

async fn state_of(bench: &Bench) -> AgentState {
    bench.store.agent(&name()).await.unwrap().unwrap().state
}

fn is_refused<T: std::fmt::Debug>(answer: Result<T, Error>, state: AgentState) {
    match answer {
        Err(Error::AgentNotActive { state: is, .. }) => assert_eq!(is, state),
        other => panic!("{other:?}"),
    }
}

/// Each call below began before the stop, and is past authentication.
#[tokio::test]
async fn calls_that_are_past_authentication_get_nothing_once_the_agent_is_stopped() {
    for (state, retires) in [(AgentState::Frozen, false), (AgentState::Retired, true)] {
        let bench = Bench::new(&["a"], Settings::default()).await;
        bench.engine.rotate_authority().await.unwrap();
        let (fake, task) = (&bench.fakes[0], bench.task().await);
        let issued = bench.issued(fake, task, Duration::from_secs(600)).await;
        let stopped = if retires {
            bench.engine.retire_agent(&bench.operator, &stop()).await
        } else {
            bench.engine.freeze_agent(&bench.operator, &stop()).await
        };
        let stopped = stopped.unwrap();
        assert_eq!(stopped.view.agent.state, state);
        assert_eq!(stopped.tasks, [task]);
        assert_eq!(stopped.receipts.len(), 1);
        assert_eq!(stopped.receipts[0].credential, issued.id);
        assert!(matches!(
            stopped.receipts[0].state,
            ShownState::Is(taskpass_core::CredentialState::Revoking)
        ));

        let issues = fake.issues.lock().len();
        let issuing = bench.begin(fake, task).await;
        assert!(issuing.await.unwrap().is_err());
        assert_eq!(
            fake.issues.lock().len(),
            issues,
            "the provider is not asked"
        );
        let key = taskpass_ca::NewKey::generate().unwrap().csr_der().unwrap();
        let key = taskpass_ca::PublicKey::from_csr(&key).unwrap();
        is_refused(bench.engine.renew_svid(&bench.agent, &key).await, state);
        assert!(matches!(token(&bench).await, Err(Error::Precondition(_))));
    }
}

/// The agent reads its state before it is frozen, and asks to start a task after that.
#[tokio::test]
async fn the_guard_in_the_commit_refuses_a_start() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let before = bench.agent.clone();
    bench
        .engine
        .freeze_agent(&bench.operator, &stop())
        .await
        .unwrap();
    let request = crate::StartTask {
        purpose: "a test".parse().unwrap(),
        requester: None,
        roles: crate::TaskRoles::default(),
        ttl: None,
        heartbeat: None,
        parent: None,
        labels: taskpass_core::Labels::default(),
        max_credentials: None,
        key: None,
    };
    let started = bench.engine.start_task(&before, None, &request).await;
    is_refused(started, AgentState::Frozen);
}

#[tokio::test]
async fn a_freeze_cuts_connections_and_cancels_calls() {
    let mut bench = Bench::new(&["a"], Settings::default()).await;
    let cuts = Arc::new(Cuts::default());
    Arc::get_mut(&mut bench.engine).unwrap().context.connections = cuts.clone();
    let (fake, id) = (Arc::clone(&bench.fakes[0]), bench.task().await);
    let issuing = bench.begin(&fake, id).await;
    let engine = &bench.engine;
    engine.freeze_agent(&bench.operator, &stop()).await.unwrap();
    assert_eq!(cuts.0.load(Ordering::SeqCst), 1);
    // The provider never answers this call.
    assert!(issuing.await.unwrap().is_err());
    let task = bench.store.task(id).await.unwrap().unwrap();
    assert_eq!(task.state, TaskState::Ending);
    assert_eq!(task.end_cause, Some(EndCause::Frozen));
    // A second freeze changes nothing.
    let size = bench.store.size();
    let again = engine.freeze_agent(&bench.operator, &stop()).await.unwrap();
    assert!(again.tasks.is_empty());
    assert_eq!(bench.store.size(), size + 1, "the decision alone");
    assert_eq!(cuts.0.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_release_is_for_frozen_agents_and_a_retired_one_stays_so() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let (engine, operator) = (&bench.engine, &bench.operator);
    engine.release_agent(operator, &release()).await.unwrap();
    engine.freeze_agent(operator, &stop()).await.unwrap();
    let view = engine.release_agent(operator, &release()).await.unwrap();
    let changed = view.agent.changed.unwrap();
    assert_eq!(changed.reason.as_str(), "it was looked at");
    assert_eq!(state_of(&bench).await, AgentState::Active);
    token(&bench).await.unwrap();
    engine.retire_agent(operator, &stop()).await.unwrap();
    engine.retire_agent(operator, &stop()).await.unwrap();
    for refused in [
        engine.release_agent(operator, &release()).await.map(drop),
        engine.freeze_agent(operator, &stop()).await.map(drop),
    ] {
        let error = refused.unwrap_err();
        assert!(matches!(error, Error::Precondition(_)), "{error}");
    }
}

#[tokio::test]
async fn an_agent_stops_no_agent() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let (engine, agent) = (&bench.engine, &bench.agent);
    let owner = "alice@acme.test".parse().unwrap();
    let departed = OwnerDeparted {
        owner,
        reason: "she left".parse().unwrap(),
    };
    let change = ChangeOwner {
        agent: name(),
        owner: "mallory@acme.test".parse().unwrap(),
    };
    for refused in [
        engine.freeze_agent(agent, &stop()).await.map(drop),
        engine.retire_agent(agent, &stop()).await.map(drop),
        engine.release_agent(agent, &release()).await.map(drop),
        engine.depart_owner(agent, &departed).await.map(drop),
        engine.change_agent_owner(agent, &change).await.map(drop),
    ] {
        assert!(matches!(refused, Err(Error::Denied { .. })), "{refused:?}");
    }
    assert_eq!(state_of(&bench).await, AgentState::Active);
}

#[tokio::test]
async fn the_agents_of_an_owner_who_left_stay_frozen_until_another_person_owns_them() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let (engine, operator) = (&bench.engine, &bench.operator);
    let departed = OwnerDeparted {
        owner: "alice@acme.test".parse().unwrap(),
        reason: "she left".parse().unwrap(),
    };
    let task = bench.task().await;
    let views = engine.depart_owner(operator, &departed).await.unwrap();
    assert_eq!(views.len(), 1);
    assert_eq!(views[0].agent.state, AgentState::Frozen);
    let ended = bench.store.task(task).await.unwrap().unwrap();
    assert_eq!(ended.end_cause, Some(EndCause::Frozen));
    engine.depart_owner(operator, &departed).await.unwrap();
    let early = engine.release_agent(operator, &release()).await;
    let early = early.unwrap_err().message();
    assert!(early.contains("taskpass agent owner builder"), "{early}");
    let change = ChangeOwner {
        agent: name(),
        owner: "bob@acme.test".parse().unwrap(),
    };
    let view = engine.change_agent_owner(operator, &change).await.unwrap();
    assert_eq!(view.agent.owner.as_str(), "bob@acme.test");
    assert_eq!(view.agent.state, AgentState::Frozen);
    engine.release_agent(operator, &release()).await.unwrap();
    let nothing_left = engine.depart_owner(operator, &departed).await;
    assert!(matches!(nothing_left, Err(Error::NotFound { .. })));
}

/// One of two agents gets another owner while the first one's departure is carried out.
#[tokio::test]
async fn an_agent_that_changes_its_owner_keeps_no_other_one_from_being_frozen() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let (engine, operator) = (&bench.engine, &bench.operator);
    let mut second = bench.store.agent(&name()).await.unwrap().unwrap();
    Arc::make_mut(&mut second).name = "helper".parse().unwrap();
    let registered = Event::AgentRegistered {
        agent: second.as_ref().clone(),
        idempotency: None,
    };
    let registered = taskpass_store::Batch::new([registered]);
    bench.store.commit(registered).await.unwrap();
    let departed = OwnerDeparted {
        owner: "alice@acme.test".parse().unwrap(),
        reason: "she left".parse().unwrap(),
    };
    let decided = engine.decide_departure(operator, &departed.owner).await;
    let decided = decided.unwrap();
    assert_eq!(decided[0].0.name, name());
    let change = ChangeOwner {
        agent: name(),
        owner: "bob@acme.test".parse().unwrap(),
    };
    engine.change_agent_owner(operator, &change).await.unwrap();

    let told = engine.freeze_decided(operator, &departed, decided).await;

    let told = told.unwrap_err().message();
    assert!(
        told.contains("`builder`") && told.contains("1 agents"),
        "{told}"
    );
    assert_eq!(state_of(&bench).await, AgentState::Active);
    let views = engine.depart_owner(operator, &departed).await.unwrap();
    let frozen: Vec<_> = views.iter().map(|view| view.agent.name.as_str()).collect();
    assert_eq!(frozen, ["helper"]);
    assert_eq!(views[0].agent.state, AgentState::Frozen);
}

#[tokio::test]
async fn join_tokens_are_listed_and_withdrawn() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let (engine, operator) = (&bench.engine, &bench.operator);
    let (first, second) = (token(&bench).await.unwrap(), token(&bench).await.unwrap());
    let page = Page::new(1, "").unwrap();
    let listing = engine
        .list_join_tokens(operator, None, &page)
        .await
        .unwrap();
    assert_eq!(listing.rows[0].token.id, second);
    let page = Page::new(1, &listing.next.unwrap()).unwrap();
    let of_agent = Some(&name());
    let listing = engine.list_join_tokens(operator, of_agent, &page).await;
    let listing = listing.unwrap();
    assert_eq!(listing.rows[0].token.id, first);
    assert_eq!(listing.next, None);
    for _ in 0..2 {
        let view = engine.withdraw_join_token(operator, first).await.unwrap();
        assert_eq!(view.state, JoinTokenState::Withdrawn);
    }
    let by_agent = engine.withdraw_join_token(&bench.agent, second).await;
    assert!(matches!(by_agent, Err(Error::Denied { .. })));
    // A freeze withdraws the others.
    engine.freeze_agent(operator, &stop()).await.unwrap();
    let all = engine
        .list_join_tokens(operator, None, &Page::first())
        .await;
    let states: Vec<_> = all.unwrap().rows.iter().map(|view| view.state).collect();
    assert_eq!(states, [JoinTokenState::Withdrawn; 2]);
    let unknown = "j01hx000000000001".parse().unwrap();
    let unknown = engine.withdraw_join_token(operator, unknown).await;
    assert!(matches!(unknown, Err(Error::NotFound { .. })));
}

/// What ended before the freeze is none of its work.
#[tokio::test]
async fn the_receipts_are_those_of_the_tasks_that_ended_with_it() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let before = bench.task().await;
    let end = EndTask {
        task: before,
        how: Ending::Complete,
        wait: Some(Duration::from_millis(1)),
    };
    bench.engine.end_task(&bench.agent, &end).await.unwrap();
    let now = bench.task().await;
    let stopped = bench.engine.freeze_agent(&bench.operator, &stop()).await;
    assert!(stopped.unwrap().tasks.contains(&now));
}
