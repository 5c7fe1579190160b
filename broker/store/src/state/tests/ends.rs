//! When a credential's life is over, and which credentials are not issued while another one is in
//! doubt.

use taskpass_core::{AnchorKey, Credential, Event, RevocationClass, Timestamp};

use crate::{
    Guard,
    testing::{
        HOUR, Model, NOW, anchor, credential_id, expired, intended, issued, new_task,
        renew_intended, renewed, revoked, revoking, role, started, task_id,
    },
};

fn granted(end: Timestamp, class: RevocationClass) -> Event {
    let mut event = issued(1);
    if let Event::CredentialIssued {
        expires_at,
        revocation_class,
        ..
    } = &mut event
    {
        (*expires_at, *revocation_class) = (end, class);
    }
    event
}

fn drawn(event: Event) -> Model {
    let mut model = Model::new();
    model.all([started(new_task(1, 1)), intended(1, 1, 1), event]);
    model
}

fn credential(model: &Model) -> &Credential {
    model.state.credential(credential_id(1)).unwrap()
}

/// A provider may let a credential live longer than asked for. If its class can be revoked, the
/// credential is due at the requested end; the provider's later end stays on record.
#[test]
fn the_end_that_was_asked_for_counts() {
    let (asked, given) = (NOW.plus(HOUR), NOW.plus(3 * HOUR));
    for (class, end) in [
        (RevocationClass::Immediate, asked),
        (RevocationClass::Inherits, asked),
        (RevocationClass::Denylist, asked),
        (RevocationClass::ExpiryOnly, given),
        (RevocationClass::None, given),
    ] {
        let mut model = drawn(granted(given, class));
        assert_eq!(credential(&model).ends_at(), end, "{class:?}");
        assert_eq!(credential(&model).expires_at, given);
        assert_eq!(
            model.state.work(asked, 9).expired_credentials.len(),
            usize::from(end == asked)
        );
        assert_eq!(model.state.work(given, 9).expired_credentials.len(), 1);
        model.now = asked;
        assert!(model.commit(&expired(1)).is_err(), "it lives");
    }
    let nearly = granted(
        asked.plus(taskpass_core::limits::EXPIRY_SLACK),
        RevocationClass::Immediate,
    );
    assert_eq!(credential(&drawn(nearly)).asked_until(), None);
}

#[test]
fn renewing_moves_the_end_that_was_asked_for() {
    let mut model = drawn(granted(NOW.plus(3 * HOUR), RevocationClass::Immediate));
    model.all([renew_intended(1)]);
    assert_eq!(credential(&model).ends_at(), NOW.plus(2 * HOUR));
    assert_eq!(credential(&model).expires_at, NOW.plus(3 * HOUR));
    model.all([renewed(1)]);
    assert_eq!(credential(&model).ends_at(), NOW.plus(2 * HOUR));
    assert_eq!(credential(&model).expires_at, NOW.plus(2 * HOUR));
    // The usual case: nothing more than asked.
    let mut model = drawn(issued(1));
    model.all([renew_intended(1), renewed(1)]);
    assert_eq!(
        (
            credential(&model).ends_at(),
            credential(&model).asked_until()
        ),
        (NOW.plus(2 * HOUR), None)
    );
}

/// A renewal without an answer may be carried out at any time, also when another one was answered
/// since.
#[test]
fn a_credential_that_a_renewal_may_yet_extend_does_not_expire() {
    let mut model = drawn(issued(1));
    model.all([renew_intended(1), renew_intended(1), renewed(1)]);
    model.now = NOW.plus(3 * HOUR);
    assert!(credential(&model).expires_at < model.now);
    assert!(model.commit(&expired(1)).is_err(), "one is not answered");
    model.all([renewed(1)]);
    model.commit(&expired(1)).unwrap();
}

/// A credential that is issued through a session about to be revoked would die with it.
#[test]
fn a_task_with_a_credential_in_doubt_draws_nothing_more_from_its_session() {
    let mut model = Model::new();
    let free = |model: &Model, task: u64| {
        let guard = Guard::NothingInDoubt(task_id(task), role().provider().clone(), None);
        model.state.check(&guard, NOW).is_ok()
    };
    model.all([
        started(new_task(1, 1)),
        started(new_task(2, 1)),
        intended(1, 1, 1),
    ]);
    let mut without = Model::new();
    without.all([started(new_task(1, 1)), intended(1, 1, 1), revoking(1)]);
    assert!(free(&without, 1), "there is no session yet");
    without.now = NOW.plus(HOUR);
    without.all([anchor(9, 1)]);
    assert!(
        free(&without, 1),
        "it was not drawn with a session of later"
    );
    // The order in the ledger counts, and not the times of a clock that was set back meanwhile.
    let mut earlier = anchor(1, 1);
    if let Event::AnchorRecorded { anchor } = &mut earlier {
        anchor.recorded_at = NOW.plus(HOUR);
    }
    model.all([earlier, anchor(2, 2), revoking(1)]);
    assert!(!free(&model, 1));
    assert!(free(&model, 2));
    let elsewhere = Guard::NothingInDoubt(task_id(1), "aws-prod".parse().unwrap(), None);
    assert!(model.state.check(&elsewhere, NOW).is_ok());
    model.all([revoked(1)]);
    assert!(free(&model, 1), "it is settled");
    // Revoking a credential with a known outcome does not touch the session.
    model.all([intended(3, 1, 1), issued(3), revoking(3)]);
    assert!(free(&model, 1));
}

/// A doubt about one kind of session leaves the sessions of other kinds alone.
#[test]
fn a_doubt_reaches_the_anchors_with_its_key_and_those_without_a_key() {
    let [a, b] = ["a", "b"].map(|part| Some(AnchorKey::of([part])));
    let free = |model: &Model, key: Option<AnchorKey>| {
        let guard = Guard::NothingInDoubt(task_id(1), role().provider().clone(), key);
        model.state.check(&guard, NOW).is_ok()
    };
    let keyed_anchor = |n: u64, key: Option<AnchorKey>| {
        let mut event = anchor(n, 1);
        if let Event::AnchorRecorded { anchor } = &mut event {
            anchor.key = key;
        }
        event
    };
    let keyed_intent = |n: u64, key: Option<AnchorKey>| {
        let mut event = intended(n, 1, 1);
        if let Event::CredentialIntended { credential, .. } = &mut event {
            credential.anchor_key = key;
        }
        event
    };
    let with = |anchors: &[Option<AnchorKey>], doubt: Option<AnchorKey>| {
        let mut model = Model::new();
        model.all([started(new_task(1, 1)), keyed_intent(1, doubt)]);
        for (n, key) in (1..).zip(anchors) {
            model.all([keyed_anchor(n, *key)]);
        }
        model.all([revoking(1)]);
        model
    };
    let model = with(&[a, b], a);
    assert!(!free(&model, a) && free(&model, b));
    assert!(!free(&model, None), "it may be issued through any of them");
    assert!(free(&with(&[b], a), a), "nothing is issued through `a` yet");
    // An anchor of an earlier release, and a credential in doubt of one.
    let model = with(&[None], a);
    assert!(!free(&model, a) && !free(&model, b));
    let model = with(&[a, b], None);
    assert!(!free(&model, a) && !free(&model, b));
}
