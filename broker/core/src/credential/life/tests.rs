use std::time::Duration;

use super::*;
use crate::{Revocation, RevokeCause};

const SECOND: Duration = Duration::from_secs(1);
const INTENDED: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn at(seconds: u32) -> Timestamp {
    INTENDED.plus(SECOND * seconds)
}

fn intent() -> Credential {
    CredentialIntent {
        id: "c0000000000000001".parse().unwrap(),
        task: "t0000000000000001".parse().unwrap(),
        agent: "builder".parse().unwrap(),
        role: "vault-main/ci".parse().unwrap(),
        scope: Scope::default(),
        revocation_class: RevocationClass::Immediate,
        intended_at: INTENDED,
        expires_at: at(60),
        anchor_key: None,
        handle: None,
    }
    .into()
}

fn revoking(credential: &mut Credential, since: Timestamp, state: CredentialState) {
    credential.state = state;
    credential.revocation = Some(Box::new(Revocation {
        cause: RevokeCause::OutcomeUnknown,
        since,
        attempts: 0,
        retry_at: since,
        last_error: None,
        stuck: false,
        done_at: None,
        proof: None,
        may_live_until: None,
        identity_until: None,
    }));
}

#[test]
fn minting_follows_from_answer_state_and_revocation() {
    use CredentialState::{
        Abandoned, Active, Expired, Intended, RevokedUnverified, RevokedVerified, Revoking,
    };
    let unknown = Minting::Unknown { since: at(5) };
    let answered = Minting::Answered { at: at(2) };
    // State and whether the answer came: minting, in doubt, may yet be minted, came to nothing.
    let table = [
        (Intended, false, Minting::Asked, false, true, false),
        (Revoking, false, unknown, true, true, true),
        (RevokedVerified, false, unknown, false, false, true),
        (RevokedUnverified, false, unknown, false, false, true),
        (Expired, false, unknown, false, false, true),
        (Abandoned, false, Minting::Nothing, false, false, true),
        (Active, true, answered, false, false, false),
        (Revoking, true, answered, false, false, false),
        (RevokedVerified, true, answered, false, false, false),
        (RevokedUnverified, true, answered, false, false, false),
        (Expired, true, answered, false, false, false),
    ];
    for (state, issued, minting, in_doubt, may_yet, nothing) in table {
        let mut credential = intent();
        if issued {
            credential.record_issued(at(2), at(60));
        }
        if ![Intended, Active, Abandoned].contains(&state) {
            revoking(&mut credential, at(5), state);
        }
        credential.state = state;
        let seen = (
            credential.minting(),
            credential.in_doubt(),
            credential.may_yet_be_minted(),
            credential.came_to_nothing(),
        );
        assert_eq!(
            seen,
            (minting, in_doubt, may_yet, nothing),
            "{state:?}, {issued}"
        );
        assert_eq!(credential.is_issued(), issued);
        assert_eq!(credential.issued_at(), issued.then(|| at(2)));
        let latest = if minting == unknown { at(5) } else { INTENDED };
        assert_eq!(credential.asked_at_latest(), latest, "{state:?}, {issued}");
        assert_eq!(credential.is_intent(), state == Intended);
    }
}

#[test]
fn the_provider_was_not_asked_before_the_intent() {
    let mut credential = intent();
    revoking(
        &mut credential,
        INTENDED.minus(SECOND),
        CredentialState::Revoking,
    );
    assert_eq!(
        credential.minting(),
        Minting::Unknown { since: INTENDED },
        "a clock that went back does not make the doubt shorter"
    );
}

#[test]
fn an_answer_moves_an_intent_on_and_leaves_a_revocation() {
    let mut credential = intent();
    credential.record_issued(at(1), at(60));
    assert_eq!(credential.state, CredentialState::Active);
    let mut credential = intent();
    revoking(&mut credential, at(1), CredentialState::Revoking);
    credential.record_issued(at(2), at(60));
    assert_eq!(credential.state, CredentialState::Revoking);
    assert!(!credential.in_doubt());
}

#[test]
fn the_end_that_was_asked_for_is_kept_where_the_provider_gives_more() {
    // The provider's end; the end of a class that can be revoked; the end of a class that cannot.
    let table = [
        (at(30), at(30), at(30)),
        (at(60), at(60), at(60)),
        (at(62), at(62), at(62)),
        (at(63), at(60), at(63)),
    ];
    for (given, revocable, other) in table {
        let mut credential = intent();
        credential.record_issued(at(1), given);
        assert_eq!(credential.ends_at(), revocable, "{given}");
        assert_eq!(credential.asked_until().is_some(), revocable != given);
        credential.revocation_class = RevocationClass::ExpiryOnly;
        assert_eq!(credential.ends_at(), other, "{given}");
    }
}

#[test]
fn a_renewal_without_answer_leaves_the_end_open() {
    let mut credential = intent();
    credential.record_issued(at(1), at(60));
    assert!(credential.surely_outlives(at(59)) && credential.may_outlive(at(59)));
    assert!(!credential.surely_outlives(at(60)) && !credential.may_outlive(at(60)));

    credential.record_renewal_asked(at(120));
    assert!(credential.renewal_in_doubt());
    assert_eq!(
        credential.ends_at(),
        at(120),
        "it may be carried out at once"
    );
    assert!(credential.may_outlive(at(500)), "or much later");
    assert!(!credential.surely_outlives(at(30)), "or never");

    credential.record_renewal_asked(at(90));
    assert_eq!(
        credential.ends_at(),
        at(120),
        "a shorter renewal takes nothing away"
    );
    credential.record_renewed(at(120));
    assert!(credential.renewal_in_doubt(), "the other one is still open");
    credential.record_renewed(at(120));
    assert!(!credential.renewal_in_doubt());
    assert!(credential.surely_outlives(at(119)) && !credential.may_outlive(at(120)));
    assert!(!credential.in_doubt(), "its minting was never in doubt");
}

/// It was asked for an hour after the accepted time, by a wrong clock.
#[test]
fn an_accepted_time_moves_the_ends_that_a_wrong_clock_counted() {
    let accepted = INTENDED.minus(SECOND * 3600);
    let mut credential = intent();
    credential.record_issued(at(1), at(200));
    credential.record_time_accepted(accepted);
    assert_eq!(credential.intended_at, accepted);
    assert_eq!(credential.expires_at, accepted.plus(SECOND * 200));
    assert_eq!(credential.ends_at(), accepted.plus(SECOND * 60));

    // The back end named its own, right time.
    let right = accepted.plus(SECOND * 600);
    let mut credential = intent();
    credential.record_issued(at(1), right);
    credential.record_time_accepted(accepted);
    assert_eq!(credential.expires_at, right);

    let mut credential = intent();
    let before = credential.clone();
    credential.record_time_accepted(INTENDED);
    assert_eq!(credential, before, "it was asked for before");
}

#[test]
fn the_record_reads_as_it_always_did() {
    let mut credential = intent();
    let json = serde_json::to_string(&credential).unwrap();
    for absent in ["issued_at", "asked_until", "renewals_unanswered"] {
        assert!(!json.contains(absent), "{json}");
    }
    credential.record_issued(at(1), at(70));
    credential.record_renewal_asked(at(65));
    let json = serde_json::to_value(&credential).unwrap();
    assert_eq!(json["renewals_unanswered"], 1);
    assert!(
        json["issued_at"].is_string() && json["asked_until"].is_string(),
        "{json}"
    );
    assert_eq!(
        serde_json::from_value::<Credential>(json).unwrap(),
        credential
    );
}
