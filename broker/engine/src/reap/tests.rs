//! Credentials with an end that came by the wall clock.

use taskpass_core::RevokeCause;

use super::*;
use crate::{
    Settings,
    testing::{Bench, NOW},
};

const HALF: Duration = Duration::from_secs(1800);
const HOUR: Duration = Duration::from_secs(3600);

/// An open task with a credential that lives for half an hour.
async fn issued() -> (Bench, CredentialId) {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let task = bench.task().await;
    let id = bench.issued(&bench.fakes[0], task, HALF).await.id;
    (bench, id)
}

async fn state(bench: &Bench, id: CredentialId) -> CredentialState {
    bench.credential(id).await.state
}

#[tokio::test]
async fn a_life_that_passed_on_both_clocks_makes_a_credential_expired() {
    let (bench, id) = issued().await;
    bench.clock.advance(HALF);
    bench.engine.reap().await.unwrap();
    assert_eq!(state(&bench, id).await, CredentialState::Expired);
}

/// A wall clock that is ahead by less than the broker notices ends no life: the provider is asked
/// to revoke. A clock that is further ahead is not believed, so no end comes by it.
#[tokio::test]
async fn a_wall_clock_that_is_ahead_makes_no_credential_expired() {
    let (bench, id) = issued().await;
    bench.clock.set(NOW.plus(HOUR));
    bench.engine.reap().await.unwrap();
    assert_eq!(state(&bench, id).await, CredentialState::Active);

    bench.clock.set(NOW);
    bench.clock.advance(HALF - Duration::from_secs(180));
    bench.clock.set(NOW.plus(HALF));
    bench.engine.reap().await.unwrap();
    let recorded = bench.credential(id).await;
    assert_eq!(recorded.state, CredentialState::Revoking);
    let cause = recorded.revocation.as_ref().map(|r| r.cause);
    assert_eq!(cause, Some(RevokeCause::Expired));
    let revocations = bench.engine.revocations().await.unwrap();
    assert_eq!(revocations.due[0].credentials, [id]);
}

/// The end on record may come before the back end's own, by as much as the call took.
#[tokio::test]
async fn the_reaper_waits_a_moment_for_the_monotonic_clock() {
    let (bench, id) = issued().await;
    let second = Duration::from_secs(1);
    bench.clock.advance(HALF - second);
    bench.clock.set(NOW.plus(HALF));
    assert_eq!(bench.engine.reap().await.unwrap(), Some(second));
    assert_eq!(state(&bench, id).await, CredentialState::Active);
    bench.clock.advance(second);
    bench.engine.reap().await.unwrap();
    assert_eq!(state(&bench, id).await, CredentialState::Expired);
}

/// A restarted broker has not counted the life, so no clock agrees with the wall clock.
#[tokio::test]
async fn a_life_that_this_process_has_not_counted_ends_in_a_revocation() {
    let (bench, id) = issued().await;
    bench.engine.lives.record(id, None, Duration::ZERO);
    bench.clock.advance(HALF);
    bench.engine.reap().await.unwrap();
    assert_eq!(state(&bench, id).await, CredentialState::Revoking);
}
