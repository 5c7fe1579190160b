//! Idempotency keys: how many are remembered, and what a renewal leaves under its key.

use std::time::Duration;

use taskpass_core::{Event, IdempotencyKey, SpiffeId, limits};

use super::super::key_hash;
use crate::{
    CommitError, Guard, GuardFailure, Subject,
    testing::{
        HOUR, Model, NOW, admin, anchor, credential_id, intended, issued, key, new_task,
        renew_intended, renewed, started, token, token_id,
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
    let guard = Guard::IdempotencyKeysBelow(caller.parse().unwrap(), limit);
    model.state.check(&guard, model.now)
}

/// However an agent splits its requests among its tasks, and never by forgetting a key that is still promised.
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
    // A repetition is still known, and the oldest makes room at its time, pruned or not.
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
    let mut made = token(1, 1);
    let mut again = token(2, 1);
    for event in [&mut made, &mut again] {
        if let Event::JoinTokenCreated { idempotency, .. } = event {
            *idempotency = key("token", "a");
        }
    }
    model.all([made]);
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
    let with_key = |mut event: Event| {
        if let Event::CredentialRenewIntended { idempotency, .. }
        | Event::CredentialRenewed { idempotency, .. } = &mut event
        {
            *idempotency = key("renew", "a");
        }
        event
    };
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
