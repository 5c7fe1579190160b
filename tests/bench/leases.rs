//! Credentials of an OpenBao: the time that the broker adds to the direct call, the cost of ending
//! a task, and the time of a decision.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use taskpass_proto::v1 as pb;
use taskpass_tests::{
    Broker, Installation, OpenBao,
    wire::{Wire, runtime},
};

use crate::{
    Effort, broker,
    load::{self, as_f64, ms},
    raft_bao::{Client, http},
    report::{Budget, Report},
};

const SHARE: &str = "The broker's own share of a Vault credential, 1 in flight";
const END: &str = "Ending a task with leases";
const DECIDE: &str = "Deciding";
const LEASES: [usize; 3] = [1, 10, 100];
const PATH: &str = "pki/issue/ci";

pub(crate) fn measure(effort: Effort, report: &mut Report) {
    let bao = OpenBao::start();
    let installation = broker::installation();
    installation.configure(&bao.provider("vault-main", ""));
    let running = installation.start();
    let agent = broker::agent(&running, "builder");
    let root = bao
        .call(
            "POST",
            "auth/token/create-orphan",
            Some(json!({ "policies": ["root"] })),
        )
        .expect("a token");
    let root = root["auth"]["client_token"]
        .as_str()
        .expect("a token")
        .to_owned();
    let direct = Client::new(http(None), bao.address().to_owned(), root);
    share(effort, &agent, &direct, report);
    ending(effort, &agent, &direct, report);
    deciding(&installation, &running, report);
}

fn start(agent: &Wire) -> String {
    let role = pb::TaskRole {
        role: "vault-main/cert".to_owned(),
        ..Default::default()
    };
    let request = pb::StartTaskRequest {
        purpose: "bench".to_owned(),
        roles: vec![role],
        ..Default::default()
    };
    let started: pb::StartTaskResponse = agent
        .ask("/taskpass.v1.TaskService/StartTask", &request)
        .expect("a task");
    started.task.expect("a task").id
}

fn issue(agent: &Wire, task: &str) -> Duration {
    let request = pb::IssueCredentialRequest {
        task_id: task.to_owned(),
        role: "vault-main/cert".to_owned(),
        scope: [("common_name".to_owned(), "a.acme.test".to_owned())].into(),
        ..Default::default()
    };
    let began = Instant::now();
    let issued: Result<pb::IssueCredentialResponse, _> =
        agent.ask("/taskpass.v1.CredentialService/IssueCredential", &request);
    issued.expect("a credential");
    began.elapsed()
}

/// A token like a task's, with which one lease after the other is issued.
async fn session(direct: &Client) -> (Client, String) {
    let body = json!({ "policies": ["cert"], "ttl": "30m", "no_default_policy": true });
    let made = direct
        .must("POST", "auth/token/create-orphan", Some(&body))
        .await;
    let text = |name: &str| made["auth"][name].as_str().expect("a text").to_owned();
    (direct.with_token(&text("client_token")), text("accessor"))
}

async fn issue_directly(session: &Client) -> Duration {
    let body = json!({ "common_name": "a.acme.test" });
    let began = Instant::now();
    session.must("POST", PATH, Some(&body)).await;
    began.elapsed()
}

/// Alternates between the two, so that noise of the machine reaches both.
fn share(effort: Effort, agent: &Wire, direct: &Client, report: &mut Report) {
    let task = start(agent);
    let (session, accessor) = runtime().block_on(session(direct));
    issue(agent, &task);
    runtime().block_on(issue_directly(&session));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..effort.pairs {
        theirs.push(runtime().block_on(issue_directly(&session)));
        ours.push(issue(agent, &task));
    }
    let (ours, theirs) = (load::of(ours), load::of(theirs));
    for (who, sample) in [("OpenBao directly", theirs), ("through Taskpass", ours)] {
        report.figure(
            SHARE,
            format!("a PKI lease {who}, p50"),
            ms(sample.p50),
            "ms",
        );
        report.figure(
            SHARE,
            format!("a PKI lease {who}, p99"),
            ms(sample.p99),
            "ms",
        );
    }
    report.budgeted(
        SHARE,
        "added, p50",
        ms(ours.p50) - ms(theirs.p50),
        "ms",
        Budget::AtMost(1.0),
    );
    report.budgeted(
        SHARE,
        "added, p99",
        ms(ours.p99) - ms(theirs.p99),
        "ms",
        Budget::AtMost(3.0),
    );
    end(agent, &task);
    // The next measurement begins when no lease is left.
    runtime().block_on(revoke_directly(direct, &accessor));
}

fn end(agent: &Wire, task: &str) -> Duration {
    let request = pb::EndTaskRequest {
        task_id: task.to_owned(),
        cancel: false,
        wait_ms: 600_000,
    };
    let began = Instant::now();
    let ended: pb::EndTaskResponse = agent
        .ask("/taskpass.v1.TaskService/EndTask", &request)
        .expect("it ends");
    let took = began.elapsed();
    assert_eq!(ended.state(), pb::TaskState::Ended);
    assert!(
        ended
            .receipts
            .iter()
            .all(|r| r.state() == pb::CredentialState::RevokedVerified),
        "{:?}",
        ended.receipts
    );
    took
}

/// Revokes the token and polls until the last lease is gone, which the broker proves too.
async fn revoke_directly(direct: &Client, accessor: &str) -> (Duration, Duration) {
    let began = Instant::now();
    direct
        .must(
            "POST",
            "auth/token/revoke-accessor",
            Some(&json!({ "accessor": accessor })),
        )
        .await;
    let answered = began.elapsed();
    while began.elapsed() < Duration::from_secs(120)
        && direct
            .call("LIST", &format!("sys/leases/lookup/{PATH}"), None)
            .await
            .is_ok()
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    (answered, began.elapsed())
}

fn ending(effort: Effort, agent: &Wire, direct: &Client, report: &mut Report) {
    for leases in LEASES {
        let (mut ours, mut answered, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..effort.endings {
            let task = start(agent);
            for _ in 0..leases {
                issue(agent, &task);
            }
            ours.push(end(agent, &task));
            runtime().block_on(async {
                let (session, accessor) = session(direct).await;
                for _ in 0..leases {
                    issue_directly(&session).await;
                }
                let (first, last) = revoke_directly(direct, &accessor).await;
                answered.push(first);
                gone.push(last);
            });
        }
        let [ours, answered, gone] = [ours, answered, gone].map(|all| ms(load::of(all).p50));
        report.figure(
            END,
            format!("{leases}: OpenBao's revoke answers"),
            answered,
            "ms",
        );
        report.figure(
            END,
            format!("{leases}: the last lease is gone from OpenBao"),
            gone,
            "ms",
        );
        report.figure(
            END,
            format!("{leases}: Taskpass, proven and recorded"),
            ours,
            "ms",
        );
        // The budget is for a thousand leases, where fixed costs do not count. A hundred come
        // closest here.
        if leases == 100 {
            report.budgeted(
                END,
                format!("{leases}: Taskpass to OpenBao's last lease"),
                ours / gone,
                "×",
                Budget::AtMost(1.2),
            );
        } else {
            report.figure(
                END,
                format!("{leases}: Taskpass to OpenBao's last lease"),
                ours / gone,
                "×",
            );
        }
    }
}

/// The times that the ledger has for this run's decisions. The budget is for a thousand policies;
/// this run has the starter's.
fn deciding(installation: &Installation, running: &Broker<'_>, report: &mut Report) {
    let path = installation.scratch().join("bench.jsonl");
    let done = running.operator().run(&[
        "ledger",
        "export",
        "--to",
        path.to_str().expect("a path in UTF-8"),
    ]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let text = std::fs::read_to_string(path).expect("an export");
    let entries = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let spans: Vec<Duration> = entries
        .filter_map(|line| line["entry"]["event"]["decision"]["duration_us"].as_u64())
        .map(Duration::from_micros)
        .collect();
    report.figure(DECIDE, "decisions in the ledger", as_f64(spans.len()), "");
    let sample = load::of(spans);
    report.figure(DECIDE, "p50", ms(sample.p50) * 1000.0, "µs");
    report.budgeted(
        DECIDE,
        "p99, starter policies",
        ms(sample.p99) * 1000.0,
        "µs",
        Budget::AtMost(1000.0),
    );
    report.budgeted(
        DECIDE,
        "p99 against the budget of policy alone",
        ms(sample.p99) * 1000.0,
        "µs",
        Budget::AtMost(100.0),
    );
}
