//! Forced retirements of a root, which end what hangs on it.

use std::time::Duration;

use taskpass_core::{
    CredentialState, EndCause, Event, RevokeCause, RootNumber, RootStage, Svid, SvidOrigin,
    TaskState,
};

use crate::testing::{
    Model, NOW, child, credential_id, intended, issued, joined, new_task, started, svid,
    svid_activated, svid_issued, task_id, token,
};

fn two() -> RootNumber {
    RootNumber::FIRST.next()
}

fn root(root: RootNumber, stage: RootStage, forced: bool) -> Event {
    Event::RootChanged {
        root,
        stage,
        serial: "r".to_owned(),
        not_after: NOW.plus(Duration::from_secs(86_400 * 365)),
        certificate_sha256: String::new(),
        forced,
    }
}

/// An SVID of agent 2 on the second root.
fn on_root_two(serial: &str, task: Option<u64>) -> Event {
    Event::SvidIssued {
        svid: Svid {
            root: two(),
            ..svid(serial, 2, task.map(task_id))
        },
        join_token: None,
        evidence: None,
        renews: task.is_none().then(|| "two".to_owned()),
        origin: Some(task.map_or(SvidOrigin::Renewal, |_| SvidOrigin::Task)),
    }
}

/// Two agents on the first root, which is outgoing. Agent 1 has a task with a credential and a task
/// of agent 2 below it; agent 2 has one more.
fn outgoing() -> Model {
    let mut model = Model::new();
    let parent = new_task(2, 1);
    model.all([
        token(1, 1),
        joined("one", 1, 1),
        svid_activated("one"),
        token(2, 2),
        joined("two", 2, 2),
        svid_activated("two"),
        started(parent.clone()),
        started(child(1, 2, &parent)),
        started(new_task(3, 2)),
        intended(2, 2, 1),
        issued(2),
        intended(1, 1, 2),
        issued(1),
        intended(3, 3, 2),
        issued(3),
        root(two(), RootStage::Prepared, false),
        root(two(), RootStage::Active, false),
        root(RootNumber::FIRST, RootStage::Outgoing, false),
    ]);
    model
}

fn is_open(model: &Model, n: u64) -> bool {
    let open = model.state.node(task_id(n)).unwrap().task.state == TaskState::Open;
    let credential = model.state.credential(credential_id(n)).unwrap();
    let live = credential.state == CredentialState::Active;
    assert_eq!(open, live, "task {n}");
    open
}

/// A task whose agent has no identity any more can be ended by no agent.
#[test]
fn tasks_end_with_the_last_svid_of_their_agent() {
    let mut model = outgoing();
    model.all([root(RootNumber::FIRST, RootStage::Retired, true)]);
    for (n, cause) in [
        (1, EndCause::ParentEnded),
        (2, EndCause::IdentityReplaced),
        (3, EndCause::IdentityReplaced),
    ] {
        assert!(!is_open(&model, n), "task {n}");
        let task = &model.state.node(task_id(n)).unwrap().task;
        assert_eq!(task.end_cause, Some(cause));
        let credential = model.state.credential(credential_id(n)).unwrap();
        assert_eq!(
            credential.revocation.as_ref().unwrap().cause,
            RevokeCause::TaskEnded(cause)
        );
    }
}

#[test]
fn tasks_of_an_agent_that_moved_to_the_new_root_go_on() {
    let mut model = outgoing();
    let bound = svid("bound", 2, Some(task_id(3)));
    model.all([
        on_root_two("moved", None),
        svid_issued(bound),
        root(RootNumber::FIRST, RootStage::Retired, true),
    ]);
    assert!(model.state.live_svid("bound", NOW).is_none());
    assert!(is_open(&model, 3));
    // It is below a task of an agent that did not move.
    assert!(!is_open(&model, 1));
    assert!(!is_open(&model, 2));
}

#[test]
fn a_bound_svid_on_another_root_keeps_no_task_of_a_cut_off_agent() {
    let mut model = outgoing();
    model.all([
        on_root_two("bound", Some(3)),
        root(RootNumber::FIRST, RootStage::Retired, true),
    ]);
    assert!(!is_open(&model, 3));
}
