//! Engines that revoke nothing are never the reason for a death.

use taskpass_core::{RevocationClass, Timestamp};
use taskpass_provider::{
    Liveness, Provider, ProviderError, RevokeScope, Revoked,
    conformance::{Fixture, RecordedAnchors, intent_item, known_item, revoke_order},
};

use crate::world::{World, revoke};

/// Issues a credential of `role`, and revokes it twice: alone, and with its task.
async fn revoked(
    world: &World,
    role: &str,
    scope: &[(&str, &str)],
    forget: &[&str],
) -> (RevocationClass, Vec<Revoked>, Timestamp) {
    let mut receipts = Vec::new();
    let mut class = RevocationClass::Immediate;
    let mut ends_at = Timestamp::EPOCH;
    for how in [RevokeScope::Credentials, RevokeScope::Task] {
        let (order, anchors) = (
            world.order_for(world.new_task(), role, scope),
            RecordedAnchors::new(),
        );
        let began = world.clock.now();
        let issued = world.provider.issue(&order, &anchors).await.unwrap();
        let mut item = known_item(&order, &issued, &anchors, began);
        (class, ends_at) = (issued.revocation_class, issued.expires_at);
        if !forget.is_empty() {
            // As an earlier release recorded it.
            item.revocation_class = RevocationClass::Inherits;
            let handle = item.handle.as_mut().unwrap().as_object_mut().unwrap();
            handle.retain(|key, _| !forget.contains(&key.as_str()));
        }
        let revoke = revoke_order(&order, how, &anchors, vec![item]);
        let results = world.provider.revoke(&revoke).await.unwrap();
        receipts.extend(results.into_iter().map(Result::unwrap));
        let probed = world.provider.probe(&revoke).await.unwrap();
        let is_dead = matches!(probed, Liveness::Dead(_));
        assert_eq!(is_dead, receipts.last().unwrap().verified, "{probed:?}");
    }
    (class, receipts, ends_at)
}

const NAME: [(&str, &str); 1] = [("common_name", "web.test")];

#[tokio::test]
async fn an_engine_that_revokes_nothing_never_yields_verified() {
    let world = World::new("no-op").await;
    let (class, receipts, _) = revoked(&world, "no-op", &[], &[]).await;
    assert_eq!(class, RevocationClass::None);
    for receipt in receipts {
        assert!(!receipt.verified, "{receipt:?}");
        assert_eq!(receipt.may_live_until, Some(Timestamp::MAX), "{receipt:?}");
        assert!(receipt.proof.contains("type `kv`"), "{receipt:?}");
    }
}

#[tokio::test]
async fn an_engine_that_revokes_still_yields_verified() {
    let world = World::new("pki").await;
    let (class, receipts, _) = revoked(&world, "pki", &NAME, &[]).await;
    assert_eq!(class, RevocationClass::Inherits);
    assert!(receipts.iter().all(|receipt| receipt.verified));
}

#[tokio::test]
async fn a_role_that_claims_less_for_its_engine_is_believed() {
    let world = World::new("pki").await;
    let (class, receipts, ends_at) = revoked(&world, "pki-claims-less", &NAME, &[]).await;
    assert_eq!(class, RevocationClass::ExpiryOnly);
    for receipt in receipts {
        assert!(!receipt.verified && receipt.may_live_until.is_some());
    }
    assert!(ends_at > world.clock.now());
}

/// A record of an earlier release does not say which engine minted it: the mount is asked.
#[tokio::test]
async fn a_record_without_the_type_of_its_engine_is_believed_as_far_as_the_mount_says() {
    let world = World::new("pki").await;
    let (_, receipts, _) = revoked(&world, "no-op", &[], &["engine"]).await;
    assert!(receipts.iter().all(|receipt| !receipt.verified));
    let (_, receipts, _) = revoked(&world, "pki", &NAME, &["engine"]).await;
    assert!(receipts.iter().all(|receipt| receipt.verified));
}

/// Of a credential in doubt, only the path is on record.
#[tokio::test]
async fn a_credential_in_doubt_of_an_engine_that_revokes_nothing_is_unverified() {
    let (world, clock) = World::with_manual_clock("no-op").await;
    let (order, anchors) = (
        world.order_for(world.new_task(), "no-op", &[]),
        RecordedAnchors::new(),
    );
    world.provider.issue(&order, &anchors).await.unwrap();
    let long_ago = world
        .clock
        .now()
        .minus(std::time::Duration::from_secs(7200));
    let restarted = world.restarted();
    let item = intent_item(&restarted, &order, long_ago);
    assert_eq!(item.revocation_class, RevocationClass::Inherits);
    let end = revoke_order(&order, RevokeScope::Task, &anchors, vec![item]);
    // The provider waits as long as Vault may still be working on the call.
    let receipt = loop {
        match revoke(&restarted, &end).await {
            Err(ProviderError::Retryable { after, .. }) => {
                clock.advance(after.unwrap());
            }
            settled => break settled.unwrap(),
        }
    };
    assert!(!receipt.verified, "{receipt:?}");
    assert_eq!(receipt.may_live_until, Some(Timestamp::MAX), "{receipt:?}");
}
