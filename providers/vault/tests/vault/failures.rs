//! Servers that answer wrongly, late, or not at all.

use std::{
    os::unix::fs::PermissionsExt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use taskpass_core::{Clock, SystemClock, TaskId};
use taskpass_provider::{
    IssueOrder, Provider, ProviderError, RenewOrder, RevokeItem, RevokeOrder, RevokeScope,
    conformance::{RecordedAnchors, revoke_order},
};
use taskpass_provider_vault::VaultProvider;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::world::{config, revoke, write_secret};

const MOUNT_OF_PKI: &str = r#"{"request_id":"r","lease_id":"","lease_duration":0,"renewable":false,"data":{"path":"pki/","type":"pki"}}"#;

type Script = dyn Fn(&str) -> Option<String> + Send + Sync;

/// A server that answers each path as the test says; `None` means never.
pub(crate) struct Fake {
    port: u16,
    seen: Arc<Mutex<Vec<String>>>,
    dir: tempfile::TempDir,
    pub(crate) provider: VaultProvider,
}

impl Fake {
    pub(crate) async fn start(
        script: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        Self::with_clock(clock(), script).await
    }

    pub(crate) async fn with_clock(
        clock: Arc<dyn Clock>,
        script: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        // It is a server alone: no standby of it can answer.
        Self::led_by(r#"{"ha_enabled":false}"#, clock, script).await
    }

    /// A server of a cluster, whose standbys may answer.
    pub(crate) async fn of_cluster(
        script: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        Self::led_by(r#"{"ha_enabled":true}"#, clock(), script).await
    }

    async fn led_by(
        leader: &'static str,
        clock: Arc<dyn Clock>,
        script: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let script = move |line: &str| {
            if line.contains("/v1/sys/leader ") {
                return answer("200 OK", "", leader);
            }
            if line.contains("/v1/sys/internal/ui/mounts/") {
                return answer("200 OK", "", MOUNT_OF_PKI);
            }
            script(line)
        };
        let (script, log): (Arc<Script>, _) = (Arc::new(script), Arc::clone(&seen));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&script), Arc::clone(&log)));
            }
        });
        let dir = tempfile::tempdir().unwrap();
        write_secret(&dir, "token", "hvs.fake");
        let config = config(port, "token_file = \"token\"\ntimeout = \"1s\"");
        let provider = VaultProvider::new(&config, dir.path(), clock).unwrap();
        Self {
            port,
            seen,
            dir,
            provider,
        }
    }

    /// A server that gives out tokens, and whose engine gives this answer.
    async fn with_engine(engine: impl Fn() -> Option<String> + Send + Sync + 'static) -> Self {
        Self::start(move |line| match line.contains("pki") {
            true => engine(),
            false => token_answer(),
        })
        .await
    }

    async fn issue(&self) -> ProviderError {
        self.provider
            .issue(&order(), &RecordedAnchors::new())
            .await
            .unwrap_err()
    }
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new())
}

async fn serve(mut stream: TcpStream, script: Arc<Script>, log: Arc<Mutex<Vec<String>>>) {
    let mut request = Vec::new();
    let mut buffer = [0_u8; 4096];
    loop {
        let read = stream.read(&mut buffer).await.unwrap_or(0);
        if read == 0 {
            return;
        }
        request.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&request).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let wanted = head
            .lines()
            .find_map(|line| {
                line.to_ascii_lowercase()
                    .strip_prefix("content-length: ")
                    .map(str::to_owned)
            })
            .map_or(0, |length| length.parse().unwrap());
        if body.len() < wanted {
            continue;
        }
        let line = head.lines().next().unwrap().to_owned();
        log.lock().unwrap().push(line.clone());
        match script(&line) {
            Some(answer) => drop(stream.write_all(answer.as_bytes()).await),
            None => std::future::pending().await,
        }
        request.clear();
    }
}

pub(crate) fn answer(status: &str, headers: &str, body: &str) -> Option<String> {
    Some(format!(
        "HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    ))
}

fn token_answer() -> Option<String> {
    let body = json!({
        "request_id": "r", "lease_id": "", "lease_duration": 0, "renewable": false, "data": null,
        "auth": {"client_token": "hvs.task-canary-0123456789", "accessor": "acc", "policies": ["web"],
            "token_policies": ["web"], "metadata": null, "lease_duration": 1800, "renewable": true,
            "entity_id": "", "token_type": "service", "orphan": true},
    });
    answer("200 OK", "", &body.to_string())
}

pub(crate) fn refusal(status: &str, words: &str) -> Option<String> {
    answer(status, "", &json!({ "errors": [words] }).to_string())
}

pub(crate) fn order() -> IssueOrder {
    let now = clock().now();
    IssueOrder {
        credential: "c0123456789abcdef".parse().unwrap(),
        task: "t0123456789abcdef".parse::<TaskId>().unwrap(),
        agent: "builder".parse().unwrap(),
        task_deadline: now.plus(Duration::from_secs(1800)),
        role: "vault-test/pki".parse().unwrap(),
        scope: taskpass_core::Scope::from_pairs([("common_name", "web.test")]).unwrap(),
        expires_at: now.plus(Duration::from_secs(600)),
    }
}

/// The order to revoke one item of a task without sessions.
pub(crate) fn revoking(scope: RevokeScope, item: RevokeItem) -> RevokeOrder {
    revoke_order(&order(), scope, &RecordedAnchors::new(), vec![item])
}

fn leased_item(lease_id: &str) -> RevokeItem {
    let order = order();
    RevokeItem {
        credential: order.credential,
        role: order.role,
        scope: order.scope,
        intended_at: clock().now(),
        expires_at: order.expires_at,
        lifetime: Duration::from_secs(600),
        revocation_class: taskpass_core::RevocationClass::Inherits,
        handle: Some(json!({ "lease_id": lease_id })),
        anchor: Some(json!({"accessor": "acc"})),
        outcome_known: true,
    }
}

#[tokio::test]
async fn a_sealed_or_busy_server_is_retryable() {
    let fake = Fake::start(|_| {
        answer(
            "503 Sealed",
            "retry-after: 7\r\n",
            r#"{"errors":["Vault is sealed"]}"#,
        )
    })
    .await;
    let error = fake.issue().await;
    assert!(
        matches!(&error, ProviderError::Retryable { after: Some(after), message } if after.as_secs() == 7 && message.contains("Vault is sealed")),
        "{error:?}"
    );
    assert!(fake.provider.check().await.unwrap_err().is_retryable());
    assert!(fake.provider.maintain().await.unwrap_err().is_retryable());
}

/// A failure of one role must not be taken for a failure of the server, nor the other way round.
#[tokio::test]
async fn a_role_that_fails_is_told_from_a_server_that_nothing_reaches() {
    const UP: &str = r#"{"initialized":true,"sealed":false,"standby":false}"#;
    for (health, kind) in [
        (answer("200 OK", "", UP), "retryable"),
        (answer("503 Sealed", "", "{}"), "unreachable"),
        (answer("502 Bad Gateway", "", ""), "unreachable"),
        // Something in front of the server hides its health.
        (answer("404 Not Found", "", ""), "retryable"),
    ] {
        let has_failed = AtomicBool::new(false);
        let fake = Fake::start(move |line| {
            if line.contains("/v1/sys/health ") {
                if has_failed.load(Ordering::SeqCst) {
                    health.clone()
                } else {
                    answer("200 OK", "", UP)
                }
            } else if line.contains("pki") {
                has_failed.store(true, Ordering::SeqCst);
                refusal("500 Internal Server Error", "dial tcp: connection refused")
            } else {
                token_answer()
            }
        })
        .await;
        let error = fake.issue().await;
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(error.to_string().contains("dial tcp"), "{error:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    write_secret(&dir, "token", "hvs.fake");
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = unused.local_addr().unwrap().port();
    drop(unused);
    let config = config(port, "token_file = \"token\"\ntimeout = \"1s\"");
    let provider = VaultProvider::new(&config, dir.path(), clock()).unwrap();
    let anchors = RecordedAnchors::new();
    let error = provider.issue(&order(), &anchors).await.unwrap_err();
    assert_eq!(error.kind(), "unreachable", "{error:?}");
}

#[tokio::test]
async fn silence_ends_after_the_timeout_with_the_outcome_open() {
    let fake = Fake::with_engine(|| None).await;
    let error = fake.issue().await;
    assert!(
        error.is_retryable() && error.to_string().contains("no answer in time"),
        "{error:?}"
    );
    assert!(!error.to_string().contains("127.0.0.1"), "{error}");
}

#[tokio::test]
async fn a_redirect_is_not_followed_with_the_token() {
    let elsewhere = Fake::start(|_| token_answer()).await;
    let target = format!("location: http://127.0.0.1:{}/v1/steal\r\n", elsewhere.port);
    let fake = Fake::start(move |_| answer("307 Temporary Redirect", &target, "")).await;
    let error = fake.issue().await;
    assert!(
        matches!(error, ProviderError::Misconfigured(_)),
        "{error:?}"
    );
    assert!(
        elsewhere.seen.lock().unwrap().is_empty(),
        "the token was carried elsewhere"
    );
}

#[tokio::test]
async fn answers_that_cannot_be_used_leave_the_outcome_open() {
    let bodies = [
        "{\"data\": \"hvs.canary-in-a-broken-answer\"".to_owned(),
        "<html>".to_owned(),
        "[]".to_owned(),
        format!("\"{}\"", "x".repeat(5 * 1024 * 1024)),
    ];
    for body in bodies {
        let fake = Fake::with_engine(move || answer("200 OK", "", &body)).await;
        let error = fake.issue().await;
        assert!(
            error.is_retryable() && !error.to_string().contains("canary"),
            "{error:?}"
        );
    }
}

/// A proxy that mixes answers up must not change the end of a credential on record.
#[tokio::test]
async fn an_answer_about_another_thing_renews_nothing() {
    let of_token = r#"{"auth":{"client_token":"","accessor":"other","policies":[],"token_policies":[],"metadata":null,"lease_duration":1800,"renewable":true,"entity_id":"","token_type":"service","orphan":true}}"#;
    let of_lease = r#"{"lease_id":"pki/issue/web/other","lease_duration":1800,"renewable":true}"#;
    let nothing = r#"{"data":null,"auth":null,"lease_id":""}"#;
    for body in ["", "{}", nothing, of_token, of_lease] {
        let fake = Fake::start(move |_| answer("200 OK", "", body)).await;
        for handle in [
            json!({"lease_id": "pki/issue/web/own"}),
            json!({"accessor": "own"}),
        ] {
            let order = order();
            let order = RenewOrder {
                credential: order.credential,
                task: order.task,
                role: order.role,
                handle: Some(handle.clone()),
                anchor: Some(json!({"accessor": "own"})),
                until: order.expires_at,
            };
            let error = fake.provider.renew(&order).await.unwrap_err();
            assert!(error.is_retryable(), "{handle} {body}: {error:?}");
        }
    }
}

#[tokio::test]
async fn engine_errors_lose_their_secrets_on_the_way() {
    let words = "statement failed: PASSWORD 'Xk29dkJw0aPq83LmZ0' (hvs.task-canary-0123456789)";
    let fake = Fake::with_engine(move || refusal("400 Bad Request", words)).await;
    let text = fake.issue().await.to_string();
    assert!(text.contains("statement failed"), "{text}");
    assert!(
        !text.contains("Xk29") && !text.contains("0123456789"),
        "{text}"
    );
}

#[tokio::test]
async fn a_lease_that_stays_is_never_called_dead() {
    let fake = Fake::start(|line| {
        if line.contains("lookup-accessor") {
            refusal("400 Bad Request", "invalid accessor")
        } else if line.contains("leases/lookup") {
            let body = json!({"request_id": "r", "lease_id": "", "lease_duration": 0, "renewable": false, "data": {"ttl": 0}});
            answer("200 OK", "", &body.to_string())
        } else if line.contains("leases/revoke") {
            refusal("400 Bad Request", "failed to revoke entry: connection refused")
        } else {
            answer("204 No Content", "", "")
        }
    })
    .await;
    // At the task's end the provider waits for the lease, then revokes it by itself, then reports
    // the failure.
    for scope in [RevokeScope::Credentials, RevokeScope::Task] {
        let end = revoking(scope, leased_item("pki/issue/web/x"));
        let result = revoke(&fake.provider, &end).await;
        assert!(
            matches!(&result, Err(e) if e.is_retryable() && e.to_string().contains("connection refused")),
            "{result:?}"
        );
        assert!(!matches!(
            fake.provider.probe(&end).await,
            Ok(taskpass_provider::Liveness::Dead(_))
        ));
    }
}

#[tokio::test]
async fn a_session_that_stays_proves_nothing() {
    let fake = Fake::start(|line| {
        if line.contains("leases/lookup") {
            refusal("400 Bad Request", "invalid lease")
        } else if line.contains("lookup-accessor") {
            // Vault refuses a bad token of the broker's own in the same way; that proves nothing.
            refusal("403 Forbidden", "permission denied")
        } else {
            answer("204 No Content", "", "")
        }
    })
    .await;
    let end = revoking(RevokeScope::Task, leased_item("pki/issue/web/x"));
    let result = fake.provider.revoke(&end).await;
    assert!(
        matches!(result, Err(ProviderError::Denied(_))),
        "{result:?}"
    );
}

#[tokio::test]
async fn handles_of_other_providers_are_refused() {
    let fake = Fake::start(|_| answer("204 No Content", "", "")).await;
    let mut item = leased_item("x");
    item.handle = Some(Value::from("something else"));
    let result = revoke(&fake.provider, &revoking(RevokeScope::Credentials, item)).await;
    assert!(
        matches!(result, Err(ProviderError::Misconfigured(_))),
        "{result:?}"
    );
}

#[tokio::test]
async fn a_token_file_open_to_all_users_is_refused() {
    let fake = Fake::start(|_| token_answer()).await;
    let path = fake.dir.path().join("token");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = fake.issue().await;
    assert!(
        error.to_string().contains("chmod 600") && fake.seen.lock().unwrap().is_empty(),
        "{error}"
    );
}
