//! The broker's counts as Prometheus reads them, and the ids by which requests are found in the
//! log.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpStream,
    process::{Command, Stdio},
};

use serde::Deserialize;
use taskpass_proto::v1 as pb;
use taskpass_tests::{
    Broker, World, eventually,
    wire::{Certificate, Wire},
    workspace,
};
use tonic::Code;
use tonic_types::StatusExt;

#[derive(Deserialize)]
struct Family {
    help: String,
    samples: Vec<Sample>,
}

#[derive(Deserialize)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: String,
}

/// The metrics of one moment.
struct Metrics {
    text: String,
    families: Vec<Family>,
}

impl Metrics {
    /// Fails when the text is not OpenMetrics.
    fn read(broker: &Broker<'_>) -> Self {
        let answer = http(broker, "GET /metrics");
        let (head, text) = answer.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let media_type = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
        assert!(head.contains(media_type), "{head}");
        let families = parse(text);
        assert!(families.iter().all(|family| !family.help.is_empty()));
        Self {
            text: text.to_owned(),
            families,
        }
    }

    fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.families.iter().flat_map(|family| &family.samples)
    }

    fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels: BTreeMap<_, _> = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let found = self
            .samples()
            .find(|sample| sample.name == name && sample.labels == labels)?;
        Some(found.value.parse().expect("a number"))
    }
}

/// The metrics that Prometheus' own library reads in the text.
fn parse(text: &str) -> Vec<Family> {
    let python = workspace().join("target/tools/venv/bin/python");
    let mut reader = Command::new(python)
        .arg(workspace().join("tests/tools/openmetrics.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python is installed; run `make tools`");
    let mut stdin = reader.stdin.take().expect("a pipe");
    stdin.write_all(text.as_bytes()).expect("python reads");
    drop(stdin);
    let done = reader.wait_with_output().expect("python ends");
    let complaint = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{complaint}\n{text}");
    serde_json::from_slice(&done.stdout).expect("JSON")
}

/// Sends one HTTP request to the metrics endpoint and returns the whole answer.
fn http(broker: &Broker<'_>, request: &str) -> String {
    let address = eventually("the broker says where its metrics are", || {
        let log = broker.log();
        let (_, rest) = log.split_once("metrics are served at http://")?;
        Some(rest.split_once("/metrics")?.0.to_owned())
    });
    let mut socket = TcpStream::connect(&address).expect("the endpoint listens");
    write!(socket, "{request} HTTP/1.1\r\nhost: {address}\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("it answers");
    answer
}

fn with_metrics() -> World {
    let world = World::new();
    let on = "[listen]\nmetrics = \"0\"";
    world.installation.edit(|text| text.replace("[listen]", on));
    world
}

#[test]
fn prometheus_reads_the_counts_of_all_events() {
    let world = with_metrics();
    let broker = world.start();
    let (operator, agent) = (broker.operator(), broker.agent("builder-of-secrets"));
    let task = World::task(&agent, &["vault-main/config"]);
    let drawn = World::issue(&agent, &task, "vault-main/config", &[]);
    agent.refused(&["agent", "list"]);

    let metrics = Metrics::read(&broker);
    let issue = ("method", "CredentialService/IssueCredential");
    let list = ("method", "AgentService/ListAgents");
    let vault = ("provider", "vault-main");
    for (name, labels, value) in [
        ("taskpass_requests_total", &[issue, ("code", "OK")][..], 1.0),
        (
            "taskpass_requests_total",
            &[list, ("code", "PERMISSION_DENIED")],
            1.0,
        ),
        ("taskpass_request_seconds_count", &[issue], 1.0),
        (
            "taskpass_decisions_total",
            &[("action", "credential.issue"), ("outcome", "allow")],
            1.0,
        ),
        (
            "taskpass_decisions_total",
            &[("action", "agent.read"), ("outcome", "deny")],
            1.0,
        ),
        (
            "taskpass_credential_issues_total",
            &[("outcome", "issued")],
            1.0,
        ),
        ("taskpass_tasks_started_total", &[], 1.0),
        ("taskpass_svids_issued_total", &[("holder", "agent")], 1.0),
        (
            "taskpass_provider_calls_total",
            &[vault, ("call", "issue"), ("outcome", "ok")],
            1.0,
        ),
        (
            "taskpass_provider_call_seconds_count",
            &[vault, ("call", "issue")],
            1.0,
        ),
        ("taskpass_provider_circuit_open", &[vault], 0.0),
        ("taskpass_live_credentials", &[vault], 1.0),
        ("taskpass_pending_revocations", &[vault], 0.0),
        ("taskpass_oldest_pending_revocation_seconds", &[], 0.0),
        ("taskpass_open_tasks", &[], 1.0),
        ("taskpass_ledger_queue_events", &[], 0.0),
        ("taskpass_disk_full_days", &[], f64::INFINITY),
        (
            "taskpass_build_info",
            &[("version", env!("CARGO_PKG_VERSION"))],
            1.0,
        ),
    ] {
        let found = metrics.value(name, labels);
        assert_eq!(found, Some(value), "{name} {labels:?}\n{}", metrics.text);
    }
    for name in [
        "taskpass_ledger_sync_seconds_count",
        "taskpass_ledger_written_bytes_total",
        "taskpass_ledger_entries",
        "taskpass_disk_free_bytes",
    ] {
        assert!(metrics.value(name, &[]) > Some(0.0), "{name}");
    }
    // Names that callers choose, and ids, of which there is no end, are nowhere.
    let credential = drawn["credential_id"].as_str().expect("an id");
    for word in ["builder", "acme.test", "admin", task.as_str(), credential] {
        assert!(!metrics.text.contains(word), "{word}\n{}", metrics.text);
    }

    agent.json(&["task", "end", &task]);
    World::wait_all_final(&operator);
    let metrics = Metrics::read(&broker);
    for (name, labels, value) in [
        (
            "taskpass_revocations_total",
            &[("outcome", "verified")][..],
            1.0,
        ),
        ("taskpass_tasks_ended_total", &[("cause", "completed")], 1.0),
        ("taskpass_live_credentials", &[vault], 0.0),
    ] {
        let found = metrics.value(name, labels);
        assert_eq!(found, Some(value), "{name} {labels:?}\n{}", metrics.text);
    }
    broker.stop();
}

#[test]
fn the_endpoint_is_off_unless_it_is_asked_for_and_gives_nothing_else() {
    let world = with_metrics();
    let broker = world.start();
    assert!(http(&broker, "POST /metrics").starts_with("HTTP/1.1 405 "));
    assert!(http(&broker, "GET /").starts_with("HTTP/1.1 404 "));
    assert!(!broker.log().contains("other machines can read the metrics"));
    broker.stop();

    let off = |text: &str| text.replace("metrics = \"0\"", "");
    world.installation.edit(off);
    let broker = world.start();
    assert!(!broker.log().contains("metrics are served"));
    broker.stop();

    let everywhere = "[listen]\nmetrics = \"0.0.0.0:0\"";
    world
        .installation
        .edit(|text| text.replace("[listen]", everywhere));
    let broker = world.start();
    assert!(broker.log().contains("other machines can read the metrics"));
    broker.stop();
}

#[test]
fn a_refused_caller_can_quote_an_id_that_the_log_has() {
    let world = World::new();
    let broker = world.start();
    let agent = Certificate::load(broker.agent("builder").identity());
    let agent = Wire::new(broker.address(), Some(&agent));
    let asked = agent.ask::<_, pb::ListAgentsResponse>(
        "/taskpass.v1.AgentService/ListAgents",
        &pb::ListAgentsRequest::default(),
    );
    let refused = asked.expect_err("agents may not list agents");
    assert_eq!(refused.code(), Code::PermissionDenied);
    let id = refused.metadata().get("x-request-id").expect("an id");
    let id = id.to_str().expect("text");
    let details = refused.get_error_details();
    let info = details.error_info().expect("an ErrorInfo");
    assert_eq!(
        info.metadata.get("request_id").map(String::as_str),
        Some(id)
    );
    let span = format!(
        "request{{id=\"{id}\" method=\"AgentService/ListAgents\" caller=\"spiffe://acme.test/agent/builder\"}}"
    );
    eventually("the log has the request", || {
        broker.log().contains(&span).then_some(())
    });
    broker.stop();
}
