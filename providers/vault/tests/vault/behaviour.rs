//! Beyond the suite of all providers: sessions, tokens, leases, and the broker's own token.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::join_all;
use serde_json::{Value, json};
use taskpass_core::{AnchorId, ManualClock, RevocationClass, Timestamp};
use taskpass_provider::{
    Anchors, Provider, ProviderError, RevokeScope,
    conformance::{Fixture, RecordedAnchors, intent_item, known_item, revoke_order},
};
use taskpass_provider_vault::VaultProvider;

use crate::{
    server::Weather,
    world::{World, config, lease_id, revoke, write_secret},
};

fn accessor(handle: &Value) -> &str {
    handle["accessor"].as_str().unwrap()
}

#[tokio::test]
async fn a_task_has_one_session_however_many_calls_come_at_once() {
    let world = World::new("pki").await;
    let anchors = RecordedAnchors::new();
    let (one, other) = (world.new_task(), world.new_task());
    let orders: Vec<_> = (0..8)
        .map(|_| world.order(one))
        .chain([world.order(other)])
        .collect();
    let issued = join_all(
        orders
            .iter()
            .map(|order| world.provider.issue(order, &anchors)),
    )
    .await;
    assert!(issued.iter().all(Result::is_ok), "{issued:?}");
    assert_eq!(anchors.handles().len(), 2, "one session for each task");
}

#[tokio::test]
async fn the_brokers_token_can_be_replaced_and_revoked_under_running_tasks() {
    let world = World::new("pki").await;
    let anchors = RecordedAnchors::new();
    let task = world.new_task();
    let before = world
        .provider
        .issue(&world.order(task), &anchors)
        .await
        .unwrap();
    let settings = json!({"period": "1h", "policies": ["broker"]});
    world.replace_broker_token(settings).await;
    world
        .bao
        .must(
            "POST",
            "auth/token/revoke",
            json!({"token": world.broker_token}),
        )
        .await;

    assert!(
        world.lease_is_there(&lease_id(&before)).await,
        "the lease belonged to the broker's token"
    );
    assert!(
        world
            .token_is_there(accessor(&anchors.handles()[0].1))
            .await,
        "so did the session"
    );
    let after = world
        .provider
        .issue(&world.order(task), &anchors)
        .await
        .unwrap();
    assert!(world.usable(&after).await && anchors.handles().len() == 1);
    assert!(world.provider.check().await.is_ok());
}

#[tokio::test]
async fn after_a_restart_the_task_ends_with_all_its_sessions() {
    let world = World::new("pki").await;
    let anchors = RecordedAnchors::new();
    let (first, second) = {
        let task = world.new_task();
        (world.order(task), world.order(task))
    };
    let before = world.provider.issue(&first, &anchors).await.unwrap();
    let restarted = world.restarted();
    let after = restarted.issue(&second, &anchors).await.unwrap();
    assert_eq!(anchors.handles().len(), 2, "a session is only in memory");
    let items = vec![known_item(&first, &before, &anchors, world.now())];
    // The second credential is not even named.
    let order = revoke_order(&first, RevokeScope::Task, &anchors, items);
    let results = restarted.revoke(&order).await.unwrap();
    assert!(
        results.iter().all(|r| r.as_ref().is_ok_and(|r| r.verified)),
        "{results:?}"
    );
    for (_, handle) in anchors.handles() {
        assert!(!world.token_is_there(accessor(&handle)).await);
    }
    assert!(!world.usable(&before).await && !world.lease_is_there(&lease_id(&before)).await);
    // The order did not name the second credential. The provider promised only that its session is
    // revoked.
    drop(after);
}

#[tokio::test]
async fn a_session_that_an_operator_revoked_is_replaced() {
    let world = World::new("pki").await;
    let anchors = RecordedAnchors::new();
    let task = world.new_task();
    world
        .provider
        .issue(&world.order(task), &anchors)
        .await
        .unwrap();
    let dead = anchors.handles()[0].1.clone();
    world
        .bao
        .must("POST", "auth/token/revoke-accessor", dead)
        .await;
    let issued = world
        .provider
        .issue(&world.order(task), &anchors)
        .await
        .unwrap();
    assert!(world.usable(&issued).await);
    assert_eq!(anchors.handles().len(), 2);
}

#[tokio::test]
async fn a_credential_lost_in_the_answer_dies_with_its_session() {
    let world = World::new("pki").await;
    let anchors = RecordedAnchors::new();
    let task = world.new_task();
    let (known, lost) = (world.order(task), world.order(task));
    let issued = world.provider.issue(&known, &anchors).await.unwrap();
    world.proxy.set(Weather::AnswersLost);
    // The first try may fail on its idle connection, which was cut.
    let mut leases = 1;
    while leases < 2 {
        let error = world.provider.issue(&lost, &anchors).await.unwrap_err();
        assert!(
            error.is_retryable(),
            "whether it was minted is unknown: {error:?}"
        );
        let listed = world
            .bao
            .must("LIST", "sys/leases/lookup/pki/issue/web", Value::Null)
            .await;
        leases = listed["data"]["keys"].as_array().unwrap().len();
    }
    world.proxy.set(Weather::Fair);

    let items = vec![
        intent_item(world.provider(), &lost, world.now()),
        known_item(&known, &issued, &anchors, world.now()),
    ];
    let order = revoke_order(&lost, RevokeScope::Credentials, &anchors, items);
    let mut results = world.provider.revoke(&order).await.unwrap();
    while results
        .iter()
        .any(|r| matches!(r, Err(e) if e.is_retryable()))
    {
        results = world.provider.revoke(&order).await.unwrap();
    }
    let proofs: Vec<_> = results.iter().map(|r| r.as_ref().unwrap()).collect();
    assert!(proofs.iter().all(|r| r.verified), "{proofs:?}");
    assert!(
        proofs[0].proof.contains("whole session"),
        "{}",
        proofs[0].proof
    );
    let (status, left) = world
        .bao
        .admin("LIST", "sys/leases/lookup/pki/issue/web", Value::Null)
        .await;
    assert_eq!(status, 404, "{left}");
}

#[tokio::test]
async fn a_credential_in_doubt_is_unproven_where_leases_cannot_be_listed() {
    let world = World::new("pki").await;
    world.forbid_listing().await;
    let health = world.provider.check().await.unwrap();
    assert!(
        health.warnings.iter().any(|w| w.contains("pki/issue/web")),
        "{health:?}"
    );
    let anchors = RecordedAnchors::new();
    let order = world.order(world.new_task());
    let issued = world.provider.issue(&order, &anchors).await.unwrap();
    let item = intent_item(world.provider(), &order, world.now());
    let in_doubt = revoke_order(&order, RevokeScope::Credentials, &anchors, vec![item]);
    let revoked = loop {
        match revoke(&world.provider, &in_doubt).await {
            Err(error) if error.is_retryable() => tokio::task::yield_now().await,
            revoked => break revoked.unwrap(),
        }
    };
    // Vault may have begun with the call only a moment ago.
    let at_most = order.expires_at.plus(Duration::from_secs(60));
    let until = revoked.may_live_until;
    assert!(
        !revoked.verified && until >= Some(order.expires_at) && until < Some(at_most),
        "{revoked:?}"
    );
    drop(issued);
}

#[tokio::test]
async fn an_intent_without_a_session_waits_until_no_token_can_be_left() {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_790_000_000_000)));
    let world = World::with_clock("reader", clock.clone()).await;
    let order = world.order(world.new_task());
    let item = intent_item(world.provider(), &order, world.now());
    let none = RecordedAnchors::new();
    let in_doubt = revoke_order(&order, RevokeScope::Credentials, &none, vec![item]);
    let early = revoke(&world.provider, &in_doubt).await;
    let Err(ProviderError::Retryable {
        after: Some(after), ..
    }) = early
    else {
        panic!("an unrecorded token may still live: {early:?}");
    };
    clock.advance(after);
    let late = revoke(&world.provider, &in_doubt).await.unwrap();
    assert!(
        late.verified && after >= Duration::from_secs(20),
        "{late:?} after {after:?}"
    );
}

#[tokio::test]
async fn a_token_that_could_not_be_recorded_is_revoked_at_once() {
    let world = World::new("reader").await;
    world.provider.check().await.unwrap();
    let before = world.accessors().await.len();
    for role in ["reader", "static"] {
        let order = world.order_for(world.new_task(), role, &[]);
        let error = world
            .provider
            .issue(&order, &RecordedAnchors::refusing())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("disk full"), "{error}");
    }
    assert_eq!(
        world.accessors().await.len(),
        before,
        "a token was left behind"
    );
}

#[tokio::test]
async fn a_credential_without_a_lease_is_recorded_until_its_own_end() {
    let world = World::new("pki").await;
    let anchors = RecordedAnchors::new();
    let order = world.pki_order(world.new_task(), "pki-unleased");
    let issued = world.provider.issue(&order, &anchors).await.unwrap();
    assert_eq!(issued.revocation_class, RevocationClass::ExpiryOnly);
    let told: i64 = issued
        .data
        .field("expiration")
        .unwrap()
        .expose()
        .parse()
        .unwrap();
    assert_eq!(issued.expires_at, Timestamp::from_millis(told * 1000));
    let item = known_item(&order, &issued, &anchors, world.now());
    let end = revoke_order(&order, RevokeScope::Task, &anchors, vec![item]);
    let revoked = revoke(&world.provider, &end).await.unwrap();
    assert!(
        !revoked.verified && revoked.may_live_until == Some(issued.expires_at),
        "{revoked:?}"
    );
}

#[tokio::test]
async fn maintain_renews_a_token_in_the_second_half_of_its_life() {
    let world = World::new("pki").await;
    let token = world.use_an_old_token().await;
    world.provider.maintain().await.unwrap();
    let found = world
        .bao
        .must("POST", "auth/token/lookup", json!({ "token": token }))
        .await;
    assert!(
        found["data"]["ttl"].as_i64().unwrap() > 1800,
        "{}",
        found["data"]["ttl"]
    );
}

#[tokio::test]
async fn approle_logs_in_and_logs_in_again() {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_790_000_000_000)));
    let world = World::with_clock("pki", clock.clone()).await;
    let bao = &world.bao;
    bao.must("POST", "sys/auth/approle", json!({"type": "approle"}))
        .await;
    bao.must(
        "POST",
        "auth/approle/role/broker",
        json!({"token_policies": ["broker"], "token_ttl": "1h"}),
    )
    .await;
    let role_id = bao
        .must("GET", "auth/approle/role/broker/role-id", Value::Null)
        .await;
    let secret_id = bao
        .must("POST", "auth/approle/role/broker/secret-id", json!({}))
        .await;
    write_secret(
        &world.dir,
        "secret-id",
        secret_id["data"]["secret_id"].as_str().unwrap(),
    );
    let access = format!(
        "token_role = \"taskpass\"\napprole = {{ role_id = {}, secret_id_file = \"secret-id\" }}",
        role_id["data"]["role_id"]
    );
    let known: Vec<String> = world.accessors().await;
    let provider = VaultProvider::new(
        &config(world.proxy.port, &access),
        world.dir.path(),
        clock.clone(),
    )
    .unwrap();
    provider.check().await.unwrap();
    provider.maintain().await.unwrap();
    let logins = |now: Vec<String>| {
        now.into_iter()
            .filter(|a| !known.contains(a))
            .collect::<Vec<_>>()
    };
    let first = logins(world.accessors().await);
    assert_eq!(first.len(), 1, "one login for many calls");
    bao.must(
        "POST",
        "auth/token/revoke-accessor",
        json!({"accessor": first[0]}),
    )
    .await;
    clock.advance(Duration::from_secs(11));
    provider.check().await.unwrap();
    assert_eq!(
        logins(world.accessors().await).len(),
        1,
        "it did not log in again"
    );
}

/// With more leases than are looked up one by one, with and without the right to list.
#[tokio::test]
async fn many_leases_end_with_their_task() {
    let world = World::new("pki").await;
    for may_list in [true, false] {
        if !may_list {
            world.forbid_listing().await;
        }
        let anchors = RecordedAnchors::new();
        let task = world.new_task();
        let orders: Vec<_> = (0..60).map(|_| world.order(task)).collect();
        let issued = join_all(
            orders
                .iter()
                .map(|order| world.provider.issue(order, &anchors)),
        )
        .await;
        let items: Vec<_> = orders
            .iter()
            .zip(&issued)
            .map(|(order, issued)| {
                known_item(order, issued.as_ref().unwrap(), &anchors, world.now())
            })
            .collect();
        let bystander = world.order(world.new_task());
        let spared = world
            .provider
            .issue(&bystander, &RecordedAnchors::new())
            .await
            .unwrap();
        let revoke = revoke_order(&orders[0], RevokeScope::Task, &anchors, items);
        let results = world.provider.revoke(&revoke).await.unwrap();
        assert!(
            results.len() == 60 && results.iter().all(|r| r.as_ref().is_ok_and(|r| r.verified))
        );
        for issued in issued.iter().flatten() {
            assert!(!world.lease_is_there(&lease_id(issued)).await && !world.usable(issued).await);
        }
        assert!(
            world.lease_is_there(&lease_id(&spared)).await,
            "of another task"
        );
    }
}

/// Looks the token up while it is being recorded.
struct Observer<'a> {
    world: &'a World,
    recorded: RecordedAnchors,
    ttl_seconds: AtomicI64,
}

#[async_trait]
impl Anchors for Observer<'_> {
    async fn intent_durable(&self) -> Result<(), ProviderError> {
        self.recorded.intent_durable().await
    }

    async fn record(
        &self,
        handle: Value,
        expires_at: Timestamp,
    ) -> Result<AnchorId, ProviderError> {
        let found = self.world.token_data(handle.clone()).await;
        let ttl = found["ttl"].as_i64().unwrap();
        self.ttl_seconds.store(ttl, Ordering::SeqCst);
        self.recorded.record(handle, expires_at).await
    }
}

/// A broker that dies here leaves a token that is on no record: it must expire by itself.
#[tokio::test]
async fn a_token_is_short_lived_until_it_is_on_record() {
    let world = World::new("pki").await;
    for role in ["reader", "static"] {
        let recorded = RecordedAnchors::new();
        let anchors = Observer {
            world: &world,
            recorded,
            ttl_seconds: AtomicI64::new(0),
        };
        let order = world.order_for(world.new_task(), role, &[]);
        world.provider.issue(&order, &anchors).await.unwrap();
        let before = anchors.ttl_seconds.load(Ordering::SeqCst);
        assert!(
            (1..=20).contains(&before),
            "{role}: {before} s before it was recorded"
        );
        let handle = anchors.recorded.handles().remove(0).1;
        let found = world.token_data(handle).await;
        assert!(
            found["ttl"].as_i64().unwrap() > 500,
            "{role}: it was not extended"
        );
    }
}
