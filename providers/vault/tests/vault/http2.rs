//! With a Vault that speaks TLS, and so HTTP/2: one connection, on which each answer names its
//! request.

use std::time::Duration;

use futures_util::future::join_all;
use taskpass_provider::{
    Provider, RevokeScope,
    conformance::{Fixture, RecordedAnchors, known_item, revoke_order},
};

use crate::world::World;

#[tokio::test]
async fn all_requests_share_one_connection() {
    let world = World::over_tls("pki").await;
    let anchors = RecordedAnchors::new();
    let task = world.new_task();
    let orders: Vec<_> = (0..8).map(|_| world.order(task)).collect();
    let issuing = orders.iter().map(|o| world.provider.issue(o, &anchors));
    let issued = join_all(issuing).await;
    let issued: Vec<_> = issued.into_iter().map(Result::unwrap).collect();
    for one in &issued {
        assert!(world.usable(one).await);
    }
    let item = |(order, one)| known_item(order, one, &anchors, world.now());
    let items = orders.iter().zip(&issued).map(item).collect();
    let order = revoke_order(&orders[0], RevokeScope::Task, &anchors, items);
    world.provider.revoke(&order).await.unwrap();
    for one in &issued {
        assert!(!world.usable(one).await);
    }
    assert_eq!(world.proxy.connections(), 1);
}

#[tokio::test]
async fn a_vault_that_vanishes_is_noticed_long_before_the_deadline() {
    let world = World::over_tls("reader").await;
    let anchors = RecordedAnchors::new();
    let order = world.order(world.new_task());
    world.provider.issue(&order, &anchors).await.unwrap();

    world.proxy.silence();
    // Five seconds until the ping and three for its answer; the request itself may take ten
    // minutes.
    let order = world.order(world.new_task());
    let lost = tokio::time::timeout(
        Duration::from_secs(20),
        world.provider.issue(&order, &anchors),
    );
    let error = lost.await.expect("it is noticed").unwrap_err();
    assert!(error.is_retryable(), "{error:?}");

    let order = world.order(world.new_task());
    let issued = world.provider.issue(&order, &anchors).await.unwrap();
    assert!(world.usable(&issued).await);
    assert_eq!(world.proxy.connections(), 2);
}
