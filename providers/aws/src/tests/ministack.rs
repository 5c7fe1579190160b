//! Against an emulator that enforces policies: narrowing, the deadline, revocation, restart,
//! repair.

use std::{sync::Arc, time::Duration};

use taskpass_core::{Clock, ManualClock, RevocationClass, SystemClock};
use taskpass_provider::{
    Issued, Liveness, Provider, RevokeItem, RevokeOrder, RevokeScope, Revoked,
    conformance::{RecordedAnchors, intent_item, known_item, revoke_order},
};

use super::support::{Emulator, Orders, agent, cloud, config, object, provider};
use crate::{AwsProvider, transport::Call};

const LIFE: Duration = Duration::from_secs(600);
const SCOPE: &[(&str, &str)] = &[("bucket", "logs"), ("key", "a.txt")];

async fn issue(
    provider: &dyn Provider,
    order: &taskpass_provider::IssueOrder,
) -> (Issued, RevokeItem) {
    let anchors = RecordedAnchors::new();
    let issued = provider.issue(order, &anchors).await.unwrap();
    let item = known_item(order, &issued, &anchors, SystemClock::new().now());
    (issued, item)
}

async fn revoke(provider: &dyn Provider, order: &RevokeOrder) -> Revoked {
    provider.revoke(order).await.unwrap().remove(0).unwrap()
}

async fn may_read(cloud: &Emulator, issued: &Issued) -> bool {
    object(cloud, issued, "GET", "/logs/a.txt").await.0 == 200
}

#[tokio::test]
async fn a_session_has_the_rights_of_template_and_scope_and_no_others() {
    let (cloud, orders) = (cloud().await, Orders::new());
    let provider = provider(&cloud, true);
    let (issued, _) = issue(&provider, &orders.order(orders.task(), LIFE, SCOPE)).await;
    assert_eq!(issued.revocation_class, RevocationClass::Denylist);
    assert!(may_read(&cloud, &issued).await);
    for (method, path) in [
        ("GET", "/logs/b.txt"),
        ("GET", "/other/a.txt"),
        ("PUT", "/logs/a.txt"),
        ("DELETE", "/logs/a.txt"),
        ("GET", "/logs?list-type=2"),
    ] {
        let refused = object(&cloud, &issued, method, path).await;
        assert_eq!(refused, (403, "AccessDenied".to_owned()), "{method} {path}");
    }
    let body = "Action=DescribeRegions&Version=2016-11-15";
    let call = Call {
        method: "POST",
        path: "/",
        body,
    };
    assert_eq!(cloud.send("ec2", &agent(&issued), &call).await.status, 403);
}

#[tokio::test]
async fn after_the_deadline_nothing_is_allowed_without_a_revocation() {
    let (cloud, orders) = (cloud().await, Orders::new());
    let order = orders.order(orders.task(), Duration::from_secs(3), SCOPE);
    let issued = {
        // Without this provider there is no broker any more.
        let provider = provider(&cloud, false);
        issue(&provider, &order).await.0
    };
    assert_eq!(issued.revocation_class, RevocationClass::ExpiryOnly);
    assert!(issued.expires_at <= order.expires_at);
    assert!(may_read(&cloud, &issued).await);
    let clock = SystemClock::new();
    let denied = tokio::time::timeout(Duration::from_secs(30), async {
        while may_read(&cloud, &issued).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        clock.now()
    });
    let denied = denied.await.unwrap();
    assert!(denied >= issued.expires_at, "denied {denied}, too early");
    assert!(
        denied < issued.expires_at.plus(Duration::from_secs(2)),
        "denied {denied}, too late"
    );
}

#[tokio::test]
async fn ending_a_task_denies_its_sessions_and_no_others() {
    let (cloud, orders) = (cloud().await, Orders::new());
    let provider = provider(&cloud, true);
    let order = orders.order(orders.task(), LIFE, SCOPE);
    let (issued, item) = issue(&provider, &order).await;
    let (other, _) = issue(&provider, &orders.order(orders.task(), LIFE, SCOPE)).await;
    let anchors = RecordedAnchors::new();
    let order = revoke_order(&order, RevokeScope::Task, &anchors, vec![item]);
    assert!(matches!(
        provider.probe(&order).await,
        Ok(Liveness::Alive(_))
    ));

    let revoked = revoke(&provider, &order).await;
    assert!(
        revoked.verified && revoked.may_live_until.is_none(),
        "{revoked:?}"
    );
    assert!(!may_read(&cloud, &issued).await);
    assert!(may_read(&cloud, &other).await);
    assert!(matches!(
        provider.probe(&order).await,
        Ok(Liveness::Dead(_))
    ));
    let list = cloud.deny_list("reader").await;
    assert!(list.contains(&order.task.to_string()), "{list}");
}

/// The name that AWS tells others of a session's holder; `None` if AWS does not know the session.
async fn identity(cloud: &Emulator, issued: &Issued) -> Option<String> {
    let call = Call {
        method: "POST",
        path: "/",
        body: "Action=GetCallerIdentity&Version=2011-06-15",
    };
    let answer = cloud.send("sts", &agent(issued), &call).await;
    (answer.status == 200).then_some(answer.body)
}

/// The expectation: access is denied and the identity is not. No policy can deny
/// `sts:GetCallerIdentity`, and others take its answer for a login.
#[tokio::test]
async fn a_revoked_session_still_has_an_identity_and_the_receipt_says_until_when() {
    let (cloud, orders) = (cloud().await, Orders::new());
    // The session policy ends after ten minutes, and STS gives no session less than fifteen.
    for with_revoker in [true, false] {
        let provider = provider(&cloud, with_revoker);
        let order = orders.order(orders.task(), LIFE, SCOPE);
        let began = SystemClock::new().now();
        let (issued, item) = issue(&provider, &order).await;
        assert!(identity(&cloud, &issued).await.is_some());
        let none = RecordedAnchors::new();
        let mut in_doubt = intent_item(&provider, &order, began);
        in_doubt.credential = item.credential;
        let known = revoke_order(&order, RevokeScope::Task, &none, vec![item]);
        let revoked = revoke(&provider, &known).await;
        assert_eq!(revoked.verified, with_revoker, "{revoked:?}");
        assert_eq!(may_read(&cloud, &issued).await, !with_revoker);
        let name = identity(&cloud, &issued).await.unwrap();
        assert!(name.contains("assumed-role/reader"), "{name}");
        // A second of rounding, and the time of the call.
        let until = revoked.identity_until.unwrap();
        let life = until.since(began);
        assert!((899..=905).contains(&life.as_secs()), "{life:?}");
        if with_revoker {
            let words = format!("access denied, identity until {until}");
            assert!(revoked.proof.contains(&words), "{revoked:?}");
        }
        // Without an answer of STS on record, the receipt names no earlier end.
        let unknown = revoke_order(&order, RevokeScope::Task, &none, vec![in_doubt]);
        let revoked = revoke(&provider, &unknown).await;
        assert!(revoked.identity_until.unwrap() >= until, "{revoked:?}");
    }
}

#[tokio::test]
async fn a_role_name_that_now_means_another_role_proves_nothing() {
    let (cloud, orders) = (cloud().await, Orders::new());
    let before = provider(&cloud, true);
    let order = orders.order(orders.task(), LIFE, SCOPE);
    let (issued, known) = issue(&before, &order).await;
    let intent = intent_item(&before, &order, SystemClock::new().now());
    let mut config = config(&cloud.url, true);
    config.roles[0].role_arn = config.roles[0]
        .role_arn
        .replace("role/reader", "role/other");
    let clock = Arc::new(SystemClock::new());
    let after = AwsProvider::new(&config, cloud.dir.path(), clock).unwrap();
    let none = RecordedAnchors::new();
    for item in [known.clone(), intent] {
        let order = revoke_order(&order, RevokeScope::Task, &none, vec![item]);
        let result = after.revoke(&order).await.unwrap().remove(0);
        assert!(
            matches!(&result, Err(error) if error.kind() == "misconfigured"),
            "{result:?}"
        );
        let looked = after.probe(&order).await;
        assert!(matches!(looked, Ok(Liveness::Unknown(_))), "{looked:?}");
    }
    assert!(may_read(&cloud, &issued).await);
    // A record without the role's ARN: denied at today's role, and not called proven.
    let mut item = known;
    item.handle = None;
    let order = revoke_order(&order, RevokeScope::Task, &none, vec![item]);
    let revoked = revoke(&before, &order).await;
    assert!(!revoked.verified, "{revoked:?}");
}

/// A broker with a clock an hour ahead must not call a session expired while AWS lets it live.
#[tokio::test]
async fn a_session_expires_by_the_clock_of_aws() {
    let (cloud, orders) = (cloud().await, Orders::new());
    let order = orders.order(orders.task(), LIFE, SCOPE);
    let (issued, item) = issue(&provider(&cloud, true), &order).await;
    let ahead = SystemClock::new().now().plus(Duration::from_secs(3600));
    let clock = Arc::new(ManualClock::new(ahead));
    let config = config(&cloud.url, true);
    let jumped = AwsProvider::new(&config, cloud.dir.path(), clock).unwrap();
    let none = RecordedAnchors::new();
    let order = revoke_order(&order, RevokeScope::Task, &none, vec![item]);
    let outcomes = jumped.revoke(&order).await;
    let result = outcomes.and_then(|mut outcomes| outcomes.remove(0));
    assert!(
        !matches!(&result, Ok(revoked) if revoked.proof.contains("has denied everything since")),
        "{result:?}"
    );
    // AWS may refuse requests from another hour; then the provider claims nothing and tries again.
    assert!(
        result.is_err() || !may_read(&cloud, &issued).await,
        "{result:?}"
    );
}

#[tokio::test]
async fn without_a_revoker_nothing_is_claimed() {
    let (cloud, orders) = (cloud().await, Orders::new());
    let provider = provider(&cloud, false);
    let order = orders.order(orders.task(), LIFE, SCOPE);
    let (issued, item) = issue(&provider, &order).await;
    let order = revoke_order(
        &order,
        RevokeScope::Task,
        &RecordedAnchors::new(),
        vec![item],
    );
    let revoked = revoke(&provider, &order).await;
    assert!(!revoked.verified, "{revoked:?}");
    assert_eq!(revoked.may_live_until, Some(issued.expires_at));
    assert!(may_read(&cloud, &issued).await, "it lives, as was said");
    assert!(matches!(
        provider.probe(&order).await,
        Ok(Liveness::Unknown(_))
    ));
}

#[tokio::test]
async fn a_refusal_to_every_session_is_no_proof() {
    let (cloud, orders) = (cloud().await, Orders::new());
    let provider = provider(&cloud, true);
    let order = orders.order(orders.task(), LIFE, SCOPE);
    let (_, item) = issue(&provider, &order).await;
    // The role loses the probe's permission; AWS now refuses the canary with any deny list.
    cloud
        .iam(&[
            ("Action", "PutRolePolicy"),
            ("RoleName", "reader"),
            ("PolicyName", "own"),
            ("PolicyDocument", r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:*","Resource":"*"}]}"#),
        ])
        .await;
    let order = revoke_order(
        &order,
        RevokeScope::Task,
        &RecordedAnchors::new(),
        vec![item],
    );
    let revoked = revoke(&provider, &order).await;
    assert!(
        !revoked.verified && revoked.may_live_until.is_some(),
        "{revoked:?}"
    );
    let health = provider.check().await.unwrap();
    assert!(
        health.warnings.iter().any(|w| w.contains("never verified")),
        "{health:?}"
    );
}

#[tokio::test]
async fn a_restarted_broker_keeps_the_list_and_repairs_it() {
    let (cloud, orders) = (cloud().await, Orders::new());
    let mut tasks = Vec::new();
    for _ in 0..3 {
        // Each time a new provider, without the memory of the one before.
        let provider = provider(&cloud, true);
        let order = orders.order(orders.task(), LIFE, SCOPE);
        let item = intent_item(&provider, &order, SystemClock::new().now());
        let order = revoke_order(
            &order,
            RevokeScope::Task,
            &RecordedAnchors::new(),
            vec![item],
        );
        assert!(revoke(&provider, &order).await.verified);
        tasks.push(order.task.to_string());
    }
    let list = cloud.deny_list("reader").await;
    assert!(tasks.iter().all(|task| list.contains(task)), "{list}");

    let provider = provider(&cloud, true);
    provider.maintain().await.unwrap();
    cloud
        .iam(&[
            ("Action", "DeleteRolePolicy"),
            ("RoleName", "reader"),
            ("PolicyName", "taskpass-deny"),
        ])
        .await;
    provider.maintain().await.unwrap();
    assert_eq!(
        cloud.deny_list("reader").await,
        list,
        "an id that was removed comes back"
    );
}

#[tokio::test]
async fn two_hundred_tasks_end_at_once() {
    let (cloud, orders) = (cloud().await, Orders::new());
    let provider = provider(&cloud, true);
    let now = SystemClock::new().now();
    let all: Vec<RevokeOrder> = (0..200)
        .map(|_| {
            let order = orders.order(orders.task(), LIFE, SCOPE);
            let item = intent_item(&provider, &order, now);
            revoke_order(
                &order,
                RevokeScope::Task,
                &RecordedAnchors::new(),
                vec![item],
            )
        })
        .collect();
    let provider = std::sync::Arc::new(provider);
    let running: Vec<_> = all
        .iter()
        .cloned()
        .map(|order| {
            let provider = provider.clone();
            tokio::spawn(async move { provider.revoke(&order).await.unwrap().remove(0) })
        })
        .collect();
    for outcome in running {
        let revoked = outcome.await.unwrap().unwrap();
        assert!(revoked.verified, "{revoked:?}");
    }
    let list = cloud.deny_list("reader").await;
    assert!(
        all.iter()
            .all(|order| list.contains(&order.task.to_string()))
    );
    assert!(list.len() <= 8192, "{} characters", list.len());
}

/// One agent ends five hundred tasks, more than the list holds. The session of another agent, which
/// began among them, goes on to work. The first agent gets no further session, and the other does.
#[tokio::test]
async fn an_agent_that_ends_many_tasks_ends_no_session_of_another_agent() {
    let (cloud, orders) = (cloud().await, Orders::new());
    let mut config = config(&cloud.url, true);
    // Without proofs, which take five requests for each task.
    config.roles[0].probe = None;
    let clock = Arc::new(SystemClock::new());
    let provider = Arc::new(AwsProvider::new(&config, cloud.dir.path(), clock).unwrap());
    let greedy = |mut order: taskpass_provider::IssueOrder| {
        order.agent = "greedy".parse().unwrap();
        order
    };
    let now = SystemClock::new().now();
    let end = async |tasks: usize| {
        let mut running = tokio::task::JoinSet::new();
        for _ in 0..tasks {
            let order = greedy(orders.order(orders.task(), LIFE, SCOPE));
            let items = vec![intent_item(&*provider, &order, now)];
            let order = revoke_order(&order, RevokeScope::Task, &RecordedAnchors::new(), items);
            let provider = Arc::clone(&provider);
            running.spawn(async move { provider.revoke(&order).await.unwrap().remove(0) });
        }
        while let Some(outcome) = running.join_next().await {
            outcome.unwrap().unwrap();
        }
    };
    end(250).await;
    let order = greedy(orders.order(orders.task(), LIFE, SCOPE));
    let refused = provider.issue(&order, &RecordedAnchors::new()).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind(), "exhausted", "{refused}");
    assert!(refused.to_string().contains("`agent_share`"), "{refused}");
    let order = orders.order(orders.task(), LIFE, SCOPE);
    let (other, item) = issue(&*provider, &order).await;
    end(250).await;
    let list = cloud.deny_list("reader").await;
    assert!(list.len() <= 8192 && list.contains("Windows"), "{list}");
    assert!(may_read(&cloud, &other).await, "{list}");
    let order = orders.order(orders.task(), LIFE, SCOPE);
    let (again, _) = issue(&*provider, &order).await;
    assert!(may_read(&cloud, &again).await);
    let order = revoke_order(
        &order,
        RevokeScope::Credentials,
        &RecordedAnchors::new(),
        vec![item],
    );
    revoke(&*provider, &order).await;
    assert!(!may_read(&cloud, &other).await);
}

#[tokio::test]
async fn errors_name_their_cause() {
    let (cloud, orders) = (cloud().await, Orders::new());
    let order = orders.order(orders.task(), LIFE, SCOPE);
    let anchors = RecordedAnchors::new();
    let kind =
        |outcome: Result<Issued, taskpass_provider::ProviderError>| outcome.unwrap_err().kind();

    let mut foreign = super::support::config(&cloud.url, true);
    foreign.roles[0].role_arn = foreign.roles[0].role_arn.replace("reader", "nobody");
    let clock = std::sync::Arc::new(SystemClock::new());
    let build = |config| crate::AwsProvider::new(config, cloud.dir.path(), clock.clone()).unwrap();
    assert_eq!(
        kind(build(&foreign).issue(&order, &anchors).await),
        "denied"
    );
    assert!(build(&foreign).check().await.is_err());

    let healthy = super::support::config(&cloud.url, true);
    let health = build(&healthy).check().await.unwrap();
    assert!(
        health.warnings.is_empty() && health.findings.len() == 5,
        "{health:?}"
    );

    super::support::write_secret(
        &cloud.dir.path().join("broker.ini"),
        "[default]\naws_access_key_id=AKIAAAAAAAAAAAAAAAAA\naws_secret_access_key=x\n",
    );
    assert_eq!(
        kind(build(&healthy).issue(&order, &anchors).await),
        "misconfigured"
    );
    std::fs::remove_file(cloud.dir.path().join("broker.ini")).unwrap();
    assert_eq!(
        kind(build(&healthy).issue(&order, &anchors).await),
        "misconfigured"
    );
}

#[tokio::test]
async fn https_is_spoken_by_both_clients_and_a_broken_handshake_is_retryable() {
    let dir = files();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let hellos = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
    let seen = hellos.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut start = [0; 2];
            if tokio::io::AsyncReadExt::read_exact(&mut stream, &mut start)
                .await
                .is_ok()
            {
                seen.lock().push(start);
            }
        }
    });
    let config = super::support::config(&url, true);
    let clock = std::sync::Arc::new(SystemClock::new());
    let provider = crate::AwsProvider::new(&config, dir.path(), clock).unwrap();
    let orders = Orders::new();
    let order = orders.order(orders.task(), LIFE, SCOPE);
    let issued = provider.issue(&order, &RecordedAnchors::new()).await;
    assert!(issued.unwrap_err().is_retryable());
    let by_sdk = hellos.lock().len();
    assert!(provider.maintain().await.unwrap_err().is_retryable());
    let hellos = hellos.lock();
    assert!(by_sdk > 0 && hellos.len() > by_sdk);
    // A TLS record of type handshake.
    assert!(
        hellos.iter().all(|start| *start == [0x16, 0x03]),
        "{hellos:?}"
    );
}

/// The files that a configuration names, for tests that reach no AWS.
fn files() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["broker.ini", "revoker.ini"] {
        super::support::write_secret(
            &dir.path().join(name),
            "[default]\naws_access_key_id=a\naws_secret_access_key=b\n",
        );
    }
    std::fs::write(
        dir.path().join("reader.json"),
        r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:Get*","Resource":"${bucket}${key}"}}"#,
    )
    .unwrap();
    dir
}

/// Two instances would overwrite each other's entries in a deny list.
#[test]
fn a_provider_with_a_deny_list_is_the_only_one_that_works() {
    let dir = files();
    for revoker in [true, false] {
        let config = super::support::config("http://127.0.0.1:1", revoker);
        let clock = std::sync::Arc::new(SystemClock::new());
        let provider = crate::AwsProvider::new(&config, dir.path(), clock).unwrap();
        assert_eq!(provider.may_overlap(), !revoker);
    }
}
