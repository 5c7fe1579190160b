//! The seal against a real transit engine.

use std::sync::Arc;

use serde_json::json;
use taskpass_core::{Secret, SeededEntropy, SystemClock};
use taskpass_provider::{Seal, SealParts, seal_factory};
use taskpass_provider_vault::TransitConfig;

use crate::{
    server::Bao,
    world::{created_token, write_secret},
};

fn seal(dir: &std::path::Path, address: &str, key: &str) -> Arc<dyn Seal> {
    let table = json!({
        "seal": "vault_transit",
        "key": key,
        "address": address,
        "token_file": "token",
    });
    let factory = seal_factory::<TransitConfig>();
    assert_eq!(factory.check(&table), []);
    let parts = SealParts {
        base_dir: dir.to_owned(),
        credentials: None,
        clock: Arc::new(SystemClock::new()),
        entropy: Arc::new(SeededEntropy::new(1)),
    };
    factory.build(&table, &parts).unwrap()
}

#[tokio::test]
async fn transit_wraps_and_unwraps_with_the_two_rights_of_the_reference() {
    let bao = Bao::start();
    let address = format!("http://127.0.0.1:{}", bao.port);
    let mount = json!({ "type": "transit" });
    bao.must("POST", "sys/mounts/transit", mount).await;
    for (key, body) in [
        ("taskpass", json!({})),
        ("another", json!({ "type": "chacha20-poly1305" })),
        ("derived", json!({ "derived": true })),
    ] {
        let path = format!("transit/keys/{key}");
        bao.must("POST", &path, body).await;
    }
    let rights = r#"
        path "transit/encrypt/*" { capabilities = ["update"] }
        path "transit/decrypt/*" { capabilities = ["update"] }
    "#;
    let policy = json!({ "policy": rights });
    bao.must("PUT", "sys/policies/acl/seal", policy).await;
    let order = json!({ "policies": ["seal"], "no_default_policy": true });
    let token = created_token(&bao, "auth/token/create", order).await;
    let dir = tempfile::tempdir().unwrap();
    write_secret(&dir, "token", &token);

    let data_key = Secret::new("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".to_owned());
    for key in ["taskpass", "another", "derived"] {
        let ours = seal(dir.path(), &address, key);
        let wrapped = ours.wrap(&data_key, "acme.test 1").await.unwrap();
        assert!(wrapped.starts_with("vault:v1:"), "{wrapped}");
        let unwrapped = ours.unwrap(&wrapped, "acme.test 1").await.unwrap();
        assert_eq!(unwrapped.expose(), data_key.expose(), "{key}");
        let elsewhere = ours.unwrap(&wrapped, "other.test 1").await.unwrap_err();
        assert!(!elsewhere.is_retryable(), "{key}: {elsewhere}");
    }
    let ours = seal(dir.path(), &address, "taskpass");
    let wrapped = ours.wrap(&data_key, "acme.test 1").await.unwrap();
    let down = seal(dir.path(), "http://127.0.0.1:1", "taskpass");
    let unreachable = down.unwrap(&wrapped, "acme.test 1").await.unwrap_err();
    assert!(unreachable.is_retryable(), "{unreachable}");
    write_secret(&dir, "token", "hvs.no-token-of-this-server");
    let denied = ours.unwrap(&wrapped, "acme.test 1").await.unwrap_err();
    assert_eq!(denied.kind(), "denied", "{denied}");
}

#[test]
fn mistakes_in_the_table_are_found_without_a_call() {
    let factory = seal_factory::<TransitConfig>();
    for (key, value, expected) in [
        (
            "address",
            json!("http://vault.acme.test"),
            "would show every secret",
        ),
        ("key", json!("a/b"), "name of a transit key"),
        ("mount", json!("../sys"), "must be a path"),
        (
            "token_file",
            json!(null),
            "neither `token_file` nor `approle`",
        ),
    ] {
        let mut table = json!({
            "seal": "vault_transit",
            "key": "taskpass",
            "address": "https://vault.acme.test",
            "token_file": "token",
        });
        table[key] = value;
        let found = factory.check(&table);
        assert!(
            found
                .iter()
                .any(|finding| finding.message.contains(expected)),
            "{key}: {found:?}"
        );
    }
}
