//! The suite that every provider runs, for each type of role.

use crate::world::World;

mod dynamic {
    taskpass_provider::conformance!(super::World::new("pki"));
}

mod token {
    taskpass_provider::conformance!(super::World::new("reader"));
}

mod token_without_token_role {
    taskpass_provider::conformance!(async {
        super::World::new("reader").await.without_token_role().await
    });
}

mod kv {
    taskpass_provider::conformance!(super::World::new("static"));
}

/// A real engine that gives leases and revokes nothing.
mod engine_without_revocation {
    taskpass_provider::conformance!(super::World::new("no-op"));
}

mod kv_version_1 {
    use taskpass_provider::conformance::{Fixture, issued_works_until_revoked};

    #[tokio::test]
    async fn fields_are_read() {
        let world = super::World::new("static-v1").await;
        assert!(
            world
                .provider()
                .roles()
                .iter()
                .any(|role| role.kind == "kv")
        );
        let order = world.order(world.new_task());
        let anchors = taskpass_provider::conformance::RecordedAnchors::new();
        let issued = world.provider().issue(&order, &anchors).await.unwrap();
        assert_eq!(issued.data.field("port").unwrap().expose(), "5432");
        // A check of the suite that holds for a static secret too, with the version 2 role.
        issued_works_until_revoked(&super::World::new("static").await).await;
    }
}
