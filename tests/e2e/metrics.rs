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
pub(crate) struct Metrics {
    text: String,
    families: Vec<Family>,
}

impl Metrics {
    /// Fails when the text is not OpenMetrics.
    pub(crate) fn read(broker: &Broker<'_>) -> Self {
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

    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
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
        ("taskpass_provider_retired", &[vault], 0.0),
        (
            "taskpass_provider_calls_running",
            &[vault, ("call", "issue")],
            0.0,
        ),
        (
            "taskpass_provider_calls_waiting",
            &[vault, ("call", "revoke")],
            0.0,
        ),
        ("taskpass_live_credentials", &[vault], 1.0),
        ("taskpass_pending_revocations", &[vault], 0.0),
        ("taskpass_oldest_pending_revocation_seconds", &[], 0.0),
        ("taskpass_open_tasks", &[], 1.0),
        ("taskpass_ledger_queue_events", &[], 0.0),
        ("taskpass_index_set_aside", &[], 0.0),
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
    let first = &[("root", "1"), ("stage", "active")];
    let [from, until] = ["from", "until"].map(|end| {
        let name = format!("taskpass_root_valid_{end}_timestamp_seconds");
        metrics.value(&name, first).expect("the first root")
    });
    assert!(
        until - from > 3649.0 * 86_400.0,
        "ten years: {from} {until}"
    );
    // Names that callers choose, and ids, of which there is no end, are nowhere.
    let credential = drawn["credential_id"].as_str().expect("an id");
    for word in ["builder", "acme.test", "admin", task.as_str(), credential] {
        assert!(!metrics.text.contains(word), "{word}\n{}", metrics.text);
    }

    agent.json(&["task", "end", &task]);
    World::wait_all_final(&operator);
    // The text may be a second old.
    let metrics = eventually("the metrics are of now", || {
        let metrics = Metrics::read(&broker);
        let live = metrics.value("taskpass_live_credentials", &[vault]);
        (live == Some(0.0)).then_some(metrics)
    });
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

/// A reader that floods the endpoint gets the same text again.
#[test]
fn metrics_are_made_once_a_second_however_often_they_are_read() {
    let world = with_metrics();
    let broker = world.start();
    let agent = Certificate::load(broker.agent("builder").identity());
    let agent = Wire::new(broker.address(), Some(&agent));
    let who_am_i = || {
        let asked = agent.ask::<_, pb::WhoAmIResponse>(
            "/taskpass.v1.IdentityService/WhoAmI",
            &pb::WhoAmIRequest {},
        );
        asked.expect("it is answered");
    };
    eventually("two reads in one second", || {
        let before = Metrics::read(&broker).text;
        who_am_i();
        (Metrics::read(&broker).text == before).then_some(())
    });
    let before = Metrics::read(&broker).text;
    who_am_i();
    eventually("the next second has news", || {
        (Metrics::read(&broker).text != before).then_some(())
    });
    broker.stop();
}

#[test]
fn calls_that_run_and_calls_that_wait_are_two_numbers() {
    let world = with_metrics();
    world
        .installation
        .configure("[provider_calls]\nissue_concurrency = 1\nrevoke_concurrency = 1\n");
    let broker = world.start();
    let agent = broker.agent("builder");
    let tasks: Vec<String> = (0..4)
        .map(|_| World::task(&agent, &["vault-main/config"]))
        .collect();
    let (issuing, ending) = tasks.split_first().expect("four");
    for task in ending {
        World::issue(&agent, task, "vault-main/config", &[]);
    }
    let role = "vault-main/config";
    let issue = ["credential", "issue", "--task", issuing, "--role", role];
    world.bao.pause();
    std::thread::scope(|scope| {
        for task in ending {
            scope.spawn(|| agent.run(&["task", "end", task]));
            scope.spawn(|| agent.run(&issue));
        }
        eventually("each kind has one call that runs and two that wait", || {
            let metrics = Metrics::read(&broker);
            let calls = |state: &str, call| {
                let name = format!("taskpass_provider_calls_{state}");
                metrics.value(&name, &[("provider", "vault-main"), ("call", call)])
            };
            ["issue", "revoke"]
                .iter()
                .all(|call| {
                    calls("running", call) == Some(1.0) && calls("waiting", call) == Some(2.0)
                })
                .then_some(())
        });
        world.bao.resume();
    });
    broker.stop();
}

/// Reload takes a provider out, and what it minted is still to be revoked.
#[test]
fn a_retired_provider_is_shown_as_what_it_is() {
    let world = with_metrics();
    let broker = world.start();
    let (operator, agent) = (broker.operator(), broker.agent("builder"));
    let task = World::task(&agent, &["vault-main/config"]);
    World::issue(&agent, &task, "vault-main/config", &[]);
    let list = || operator.json(&["provider", "list"]);
    assert_eq!(list()[0]["state"], "configured");
    world.installation.edit(|text| {
        let provider = "[[provider]]\nname = \"vault-main\"";
        text.split_once(provider).expect("it").0.to_owned()
    });
    let config = world.installation.home().join("taskpass.toml");
    let config = config.to_str().expect("a path in UTF-8");
    let done = world.installation.daemon(&["reload", "--config", config]);
    assert!(done.status.success(), "{done:?}");

    let listed = list();
    assert_eq!(listed.as_array().map(Vec::len), Some(1));
    assert_eq!(listed[0]["name"], "vault-main");
    assert_eq!(listed[0]["state"], "retired");
    assert_eq!(listed[0]["live_credentials"], 1);
    let table = operator.run(&["provider", "list"]).stdout;
    assert!(table.contains("retired"), "{table}");
    let shown = operator.json(&["provider", "show", "vault-main"]);
    assert_eq!(shown["state"], "retired");
    let vault = ("provider", "vault-main");
    eventually("the metrics are of now", || {
        let metrics = Metrics::read(&broker);
        (metrics.value("taskpass_provider_retired", &[vault]) == Some(1.0)
            && metrics.value("taskpass_live_credentials", &[vault]) == Some(1.0))
        .then_some(())
    });
    agent.json(&["task", "end", &task]);
    World::wait_all_final(&operator);
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
    // So is a request whose fields are wrong.
    let asked = agent.ask::<_, pb::StartTaskResponse>(
        "/taskpass.v1.TaskService/StartTask",
        &pb::StartTaskRequest::default(),
    );
    let wrong = asked.expect_err("it has no purpose");
    assert_eq!(wrong.code(), Code::InvalidArgument);
    let id = wrong.metadata().get("x-request-id").expect("an id");
    let details = wrong.get_error_details();
    let info = details.error_info().expect("an ErrorInfo");
    assert_eq!(
        info.metadata.get("request_id").map(String::as_str),
        id.to_str().ok()
    );
    broker.stop();
}

#[test]
fn the_command_line_prints_the_id_that_the_log_has() {
    let world = World::new();
    let broker = world.start();
    let agent = broker.agent("builder");
    for format in ["table", "json"] {
        let (code, complaint) = agent.refused(&["agent", "list", "-o", format]);
        assert_eq!(code, 3, "{complaint}");
        let id = complaint.lines().find_map(|line| {
            line.strip_prefix("request ")?
                .strip_suffix(" in the broker's log")
        });
        let id = id.unwrap_or_else(|| panic!("no id: {complaint}"));
        eventually("the log has the request", || {
            broker
                .log()
                .contains(&format!("request{{id=\"{id}\""))
                .then_some(())
        });
    }
    broker.stop();
}
