//! A standby that lags behind must never make the provider say a false word.

use taskpass_core::Timestamp;
use taskpass_provider::{
    Issued, Liveness, Provider, ProviderError, RevokeOrder, RevokeScope,
    conformance::{Fixture, RecordedAnchors, known_item, revoke_order},
};

use taskpass_provider_vault::VaultProvider;

use crate::{
    cluster::Cluster,
    failures::{Fake, answer},
    world::{World, revoke},
};

/// A credential that a standby has not heard of, and a provider that talks to that standby.
struct Lagging {
    cluster: Cluster,
    world: World,
    issued: Issued,
    order: RevokeOrder,
}

impl Lagging {
    async fn new(role: &'static str, scope: RevokeScope) -> Self {
        let (cluster, active) = Cluster::start().await;
        let world = World::of_cluster(role, active).await;
        cluster.caught_up(&world.bao).await;
        cluster.cut_off();
        let (task, anchors) = (world.new_task(), RecordedAnchors::new());
        let order = world.order(task);
        let began = world.clock.now();
        let issued = world.provider.issue(&order, &anchors).await.unwrap();
        assert!(world.usable(&issued).await);
        let item = known_item(&order, &issued, &anchors, began);
        let order = revoke_order(&order, scope, &anchors, vec![item]);
        world.proxy.lead_to(cluster.standby.port);
        Self {
            cluster,
            world,
            issued,
            order,
        }
    }

    /// Revokes through the standby. Whether the provider calls the credential dead, which then must
    /// be true; a failure is tried again later and calls it nothing.
    async fn revoke(&self) -> bool {
        self.revoke_with(&self.world.provider).await
    }

    async fn revoke_with(&self, provider: &VaultProvider) -> bool {
        let answer = provider.revoke(&self.order).await;
        let verified = match answer.map(|mut items| items.remove(0)) {
            Ok(Ok(revoked)) => revoked.verified,
            Ok(Err(_)) | Err(_) => false,
        };
        let lives = self.world.usable(&self.issued).await;
        assert!(!(verified && lives), "a live credential is called dead");
        let probed = provider.probe(&self.order).await;
        assert!(
            !(matches!(probed, Ok(Liveness::Dead(_))) && lives),
            "so does a probe"
        );
        verified
    }

    /// The order as it was recorded by a broker that kept no index, or of a server that tells none.
    fn without_index(&mut self) {
        let anchors = self.order.anchors.iter_mut().map(|(_, handle)| handle);
        let items = self.order.items.iter_mut();
        let of_items = items.flat_map(|item| item.handle.iter_mut().chain(&mut item.anchor));
        for record in anchors.chain(of_items) {
            record.as_object_mut().unwrap().remove("index").unwrap();
        }
    }
}

async fn a_standby_that_lags_behind(role: &'static str, scope: RevokeScope) {
    let lagging = Lagging::new(role, scope).await;
    // The standby may hand the calls to the active server, or refuse them.
    lagging.revoke().await;
    lagging.cluster.heal();
    lagging.cluster.caught_up(&lagging.world.bao).await;
    assert!(lagging.revoke().await, "the standby knows everything now");
    assert!(!lagging.world.usable(&lagging.issued).await);
}

#[tokio::test]
async fn a_lagging_standby_proves_no_death_of_a_token() {
    a_standby_that_lags_behind("reader", RevokeScope::Credentials).await;
}

#[tokio::test]
async fn a_lagging_standby_proves_no_death_of_a_lease() {
    a_standby_that_lags_behind("pki", RevokeScope::Credentials).await;
}

#[tokio::test]
async fn a_lagging_standby_proves_no_death_at_the_end_of_a_task() {
    a_standby_that_lags_behind("pki", RevokeScope::Task).await;
}

/// Without an index, "there is no such thing" proves nothing while a standby may answer it.
#[tokio::test]
async fn without_an_index_a_standby_proves_nothing() {
    for (role, scope) in [
        ("reader", RevokeScope::Credentials),
        ("pki", RevokeScope::Task),
    ] {
        let mut lagging = Lagging::new(role, scope).await;
        lagging.without_index();
        // In the memory of the broker that issued it there is an index still.
        let restarted = lagging.world.restarted();
        assert!(!lagging.revoke_with(&restarted).await, "{role}");
        if role == "reader" {
            let receipt = revoke(&restarted, &lagging.order).await;
            // Its holder may have renewed it for as long as the token role allows by now.
            assert_eq!(receipt.unwrap().may_live_until, Some(Timestamp::MAX));
        }
        // The standby hands the revocation of a lease on, of which it says nothing.
        let lives = lagging.world.usable(&lagging.issued).await;
        assert!(lives || role == "pki", "{role}");
    }
}

/// OpenBao 2.5 and 2.6: standbys answer reads, and no answer says how far its server is.
#[tokio::test]
async fn a_check_fails_where_a_standby_may_answer_and_tells_no_index() {
    let script = |line: &str| match line {
        l if l.contains("sys/health") => answer("200 OK", "", r#"{"version":"2.5.0"}"#),
        _ => answer(
            "200 OK",
            "",
            r#"{"request_id":"r","lease_id":"","lease_duration":0,"renewable":false,"data":{}}"#,
        ),
    };
    let alone = Fake::start(script).await.provider.check().await;
    let cluster = Fake::of_cluster(script).await.provider.check().await;
    assert!(matches!(alone, Err(ProviderError::Denied(_))), "{alone:?}");
    let Err(ProviderError::Misconfigured(text)) = cluster else {
        panic!("{cluster:?}");
    };
    assert!(text.contains("disable_standby_reads"), "{text}");
}

/// The active server has gone, and the standby is all that is left.
#[tokio::test]
async fn a_standby_alone_proves_no_death() {
    let lagging = Lagging::new("reader", RevokeScope::Task).await;
    lagging.world.bao.freeze();
    let answer = lagging.world.provider.revoke(&lagging.order).await;
    let revoked = answer.map(|mut items| items.remove(0));
    assert!(!matches!(revoked, Ok(Ok(r)) if r.verified));
}
