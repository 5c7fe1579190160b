//! A second opinion on the wire format. moto ignores session policies and conditions, so these
//! tests do not show that they are enforced, only that moto takes our requests and we read its
//! answers.

use std::{sync::Arc, time::Duration};

use taskpass_core::SystemClock;
use taskpass_provider::{Provider, conformance::RecordedAnchors};

use super::support::{Emulator, Orders, config, write_secret};
use crate::{
    AwsProvider,
    credentials::{Kind, Source},
    endpoints::Endpoints,
    iam::{IamPolicy, PolicyStore, Room},
    transport::Transport,
};

#[tokio::test]
async fn moto_understands_us_and_we_understand_moto() {
    let cloud = Emulator::moto().await;
    let trust = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"*"},"Action":"sts:AssumeRole"}]}"#;
    cloud
        .iam(&[
            ("Action", "CreateRole"),
            ("RoleName", "reader"),
            ("AssumeRolePolicyDocument", trust),
        ])
        .await;
    for name in ["broker", "revoker"] {
        write_secret(
            &cloud.dir.path().join(format!("{name}.ini")),
            "[default]\naws_access_key_id=test\naws_secret_access_key=test\n",
        );
    }
    std::fs::write(
        cloud.dir.path().join("reader.json"),
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::${bucket}/${key}"}]}"#,
    )
    .unwrap();
    let clock = Arc::new(SystemClock::new());
    let config = config(&cloud.url, true);
    let provider = AwsProvider::new(&config, cloud.dir.path(), clock.clone()).unwrap();
    let orders = Orders::new();
    let scope = [("bucket", "logs"), ("key", "a+b c&d=\u{e9}.txt")];
    let order = orders.order(orders.task(), Duration::from_secs(60), &scope);
    let issued = provider
        .issue(&order, &RecordedAnchors::new())
        .await
        .unwrap();
    assert_eq!(issued.data.len(), 3);
    let handle = issued.handle.unwrap().to_string();
    assert!(handle.contains(&order.credential.to_string()), "{handle}");

    let source = Source::new(
        Kind::File {
            path: cloud.dir.path().join("revoker.ini"),
            profile: None,
        },
        clock.clone(),
    );
    let store = IamPolicy {
        transport: Arc::new(Transport::new()),
        endpoint: Endpoints::new("us-east-1", Some(&cloud.url)).iam,
        source,
        clock,
        policy_name: "taskpass-deny".to_owned(),
    };
    let found = store.read("reader").await.unwrap();
    assert!(found.document.is_none() && found.at.is_some(), "{found:?}");
    let document = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"*","Resource":"*","Condition":{"StringEquals":{"aws:PrincipalTag/taskpass-task":["a+b&c=d %41"]}}}]}"#;
    assert_eq!(store.write("reader", document).await.unwrap(), Room::Enough);
    let read = store.read("reader").await.unwrap().document.unwrap();
    let parsed = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(parsed(&read), parsed(document));
    assert_eq!(
        store.write("nobody", document).await.unwrap_err().kind(),
        "misconfigured"
    );
}
