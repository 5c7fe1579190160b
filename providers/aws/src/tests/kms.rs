//! The seal against moto's KMS, which checks the ciphertext and the encryption context.

use std::sync::Arc;

use serde_json::{Value, json};
use taskpass_core::{Secret, SeededEntropy, SystemClock};
use taskpass_provider::{Seal, SealParts, seal_factory};

use super::support::{Emulator, write_secret};
use crate::{
    KmsConfig,
    transport::{Call, Endpoint, Transport},
};
use aws_credential_types::Credentials;
use taskpass_core::Clock as _;

/// Makes a key in moto; returns its id.
async fn new_key(cloud: &Emulator) -> String {
    let call = Call {
        method: "POST",
        path: "/",
        body: "{}",
    };
    let endpoint = Endpoint {
        service: "kms",
        region: "us-east-1".to_owned(),
        base: cloud.url.clone(),
    };
    let headers = [
        ("content-type", "application/x-amz-json-1.1"),
        ("x-amz-target", "TrentService.CreateKey"),
    ];
    let root = Credentials::from_keys("test", "test", None);
    let now = SystemClock::new().now();
    let transport = Transport::new();
    let answer = transport.send_with(&endpoint, &root, now, &call, &headers, "CreateKey");
    let answer: Value = serde_json::from_str(&answer.await.unwrap().body).unwrap();
    answer["KeyMetadata"]["KeyId"].as_str().unwrap().to_owned()
}

fn seal(cloud: &Emulator, key: &str, address: &str) -> Arc<dyn Seal> {
    let table = json!({
        "seal": "aws_kms",
        "key": key,
        "region": "us-east-1",
        "endpoint_url": address,
        "credentials": { "source": "file", "path": "kms.ini" },
    });
    let factory = seal_factory::<KmsConfig>();
    assert_eq!(factory.check(&table), []);
    let parts = SealParts {
        base_dir: cloud.dir.path().to_owned(),
        credentials: None,
        clock: Arc::new(SystemClock::new()),
        entropy: Arc::new(SeededEntropy::new(1)),
    };
    factory.build(&table, &parts).unwrap()
}

#[tokio::test]
async fn kms_wraps_and_unwraps_for_the_same_key_and_context_only() {
    let cloud = Emulator::moto().await;
    write_secret(
        &cloud.dir.path().join("kms.ini"),
        "[default]\naws_access_key_id=test\naws_secret_access_key=test\n",
    );
    let (key, another) = (new_key(&cloud).await, new_key(&cloud).await);
    let ours = seal(&cloud, &key, &cloud.url);
    let data_key = Secret::new("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".to_owned());
    let wrapped = ours.wrap(&data_key, "acme.test 1").await.unwrap();
    assert!(!wrapped.contains("AAECAwQF"), "{wrapped}");
    let unwrapped = ours.unwrap(&wrapped, "acme.test 1").await.unwrap();
    assert_eq!(unwrapped.expose(), data_key.expose());

    let elsewhere = ours.unwrap(&wrapped, "other.test 1").await.unwrap_err();
    assert_eq!(elsewhere.kind(), "misconfigured", "{elsewhere}");
    let theirs = seal(&cloud, &another, &cloud.url);
    let wrong_key = theirs.unwrap(&wrapped, "acme.test 1").await.unwrap_err();
    assert!(!wrong_key.is_retryable(), "{wrong_key}");
    let no_key = seal(&cloud, "00000000-0000-0000-0000-000000000000", &cloud.url);
    let unknown = no_key.wrap(&data_key, "acme.test 1").await.unwrap_err();
    assert!(
        unknown.to_string().contains("NotFoundException"),
        "{unknown}"
    );
    assert!(!unknown.is_retryable());
    let down = seal(&cloud, &key, "http://127.0.0.1:1");
    let unreachable = down.unwrap(&wrapped, "acme.test 1").await.unwrap_err();
    assert!(unreachable.is_retryable(), "{unreachable}");
    std::fs::remove_file(cloud.dir.path().join("kms.ini")).unwrap();
    let missing = ours.unwrap(&wrapped, "acme.test 1").await.unwrap_err();
    assert!(missing.to_string().contains("kms.ini"), "{missing}");
}
