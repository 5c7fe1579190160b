//! Agents that are frozen, released and retired, logins that end the earlier identity, and SVIDs
//! that are used after they are superseded.

use std::time::Duration;

use taskpass_core::{
    AgentState, CredentialState, EndCause, Event, RevokeCause, SvidOrigin, SvidState, TaskState,
    limits,
};

use super::wrong_state;
use crate::{
    CommitError, Guard, GuardFailure,
    testing::{
        HOUR, Model, NOW, agent, agent_name, child, conflict, credential_id, ended, ending, frozen,
        intended, issued, joined, local_operator_svid, new_task, operator_svid, owner_changed,
        owner_departed, released, renew_intended, renews, retired, revoked, started, svid,
        svid_activated, svid_issued, task_id, token, token_id, withdrawn,
    },
};

/// Agent 1 with two tasks, one below the other, each with a credential, and with an SVID for
/// itself, an SVID for the lower task, and an unused join token. Agent 2 has the same once.
fn busy() -> Model {
    let mut model = Model::new();
    let parent = new_task(1, 1);
    model.all([
        token(8, 1),
        joined("main", 1, 8),
        svid_activated("main"),
        started(parent.clone()),
        started(child(2, 1, &parent)),
        svid_issued(svid("bound", 1, Some(task_id(2)))),
        svid_activated("bound"),
        intended(1, 1, 1),
        issued(1),
        intended(2, 2, 1),
        token(1, 1),
        svid_issued(svid("other", 2, None)),
        started(new_task(3, 2)),
        intended(3, 3, 2),
        issued(3),
        token(2, 2),
    ]);
    model
}

fn not_active(result: &Result<(), CommitError>, state: AgentState) {
    let expected = GuardFailure::AgentNotActive(agent_name(1), state);
    assert_eq!(*result, Err(CommitError::Guard(expected)));
}

#[test]
fn a_freeze_ends_everything_of_the_agent_and_nothing_of_others() {
    for stop in [frozen(1), retired(1), owner_departed(1)] {
        let mut model = busy();
        model.all([stop]);
        for n in [1, 2] {
            let task = &model.state.node(task_id(n)).unwrap().task;
            assert_eq!(task.state, TaskState::Ending);
            assert_eq!(task.end_cause, Some(EndCause::Frozen));
            let credential = model.state.credential(credential_id(n)).unwrap();
            assert_eq!(credential.state, CredentialState::Revoking);
            let cause = credential.revocation.as_ref().unwrap().cause;
            assert_eq!(cause, RevokeCause::TaskEnded(EndCause::Frozen));
        }
        for serial in ["main", "bound"] {
            assert!(model.state.live_svid(serial, NOW).is_none());
            assert!(model.state.superseded(serial, NOW).is_none());
        }
        let unused = model.state.token_unused(token_id(1), NOW);
        assert_eq!(unused, Err(GuardFailure::JoinTokenWithdrawn(token_id(1))));

        assert!(model.state.live_svid("other", NOW).is_some());
        assert_eq!(model.state.token_unused(token_id(2), NOW), Ok(()));
        let theirs = model.state.credential(credential_id(3)).unwrap();
        assert_eq!(theirs.state, CredentialState::Active);
        let task = &model.state.node(task_id(3)).unwrap().task;
        assert_eq!(task.state, TaskState::Open);
    }
}

#[test]
fn an_agent_that_is_stopped_gets_nothing() {
    for (stop, state) in [
        (frozen(1), AgentState::Frozen),
        (retired(1), AgentState::Retired),
    ] {
        let mut model = busy();
        model.all([stop]);
        let guard = model.state.check(&Guard::AgentActive(agent_name(1)), NOW);
        assert!(guard.is_err());
        for gift in [
            token(9, 1),
            joined("s9", 1, 1),
            svid_issued(svid("s9", 1, None)),
            renews("s9", 1, "main"),
            started(new_task(9, 1)),
            intended(9, 1, 1),
        ] {
            not_active(&model.commit(&gift), state);
        }
        // A late answer of the provider is recorded, and its credential stays to be revoked.
        model.all([issued(2)]);
        let late = model.state.credential(credential_id(2)).unwrap();
        assert_eq!(late.state, CredentialState::Revoking);
        assert!(model.commit(&renew_intended(2)).is_err());
        model.all([revoked(1), revoked(2), ended(2), ended(1)]);
    }
}

/// Without its origin the first use of a login would end nothing.
#[test]
fn a_login_says_that_it_is_one() {
    let mut model = busy();
    let mut login = joined("login", 1, 1);
    if let Event::SvidIssued { origin, .. } = &mut login {
        *origin = Some(SvidOrigin::Renewal);
    }
    assert!(model.commit(&login).is_err());
    if let Event::SvidIssued { origin, .. } = &mut login {
        *origin = None;
    }
    assert!(model.commit(&login).is_err());
}

#[test]
fn a_release_brings_nothing_back() {
    let mut model = busy();
    model.all([frozen(1), released(1)]);
    for serial in ["main", "bound"] {
        assert!(model.state.live_svid(serial, NOW).is_none());
    }
    assert!(model.commit(&joined("s1", 1, 1)).is_err(), "an old token");
    let credential = model.state.credential(credential_id(1)).unwrap();
    assert_eq!(credential.state, CredentialState::Revoking);
    model.all([
        token(5, 1),
        joined("new", 1, 5),
        svid_activated("new"),
        started(new_task(5, 1)),
    ]);
    let agent = model.state.agent(&agent_name(1)).unwrap();
    assert_eq!(agent.state, AgentState::Active);
    let changed = agent.changed.as_ref().unwrap();
    assert_eq!(changed.reason.as_str(), "it was looked at");
}

#[test]
fn a_retired_agent_stays_so_and_its_name_is_not_given_out_again() {
    let mut model = busy();
    model.all([retired(1)]);
    for step in [
        released(1),
        frozen(1),
        retired(1),
        owner_changed(1),
        owner_departed(1),
    ] {
        assert!(wrong_state(&model.commit(&step)), "{step:?}");
    }
    assert!(model.commit(&agent(1)).is_err());
}

#[test]
fn an_agent_without_an_owner_is_released_only_to_another_one() {
    let mut model = busy();
    model.all([owner_departed(1)]);
    assert!(wrong_state(&model.commit(&released(1))));
    assert!(wrong_state(&model.commit(&owner_departed(1))));
    model.all([owner_changed(1)]);
    let agent = model.state.agent(&agent_name(1)).unwrap();
    assert_eq!(agent.state, AgentState::Frozen, "a person releases it");
    assert_eq!(agent.owner.as_str(), "bob@acme.test");
    model.all([released(1)]);
    // Alice no longer owns it, so her departure does not touch it.
    assert!(model.commit(&owner_departed(1)).is_err());
}

#[test]
fn the_departure_of_the_owner_of_a_frozen_agent_is_noted() {
    let mut model = busy();
    model.all([frozen(1), owner_departed(1)]);
    assert!(model.commit(&released(1)).is_err());
    model.all([owner_changed(1), released(1)]);
}

/// A thief has the SVID `main` of agent 1, and opened both tasks.
#[test]
fn the_first_use_of_a_login_ends_all_that_the_earlier_identity_had() {
    let mut model = busy();
    model.all([joined("login", 1, 1)]);
    // The reply may be lost: nothing ends before the new SVID is used.
    assert!(model.state.live_svid("main", NOW).is_some());
    let task = &model.state.node(task_id(2)).unwrap().task;
    assert_eq!(task.state, TaskState::Open);
    model.all([svid_activated("login")]);
    for serial in ["main", "bound"] {
        assert!(model.state.live_svid(serial, NOW).is_none());
    }
    // The owner's own command may still use the SVID of its task.
    assert!(model.commit(&conflict("bound")).is_err());
    model.all([conflict("main")]);
    for n in [1, 2] {
        let task = &model.state.node(task_id(n)).unwrap().task;
        assert_eq!(task.end_cause, Some(EndCause::IdentityReplaced));
        let credential = model.state.credential(credential_id(n)).unwrap();
        assert_eq!(credential.state, CredentialState::Revoking);
    }
    let theirs = model.state.credential(credential_id(3)).unwrap();
    assert_eq!(theirs.state, CredentialState::Active);
    // What begins after the login stays.
    model.all([started(new_task(5, 1)), intended(5, 5, 1), issued(5)]);
}

#[test]
fn a_renewal_keeps_tasks_and_bound_svids() {
    let mut model = busy();
    model.all([renews("renewed", 1, "main"), svid_activated("renewed")]);
    assert!(model.state.live_svid("main", NOW).is_none());
    assert!(model.state.live_svid("bound", NOW).is_some());
    for n in [1, 2] {
        let task = &model.state.node(task_id(n)).unwrap().task;
        assert_eq!(task.state, TaskState::Open);
    }
}

/// The owner logged in, and before the first use of the new SVID a thief renews and uses as many
/// SVIDs as it likes.
#[test]
fn a_thief_that_goes_on_renewing_cannot_end_a_login() {
    let mut model = busy();
    model.all([joined("login", 1, 1)]);
    let mut before = "main".to_owned();
    for n in 0..3 * limits::PENDING_SVIDS_PER_IDENTITY_MAX {
        let stolen = format!("stolen-{n}");
        model.all([renews(&stolen, 1, &before)]);
        if n % 2 == 0 {
            model.all([svid_activated(&stolen)]);
            before = stolen;
        }
    }
    model.all([svid_activated("login")]);
    assert!(model.state.live_svid(&before, NOW).is_none());
    let login = model.state.live_svid("login", NOW).unwrap();
    assert_eq!(login.state, SvidState::Active);
}

#[test]
fn a_later_login_ends_an_earlier_one_that_was_not_used() {
    let mut model = busy();
    model.all([
        token(5, 1),
        joined("first", 1, 1),
        joined("second", 1, 5),
        svid_activated("second"),
    ]);
    assert!(model.state.live_svid("first", NOW).is_none());
}

#[test]
fn the_use_of_a_superseded_svid_is_recorded_once() {
    let mut model = busy();
    assert!(model.commit(&conflict("main")).is_err(), "it counts");
    assert!(model.commit(&conflict("unknown")).is_err());
    model.all([renews("renewed", 1, "main"), svid_activated("renewed")]);
    model.all([conflict("main")]);
    assert!(wrong_state(&model.commit(&conflict("main"))));
    model.now = NOW.plus(HOUR);
    let state = model.state.clone();
    for change in state.stale(model.now) {
        model.state.set(&change);
    }
    assert!(model.commit(&conflict("main")).is_err(), "it has expired");
    assert!(model.state.superseded.is_empty() && model.state.superseded_of.is_empty());
}

/// An operator's SVID is noticed, too, also when it ended on the broker's own machine.
#[test]
fn the_use_of_an_operators_superseded_svid_is_recorded() {
    let mut model = Model::new();
    model.all([
        operator_svid("o1", Some("o0")),
        svid_activated("o1"),
        conflict("o0"),
        local_operator_svid("o2"),
        conflict("o1"),
    ]);
}

/// A thief renews as often as it can, so that its victim's SVID, or later its own, is forgotten.
#[test]
fn superseded_svids_cannot_be_pushed_out_of_memory() {
    let mut model = busy();
    let mut before = "main".to_owned();
    for n in 0..4 * limits::SUPERSEDED_SVIDS_PER_IDENTITY_MAX {
        model.now = NOW.plus(Duration::from_millis(u64::try_from(n).unwrap()));
        let stolen = format!("stolen-{n}");
        model.all([renews(&stolen, 1, &before), svid_activated(&stolen)]);
        before = stolen;
    }
    model.all([joined("login", 1, 1), svid_activated("login")]);
    let remembered = model.state.superseded_of.values().map(|of| of.len());
    assert_eq!(
        remembered.sum::<usize>(),
        limits::SUPERSEDED_SVIDS_PER_IDENTITY_MAX
    );
    model.all([conflict("main"), conflict(&before)]);
}

/// An agent opens task after task, and renews the SVID of each.
#[test]
fn the_end_of_a_task_forgets_its_superseded_svids() {
    for end in [ending(1), frozen(1)] {
        let mut model = busy();
        let renewed = svid_issued(svid("bound-2", 1, Some(task_id(2))));
        model.all([renewed, svid_activated("bound-2")]);
        assert!(model.state.superseded("bound", NOW).is_some());
        model.all([end]);
        assert!(
            model.state.superseded.is_empty(),
            "{:?}",
            model.state.superseded
        );
        assert!(model.state.superseded_by_end.is_empty());
        assert!(model.commit(&conflict("bound")).is_err());
    }
}

/// An earlier version remembered the SVIDs of ended tasks, and recorded their use.
#[test]
fn a_recorded_conflict_of_an_svid_that_is_forgotten_is_read() {
    let model = busy();
    let effects = model.state.effects(&conflict("bound"), NOW).unwrap();
    assert!(effects.changes.is_empty());
}

#[test]
fn a_withdrawn_token_gives_nothing() {
    let mut model = busy();
    model.all([withdrawn(1)]);
    let used = Err(CommitError::Guard(GuardFailure::JoinTokenWithdrawn(
        token_id(1),
    )));
    assert_eq!(model.commit(&joined("s1", 1, 1)), used);
    assert_eq!(model.commit(&withdrawn(1)), used);
    assert_eq!(model.state.usage(&agent_name(1), NOW).join_tokens, 0);
    model.all([joined("s2", 2, 2)]);
    assert!(model.commit(&withdrawn(2)).is_err(), "it was used");
    assert!(model.commit(&withdrawn(3)).is_err(), "there is none");
}

/// A token may expire between the look at it and the end of its agent.
#[test]
fn tokens_that_expire_do_not_stop_a_freeze() {
    let mut model = busy();
    model.now = NOW.plus(HOUR);
    model.all([frozen(1)]);
}

#[test]
fn agents_are_counted_by_state() {
    let mut model = Model::new();
    model.all([agent(3), frozen(1), retired(2)]);
    let counts = model.state.agent_counts();
    assert_eq!((counts.active, counts.frozen, counts.retired), (1, 1, 1));
    let event = Event::AgentRegistered {
        agent: model.state.agent(&agent_name(1)).unwrap().as_ref().clone(),
        idempotency: None,
    };
    let mut fresh = Model::new();
    fresh.state.agents.clear();
    assert!(fresh.commit(&event).is_err(), "a new agent is active");
}
