//! The promises, one function each. The names are the names of the tests.

use std::time::Duration;

use taskpass_core::{RevocationClass, Timestamp};

use super::{Fixture, RecordedAnchors, intent_item, known_item, revoke_order};
use crate::{
    IssueOrder, Issued, Liveness, ProviderError, RenewOrder, RevokeOrder, RevokeScope, Revoked,
};

/// How long a revocation may stay retryable: some seconds while a call is in doubt, and longer on a
/// busy machine.
const REVOKE_WAIT_MAX: Duration = Duration::from_secs(30);
/// The pause before the next try if the provider does not tell how long to wait.
const REVOKE_PAUSE: Duration = Duration::from_millis(50);

/// Every role belongs to the provider, is named once, and its required parameters exist.
pub async fn roles_are_well_formed(fixture: &dyn Fixture) {
    let provider = fixture.provider();
    assert!(!provider.kind().is_empty(), "the provider has no kind");
    let roles = provider.roles();
    for (index, role) in roles.iter().enumerate() {
        assert_eq!(
            role.name.provider(),
            provider.name(),
            "a role of another provider"
        );
        assert!(!role.kind.is_empty(), "role `{}` has no type", role.name);
        let named_again = roles
            .iter()
            .skip(index + 1)
            .any(|other| other.name == role.name);
        assert!(!named_again, "role `{}` is there twice", role.name);
        for param in &role.required {
            assert!(
                role.params.contains_key(param),
                "`{}` requires unknown `{param}`",
                role.name
            );
        }
    }
}

/// A healthy back end passes the check, and `maintain` can run at any time, twice in a row.
pub async fn check_and_maintain_succeed(fixture: &dyn Fixture) {
    let health = fixture.provider().check().await;
    assert!(
        health.is_ok_and(|h| !h.findings.is_empty()),
        "the check of a healthy back end fails"
    );
    for _ in 0..2 {
        assert_eq!(
            fixture.provider().maintain().await,
            Ok(()),
            "`maintain` fails"
        );
    }
}

/// An issued credential works; once revoked it does not, and proof is claimed only if a probe
/// agrees.
pub async fn issued_works_until_revoked(fixture: &dyn Fixture) {
    let (order, issued, anchors) = issue_one(fixture).await;
    assert!(
        fixture.usable(&issued).await,
        "a fresh credential is not accepted"
    );
    let revoke = credentials_order(fixture, &order, &issued, &anchors);
    if fixture.revoking_kills() {
        let liveness = probe(fixture, &revoke).await;
        assert!(
            !matches!(liveness, Liveness::Dead(_)),
            "a live credential is called dead"
        );
    }
    let revoked = revoke_one(fixture, &revoke).await;
    check_receipt(fixture, &revoke, &revoked).await;
    assert_eq!(
        fixture.usable(&issued).await,
        !fixture.revoking_kills(),
        "revoked as `{}`, but use says otherwise",
        revoked.proof
    );
}

/// Revoking a credential twice succeeds and gives the same result.
pub async fn revoking_is_idempotent(fixture: &dyn Fixture) {
    let (order, issued, anchors) = issue_one(fixture).await;
    let revoke = credentials_order(fixture, &order, &issued, &anchors);
    let first = revoke_one(fixture, &revoke).await;
    let second = revoke_one(fixture, &revoke).await;
    assert_eq!(
        first.verified, second.verified,
        "{first:?}, then {second:?}"
    );
}

/// After a crash between minting and recording, the intent and the anchors are enough to revoke.
pub async fn intent_alone_is_enough_to_revoke(fixture: &dyn Fixture) {
    let (order, issued, anchors) = issue_one(fixture).await;
    let item = intent_item(fixture.provider(), &order, fixture.now());
    let revoke = revoke_order(&order, RevokeScope::Credentials, &anchors, vec![item]);
    let revoked = revoke_one(fixture, &revoke).await;
    check_receipt(fixture, &revoke, &revoked).await;
    assert_eq!(
        fixture.usable(&issued).await,
        !fixture.revoking_kills(),
        "revoked from its intent as `{}`, but use says otherwise",
        revoked.proof
    );
}

/// An intent that never reached the back end does not stay pending for ever: once it is old,
/// revoking it succeeds.
pub async fn unknown_credentials_are_revoked_without_error(fixture: &dyn Fixture) {
    let order = fixture.order(fixture.new_task());
    let long_ago = fixture.now().minus(Duration::from_secs(7200));
    let item = intent_item(fixture.provider(), &order, long_ago);
    let none = RecordedAnchors::new();
    let revoke = revoke_order(&order, RevokeScope::Credentials, &none, vec![item]);
    revoke_one(fixture, &revoke).await;
    let empty = revoke_order(&order, RevokeScope::Task, &none, Vec::new());
    let results = fixture.provider().revoke(&empty).await;
    assert_eq!(
        results,
        Ok(Vec::new()),
        "a task without anything cannot be revoked"
    );
}

/// Two calls at once yield two different credentials, and both work.
pub async fn concurrent_issues_are_distinct(fixture: &dyn Fixture) {
    let anchors = RecordedAnchors::new();
    let task = fixture.new_task();
    let (one, two) = (fixture.order(task), fixture.order(task));
    let provider = fixture.provider();
    let (first, second) = tokio::join!(
        provider.issue(&one, &anchors),
        provider.issue(&two, &anchors)
    );
    let (first, second) = (expect_issued(first), expect_issued(second));
    // A static secret is the same for every task, and so is its handle.
    assert!(
        first.handle.is_none() || first.handle != second.handle || !fixture.revoking_kills(),
        "both have the same handle"
    );
    assert!(
        fixture.usable(&first).await && fixture.usable(&second).await,
        "one does not work"
    );
}

/// A credential ends by the requested time, and its anchors by the task's deadline.
pub async fn nothing_lives_longer_than_asked(fixture: &dyn Fixture) {
    let (order, issued, anchors) = issue_one(fixture).await;
    assert!(
        issued.expires_at <= order.expires_at,
        "asked until {}, got until {}",
        order.expires_at,
        issued.expires_at
    );
    assert!(
        issued.expires_at > fixture.now(),
        "expired when it was issued"
    );
    if let Some(life) = issued.lives_for {
        // The broker calls it expired once it has counted this life.
        let ends_by = fixture.now().plus(life);
        assert!(
            ends_by >= issued.expires_at,
            "lives until {}, and its life of {life:?} ends at {ends_by}",
            issued.expires_at
        );
    }
    let latest = anchors.latest_expiry().unwrap_or(order.task_deadline);
    assert!(
        latest <= order.task_deadline,
        "an anchor lives until {latest}, beyond the deadline"
    );
}

/// Neither the credential's secrets nor the provider's own are in handles, anchors, proofs, errors
/// or `Debug`.
pub async fn secrets_stay_in_the_data(fixture: &dyn Fixture) {
    let (order, issued, anchors) = issue_one(fixture).await;
    let revoke = credentials_order(fixture, &order, &issued, &anchors);
    let liveness = probe(fixture, &revoke).await;
    let revoked = revoke_one(fixture, &revoke).await;
    let refusal = match fixture.denied_order() {
        Some(denied) => format!(
            "{:?}",
            fixture.provider().issue(&denied, &anchors).await.err()
        ),
        None => String::new(),
    };
    let said = [
        format!("{issued:?}"),
        format!("{:?}", fixture.provider()),
        format!("{:?}", anchors.handles()),
        format!("{:?}", fixture.provider().check().await),
        format!("{liveness:?} {revoked:?} {revoke:?} {refusal}"),
    ];
    // Short fields, such as a flag, are no secrets and appear by chance.
    const SECRET_BYTES_MIN: usize = 12;
    let fields = issued
        .data
        .iter()
        .map(|(_, secret)| secret.expose().to_owned());
    // A handle that repeats a public field of the data, such as an access key's id, is the
    // provider's to defend in its own tests; private parts are named so by every engine.
    let canaries = fixture.canaries().into_iter().chain(fields);
    for canary in canaries.filter(|text| text.len() >= SECRET_BYTES_MIN) {
        for text in &said {
            assert!(
                !text.contains(&canary),
                "a secret is shown in `{}`",
                masked(text, &canary)
            );
        }
    }
}

/// A refusal is final and promises that nothing was minted.
pub async fn refusals_mint_nothing(fixture: &dyn Fixture) {
    let Some(order) = fixture.denied_order() else {
        return;
    };
    let outcome = fixture
        .provider()
        .issue(&order, &RecordedAnchors::new())
        .await;
    let error = outcome.err();
    assert!(
        error
            .as_ref()
            .is_some_and(|e| e.nothing_was_minted() && !e.is_retryable()),
        "an order without permission ends as {error:?}"
    );
}

/// A scope that would reach beyond the role's template is refused before anything is minted.
pub async fn hostile_scopes_are_refused(fixture: &dyn Fixture) {
    for order in fixture.hostile_orders() {
        let outcome = fixture
            .provider()
            .issue(&order, &RecordedAnchors::new())
            .await;
        let refused = matches!(&outcome, Err(e) if e.nothing_was_minted());
        assert!(refused, "scope {:?} ends as {outcome:?}", order.scope);
    }
}

/// Ending the task revokes the credentials on record, and also credentials that its anchors issued
/// and that are on no record.
pub async fn ending_the_task_covers_everything(fixture: &dyn Fixture) {
    let anchors = RecordedAnchors::new();
    let task = fixture.new_task();
    let (known_order, lost_order) = (fixture.order(task), fixture.order(task));
    let known = expect_issued(fixture.provider().issue(&known_order, &anchors).await);
    let lost = expect_issued(fixture.provider().issue(&lost_order, &anchors).await);
    let items = vec![
        known_item(&known_order, &known, &anchors, fixture.now()),
        intent_item(fixture.provider(), &lost_order, fixture.now()),
    ];
    let revoke = revoke_order(&known_order, RevokeScope::Task, &anchors, items);
    for revoked in revoke_all(fixture, &revoke).await {
        check_receipt(fixture, &revoke, &revoked).await;
    }
    for issued in [&known, &lost] {
        let usable = fixture.usable(issued).await;
        assert_eq!(usable, !fixture.revoking_kills(), "after its task's end");
    }
}

/// Revoking one credential does not touch another of the same task.
pub async fn revoking_one_leaves_the_others(fixture: &dyn Fixture) {
    let anchors = RecordedAnchors::new();
    let task = fixture.new_task();
    let (one, two) = (fixture.order(task), fixture.order(task));
    let first = expect_issued(fixture.provider().issue(&one, &anchors).await);
    let second = expect_issued(fixture.provider().issue(&two, &anchors).await);
    revoke_one(fixture, &credentials_order(fixture, &one, &first, &anchors)).await;
    assert!(
        fixture.usable(&second).await,
        "revoking one killed the other"
    );
}

/// Renewing never goes beyond the requested end; a role that cannot be renewed says so.
pub async fn renewing_stays_within_bounds(fixture: &dyn Fixture) {
    let (order, issued, anchors) = issue_one(fixture).await;
    let renewable = fixture
        .provider()
        .roles()
        .iter()
        .any(|spec| spec.name == order.role && spec.renewable);
    let renew = RenewOrder {
        credential: order.credential,
        task: order.task,
        role: order.role.clone(),
        handle: issued.handle.clone(),
        anchor: issued.anchor.and_then(|id| anchors.handle(id)),
        until: order.task_deadline,
    };
    match fixture.provider().renew(&renew).await {
        Ok(renewed) => assert!(
            renewed.expires_at <= renew.until,
            "renewed until {}, asked for {}",
            renewed.expires_at,
            renew.until
        ),
        // An engine may mint single credentials that cannot be renewed although the role's usually
        // can.
        Err(ProviderError::Unsupported(_)) => {}
        Err(error) => panic!("renewing ends as {error:?} (renewable: {renewable})"),
    }
}

/// If the anchor cannot be recorded, a provider that needs one issues nothing.
pub async fn nothing_is_issued_unrecorded(fixture: &dyn Fixture) {
    let order = fixture.order(fixture.new_task());
    let refusing = RecordedAnchors::refusing();
    let outcome = fixture.provider().issue(&order, &refusing).await;
    if let Ok(issued) = outcome {
        assert!(
            issued.anchor.is_none(),
            "claims an anchor that was never recorded"
        );
        let item = intent_item(fixture.provider(), &order, fixture.now());
        let revoke = revoke_order(&order, RevokeScope::Credentials, &refusing, vec![item]);
        revoke_one(fixture, &revoke).await;
        assert_eq!(
            fixture.usable(&issued).await,
            !fixture.revoking_kills(),
            "minted without an anchor, and its intent is not enough to revoke it"
        );
    }
}

/// While the back end is down, no receipt claims a death; once it is back, revoking succeeds.
pub async fn a_broken_back_end_is_retryable(fixture: &dyn Fixture) {
    let (order, issued, anchors) = issue_one(fixture).await;
    let revoke = credentials_order(fixture, &order, &issued, &anchors);
    if !fixture.break_back_end().await {
        return;
    }
    let results = fixture.provider().revoke(&revoke).await;
    let claimed = results
        .iter()
        .flatten()
        .any(|r| matches!(r, Ok(done) if done.verified));
    // For a credential that cannot be revoked, the receipt needs no call to the back end.
    let needs_no_call = !fixture.revoking_kills();
    let retryable = match &results {
        Ok(items) => items.iter().all(|result| match result {
            Ok(revoked) => needs_no_call && !revoked.verified,
            Err(error) => error.is_retryable(),
        }),
        Err(error) => error.is_retryable(),
    };
    assert!(
        !claimed && retryable,
        "with the back end down, revoking ends as {results:?}"
    );
    let liveness = fixture.provider().probe(&revoke).await;
    assert!(
        !matches!(liveness, Ok(Liveness::Dead(_))),
        "called dead while the back end cannot be asked"
    );
    let issue = fixture
        .provider()
        .issue(&fixture.order(order.task), &anchors)
        .await;
    assert!(
        matches!(&issue, Err(e) if e.is_retryable()),
        "issuing ends as {issue:?}"
    );
    fixture.mend_back_end().await;
    let revoked = revoke_one(fixture, &revoke).await;
    check_receipt(fixture, &revoke, &revoked).await;
}

async fn issue_one(fixture: &dyn Fixture) -> (IssueOrder, Issued, RecordedAnchors) {
    let anchors = RecordedAnchors::new();
    let order = fixture.order(fixture.new_task());
    let issued = expect_issued(fixture.provider().issue(&order, &anchors).await);
    (order, issued, anchors)
}

fn expect_issued(outcome: Result<Issued, ProviderError>) -> Issued {
    match outcome {
        Ok(issued) => issued,
        Err(error) => panic!("issuing ends as {error:?}"),
    }
}

fn credentials_order(
    fixture: &dyn Fixture,
    order: &IssueOrder,
    issued: &Issued,
    anchors: &RecordedAnchors,
) -> RevokeOrder {
    let item = known_item(order, issued, anchors, fixture.now());
    revoke_order(order, RevokeScope::Credentials, anchors, vec![item])
}

async fn probe(fixture: &dyn Fixture, revoke: &RevokeOrder) -> Liveness {
    match fixture.provider().probe(revoke).await {
        Ok(liveness) => liveness,
        Err(error) => panic!("probing ends as {error:?}"),
    }
}

async fn revoke_one(fixture: &dyn Fixture, revoke: &RevokeOrder) -> Revoked {
    let mut results = revoke_all(fixture, revoke).await;
    match results.pop() {
        Some(revoked) if results.is_empty() => revoked,
        _ => panic!("one item was to be revoked; the number of results is not one"),
    }
}

/// Tries again while the error is retryable, after the time that the provider tells, as the broker
/// does.
async fn revoke_all(fixture: &dyn Fixture, revoke: &RevokeOrder) -> Vec<Revoked> {
    let last = parking_lot::Mutex::new(String::new());
    let trying = async {
        loop {
            let error = match revoke_once(fixture, revoke).await {
                Ok(revoked) => return revoked,
                Err(error) => error,
            };
            assert!(error.is_retryable(), "revoking ends as {error:?}");
            *last.lock() = error.to_string();
            tokio::time::sleep(error.after().unwrap_or_default().max(REVOKE_PAUSE)).await;
        }
    };
    let outcome = tokio::time::timeout(REVOKE_WAIT_MAX, trying).await;
    outcome.unwrap_or_else(|_elapsed| {
        panic!(
            "after {REVOKE_WAIT_MAX:?} revoking is still retryable: {}",
            last.lock()
        )
    })
}

/// All results, or the first error.
async fn revoke_once(
    fixture: &dyn Fixture,
    revoke: &RevokeOrder,
) -> Result<Vec<Revoked>, ProviderError> {
    let results = fixture.provider().revoke(revoke).await?;
    assert_eq!(
        results.len(),
        revoke.items.len(),
        "one result for each item"
    );
    results.into_iter().collect()
}

/// A probe must agree with a verified receipt; any other receipt must tell until when the
/// credential may live.
async fn check_receipt(fixture: &dyn Fixture, revoke: &RevokeOrder, revoked: &Revoked) {
    assert!(
        !revoked.proof.is_empty() && !revoked.proof.contains('\n'),
        "{:?}",
        revoked.proof
    );
    if revoked.verified {
        assert_eq!(
            revoked.may_live_until, None,
            "verified, and yet it may live"
        );
        let class_can_die = revoke.items.iter().any(|item| {
            !matches!(
                item.revocation_class,
                RevocationClass::None | RevocationClass::ExpiryOnly
            )
        });
        assert!(
            class_can_die,
            "a credential of a class that cannot be revoked is called verified"
        );
        let all_known = revoke.items.iter().all(|item| item.outcome_known);
        let liveness = probe(fixture, revoke).await;
        let agrees = match &liveness {
            Liveness::Dead(_) => true,
            // A probe cannot always tell whether an intent led to a credential.
            Liveness::Unknown(_) => !all_known,
            Liveness::Alive(_) => false,
        };
        assert!(
            agrees,
            "verified as `{}`, but the probe says {liveness:?}",
            revoked.proof
        );
    } else {
        let until = revoked.may_live_until.unwrap_or(Timestamp::EPOCH);
        assert!(
            until > Timestamp::EPOCH,
            "not verified, and does not tell until when it may live"
        );
    }
}

fn masked(text: &str, canary: &str) -> String {
    text.replace(canary, "<the secret>")
}
