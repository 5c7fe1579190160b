//! The findings of a check of the provider.

use serde_json::json;
use taskpass_provider::{Provider, ProviderError};

use crate::world::World;

#[tokio::test]
async fn the_check_names_the_rights_that_the_brokers_token_lacks() {
    let world = World::new("pki").await;
    let policy = "path \"sys/leases/lookup\" { capabilities = [\"update\"] }";
    world
        .bao
        .must("POST", "sys/policies/acl/weak", json!({ "policy": policy }))
        .await;
    let settings = json!({"policies": ["weak"]});
    world.replace_broker_token(settings).await;
    let error = world.provider.check().await.unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(error, ProviderError::Denied(_))
            && text.contains("update on `auth/token/create/taskpass`"),
        "{text}"
    );
    assert!(
        text.contains("`sys/leases/revoke`") && !text.contains("`sys/leases/lookup`"),
        "{text}"
    );
}

#[tokio::test]
async fn a_check_names_the_roles_that_cannot_be_issued_and_leaves_no_token() {
    let world = World::new("pki").await;
    let before = world.accessors().await;
    let health = world.provider.check().await.unwrap();
    let warnings = health.warnings;
    let warning_about = |role: &str, warnings: &[String]| {
        let named = format!("role `vault-test/{role}`");
        warnings.iter().find(|w| w.contains(&named)).cloned()
    };
    let denied = warning_about("denied", &warnings).unwrap();
    assert!(
        denied.contains("nobody-wrote-this") && denied.contains("`pki/issue/web`"),
        "{denied}"
    );
    for role in ["no-op", "no-op-by-name"] {
        let warned = warning_about(role, &warnings).unwrap();
        assert!(
            warned.contains("type `kv`") && warned.contains("`revoked_unverified`"),
            "{warned}"
        );
    }
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    let says = |role: &str, words: &str| {
        let named = format!("role `vault-test/{role}`: ");
        let mut findings = health.findings.iter();
        findings.any(|finding| finding.starts_with(&named) && finding.contains(words))
    };
    assert!(says("pki", "type `pki` makes its credentials useless"));
    assert!(says(
        "pki-by-name",
        "type `pki` makes its credentials useless"
    ));
    assert!(says("pki-claims-less", "`engine_revokes` says"));
    assert_eq!(world.accessors().await.len(), before.len());

    world.bao.must("DELETE", "sys/mounts/pki", json!({})).await;
    let warnings = world.provider.check().await.unwrap().warnings;
    let gone = warning_about("pki", &warnings).unwrap();
    assert!(gone.contains("no secrets engine is mounted"), "{gone}");
    assert_eq!(warning_about("static", &warnings), None);
}
