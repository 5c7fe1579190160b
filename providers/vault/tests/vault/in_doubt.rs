//! No credential is called dead too early: calls in doubt, unrecorded tokens, clocks that jump,
//! changed roles and servers.

use std::time::Duration;

use serde_json::{Value, json};
use taskpass_core::{Clock, ManualClock, RevocationClass, Timestamp};
use taskpass_provider::{
    Liveness, Provider, ProviderError, RevokeItem, RevokeOrder, RevokeScope, Revoked,
    conformance::{Fixture, RecordedAnchors, intent_item, known_item, revoke_order},
};
use taskpass_provider_vault::BROKER_POLICY;

use crate::{
    cluster::Cluster,
    failures::{Fake, answer, order, refusal, revoking},
    world::{World, lease_id, revoke, right_clock},
};

const HOUR: Duration = Duration::from_secs(3600);

/// How long a revocation says to wait that cannot succeed yet.
fn time_to_wait(result: Result<Revoked, ProviderError>) -> Duration {
    match result {
        Err(ProviderError::Retryable {
            after: Some(after), ..
        }) => after,
        other => panic!("revoked too early: {other:?}"),
    }
}

/// Revokes once Vault must be done with the call in doubt.
async fn once_no_call_runs(
    provider: &dyn Provider,
    order: &RevokeOrder,
    clock: &ManualClock,
) -> Result<Revoked, ProviderError> {
    clock.advance(time_to_wait(revoke(provider, order).await));
    revoke(provider, order).await
}

/// A credential in doubt, and a recorded session of its task.
async fn beside_a_session(world: &World, role: &str) -> (RevokeItem, RevokeOrder) {
    let anchors = RecordedAnchors::new();
    let task = world.new_task();
    let with_session = world.order_for(task, "static", &[]);
    world.provider.issue(&with_session, &anchors).await.unwrap();
    let order = match role {
        "reader" => world.order_for(task, role, &[]),
        role => world.pki_order(task, role),
    };
    let item = intent_item(world.provider(), &order, world.now());
    let revoke = revoke_order(
        &order,
        RevokeScope::Credentials,
        &anchors,
        vec![item.clone()],
    );
    (item, revoke)
}

#[tokio::test]
async fn an_unrecorded_token_is_waited_for_although_the_recorded_sessions_were_revoked() {
    let (world, clock) = World::with_manual_clock("reader").await;
    let (_, order) = beside_a_session(&world, "reader").await;
    let ended = once_no_call_runs(&world.provider, &order, &clock).await;
    let left = time_to_wait(ended);
    // The life of an unrecorded token.
    assert_eq!(left, Duration::from_secs(20));
    clock.advance(left - Duration::from_secs(1));
    time_to_wait(revoke(&world.provider, &order).await);
    clock.advance(Duration::from_secs(1));
    let late = revoke(&world.provider, &order).await.unwrap();
    assert!(late.verified, "{late:?}");
}

#[tokio::test]
async fn a_token_that_was_recorded_is_proven_dead_without_waiting_for_another() {
    let (world, clock) = World::with_manual_clock("reader").await;
    let anchors = RecordedAnchors::new();
    let order = world.order(world.new_task());
    let lost = world.provider.issue(&order, &anchors).await.unwrap();
    let item = intent_item(world.provider(), &order, world.now());
    let order = revoke_order(&order, RevokeScope::Credentials, &anchors, vec![item]);
    let revoked = once_no_call_runs(&world.provider, &order, &clock).await;
    assert!(revoked.as_ref().is_ok_and(|r| r.verified), "{revoked:?}");
    assert!(!world.usable(&lost).await);
}

/// Vault files a lease at the end of a call, however long the engine takes. Under a revoked session
/// it would belong to no token.
#[tokio::test]
async fn a_session_outlives_the_longest_call_that_may_have_used_it() {
    let (world, clock) = World::with_manual_clock("pki").await;
    let (_, mut order) = beside_a_session(&world, "pki").await;
    // The call was sent three hours ago: a Vault that stood still begins with it only now.
    order.items[0].intended_at = clock.now().minus(3 * HOUR);
    let accessor = order.anchors[0].1["accessor"].clone();
    let accessor = accessor.as_str().unwrap();
    let patient = world.with_request_max("90s");
    assert_eq!(
        time_to_wait(revoke(&patient, &order).await),
        Duration::from_secs(90)
    );
    clock.advance(Duration::from_secs(89));
    time_to_wait(revoke(&patient, &order).await);
    assert!(world.token_is_there(accessor).await);
    clock.advance(Duration::from_secs(1));
    let revoked = revoke(&patient, &order).await.unwrap();
    assert!(revoked.verified, "{revoked:?}");
    assert!(!world.token_is_there(accessor).await);
}

/// The same where no record names the call: the session stays, and what is known is revoked.
#[tokio::test]
async fn a_session_outlives_a_call_that_no_record_names() {
    let (world, clock) = World::with_manual_clock("pki").await;
    let anchors = RecordedAnchors::new();
    let order = world.pki_order(world.new_task(), "pki");
    let issued = world.provider.issue(&order, &anchors).await.unwrap();
    let accessor = anchors.handles()[0].1["accessor"].clone();
    let accessor = accessor.as_str().unwrap();
    let (patient, sent_before) = (world.with_request_max("90s"), clock.monotonic());
    let asked = patient.calls_are_over(sent_before).await.unwrap_err();
    assert_eq!(asked.after(), Some(Duration::from_secs(90)));

    let item = known_item(&order, &issued, &anchors, world.now());
    let mut end = revoke_order(&order, RevokeScope::Task, &anchors, vec![item]);
    end.calls_may_run = true;
    let revoked = revoke(&patient, &end).await.unwrap();
    assert!(revoked.verified && !world.usable(&issued).await);
    clock.advance(Duration::from_secs(89));
    assert!(patient.calls_are_over(sent_before).await.is_err());
    assert!(world.token_is_there(accessor).await);

    clock.advance(Duration::from_secs(1));
    patient.calls_are_over(sent_before).await.unwrap();
    end.calls_may_run = false;
    patient.revoke(&end).await.unwrap()[0].as_ref().unwrap();
    assert!(!world.token_is_there(accessor).await);
}

#[tokio::test]
async fn a_session_that_vault_cuts_short_is_replaced_before_a_call_could_outlive_it() {
    let (world, clock) = World::with_manual_clock("pki").await;
    let short = json!({"max_lease_ttl": "40s"});
    world
        .bao
        .must("POST", "sys/mounts/auth/token/tune", short)
        .await;
    let anchors = RecordedAnchors::new();
    let task = world.new_task();
    for (passed, sessions) in [(0, 1), (1, 1), (6, 2)] {
        clock.advance(Duration::from_secs(passed));
        let order = world.pki_order(task, "pki");
        world.provider.issue(&order, &anchors).await.unwrap();
        assert_eq!(anchors.handles().len(), sessions, "after {passed} s");
    }
}

/// A late deadline of the task proves nothing: an operator may have revoked the session in Vault,
/// or a clock was wrong when it was minted.
#[tokio::test]
async fn a_call_that_its_session_may_not_have_outlived_is_unproven() {
    for (still_alive, deadline) in [(true, 10), (false, 10), (false, 3600)] {
        let (world, clock) = World::with_manual_clock("pki").await;
        let (_, mut order) = beside_a_session(&world, "pki").await;
        order.task_deadline = clock.now().plus(Duration::from_secs(deadline));
        if !still_alive {
            let body = json!({"accessor": order.anchors[0].1["accessor"]});
            world
                .bao
                .must("POST", "auth/token/revoke-accessor", body)
                .await;
        }
        let revoked = once_no_call_runs(&world.provider, &order, &clock)
            .await
            .unwrap();
        assert_eq!(revoked.verified, still_alive, "{revoked:?}");
        if still_alive {
            continue;
        }
        // The lifetime counts from the latest time at which Vault can have carried out the call,
        // not from when it was sent. The broker may have stopped waiting long after the requested
        // lifetime.
        for stopped in [0, 3600] {
            let item = &mut order.items[0];
            item.intended_at = item.expires_at.plus(Duration::from_secs(stopped));
            let revoked = once_no_call_runs(&world.provider, &order, &clock)
                .await
                .unwrap();
            let life = order.items[0].lifetime;
            assert_eq!(revoked.may_live_until, Some(clock.now().plus(life)));
        }
        // A clock that was set back does not make it earlier.
        let now = clock.now();
        clock.set(now.minus(24 * HOUR));
        let set_back = once_no_call_runs(&world.provider, &order, &clock)
            .await
            .unwrap();
        clock.set(now);
        let item = &order.items[0];
        assert_eq!(set_back.may_live_until, Some(item.expires_at));
        // The engine was not told a lifetime. Today's role does not matter.
        let path = &item.handle.as_ref().unwrap()["timed_lease_path"];
        let untold = Some(json!({ "lease_path": path }));
        order.items[0].handle = untold;
        let revoked = once_no_call_runs(&world.provider, &order, &clock)
            .await
            .unwrap();
        assert!(!revoked.verified && revoked.may_live_until == Some(Timestamp::MAX));
    }
}

/// An operator revoked one of two sessions at the active server, so the lease of a call that still
/// ran may belong to nothing. A standby that lags takes that session for alive.
#[tokio::test]
async fn a_session_that_only_a_lagging_standby_takes_for_alive_has_not_outlived_a_call() {
    let (cluster, active) = Cluster::start().await;
    let clock = right_clock();
    let world = World::of_cluster_at("pki", active, clock.clone()).await;
    let (task, anchors) = (world.new_task(), RecordedAnchors::new());
    let (of_static, of_pki) = (
        world.order_for(task, "static", &[]),
        world.pki_order(task, "pki"),
    );
    for order in [&of_static, &of_pki] {
        world.provider.issue(order, &anchors).await.unwrap();
    }
    let lost = world.pki_order(task, "pki");
    let item = intent_item(world.provider(), &lost, world.now());
    let order = revoke_order(&lost, RevokeScope::Task, &anchors, vec![item]);
    // The first attempt sees the sessions, and may not revoke.
    let less = BROKER_POLICY.replace("auth/token/revoke-accessor", "auth/token/no-such-path");
    world.set_broker_policy(&less).await;
    cluster.caught_up(&world.bao).await;
    cluster.cut_off();
    let accessor = json!({"accessor": order.anchors[1].1["accessor"]});
    let path = "auth/token/revoke-accessor";
    world.bao.must("POST", path, accessor).await;
    world.proxy.lead_to(cluster.standby.port);
    clock.advance(time_to_wait(revoke(&world.provider, &order).await));
    let denied = world.provider.revoke(&order).await;
    assert!(denied.is_err(), "{denied:?}");
    cluster.heal();
    world.set_broker_policy(BROKER_POLICY).await;
    cluster.caught_up(&world.bao).await;
    let revoked = revoke(&world.provider, &order).await.unwrap();
    assert!(!revoked.verified, "{revoked:?}");
}

#[tokio::test]
async fn a_session_newer_than_the_call_in_doubt_is_kept() {
    let (world, clock) = World::with_manual_clock("reader").await;
    let task = world.new_task();
    let lost = world.order_for(task, "reader", &[]);
    let item = intent_item(world.provider(), &lost, world.now());
    let in_doubt = revoke_order(
        &lost,
        RevokeScope::Credentials,
        &RecordedAnchors::new(),
        vec![item],
    );
    let sibling = world.pki_order(task, "pki");
    let issued = world
        .provider
        .issue(&sibling, &RecordedAnchors::new())
        .await
        .unwrap();

    clock.advance(time_to_wait(revoke(&world.provider, &in_doubt).await));
    let late = revoke(&world.provider, &in_doubt).await.unwrap();

    assert!(late.verified, "{late:?}");
    assert!(world.lease_is_there(&lease_id(&issued)).await);
}

#[tokio::test]
async fn a_clock_that_jumps_forward_ends_no_unrecorded_token() {
    let (world, clock) = World::with_manual_clock("reader").await;
    let order = world.order(world.new_task());
    let item = intent_item(world.provider(), &order, world.now());
    let none = RecordedAnchors::new();
    let order = revoke_order(&order, RevokeScope::Credentials, &none, vec![item]);
    for provider in [&world.provider, &world.restarted()] {
        time_to_wait(revoke(provider, &order).await);
        clock.set(clock.now().plus(HOUR));
        time_to_wait(revoke(provider, &order).await);
    }
}

#[tokio::test]
async fn a_lease_is_searched_where_the_intent_says() {
    let clock = right_clock();
    let ended = ["revoke-accessor", "lookup-accessor"];
    let fake = Fake::with_clock(clock.clone(), move |line| {
        if line.starts_with("LIST") && line.contains("pki/issue/before") {
            return answer("200 OK", "", &vault_answer(&json!({"keys": ["left"]})));
        }
        if line.starts_with("LIST") {
            return answer("404 Not Found", "", r#"{"errors":[]}"#);
        }
        if line.contains(ended[0]) {
            return answer("204 No Content", "", "");
        }
        if line.contains(ended[1]) {
            return refusal("400 Bad Request", "invalid accessor");
        }
        // Vault answers, and the lease is overdue.
        answer("200 OK", "", &vault_answer(&json!({"ttl": 0})))
    })
    .await;
    let mut item = intent_item(&fake.provider, &order(), clock.now());
    assert_eq!(
        item.handle,
        Some(json!({"timed_lease_path": "pki/issue/web"}))
    );
    item.handle = Some(json!({"timed_lease_path": "pki/issue/before"}));
    item.anchor = Some(json!({"accessor": "a"}));
    // The role was configured with another path, and then removed.
    for role in ["vault-test/pki", "vault-test/removed", "vault-test/reader"] {
        item.role = role.parse().unwrap();
        let mut order = revoking(RevokeScope::Credentials, item.clone());
        order.anchors = vec![(
            "a0123456789abcdef".parse().unwrap(),
            json!({"accessor": "a"}),
        )];
        if role == "vault-test/pki" {
            clock.advance(time_to_wait(revoke(&fake.provider, &order).await));
        }
        let result = revoke(&fake.provider, &order).await;
        assert!(
            matches!(&result, Err(e) if e.is_retryable() && e.to_string().contains("still there")),
            "{role}: {result:?}"
        );
    }
}

/// An answer in Vault's form.
fn vault_answer(data: &Value) -> String {
    let answer = json!({"request_id": "r", "lease_id": "", "lease_duration": 0, "renewable": false, "data": data});
    answer.to_string()
}

#[tokio::test]
async fn an_intent_that_does_not_say_where_to_look_is_unproven() {
    let (world, clock) = World::with_manual_clock("pki").await;
    let (item, mut order) = beside_a_session(&world, "pki").await;
    assert!(item.handle.is_some());
    order.items[0].handle = None;
    let revoked = once_no_call_runs(&world.provider, &order, &clock)
        .await
        .unwrap();
    assert!(
        !revoked.verified && revoked.may_live_until == Some(Timestamp::MAX),
        "{revoked:?}"
    );
}

#[tokio::test]
async fn where_the_engine_gives_no_leases_finding_none_proves_nothing() {
    let (world, clock) = World::with_manual_clock("pki").await;
    let (_, order) = beside_a_session(&world, "pki-unleased").await;
    let other = world.pki_order(world.new_task(), "pki-unleased");
    let seen = world.provider.issue(&other, &RecordedAnchors::new()).await;
    assert_eq!(seen.unwrap().revocation_class, RevocationClass::ExpiryOnly);
    let revoked = once_no_call_runs(&world.provider, &order, &clock)
        .await
        .unwrap();
    assert!(!revoked.verified, "{revoked:?}");
    assert_eq!(world.provider.locator(&other.role, &other.scope), None);
}

#[tokio::test]
async fn a_credential_that_another_vault_or_namespace_does_not_know_is_not_dead() {
    let (world, other_vault) = tokio::join!(World::new("pki"), World::new("pki"));
    let anchors = RecordedAnchors::new();
    let task = world.new_task();
    let order = world.order(task);
    let issued = world.provider.issue(&order, &anchors).await.unwrap();
    let token = world.order_for(task, "reader", &[]);
    let other = world.provider.issue(&token, &anchors).await.unwrap();
    let items = vec![
        known_item(&order, &issued, &anchors, world.now()),
        known_item(&token, &other, &anchors, world.now()),
        intent_item(world.provider(), &world.order(task), world.now()),
    ];
    for scope in [RevokeScope::Task, RevokeScope::Credentials] {
        let order = revoke_order(&order, scope, &anchors, items.clone());
        let result = other_vault.provider.revoke(&order).await;
        assert!(
            matches!(&result, Err(ProviderError::Misconfigured(_))),
            "{result:?}"
        );
        let liveness = other_vault.provider.probe(&order).await;
        assert!(!matches!(liveness, Ok(Liveness::Dead(_))), "{liveness:?}");
        let mut elsewhere = order.clone();
        let handles = elsewhere.anchors.iter_mut().map(|(_, handle)| handle);
        handles.for_each(|handle| handle["namespace"] = Value::from("team"));
        let result = world.provider.revoke(&elsewhere).await;
        assert!(
            matches!(&result, Err(ProviderError::Misconfigured(text)) if text.contains("team")),
            "{result:?}"
        );
    }
    assert!(world.usable(&issued).await && world.usable(&other).await);
}

/// Vault tells its health only outside of namespaces; the cluster's id comes from there.
#[tokio::test]
async fn in_a_namespace_the_server_is_known_and_its_tokens_end() {
    let world = World::new("reader").await;
    let provider = world.in_namespace("team").await;
    provider.check().await.unwrap();
    let anchors = RecordedAnchors::new();
    let order = world.order(world.new_task());
    let issued = provider.issue(&order, &anchors).await.unwrap();
    let item = known_item(&order, &issued, &anchors, world.now());
    let named = item.anchor.clone().unwrap();
    assert_eq!(named["namespace"], "team");
    assert!(named["cluster"].is_string(), "{named}");
    let order = revoke_order(&order, RevokeScope::Task, &anchors, vec![item]);

    // The same server, asked in a namespace that does not know the token.
    let result = world.provider.revoke(&order).await;
    assert!(
        matches!(&result, Err(ProviderError::Misconfigured(text)) if text.contains("team")),
        "{result:?}"
    );
    let revoked = revoke(&provider, &order).await.unwrap();
    assert!(revoked.verified, "{revoked:?}");
    assert!(matches!(
        provider.probe(&order).await,
        Ok(Liveness::Dead(_))
    ));
}
