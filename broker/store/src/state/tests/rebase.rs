//! The records after a person set the ledger's time back.

use taskpass_core::{Event, Svid, Task, Timestamp};

use crate::testing::{
    HOUR, Model, NOW, credential_id, intended, joined, new_task, started, svid, svid_issued,
    task_id, token,
};

/// Three weeks ahead, with a task that is as much.
fn ahead() -> (Model, Timestamp) {
    let mut model = Model::new();
    model.all([token(1, 1), joined("before", 1, 1)]);
    let ahead = NOW.plus(21 * 24 * HOUR);
    model.now = ahead;
    model.all([started(Task {
        started_at: ahead,
        deadline: ahead.plus(8 * HOUR),
        ..new_task(1, 1)
    })]);
    (model, ahead)
}

fn accept(model: &mut Model, accepted: Timestamp) {
    let previous = model.now;
    model.now = accepted;
    model.all([Event::ClockAccepted { previous, accepted }]);
}

#[test]
fn an_svid_of_a_wrong_time_does_not_come_to_life_later() {
    let (mut model, ahead) = ahead();
    model.all([svid_issued(Svid {
        not_before: ahead,
        not_after: ahead.plus(HOUR),
        ..svid("late", 1, Some(task_id(1)))
    })]);
    assert!(model.state.live_svid("late", ahead).is_some());
    accept(&mut model, NOW.plus(HOUR / 2));
    assert!(model.state.live_svid("late", model.now).is_none());
    assert!(model.state.live_svid("before", model.now).is_some());
}

#[test]
fn a_credential_of_a_wrong_time_lives_no_longer_than_it_was_to() {
    let (mut model, ahead) = ahead();
    let mut intent = intended(1, 1, 1);
    if let Event::CredentialIntended { credential, .. } = &mut intent {
        credential.intended_at = ahead;
        credential.expires_at = ahead.plus(HOUR);
    }
    model.all([intent]);
    let now = NOW.plus(HOUR / 2);
    accept(&mut model, now);
    let credential = model.state.credential(credential_id(1)).unwrap();
    assert_eq!(credential.expires_at, now.plus(HOUR));
    assert_eq!(credential.ends_at(), now.plus(HOUR));
}
