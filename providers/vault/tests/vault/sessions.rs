//! A session has the policies of the roles that are issued through it, and no others.

use serde_json::json;
use taskpass_core::TaskId;
use taskpass_provider::{
    IssueOrder, Provider, ProviderError, RevokeScope,
    conformance::{Fixture, RecordedAnchors, intent_item, known_item, revoke_order},
};

use crate::world::World;

/// `shelf` takes any name at `secret/data/…`, and `payroll` is the only role whose policy lets it
/// read `secret/data/payroll`.
async fn with_payroll() -> World {
    let world = World::new("shelf").await;
    let secret = json!({"data": {"password": "payroll-canary"}});
    world.bao.must("POST", "secret/data/payroll", secret).await;
    world
}

fn shelf(world: &World, task: TaskId, app: &str) -> IssueOrder {
    world.order_for(task, "shelf", &[("app", app)])
}

/// Policy may forbid the role `payroll` to an agent that may use `shelf`. Vault must agree.
#[tokio::test]
async fn a_role_cannot_reach_what_another_role_of_its_task_may_read() {
    let world = with_payroll().await;
    let (task, anchors) = (world.new_task(), RecordedAnchors::new());
    let drawn = shelf(&world, task, "app");
    world.provider.issue(&drawn, &anchors).await.unwrap();
    let reached = shelf(&world, task, "payroll");
    let reached = world.provider.issue(&reached, &anchors).await;
    assert!(
        matches!(&reached, Err(ProviderError::Denied(_))),
        "{:?}",
        reached.map(|issued| issued.handle)
    );
    let order = world.order_for(task, "payroll", &[]);
    let issued = world.provider.issue(&order, &anchors).await.unwrap();
    assert_eq!(
        issued.data.field("password").unwrap().expose(),
        "payroll-canary"
    );
}

#[tokio::test]
async fn roles_with_the_same_policies_share_a_session_and_others_do_not() {
    let world = with_payroll().await;
    let (task, anchors) = (world.new_task(), RecordedAnchors::new());
    let mut used = Vec::new();
    for (role, policies, sessions) in [
        ("static", "reader", 1),
        ("static-v1", "reader", 1),
        ("payroll", "payroll", 2),
        ("static", "reader", 2),
    ] {
        let order = world.order_for(task, role, &[]);
        let issued = world.provider.issue(&order, &anchors).await.unwrap();
        let anchor = anchors.handle(issued.anchor.unwrap()).unwrap();
        let token = world.token_data(anchor).await;
        assert_eq!(token["policies"], json!([policies]));
        assert_eq!(anchors.handles().len(), sessions, "{role}");
        used.push(known_item(&order, &issued, &anchors, world.now()));
    }
    let order = world.order_for(task, "static", &[]);
    let end = revoke_order(&order, RevokeScope::Task, &anchors, used);
    world.provider.revoke(&end).await.unwrap();
    for (_, anchor) in anchors.handles() {
        let accessor = anchor["accessor"].as_str().unwrap();
        assert!(!world.token_is_there(accessor).await, "{accessor}");
    }
}

/// The engine asks for the key before the call, and Vault's sessions must agree with it.
#[tokio::test]
async fn a_key_stands_for_the_policies_and_for_each_token_alone() {
    let world = World::new("static").await;
    let key = |role: &str| {
        let order = world.order_for(world.new_task(), role, &[]);
        let provider = world.provider();
        provider.anchor_key(&order.role, &order.scope, order.credential)
    };
    assert!(key("static").is_some());
    for (same, role) in [
        (true, "static-v1"),
        (true, "no-op"),
        (false, "payroll"),
        (false, "pki"),
        (false, "reader"),
    ] {
        assert_eq!(key("static") == key(role), same, "{role}");
    }
    assert_ne!(key("reader"), key("reader"), "a token is its own anchor");
    let restarted = world.restarted();
    let order = world.order(world.new_task());
    let [before, after] = [&world.provider, &restarted]
        .map(|provider| provider.anchor_key(&order.role, &order.scope, order.credential));
    assert_eq!(before, after);
}

/// Calls to OpenBao; the CHANGELOG names them.
#[tokio::test]
async fn each_set_of_policies_costs_three_calls_to_begin_and_two_to_end() {
    let world = with_payroll().await;
    let calls_of = |roles: &'static [&'static str]| {
        let world = &world;
        async move {
            let (task, anchors) = (world.new_task(), RecordedAnchors::new());
            let began = world.proxy.connections();
            let mut items = Vec::new();
            for role in roles {
                let order = world.order_for(task, role, &[]);
                let issued = world.provider.issue(&order, &anchors).await.unwrap();
                items.push(known_item(&order, &issued, &anchors, world.now()));
            }
            let issued = world.proxy.connections();
            let order = world.order_for(task, "static", &[]);
            let end = revoke_order(&order, RevokeScope::Task, &anchors, items);
            world.provider.revoke(&end).await.unwrap();
            (issued - began, world.proxy.connections() - issued)
        }
    };
    // What the broker knows of the server is asked for once a minute and not counted here.
    calls_of(&["static"]).await;
    let (issue, end) = calls_of(&["static"]).await;
    assert_eq!(issue, 4, "create, health, renew, read");
    for (roles, issues, sessions) in [
        (&["static", "static", "static-v1"][..], 3, 1),
        (&["static", "payroll"], 2, 2),
        (&["static", "payroll", "shared"], 3, 3),
    ] {
        let (more_issue, more_end) = calls_of(roles).await;
        assert_eq!(more_issue, issues + 3 * sessions, "{roles:?}");
        assert_eq!(more_end, end + 2 * (sessions - 1), "{roles:?}");
    }
}

#[tokio::test]
async fn a_doubt_about_one_role_keeps_the_session_of_another() {
    let (world, clock) = World::with_manual_clock("pki").await;
    let (task, anchors) = (world.new_task(), RecordedAnchors::new());
    let kept = world.pki_order(task, "pki");
    let kept = world.provider.issue(&kept, &anchors).await.unwrap();
    let lost = world.order_for(task, "static", &[]);
    world.provider.issue(&lost, &anchors).await.unwrap();
    let item = intent_item(world.provider(), &lost, world.now());
    let mut order = revoke_order(&lost, RevokeScope::Credentials, &anchors, vec![item]);
    // The engine names the anchors with the key of the role in doubt.
    order.anchors.retain(|(id, _)| Some(*id) != kept.anchor);
    assert_eq!(order.anchors.len(), 1);
    for _ in 0..2 {
        world.provider.revoke(&order).await.unwrap();
        clock.advance(std::time::Duration::from_secs(60));
    }
    let doubted = order.anchors[0].1["accessor"].as_str().unwrap();
    assert!(!world.token_is_there(doubted).await);
    assert!(world.usable(&kept).await);
    let again = world.pki_order(task, "pki");
    let again = world.provider.issue(&again, &anchors).await.unwrap();
    assert_eq!(again.anchor, kept.anchor);
}

/// The broker may call ahead of the disk where a session is held for the role, and only there: what
/// no session finds is minted behind the intent.
#[tokio::test]
async fn nothing_but_a_held_session_is_used_ahead_of_the_intent() {
    let world = with_payroll().await;
    let (task, anchors) = (world.new_task(), RecordedAnchors::new());
    let held = |role: &str| {
        let order = world.order_for(task, role, &[]);
        world.provider.held_anchor(task, &order.role, &order.scope)
    };
    let lost = RecordedAnchors::losing_intents();
    let before = world.accessors().await.len();
    for role in ["static", "reader"] {
        assert_eq!(held(role), None);
        let order = world.order_for(task, role, &[]);
        let error = world.provider.issue(&order, &lost).await.unwrap_err();
        assert!(error.nothing_was_minted(), "{error}");
    }
    assert_eq!(world.accessors().await.len(), before, "a token was minted");

    let order = world.order_for(task, "static", &[]);
    let issued = world.provider.issue(&order, &anchors).await.unwrap();
    assert_eq!(held("static"), issued.anchor);
    assert_eq!(held("static-v1"), issued.anchor, "it has the same policies");
    assert_eq!((held("payroll"), held("reader")), (None, None));
    let order = world.order_for(task, "static-v1", &[]);
    let ahead = world.provider.issue(&order, &lost).await.unwrap();
    assert_eq!(ahead.anchor, issued.anchor);
    let other = world.order_for(world.new_task(), "static", &[]);
    assert_eq!(
        world
            .provider
            .held_anchor(other.task, &other.role, &other.scope),
        None
    );

    let end = revoke_order(&order, RevokeScope::Task, &anchors, Vec::new());
    world.provider.revoke(&end).await.unwrap();
    assert_eq!(held("static"), None);
}
