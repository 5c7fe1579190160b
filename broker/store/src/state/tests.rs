//! The rules that decide which event may follow which.

mod agents;
mod diagram;
mod ends;
mod keys;
mod random;
mod rebase;
mod roots;

use std::time::Duration;

use taskpass_core::{
    CredentialState, Event, RevocationClass, Scope, SvidOrigin, SvidState, Task, TaskState, limits,
};

use crate::{
    CommitError, Conflict, Guard, GuardFailure, Wider,
    testing::{
        HOUR, Model, NOW, abandoned, admin, agent, agent_name, anchor, anchor_id, child,
        credential, credential_id, ended, ending, expired, initialized, intended, issued, joined,
        key, local_operator_svid, new_task, operator_svid, renew_intended, renewed, revoke_failed,
        revoked, revoking, role, started, svid, svid_activated, svid_issued, task_id, token,
        token_id,
    },
};

fn wrong_state(result: &Result<(), CommitError>) -> bool {
    matches!(
        result,
        Err(CommitError::Conflict(Conflict::WrongState { .. }))
    )
}

/// How to bring credential 1 of task 1 into each state.
fn ways() -> Vec<(CredentialState, Vec<Event>)> {
    use CredentialState as S;
    let active = vec![intended(1, 1, 1), issued(1)];
    let with = |more: &[Event]| [active.clone(), more.to_vec()].concat();
    let unverified = Event::CredentialRevoked {
        credential: credential_id(1),
        verified: false,
        proof: String::new(),
        took_ms: 0,
        may_live_until: Some(NOW),
        identity_until: None,
    };
    vec![
        (S::Intended, vec![intended(1, 1, 1)]),
        (S::Active, active.clone()),
        (S::Revoking, with(&[revoking(1)])),
        (S::RevokedVerified, with(&[revoking(1), revoked(1)])),
        (S::RevokedUnverified, with(&[revoking(1), unverified])),
        (S::Expired, with(&[expired(1)])),
        (S::Abandoned, vec![intended(1, 1, 1), abandoned(1)]),
    ]
}

#[test]
fn credential_table() {
    use CredentialState as S;
    let steps: [(&str, Event, &[S]); 8] = [
        ("issued", issued(1), &[S::Intended]),
        ("abandoned", abandoned(1), &[S::Intended]),
        ("renew intended", renew_intended(1), &[S::Active]),
        ("renewed", renewed(1), &[S::Active, S::Revoking]),
        ("revoking", revoking(1), &[S::Intended, S::Active]),
        ("revoke failed", revoke_failed(1, 1), &[S::Revoking]),
        ("revoked", revoked(1), &[S::Revoking]),
        ("expired", expired(1), &[S::Active, S::Revoking]),
    ];
    for (state, way) in ways() {
        for (name, step, fits) in &steps {
            let mut model = Model::new();
            model.all([started(new_task(1, 1))]);
            model.now = NOW.plus(HOUR);
            model.all(way.clone());
            let before = model.state.clone();
            assert_eq!(before.credential(credential_id(1)).unwrap().state, state);
            let result = model.commit(step);
            if fits.contains(&state) {
                assert_eq!(result, Ok(()), "{name} in {state:?}");
            } else {
                assert!(wrong_state(&result), "{name} in {state:?}: {result:?}");
                assert_eq!(model.state, before);
            }
        }
    }
}

/// The task ended while the provider worked: the outcome is recorded, and it stays to be revoked.
#[test]
fn outcome_after_the_task_ended() {
    let mut model = Model::new();
    model.all([
        started(new_task(1, 1)),
        intended(1, 1, 1),
        intended(2, 1, 1),
        ending(1),
        issued(1),
        abandoned(2),
    ]);
    let first = model.state.credential(credential_id(1)).unwrap();
    assert_eq!(first.state, CredentialState::Revoking);
    assert!(first.handle.is_some() && first.is_issued());
    assert!(wrong_state(&model.commit(&issued(1))));
    let second = model.state.credential(credential_id(2)).unwrap();
    assert_eq!(second.state, CredentialState::Abandoned);
    model.all([revoked(1), ended(1)]);
}

#[test]
fn nothing_before_the_installation_and_only_one() {
    let mut model = Model::new();
    assert!(model.commit(&initialized()).is_err());
    model.state = super::State::default();
    assert!(wrong_state(&model.commit(&agent(1))));
}

#[test]
fn revoked_verified_needs_proof() {
    let mut model = Model::new();
    model.all([
        started(new_task(1, 1)),
        intended(1, 1, 1),
        issued(1),
        revoking(1),
    ]);
    for (proof, may_live_until) in [("", None), ("  ", None), ("probe", Some(NOW))] {
        let event = Event::CredentialRevoked {
            credential: credential_id(1),
            verified: true,
            proof: proof.to_owned(),
            took_ms: 0,
            may_live_until,
            identity_until: None,
        };
        assert!(model.commit(&event).is_err(), "{proof:?}");
    }
    assert!(model.commit(&revoke_failed(1, 2)).is_err());
    model.all([revoke_failed(1, 1), revoke_failed(1, 2)]);
}

#[test]
fn credentials_only_in_open_tasks_within_their_roles() {
    let mut model = Model::new();
    let pins = Scope::from_pairs([("db", "orders")]).unwrap();
    let mut task = new_task(1, 1);
    task.roles.insert(role(), pins.clone());
    model.all([started(task), started(new_task(2, 1)), anchor(1, 2)]);
    let refused = |model: &mut Model, change: &dyn Fn(&mut taskpass_core::Credential)| {
        let mut credential = credential(1, 1, 1);
        credential.scope = pins.clone();
        change(&mut credential);
        let event = Event::CredentialIntended {
            credential: Box::new(credential),
            idempotency: None,
        };
        model.commit(&event).is_err()
    };
    assert!(refused(&mut model, &|c| c.scope = Scope::default()));
    assert!(refused(&mut model, &|c| c.agent = agent_name(2)));
    assert!(refused(&mut model, &|c| c.task = task_id(9)));
    assert!(refused(&mut model, &|c| c.role =
        "vault-main/other".parse().unwrap()));
    assert!(refused(&mut model, &|c| c.state = CredentialState::Active));
    assert!(refused(&mut model, &|c| c.anchor = Some(anchor_id(1))));
    assert!(!refused(&mut model, &|c| c.revocation_class = RevocationClass::None));
    assert!(refused(&mut model, &|_| ()), "the id is taken");
    model.now = NOW.plus(8 * HOUR);
    assert!(refused(&mut model, &|c| c.id = credential_id(2)), "overdue");
    model.now = NOW;
    model.all([ending(1)]);
    assert!(refused(&mut model, &|c| c.id = credential_id(2)), "ending");
}

#[test]
fn ending_takes_everything_below_along() {
    let mut model = Model::new();
    let (top, other) = (new_task(1, 1), new_task(9, 1));
    let (left, right) = (child(2, 2, &top), child(3, 1, &top));
    let leaf = child(4, 1, &left);
    model.all([top, other, left, right, leaf].map(started));
    model.all([
        intended(1, 1, 1),
        issued(1),
        intended(2, 4, 1),
        intended(3, 9, 1),
    ]);
    model.all([
        svid_issued(svid("s1", 2, Some(task_id(2)))),
        svid_issued(svid("s2", 2, None)),
    ]);
    let before = model.entries.len();
    model.all([ending(1)]);
    // The ledger has an entry for each: four tasks and two credentials.
    assert_eq!(model.entries.len() - before, 6);
    for (n, state) in [
        (1, TaskState::Ending),
        (2, TaskState::Ending),
        (3, TaskState::Ending),
        (4, TaskState::Ending),
        (9, TaskState::Open),
    ] {
        assert_eq!(
            model.state.node(task_id(n)).unwrap().task.state,
            state,
            "{n}"
        );
    }
    for (n, state) in [
        (1, CredentialState::Revoking),
        (2, CredentialState::Revoking),
        (3, CredentialState::Intended),
    ] {
        assert_eq!(
            model.state.credential(credential_id(n)).unwrap().state,
            state,
            "{n}"
        );
    }
    assert!(
        model.state.live_svid("s1", NOW).is_none() && model.state.live_svid("s2", NOW).is_some()
    );
    // A task does not end before the tasks below it.
    assert!(wrong_state(&model.commit(&ended(1))));
    assert_eq!(model.state.work(NOW, 9).ending_tasks, [task_id(3)]);
    model.all([ended(3), abandoned(2), ended(4), ended(2)]);
    assert!(wrong_state(&model.commit(&ended(1))), "a credential lives");
    model.all([anchor(1, 1), revoked(1)]);
    assert!(wrong_state(&model.commit(&ended(1))), "an anchor lives");
    assert_eq!(model.state.revocations(NOW, 9).due.len(), 1);
    model.all([
        Event::AnchorGone {
            anchor: anchor_id(1),
        },
        ended(1),
    ]);
    // Ids of the past stay used.
    assert!(matches!(
        model.commit(&started(new_task(1, 1))),
        Err(CommitError::Conflict(Conflict::Exists(_)))
    ));
    assert!(matches!(
        model.commit(&intended(1, 9, 1)),
        Err(CommitError::Conflict(Conflict::Exists(_)))
    ));
    assert!(matches!(
        model.commit(&anchor(1, 9)),
        Err(CommitError::Conflict(Conflict::Exists(_)))
    ));
}

#[test]
fn child_is_never_wider_than_its_parent() {
    let mut parent = new_task(1, 1);
    let pins = Scope::from_pairs([("db", "orders")]).unwrap();
    parent.roles.insert(role(), pins.clone());
    type Case = (&'static str, fn(&mut Task), Option<Wider>);
    let cases: [Case; 9] = [
        ("equal", |_| (), None),
        ("fewer roles", |t| t.roles.clear(), None),
        (
            "narrower",
            |t| {
                let narrow = Scope::from_pairs([("db", "orders"), ("mode", "ro")]).unwrap();
                t.roles.insert(role(), narrow);
                t.deadline = NOW.plus(HOUR);
                t.max_credentials = 1;
            },
            None,
        ),
        (
            "role",
            |t| {
                t.roles.insert("aws/x".parse().unwrap(), Scope::default());
            },
            Some(Wider::Role("aws/x".parse().unwrap())),
        ),
        (
            "free pin",
            |t| {
                t.roles.insert(role(), Scope::default());
            },
            Some(Wider::Scope(role())),
        ),
        (
            "other pin",
            |t| {
                let other = Scope::from_pairs([("db", "users")]).unwrap();
                t.roles.insert(role(), other);
            },
            Some(Wider::Scope(role())),
        ),
        (
            "deadline",
            |t| t.deadline = t.deadline.plus(Duration::from_millis(1)),
            Some(Wider::Deadline),
        ),
        (
            "count",
            |t| t.max_credentials += 1,
            Some(Wider::MaxCredentials),
        ),
        ("depth", |t| t.depth = 2, Some(Wider::Depth)),
    ];
    for (name, change, expected) in cases {
        let mut model = Model::new();
        model.all([started(parent.clone())]);
        let mut task = child(2, 2, &parent);
        task.roles.insert(role(), pins.clone());
        change(&mut task);
        let wider = match model.commit(&started(task)) {
            Ok(()) => None,
            Err(CommitError::Conflict(Conflict::WiderThanParent { wider, .. })) => Some(wider),
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(wider, expected, "{name}");
    }
}

#[test]
fn delegation_has_a_depth_and_a_breadth() {
    let mut model = Model::new();
    let mut tasks = vec![new_task(0, 1)];
    for n in 1..=u64::from(limits::TASK_DEPTH_MAX) {
        tasks.push(child(n, 1, tasks.last().unwrap()));
    }
    model.all(tasks.iter().cloned().map(started));
    let wider = |wider| {
        Err(CommitError::Conflict(Conflict::WiderThanParent {
            parent: task_id(if wider == Wider::Depth { 4 } else { 1 }),
            wider,
        }))
    };
    let deeper = child(9, 1, tasks.last().unwrap());
    assert_eq!(model.commit(&started(deeper)), wider(Wider::Depth));
    let room = limits::TASK_DESCENDANTS_MAX as u64 - 4;
    model.all((0..room).map(|n| started(child(100 + n, 1, &tasks[(n % 4) as usize]))));
    // The topmost task is full, wherever below it the next one would be.
    let next = started(child(900, 1, &tasks[1]));
    assert_eq!(model.commit(&next), wider(Wider::Descendants));
    model.all([ending(100), ended(100)]);
    assert_eq!(model.commit(&next), Ok(()));
    assert!(wrong_state(&model.commit(&ending(100))) || model.state.node(task_id(100)).is_none());
    model.all([ending(1)]);
    assert!(wrong_state(
        &model.commit(&started(child(901, 1, &tasks[1])))
    ));
}

#[test]
fn svids_supersede_each_other_only_when_used() {
    let mut model = Model::new();
    let issue = |n: u64| svid_issued(svid(&format!("s{n}"), 1, None));
    let use_it = |n: u64| svid_activated(&format!("s{n}"));
    model.all([issue(0), use_it(0)]);
    model.all((1..=5).map(issue));
    let live = |model: &Model| -> Vec<u64> {
        let counts = |n: &u64| model.state.live_svid(&format!("s{n}"), model.now).is_some();
        (0..=9).filter(counts).collect()
    };
    assert_eq!(
        live(&model),
        [0, 2, 3, 4, 5],
        "the oldest pending one is dropped"
    );
    model.all([use_it(4)]);
    assert_eq!(live(&model), [4]);
    assert!(wrong_state(&model.commit(&use_it(4))));
    assert!(model.commit(&use_it(3)).is_err());
    let active = taskpass_core::Svid {
        state: SvidState::Active,
        ..svid("s9", 1, None)
    };
    model.all([svid_issued(active)]);
    assert_eq!(live(&model), [9]);
    model.now = NOW.plus(HOUR);
    assert_eq!(live(&model), Vec::<u64>::new());
}

#[test]
fn operators_svids_count_as_agents_do() {
    let mut model = Model::new();
    let counts = |model: &Model, serial: &str| model.state.live_svid(serial, model.now).is_some();
    assert!(counts(&model, "o0"));
    assert!(!counts(&model, "never recorded"));
    model.all([svid_activated("o0"), operator_svid("o1", Some("o0"))]);
    assert!(counts(&model, "o0") && counts(&model, "o1"));
    model.all([svid_activated("o1")]);
    assert!(!counts(&model, "o0") && counts(&model, "o1"));
    // A superseded SVID cannot be renewed.
    let refused = model.commit(&operator_svid("o2", Some("o0")));
    let failure = GuardFailure::SvidNotLive("o0".to_owned());
    assert_eq!(refused, Err(CommitError::Guard(failure)));
    model.now = NOW.plus(365 * 24 * HOUR);
    assert!(!counts(&model, "o1"));
    let gone = model.state.stale(model.now);
    assert!(gone.contains(&super::Change::Svid("o1".to_owned(), None)));
}

#[test]
fn operators_come_from_the_installation_or_from_themselves() {
    let mut model = Model::new();
    let invalid = |result: Result<(), CommitError>| {
        matches!(result, Err(CommitError::Conflict(Conflict::Invalid { .. })))
    };
    assert!(invalid(model.commit(&operator_svid("o1", None))));
    // Neither an agent's certificate nor another operator's is a way to one.
    model.all([svid_issued(svid("s1", 1, None))]);
    assert!(invalid(model.commit(&operator_svid("o1", Some("s1")))));
    let mut agents = svid("s2", 1, None);
    let renews = |svid: &taskpass_core::Svid, serial: &str| Event::SvidIssued {
        svid: svid.clone(),
        join_token: None,
        evidence: None,
        renews: Some(serial.to_owned()),
        origin: Some(SvidOrigin::Renewal),
    };
    assert!(invalid(model.commit(&renews(&agents, "o0"))));
    agents.agent = agent_name(2);
    assert!(invalid(model.commit(&renews(&agents, "s1"))));
    assert!(
        model.commit(&operator_svid("o0", Some("o0"))).is_err(),
        "its serial is taken"
    );
    model.now = NOW.plus(366 * 24 * HOUR);
    let late = operator_svid("o1", Some("o0"));
    assert!(matches!(model.commit(&late), Err(CommitError::Guard(_))));
}

#[test]
fn an_svid_issued_on_the_brokers_machine_ends_the_operators_others_at_once() {
    let mut model = Model::new();
    let counts = |model: &Model, serial: &str| model.state.live_svid(serial, model.now).is_some();
    model.all([operator_svid("o1", Some("o0")), local_operator_svid("o2")]);
    assert!(!counts(&model, "o0") && !counts(&model, "o1") && counts(&model, "o2"));
    let refused = model.commit(&svid_activated("o1"));
    assert!(matches!(refused, Err(CommitError::Guard(_))));
    model.all([svid_activated("o2"), operator_svid("o3", Some("o2"))]);
    // A local SVID is never a renewal, and never has a used serial.
    let mut both = operator_svid("o4", Some("o2"));
    if let Event::OperatorSvidIssued { local, .. } = &mut both {
        *local = true;
    }
    assert!(matches!(
        model.commit(&both),
        Err(CommitError::Conflict(Conflict::Invalid { .. }))
    ));
    assert!(model.commit(&local_operator_svid("o2")).is_err());
    // Other operators keep their SVIDs, and the new one counts at once: all other SVIDs may have
    // expired by the end of the year, with no operator left to renew one.
    let mut other = local_operator_svid("p1");
    if let Event::OperatorSvidIssued { operator, .. } = &mut other {
        *operator = "ann".parse().unwrap();
    }
    model.all([other]);
    assert!(counts(&model, "o2") && counts(&model, "o3") && counts(&model, "p1"));
    model.all([local_operator_svid("o5")]);
    assert!(!counts(&model, "o3") && counts(&model, "o5") && counts(&model, "p1"));
}

#[test]
fn join_tokens_are_used_once_by_their_agent_in_time() {
    let mut model = Model::new();
    model.all([token(1, 1), token(2, 1), token(3, 2)]);
    assert!(model.commit(&token(1, 1)).is_err(), "taken");
    assert!(model.commit(&token(4, 3)).is_err(), "no such agent");
    assert!(model.commit(&joined("a", 1, 3)).is_err(), "another agent's");
    model.all([joined("a", 1, 1)]);
    assert_eq!(
        model.commit(&joined("b", 1, 1)),
        Err(CommitError::Guard(GuardFailure::JoinTokenUsed(token_id(1))))
    );
    assert_eq!(model.state.usage(&agent_name(1), NOW).join_tokens, 1);
    model.now = NOW.plus(HOUR);
    assert_eq!(
        model.commit(&joined("b", 1, 2)),
        Err(CommitError::Guard(GuardFailure::JoinTokenExpired(
            token_id(2)
        )))
    );
    assert_eq!(model.state.usage(&agent_name(1), model.now).join_tokens, 0);
}

#[test]
fn guards_table() {
    let mut model = Model::new();
    let mut small = new_task(1, 1);
    small.max_credentials = 2;
    let below = Task {
        max_credentials: 2,
        ..child(2, 2, &small)
    };
    model.all([started(small), started(below), token(1, 1)]);
    model.all([intended(1, 1, 1), intended(2, 2, 2)]);
    let check = |model: &Model, guard: Guard| model.state.check(&guard, model.now).is_ok();
    for (guard, holds) in [
        (Guard::TaskOpen(task_id(1)), true),
        (Guard::TaskOpen(task_id(7)), false),
        (Guard::AgentOpenTasksBelow(agent_name(1), 2), true),
        (Guard::AgentOpenTasksBelow(agent_name(1), 1), false),
        (Guard::AgentLiveCredentialsBelow(agent_name(2), 2), true),
        (Guard::AgentLiveCredentialsBelow(agent_name(2), 1), false),
        // The child holds one of two, but its parent is full with it.
        (Guard::TaskCredentialsWithin(task_id(2)), false),
        (Guard::TaskCredentialsWithin(task_id(1)), false),
        (Guard::JoinTokensBelow(agent_name(1), 2), true),
        (Guard::JoinTokensBelow(agent_name(1), 1), false),
        (Guard::SvidLive("none".to_owned()), false),
        (
            Guard::CredentialState(credential_id(1), &[CredentialState::Intended]),
            true,
        ),
        (
            Guard::CredentialState(credential_id(1), &[CredentialState::Active]),
            false,
        ),
        (
            Guard::CredentialState(credential_id(9), &[CredentialState::Active]),
            false,
        ),
    ] {
        assert_eq!(check(&model, guard.clone()), holds, "{guard:?}");
    }
    model.all([abandoned(1)]);
    assert!(check(&model, Guard::TaskCredentialsWithin(task_id(2))));
    model.now = NOW.plus(8 * HOUR);
    assert!(
        !check(&model, Guard::TaskOpen(task_id(1))),
        "its deadline has come"
    );
}

#[test]
fn idempotency_keys_are_remembered_for_a_day() {
    let mut model = Model::new();
    let start = |n: u64, request: &str| Event::TaskStarted {
        task: new_task(n, 1),
        idempotency: key("once", request),
    };
    model.all([start(1, "a")]);
    for (request, same) in [("a", true), ("b", false)] {
        match model.commit(&start(2, request)) {
            Err(CommitError::Duplicate {
                record,
                same_request,
            }) => {
                assert_eq!(same_request, same);
                assert_eq!(record.subject, crate::Subject::Task(task_id(1)));
            }
            other => panic!("{other:?}"),
        }
    }
    let hash = super::key_hash(&admin(), "once");
    model.now = NOW.plus(limits::IDEMPOTENCY_KEPT);
    assert!(model.state.remembered(&hash, model.now).is_none());
    let mut late = new_task(2, 1);
    late.deadline = model.now.plus(HOUR);
    model.all([Event::TaskStarted {
        task: late,
        idempotency: key("once", "b"),
    }]);
}
