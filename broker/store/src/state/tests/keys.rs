//! Idempotency keys: how many are remembered, and the answer to a repeated renewal.

use std::time::Duration;

use taskpass_core::{Event, IdempotencyKey, SpiffeId, limits};

use super::super::{Remembered, key_hash};
use crate::{
    CommitError, Guard, GuardFailure, Subject,
    testing::{
        HOUR, Model, NOW, abandoned, admin, anchor, credential_id, ended, ending, intended, issued,
        keyed, new_task, renew_intended, renewed, started, task_id, token, token_id,
    },
};

fn by(caller: &str, n: u64) -> Event {
    let caller: SpiffeId = caller.parse().unwrap();
    Event::TaskStarted {
        task: new_task(n, 1),
        idempotency: Some(IdempotencyKey::new(caller, &format!("k{n}"), b"").unwrap()),
    }
}

fn share(model: &Model, caller: &str, limit: u32) -> Result<(), GuardFailure> {
    let guard = Guard::IdempotencyKeysWithin {
        caller: caller.parse().unwrap(),
        task: None,
        limit,
    };
    model.state.check(&guard, model.now)
}

/// Issues for task `n` with keys until one is refused. Returns how many were admitted, and the
/// refusal.
fn draw(model: &mut Model, n: u64, ids: std::ops::Range<u64>) -> (u64, Option<GuardFailure>) {
    let first = ids.start;
    for id in ids {
        let guard = Guard::IdempotencyKeysWithin {
            caller: admin(),
            task: Some(task_id(n)),
            limit: 8,
        };
        if let Err(failure) = model.state.check(&guard, model.now) {
            return (id - first, Some(failure));
        }
        let intent = keyed(intended(id, n, 1), &format!("k{id}"));
        model.all([intent, abandoned(id)]);
    }
    (u64::MAX, None)
}

/// The number of keys bounds their memory: a key of any length, of a caller with any name, takes
/// no more than [`limits::IDEMPOTENCY_RECORD_BYTES_MAX`].
#[test]
fn a_remembered_key_takes_bounded_memory() {
    let name = "n".repeat(limits::NAME_BYTES_MAX);
    let caller: SpiffeId = format!("spiffe://acme.test/agent/{name}").parse().unwrap();
    let text = "k".repeat(limits::IDEMPOTENCY_KEY_BYTES_MAX);
    let key = IdempotencyKey::new(caller, &text, &[0; 65_536]).unwrap();
    let made = Subject::Agent(name.parse().unwrap());
    let (hash, remembered) = Remembered::new(&key, Some(task_id(1)), NOW, made);
    let texts = name.len() + key.request_sha256.len();
    // The record with its counts, an entry in the map, in the caller's set and in the task's set.
    let record = size_of_val(&remembered) + 2 * size_of::<usize>() + texts;
    let places = size_of_val(&hash) + size_of::<usize>() + 2 * size_of_val(&(NOW, hash));
    // Maps keep up to half of their places free, and sets up to two thirds.
    let bytes = record + 3 * places;
    assert!(bytes <= limits::IDEMPOTENCY_RECORD_BYTES_MAX, "{bytes}");
}

/// No task can use up all keys of its caller, and its end gives its keys back.
#[test]
fn one_task_leaves_keys_for_the_others_and_returns_its_own() {
    let mut model = Model::new();
    model.all((1..=3).map(|n| started(new_task(n, 1))));
    let (drawn, why) = draw(&mut model, 1, 100..200);
    assert_eq!(drawn, 4, "as many as it leaves");
    match why {
        Some(GuardFailure::TaskIdempotencyKeys {
            task,
            free: 4,
            wait,
            ..
        }) => assert_eq!((task, wait), (task_id(1), limits::IDEMPOTENCY_KEPT)),
        other => panic!("{other:?}"),
    }
    assert_eq!(draw(&mut model, 2, 200..300).0, 2);
    assert_eq!(draw(&mut model, 3, 300..400).0, 1);
    assert_eq!(share(&model, admin().as_str(), 8), Ok(()));

    // The keys go with the task, since no request can be repeated there. The keys of the other
    // tasks stay.
    let known = |model: &Model, id: u64| {
        let hash = key_hash(&admin(), &format!("k{id}"));
        model.state.remembered(&hash, model.now).is_some()
    };
    assert!(known(&model, 100));
    model.all([ending(1)]);
    assert!(known(&model, 100), "its end may take long");
    model.all([ended(1)]);
    assert!(!known(&model, 100) && known(&model, 200));
    assert!(draw(&mut model, 3, 400..500).0 > 0);

    // Time makes room, too, before and after pruning.
    model.now = NOW.plus(limits::IDEMPOTENCY_KEPT);
    let guard = Guard::IdempotencyKeysWithin {
        caller: admin(),
        task: Some(task_id(2)),
        limit: 1,
    };
    assert_eq!(model.state.check(&guard, model.now), Ok(()));
}

/// The limit holds for every split of an agent's requests among its tasks, and the store forgets no
/// promised key to make room.
#[test]
fn one_caller_has_only_its_share_of_keys() {
    let mut model = Model::new();
    let (agent, in_task) = (
        "spiffe://acme.test/agent/task",
        "spiffe://acme.test/agent/task/task/t01hx000000000001",
    );
    model.all([by(agent, 1)]);
    model.now = NOW.plus(Duration::from_secs(60));
    model.all([by(in_task, 2)]);
    for who in [agent, in_task] {
        assert_eq!(share(&model, who, 3), Ok(()));
        match share(&model, who, 2) {
            Err(GuardFailure::IdempotencyKeys { limit: 2, wait, .. }) => {
                assert_eq!(wait, limits::IDEMPOTENCY_KEPT - Duration::from_secs(60));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(share(&model, "spiffe://acme.test/agent/other", 1), Ok(()));
    // A repetition is still known, and the oldest key makes room at its time, before and after
    // pruning.
    assert!(matches!(
        model.commit(&by(agent, 1)),
        Err(CommitError::Duplicate {
            same_request: true,
            ..
        })
    ));
    model.now = NOW.plus(limits::IDEMPOTENCY_KEPT);
    assert_eq!(share(&model, agent, 2), Ok(()));
    assert!(share(&model, agent, 1).is_err());
    for change in model.state.stale(model.now) {
        model.state.set(&change);
    }
    assert_eq!(share(&model, agent, 2), Ok(()));
    assert!(share(&model, agent, 1).is_err());
    let remembered = |n: u64| {
        let hash = key_hash(&agent.parse().unwrap(), &format!("k{n}"));
        model.state.keys.contains_key(&hash)
    };
    assert!(!remembered(1), "what is forgotten takes no room");
}

#[test]
fn join_tokens_and_renewals_happen_once() {
    let mut model = Model::new();
    let again = keyed(token(2, 1), "token");
    model.all([keyed(token(1, 1), "token")]);
    let before = |outcome| match outcome {
        Err(CommitError::Duplicate { record, .. }) => record.subject,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        before(model.commit(&again)),
        Subject::JoinToken(token_id(1))
    );

    model.all([
        started(new_task(1, 1)),
        anchor(1, 1),
        intended(1, 1, 1),
        issued(1),
    ]);
    let with_key = |event| keyed(event, "renew");
    let renewal = |expires_at| Subject::Renewal {
        credential: credential_id(1),
        expires_at,
    };
    model.all([with_key(renew_intended(1))]);
    assert_eq!(
        before(model.commit(&with_key(renew_intended(1)))),
        renewal(None)
    );
    model.all([with_key(renewed(1))]);
    assert_eq!(
        before(model.commit(&with_key(renew_intended(1)))),
        renewal(Some(NOW.plus(2 * HOUR)))
    );
    let hash = key_hash(&admin(), "renew");
    assert!(model.state.remembered(&hash, NOW).is_some());
}
