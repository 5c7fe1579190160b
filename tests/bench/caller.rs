//! What an agent does in this bench: start a task, draw, end it.

use std::time::{Duration, Instant};

use prost::Message as _;
use taskpass_proto::v1 as pb;
use taskpass_tests::wire::{Wire, runtime};

/// Roles as the benches configure them: a PKI lease and a static secret.
pub(crate) const CERT: &str = "vault-main/cert";
pub(crate) const STATIC: &str = "vault-main/static";
/// A task that ends for longer has hung.
const PATIENCE: Duration = Duration::from_secs(600);

/// Starts a task that may draw on `role`; its id.
pub(crate) fn start(agent: &Wire, role: &str) -> String {
    let role = pb::TaskRole {
        role: role.to_owned(),
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

/// Draws a credential; how long that took.
pub(crate) fn draw(agent: &Wire, task: &str, role: &str) -> Duration {
    let began = Instant::now();
    runtime().block_on(draw_async(agent, task, role));
    began.elapsed()
}

/// Draws a credential.
pub(crate) async fn draw_async(agent: &Wire, task: &str, role: &str) {
    let mut request = pb::IssueCredentialRequest {
        task_id: task.to_owned(),
        role: role.to_owned(),
        ..Default::default()
    };
    if role == CERT {
        let name = ("common_name".to_owned(), "a.bench.test".to_owned());
        request.scope.extend([name]);
    }
    let method = "/taskpass.v1.CredentialService/IssueCredential";
    let drawn = agent.call_async(method, request.encode_to_vec()).await;
    drawn.expect("a credential");
}

/// Ends a task; how long it took until every receipt was there, and the receipts. One answer is waited for at most half a
/// minute, so that of a long end is asked for again.
pub(crate) fn end(who: &Wire, task: &str) -> (Duration, Vec<pb::Receipt>) {
    let request = pb::EndTaskRequest {
        task_id: task.to_owned(),
        cancel: false,
        wait_ms: 30_000,
    };
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        let ended: pb::EndTaskResponse = who
            .ask("/taskpass.v1.TaskService/EndTask", &request)
            .expect("an answer");
        if ended.state() == pb::TaskState::Ended {
            return (began.elapsed(), ended.receipts);
        }
    }
    panic!("task {task} does not end");
}
