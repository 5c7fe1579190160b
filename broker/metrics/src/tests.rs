use taskpass_core::{CredentialId, DecisionRecord, EndCause, Event, Outcome, TaskId, Timestamp};

use super::*;

fn metrics() -> Metrics {
    Metrics::new(Labels {
        methods: vec!["TaskService/EndTask".to_owned()],
        actions: vec!["task.end".to_owned()],
        version: "1.2.3".to_owned(),
    })
}

fn decision(action: &str, outcome: Outcome) -> Event {
    Event::Decided {
        decision: DecisionRecord {
            principal: "spiffe://acme.test/agent/secretive".to_owned(),
            action: action.to_owned(),
            resource: "task t0123456789abcdef".to_owned(),
            outcome,
            reason: "secretive".to_owned(),
            policy_set: String::new(),
            policies: vec!["secretive".to_owned()],
            errors: Vec::new(),
            input_sha256: String::new(),
            duration_us: 1,
        },
        repeated: None,
    }
}

fn assert_has(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|it| it == *line), "{line}\n{text}");
    }
}

#[test]
fn requests_are_counted_by_method_and_code() {
    let metrics = metrics();
    let took = Duration::from_millis(2);
    let known = metrics.requests.method("TaskService/EndTask");
    for code in [Code::grpc(0), Code::grpc(0), Code::grpc(7), Code::grpc(99)] {
        metrics.requests.done(known, code, took);
    }
    let made_up = metrics.requests.method("Secretive/Method");
    metrics.requests.done(made_up, Code::NOT_GRPC, took);
    metrics.requests.done(made_up, Code::CANCELLED, took);
    let text = metrics.encode(&Sample::default());
    assert_has(
        &text,
        &[
            r#"taskpass_build_info{version="1.2.3"} 1"#,
            r#"taskpass_requests_total{method="TaskService/EndTask",code="OK"} 2"#,
            r#"taskpass_requests_total{method="TaskService/EndTask",code="PERMISSION_DENIED"} 1"#,
            r#"taskpass_requests_total{method="TaskService/EndTask",code="UNKNOWN"} 1"#,
            r#"taskpass_requests_total{method="other",code="NOT_GRPC"} 1"#,
            r#"taskpass_requests_total{method="other",code="CANCELLED"} 1"#,
            r#"taskpass_request_seconds_count{method="TaskService/EndTask"} 4"#,
            "# EOF",
        ],
    );
}

#[test]
fn events_are_counted_by_their_content() {
    let metrics = metrics();
    let id = || CredentialId::first_at(Timestamp::EPOCH);
    let revoked = |verified| Event::CredentialRevoked {
        credential: id(),
        verified,
        proof: "secretive".to_owned(),
        took_ms: 1,
        may_live_until: None,
        identity_until: None,
    };
    let events = [
        decision("task.end", Outcome::Deny),
        decision("task.end", Outcome::Allow),
        revoked(true),
        revoked(false),
        Event::RevokeFailed {
            credential: id(),
            attempt: 1,
            error: "secretive".to_owned(),
            retry_at: Timestamp::EPOCH,
            stuck: false,
        },
        Event::CredentialExpired { credential: id() },
        Event::TaskEnding {
            task: TaskId::first_at(Timestamp::EPOCH),
            cause: EndCause::Deadline,
            by: taskpass_core::Actor::Broker,
        },
    ];
    drop(metrics.events.prepare(&events));
    metrics.events.prepare(&events).committed();
    let text = metrics.encode(&Sample::default());
    assert_has(
        &text,
        &[
            r#"taskpass_decisions_total{action="task.end",outcome="deny"} 1"#,
            r#"taskpass_decisions_total{action="task.end",outcome="allow"} 1"#,
            r#"taskpass_revocations_total{outcome="verified"} 1"#,
            r#"taskpass_revocations_total{outcome="unverified"} 1"#,
            r#"taskpass_revocations_total{outcome="failed"} 1"#,
            "taskpass_credentials_expired_total 1",
            r#"taskpass_tasks_ended_total{cause="deadline"} 1"#,
        ],
    );
}

/// A repeat counts when it happens, and not once more when its entry is written.
#[test]
fn repeats_and_refusals_over_a_budget_are_counted_once() {
    let metrics = metrics();
    let Event::Decided { decision, .. } = decision("task.end", Outcome::Deny) else {
        unreachable!()
    };
    metrics.events.repeated(&decision);
    metrics.events.repeated(&decision);
    let folded = Event::Decided {
        decision,
        repeated: Some(taskpass_core::Repeated {
            times: 2,
            first: Timestamp::EPOCH,
            last: Timestamp::EPOCH,
        }),
    };
    metrics.events.prepare(&[folded]).committed();
    metrics
        .events
        .over_budget(taskpass_core::Budget::TaskStarts);
    assert_has(
        &metrics.encode(&Sample::default()),
        &[
            r#"taskpass_decisions_total{action="task.end",outcome="deny"} 2"#,
            r#"taskpass_budget_refusals_total{budget="task_starts"} 1"#,
        ],
    );
}

#[test]
fn a_sample_shows_the_providers_of_now_only() {
    let metrics = metrics();
    let provider = |name: &str| ProviderSample {
        name: name.parse().unwrap(),
        circuit_open: true,
        paused_roles: vec![format!("{name}/ci-db").parse().unwrap()],
        is_retired: name == "old",
        issue: CallSample {
            running: 3,
            waiting: 7,
        },
        revoke: CallSample {
            running: 1,
            waiting: 0,
        },
        live_credentials: 5,
        pending_revocations: 2,
    };
    let mut sample = Sample {
        unauthenticated_connections: 4,
        disk_free: Some(4096),
        reconcilers: vec![("archive", 3), ("revoker", 0)],
        oldest_pending_revocation: Duration::from_millis(1500),
        providers: Some(vec![provider("old"), provider("vault-main")]),
        ..Sample::default()
    };
    assert_has(
        &metrics.encode(&sample),
        &[
            r#"taskpass_provider_retired{provider="old"} 1"#,
            r#"taskpass_provider_retired{provider="vault-main"} 0"#,
        ],
    );
    sample.providers = Some(vec![provider("vault-main")]);
    let text = metrics.encode(&sample);
    assert_has(
        &text,
        &[
            r#"taskpass_connections{peer="unauthenticated"} 4"#,
            "taskpass_disk_free_bytes 4096",
            "taskpass_disk_full_days inf",
            r#"taskpass_reconciler_failures{reconciler="archive"} 3"#,
            r#"taskpass_reconciler_failures{reconciler="revoker"} 0"#,
            "taskpass_oldest_pending_revocation_seconds 1.5",
            r#"taskpass_provider_circuit_open{provider="vault-main"} 1"#,
            r#"taskpass_role_circuit_open{role="vault-main/ci-db"} 1"#,
            r#"taskpass_provider_calls_running{provider="vault-main",call="issue"} 3"#,
            r#"taskpass_provider_calls_waiting{provider="vault-main",call="issue"} 7"#,
            r#"taskpass_provider_calls_running{provider="vault-main",call="revoke"} 1"#,
            r#"taskpass_provider_calls_waiting{provider="vault-main",call="revoke"} 0"#,
            r#"taskpass_live_credentials{provider="vault-main"} 5"#,
            r#"taskpass_pending_revocations{provider="vault-main"} 2"#,
        ],
    );
    assert!(!text.contains("old\""), "{text}");

    // What cannot be read is not zero.
    sample.disk_free = None;
    sample.providers = None;
    let text = metrics.encode(&sample);
    for name in [
        "disk_free",
        "provider_",
        "live_credentials",
        "pending_revocations{",
    ] {
        let shown = |line: &str| line.starts_with(&format!("taskpass_{name}"));
        assert!(!text.lines().any(shown), "{name}\n{text}");
    }
}

/// The number of series does not depend on the callers' input, and the text contains none of it.
#[test]
fn no_label_takes_a_value_that_a_caller_chose() {
    let metrics = metrics();
    let record = |from: u32, to: u32| {
        for n in from..to {
            let made_up = metrics.requests.method(&format!("secretive.v{n}/Method"));
            let code = Code::grpc(i32::try_from(n).unwrap());
            metrics.requests.done(made_up, code, Duration::ZERO);
            let action = decision(&format!("secretive.{n}"), Outcome::Deny);
            metrics.events.prepare(&[action]).committed();
        }
        metrics.encode(&Sample::default())
    };
    let before = record(0, 100);
    let after = record(100, 10_000);
    assert_eq!(before.lines().count(), after.lines().count());
    assert!(!after.contains("secretive"), "{after}");
}
