//! Tokens that are credentials themselves.

use serde_json::{Value, json};
use taskpass_core::RevocationClass;
use taskpass_provider::{
    Provider, RevokeScope,
    conformance::{Fixture, RecordedAnchors, known_item, revoke_order},
};

use crate::world::{World, revoke};

#[tokio::test]
async fn an_issued_token_has_only_its_policies_and_ends_with_the_task() {
    let by_role = World::new("reader").await;
    let orphan = World::new("reader").await.without_token_role().await;
    for world in [by_role, orphan] {
        an_issued_token_has_only_its_policies(&world).await;
    }
}

async fn an_issued_token_has_only_its_policies(world: &World) {
    let anchors = RecordedAnchors::new();
    let order = world.order(world.new_task());
    let issued = world.provider.issue(&order, &anchors).await.unwrap();
    let handle = issued.handle.clone().unwrap();
    let data = world.token_data(handle).await;
    assert_eq!(data["policies"], json!(["reader"]));
    assert_eq!(
        (&data["orphan"], &data["type"]),
        (&json!(true), &json!("service"))
    );
    let life = data["explicit_max_ttl"].as_i64().unwrap();
    assert!((590..=600).contains(&life), "may be renewed to {life} s");
    let ttl = data["ttl"].as_i64().unwrap();
    assert!((590..=600).contains(&ttl), "asked for 600 s, has {ttl} s");
    let token = issued.data.field("token").unwrap().expose().to_owned();
    let (status, _) = world
        .bao
        .call_as(&token, "GET", "auth/token/lookup-self", Value::Null)
        .await;
    assert_eq!(status, 403, "it has the default policy");
}

/// The policies of the role allow `auth/token/renew-self`.
#[tokio::test]
async fn the_holder_of_a_token_cannot_renew_it_beyond_its_end() {
    let world = World::new("reader").await.without_token_role().await;
    for (role, longest) in [("reader", 600), ("reader-renewable", 1800)] {
        let order = world.order_for(world.new_task(), role, &[]);
        let anchors = RecordedAnchors::new();
        let began = world.clock.now();
        let issued = world.provider.issue(&order, &anchors).await.unwrap();
        assert_eq!(issued.revocation_class, RevocationClass::Inherits);
        // A longer life than the broker knows of is never called expired.
        assert_eq!(issued.lives_for.is_some(), role == "reader", "{role}");
        let token = issued.data.field("token").unwrap().expose().to_owned();
        let longer = json!({"increment": "2h"});
        let path = "auth/token/renew-self";
        let (status, renewed) = world.bao.call_as(&token, "POST", path, longer).await;
        assert_eq!(status, 200, "{role}: {renewed}");
        let life = renewed["auth"]["lease_duration"].as_i64().unwrap();
        assert!((longest - 10..=longest).contains(&life), "{role}: {life} s");
        let item = known_item(&order, &issued, &anchors, began);
        let end = revoke_order(&order, RevokeScope::Credentials, &anchors, vec![item]);
        let receipt = revoke(&world.provider, &end).await.unwrap();
        assert!(receipt.verified && receipt.proof.contains("as its engines allow"));
        assert!(!world.usable(&issued).await);
    }
}

/// What a token was used to mint may outlive it, and nothing that the broker says denies that.
#[tokio::test]
async fn the_receipt_of_a_token_speaks_of_the_token_alone() {
    let world = World::new("web-token").await;
    let (order, anchors) = (world.order(world.new_task()), RecordedAnchors::new());
    let issued = world.provider.issue(&order, &anchors).await.unwrap();
    let token = issued.data.field("token").unwrap().expose().to_owned();
    let name = json!({"common_name": "web.test"});
    let path = "pki/issue/unleased";
    let (status, minted) = world.bao.call_as(&token, "POST", path, name).await;
    assert_eq!(status, 200, "{minted}");
    let item = known_item(&order, &issued, &anchors, world.now());
    let end = revoke_order(&order, RevokeScope::Task, &anchors, vec![item]);
    let receipt = revoke(&world.provider, &end).await.unwrap();
    let path = format!(
        "pki/cert/{}",
        minted["data"]["serial_number"].as_str().unwrap()
    );
    let cert = world.bao.must("GET", &path, Value::Null).await;
    assert_eq!(cert["data"]["revocation_time"], 0, "the certificate lives");
    assert!(receipt.verified && receipt.proof.contains("ends as its engines allow"));
    for class in [
        issued.revocation_class,
        world
            .provider
            .roles()
            .iter()
            .find(|role| role.name == order.role)
            .unwrap()
            .revocation_class,
    ] {
        assert_eq!(class, RevocationClass::Inherits);
    }
}

/// At a renewal Vault takes the longest life from the token role. The broker must not call such a
/// token expired, and its end at Vault is that of the token role.
#[tokio::test]
async fn a_token_of_a_token_role_is_never_called_expired() {
    let world = World::new("reader").await;
    world
        .set_token_role(json!({"token_explicit_max_ttl": "20m"}))
        .await;
    let (order, anchors) = (world.order(world.new_task()), RecordedAnchors::new());
    let issued = world.provider.issue(&order, &anchors).await.unwrap();
    assert_eq!(issued.lives_for, None);
    let token = issued.data.field("token").unwrap().expose().to_owned();
    let (path, longer) = ("auth/token/renew-self", json!({"increment": "2h"}));
    let (status, renewed) = world.bao.call_as(&token, "POST", path, longer).await;
    assert_eq!(status, 200, "{renewed}");
    let life = renewed["auth"]["lease_duration"].as_i64().unwrap();
    assert!((1190..=1200).contains(&life), "{life} s");
    let item = known_item(&order, &issued, &anchors, world.now());
    let end = revoke_order(&order, RevokeScope::Credentials, &anchors, vec![item]);
    let receipt = revoke(&world.provider, &end).await.unwrap();
    assert!(receipt.verified && !world.usable(&issued).await);
}
