//! Renewals that are repeated, and those that something overtakes.

use std::{sync::atomic::Ordering, time::Duration};

use super::*;
use crate::engine::{
    RevokeCredential, Settings,
    testing::{Bench, NOW, eventually},
};

const HALF: Duration = Duration::from_secs(1800);

#[test]
fn one_renewal_of_a_credential_at_a_time() {
    let (renewals, id) = (
        Renewals::default(),
        CredentialId::first_at(Timestamp::EPOCH),
    );
    let running = renewals.begin(id);
    assert!(running.is_some());
    assert!(renewals.begin(id).is_none());
    let other = CredentialId::first_at(Timestamp::from_millis(1));
    assert!(renewals.begin(other).is_some());
    drop(running);
    assert!(renewals.begin(id).is_some());
}

#[tokio::test]
async fn a_repeated_renewal_extends_once_and_answers_the_same() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let (fake, task) = (&bench.fakes[0], bench.task().await);
    let id = bench.issued(fake, task, HALF).await.id;
    let renew = async |key: &str| {
        let request = RenewCredential {
            credential_id: id.to_string(),
            ttl_seconds: 3000,
        };
        let renewed = bench.engine.renew_credential(&bench.agent, key, &request);
        renewed.await.map(|(_, until)| until)
    };
    let until = renew("k").await.unwrap();
    bench.clock.advance(Duration::from_secs(60));
    assert_eq!(renew("k").await.unwrap(), until);
    assert_eq!(fake.renewals.load(Ordering::SeqCst), 1);
    assert!(renew("l").await.unwrap() > until);
    assert_eq!(fake.renewals.load(Ordering::SeqCst), 2);
}

/// Of a request to issue that was carried out twice, only one product can be renewed: the other lives as long as it was to.
#[tokio::test]
async fn a_renewal_never_ends_anything_earlier() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let (fake, task) = (&bench.fakes[0], bench.task().await);
    let issued = bench.issued(fake, task, HALF).await;
    let request = RenewCredential {
        credential_id: issued.id.to_string(),
        ttl_seconds: 60,
    };
    let renewed = bench.engine.renew_credential(&bench.agent, "k", &request);
    assert_eq!(renewed.await.unwrap(), (issued.id, issued.expires_at));
    assert_eq!(fake.renewals.load(Ordering::SeqCst), 0);
    assert_eq!(
        bench.credential(issued.id).await.expires_at,
        issued.expires_at
    );
}

/// The end in an earlier answer is no life: what was revoked since is said to be so, also by a renewal that was under way.
#[tokio::test]
async fn a_renewal_promises_nothing_of_what_was_revoked_meanwhile() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let (fake, task) = (&bench.fakes[0], bench.task().await);
    let id = bench.issued(fake, task, HALF).await.id;
    let renew = |key: &'static str| {
        let request = RenewCredential {
            credential_id: id.to_string(),
            ttl_seconds: 3000,
        };
        let (engine, call) = (bench.engine.clone(), bench.agent.clone());
        let renewing = async move { engine.renew_credential(&call, key, &request).await };
        bench.engine.tasks().spawn(renewing)
    };
    renew("k").await.unwrap().unwrap();

    let held = fake.renewing.acquire().await.unwrap();
    let under_way = renew("l");
    eventually("the provider is asked", || async {
        fake.renewals.load(Ordering::SeqCst) == 2
    })
    .await;
    let revoke = RevokeCredential {
        credential_id: id.to_string(),
        wait_ms: 1,
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

/// A provider that gave no answer may have renewed, and nobody is told that it did not.
#[tokio::test]
async fn of_a_renewal_without_an_answer_nobody_knows() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let (fake, task) = (&bench.fakes[0], bench.task().await);
    let id = bench.issued(fake, task, HALF).await.id;
    let renew = async |key: &str| {
        let request = RenewCredential {
            credential_id: id.to_string(),
            ttl_seconds: 3000,
        };
        let renewed = bench.engine.renew_credential(&bench.agent, key, &request);
        renewed.await.map(|(_, until)| until)
    };
    fake.is_down.store(true, Ordering::SeqCst);
    assert!(renew("k").await.is_err());
    fake.is_down.store(false, Ordering::SeqCst);
    let ends_at = bench.credential(id).await.ends_at();
    assert_eq!(ends_at, NOW.plus(Duration::from_secs(3000)), "the safe one");
    let refused = renew("k").await.unwrap_err().to_string();
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
