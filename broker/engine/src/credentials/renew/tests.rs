//! Renewals that callers repeat, and renewals that a revocation or another renewal overtakes.

use std::{sync::atomic::Ordering, time::Duration};

use taskpass_policy::{PolicyFile, PolicySet};

use super::*;
use crate::{
    Configuration, ProviderSettings, RevokeCredential, Settings,
    testing::{Bench, NOW, fake_role, key_of},
};

const HALF: Duration = Duration::from_secs(1800);

fn request(credential: CredentialId, seconds: u64) -> RenewCredential {
    RenewCredential {
        credential,
        ttl: Some(Ttl::from_seconds(seconds).unwrap()),
    }
}

async fn renew(
    bench: &Bench,
    id: CredentialId,
    key: &str,
    seconds: u64,
) -> Result<Timestamp, Error> {
    let (key, request) = (key_of(key), request(id, seconds));
    let renewed = bench
        .engine
        .renew_credential(&bench.agent, key.as_ref(), &request);
    renewed.await.map(|renewed| renewed.expires_at)
}

#[tokio::test]
async fn a_repeated_renewal_extends_once_and_answers_the_same() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let (fake, task) = (&bench.fakes[0], bench.task().await);
    let id = bench.issued(fake, task, HALF).await.id;
    let renew = async |key: &str| renew(&bench, id, key, 3000).await;
    let until = renew("k").await.unwrap();
    bench.clock.advance(Duration::from_secs(60));
    assert_eq!(renew("k").await.unwrap(), until);
    assert_eq!(fake.renewals.load(Ordering::SeqCst), 1);
    assert!(renew("l").await.unwrap() > until);
    assert_eq!(fake.renewals.load(Ordering::SeqCst), 2);
}

/// If the back end carried out a request to issue twice, a renewal reaches only one of the two
/// copies. The other one lives until the recorded end, so a renewal must not move that end forward.
#[tokio::test]
async fn a_renewal_never_ends_anything_earlier() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let (fake, task) = (&bench.fakes[0], bench.task().await);
    let issued = bench.issued(fake, task, HALF).await;
    for key in ["k", "", "k"] {
        let until = renew(&bench, issued.id, key, 60).await.unwrap();
        assert_eq!(until, issued.expires_at);
        bench.clock.advance(Duration::from_secs(1));
    }
    assert_eq!(fake.renewals.load(Ordering::SeqCst), 0);
    let recorded = bench.credential(issued.id).await;
    assert_eq!(recorded.expires_at, issued.expires_at);
    // The broker gives the first answer again, although it is less than the request asks for by
    // now.
    bench.clock.advance(HALF - Duration::from_secs(33));
    assert_eq!(
        renew(&bench, issued.id, "k", 60).await.unwrap(),
        issued.expires_at
    );
    assert!(renew(&bench, issued.id, "l", 60).await.unwrap() > issued.expires_at);
}

/// The provider gave more than was asked for. The broker ends the credential at the requested time,
/// and can move that time up to the provider's end without a call.
#[tokio::test]
async fn a_renewal_within_the_life_that_the_provider_gave_makes_no_call() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let (fake, task) = (&bench.fakes[0], bench.task().await);
    let id = bench.issued(fake, task, 4 * HALF).await.id;
    assert_eq!(bench.credential(id).await.ends_at(), NOW.plus(HALF));
    let until = NOW.plus(Duration::from_secs(3000));
    assert_eq!(renew(&bench, id, "k", 3000).await.unwrap(), until);
    assert_eq!(renew(&bench, id, "k", 3000).await.unwrap(), until);
    assert_eq!(renew(&bench, id, "l", 60).await.unwrap(), until);
    assert_eq!(fake.renewals.load(Ordering::SeqCst), 0);
    let recorded = bench.credential(id).await;
    assert_eq!(
        (recorded.ends_at(), recorded.expires_at),
        (until, NOW.plus(4 * HALF))
    );
}

/// A provider that gave no answer may carry the renewal out at any time, and the life it gives
/// counts from then.
#[tokio::test]
async fn a_credential_that_a_lost_renewal_may_have_extended_is_revoked_at_its_end() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let (fake, task) = (&bench.fakes[0], bench.task().await);
    let [lost, answered] = [
        bench.issued(fake, task, HALF).await.id,
        bench.issued(fake, task, HALF).await.id,
    ];
    fake.is_down.store(true, Ordering::SeqCst);
    assert!(renew(&bench, lost, "", 2000).await.is_err());
    fake.is_down.store(false, Ordering::SeqCst);
    // The answer to a second renewal does not resolve the lost one, and a request for less must not
    // move the recorded end forward.
    let until = renew(&bench, lost, "", 60).await.unwrap();
    assert_eq!(until, NOW.plus(Duration::from_secs(2000)));
    assert_eq!(fake.renewals.load(Ordering::SeqCst), 2);
    renew(&bench, answered, "", 2000).await.unwrap();
    bench.clock.advance(Duration::from_secs(2001));
    bench.engine.reap().await.unwrap();
    let state = async |id| bench.credential(id).await.state;
    assert_eq!(state(lost).await, CredentialState::Revoking);
    assert_eq!(state(answered).await, CredentialState::Expired);
}

/// The broker compares the requested end with the present one only while no other renewal of the
/// credential runs.
#[tokio::test]
async fn a_renewal_waits_for_no_other_one_and_overtakes_none() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let (fake, task) = (&bench.fakes[0], bench.task().await);
    let id = bench.issued(fake, task, HALF).await.id;
    let held = fake.renewing.acquire().await.unwrap();
    let (engine, call) = (bench.engine.clone(), bench.agent.clone());
    let request = request(id, 3000);
    let under_way = async move { engine.renew_credential(&call, None, &request).await };
    let under_way = bench.engine.tasks().spawn(under_way);
    bench
        .eventually("the provider is asked", || async {
            fake.renewals.load(Ordering::SeqCst) == 1
        })
        .await;
    for seconds in [60, 2400] {
        let refused = renew(&bench, id, "", seconds).await.unwrap_err();
        assert!(refused.to_string().contains("just being renewed"));
    }
    drop(held);
    let until = under_way.await.unwrap().unwrap().expires_at;
    assert_eq!(renew(&bench, id, "", 2400).await.unwrap(), until);
    assert_eq!(fake.renewals.load(Ordering::SeqCst), 1);
}

/// The end in an earlier answer does not keep a credential alive. If the credential was revoked
/// since, a repeated renewal says so, and a renewal that was under way does too.
#[tokio::test]
async fn a_renewal_promises_nothing_of_a_credential_revoked_meanwhile() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let (fake, task) = (&bench.fakes[0], bench.task().await);
    let id = bench.issued(fake, task, HALF).await.id;
    let renew = |key: &'static str| {
        let (key, request) = (key_of(key), request(id, 3000));
        let (engine, call) = (bench.engine.clone(), bench.agent.clone());
        let renewing = async move { engine.renew_credential(&call, key.as_ref(), &request).await };
        bench.engine.tasks().spawn(renewing)
    };
    renew("k").await.unwrap().unwrap();

    let held = fake.renewing.acquire().await.unwrap();
    let under_way = renew("l");
    bench
        .eventually("the provider is asked", || async {
            fake.renewals.load(Ordering::SeqCst) == 2
        })
        .await;
    let revoke = RevokeCredential {
        credential: id,
        wait: Some(Duration::from_millis(1)),
    };
    let revoked = bench.engine.revoke_credential(&bench.agent, &revoke).await;
    revoked.unwrap();
    drop(held);
    let after = [under_way.await, renew("l").await, renew("k").await];
    for outcome in after {
        match outcome.unwrap() {
            Err(Error::Precondition(message)) => {
                assert!(message.contains("it is revoking"), "{message}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(fake.renewals.load(Ordering::SeqCst), 2);
}

/// A provider that gave no answer may have renewed, so the broker does not tell the caller that it
/// did not.
#[tokio::test]
async fn a_renewal_without_an_answer_is_reported_as_unknown() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let (fake, task) = (&bench.fakes[0], bench.task().await);
    let id = bench.issued(fake, task, HALF).await.id;
    let renew = async |key: &str| renew(&bench, id, key, 3000).await;
    fake.is_down.store(true, Ordering::SeqCst);
    assert!(renew("k").await.is_err());
    fake.is_down.store(false, Ordering::SeqCst);
    let ends_at = bench.credential(id).await.ends_at();
    assert_eq!(ends_at, NOW.plus(Duration::from_secs(3000)), "the safe one");
    let refused = renew("k").await.unwrap_err().message();
    let words = [
        "is not known".to_owned(),
        format!("until {ends_at} at most"),
        "with a new key".to_owned(),
    ];
    for word in words {
        assert!(refused.contains(&word), "{refused}");
    }
    assert_eq!(fake.renewals.load(Ordering::SeqCst), 1);
    assert_eq!(renew("l").await.unwrap(), ends_at);
}

/// A policy that permits nothing.
fn closed() -> Arc<PolicySet> {
    let file = PolicyFile {
        name: "closed.cedar".to_owned(),
        text: "@id(\"closed\") forbid (principal, action, resource);".to_owned(),
    };
    Arc::new(PolicySet::parse(&[file]).unwrap())
}

/// A repeated renewal decides nothing before the other one is over; what is in force by then
/// decides.
#[tokio::test]
async fn a_renewal_that_waited_is_decided_by_what_is_in_force_then() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let (fake, task) = (&bench.fakes[0], bench.task().await);
    let id = bench.issued(fake, task, HALF).await.id;
    let forbidding = || Configuration {
        policy: closed(),
        ..bench.configuration()
    };
    let without_provider = || Configuration {
        providers: Vec::new(),
        ..bench.configuration()
    };
    let before = bench.engine.snapshot().policy().clone();
    for (round, next) in [forbidding(), without_provider()].into_iter().enumerate() {
        let held = fake.renewing.acquire().await.unwrap();
        let (engine, call) = (bench.engine.clone(), bench.agent.clone());
        let first = request(id, 2000 + u64::try_from(round).unwrap());
        let first = async move { engine.renew_credential(&call, None, &first).await };
        let first = bench.engine.tasks().spawn(first);
        bench
            .eventually("the provider is asked", || async {
                fake.renewals.load(Ordering::SeqCst) == round + 1
            })
            .await;
        let mut second = Box::pin(renew(&bench, id, "k", 3000));
        tokio::select! {
            biased;
            early = &mut second => panic!("it does not wait: {early:?}"),
            () = std::future::ready(()) => {}
        }
        bench.swap(next);
        drop(held);
        first.await.unwrap().unwrap();
        let refused = second.await.unwrap_err();
        let as_late = match round {
            0 => matches!(refused, Error::Denied { .. }),
            _ => matches!(refused, Error::NotFound { .. }),
        };
        assert!(as_late, "{refused}");
        assert_eq!(fake.renewals.load(Ordering::SeqCst), round + 1);
        bench.swap(Configuration {
            policy: before.clone(),
            ..bench.configuration()
        });
    }
}

/// A call that waits for its turn at the provider is not made for a credential that was revoked
/// before the turn came.
#[tokio::test]
async fn what_is_revoked_before_its_turn_is_not_renewed() {
    let settings = Settings {
        provider: ProviderSettings {
            issue_concurrency: 1,
            ..ProviderSettings::default()
        },
        ..Settings::default()
    };
    let bench = Bench::new(&["a"], settings).await;
    let (fake, task) = (&bench.fakes[0], bench.task().await);
    let [first, second] = [
        bench.issued(fake, task, HALF).await.id,
        bench.issued(fake, task, HALF).await.id,
    ];
    let begin = |id| {
        let (engine, call) = (bench.engine.clone(), bench.agent.clone());
        let renewing = async move {
            engine
                .renew_credential(&call, None, &request(id, 3000))
                .await
        };
        bench.engine.tasks().spawn(renewing)
    };
    let held = fake.renewing.acquire().await.unwrap();
    let running = begin(first);
    bench
        .eventually("the provider is asked", || async {
            fake.renewals.load(Ordering::SeqCst) == 1
        })
        .await;
    let waiting = begin(second);
    bench
        .eventually("the other one is on record", || async {
            bench.credential(second).await.renewal_in_doubt()
        })
        .await;
    let revoke = RevokeCredential {
        credential: second,
        wait: Some(Duration::from_millis(1)),
    };
    let revoked = bench.engine.revoke_credential(&bench.agent, &revoke).await;
    revoked.unwrap();
    drop(held);
    running.await.unwrap().unwrap();
    let refused = waiting.await.unwrap().unwrap_err();
    assert!(
        matches!(&refused, Error::Precondition(why) if why.contains("it is revoking")),
        "{refused}"
    );
    assert_eq!(fake.renewals.load(Ordering::SeqCst), 1);
}

/// A role with `max_total_ttl` ends the renewals of a credential at that age, counted from the
/// intent.
#[tokio::test]
async fn renewals_end_at_the_longest_life_with_renewals() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let (fake, task) = (&bench.fakes[0], bench.task().await);
    let id = bench.issued(fake, task, HALF).await.id;
    let credential = bench.credential(id).await;
    let mut spec = fake_role("a");
    let late = NOW.plus(8 * HALF);
    assert_eq!(within_total(&credential, &spec, late), late);
    spec.max_total_ttl = Some(Ttl::from_seconds(2 * HALF.as_secs()).unwrap());
    let end = credential.intended_at.plus(2 * HALF);
    assert_eq!(within_total(&credential, &spec, late), end);
    let early = NOW.plus(HALF);
    assert_eq!(within_total(&credential, &spec, early), early);
}
