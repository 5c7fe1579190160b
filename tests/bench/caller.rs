//! The steps of an agent in this bench: start a task, issue a credential, end the task.

use std::time::{Duration, Instant};

use prost::Message as _;
use taskpass_proto::v1 as pb;
use taskpass_tests::wire::{Wire, runtime};

/// Roles as the bench configures them: a PKI lease and a static secret.
pub(crate) const CERT: &str = "vault-main/cert";
pub(crate) const STATIC: &str = "vault-main/static";
/// An end that takes longer has hung.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Starts a task that may use `role`. Returns its id.
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

/// Issues a credential. Returns how long that took.
pub(crate) fn issue(agent: &Wire, task: &str, role: &str) -> Duration {
    let began = Instant::now();
    runtime().block_on(issue_async(agent, task, role));
    began.elapsed()
}

/// The method that issues.
pub(crate) const ISSUE: &str = "/taskpass.v1.CredentialService/IssueCredential";

/// Issues a credential.
pub(crate) async fn issue_async(agent: &Wire, task: &str, role: &str) {
    let request = issue_request(task, role).encode_to_vec();
    agent
        .call_async(ISSUE, request)
        .await
        .expect("a credential");
}

/// A request for a credential.
pub(crate) fn issue_request(task: &str, role: &str) -> pb::IssueCredentialRequest {
    let mut request = pb::IssueCredentialRequest {
        task_id: task.to_owned(),
        role: role.to_owned(),
        ..Default::default()
    };
    if role == CERT {
        let name = ("common_name".to_owned(), "a.bench.test".to_owned());
        request.scope.extend([name]);
    }
    request
}

/// Ends a task. Returns the time until every receipt was there, and the receipts. One request waits
/// for half a minute at most, so a long end is requested several times.
pub(crate) fn end(who: &Wire, task: &str) -> (Duration, Vec<pb::Receipt>) {
    let request = pb::EndTaskRequest {
        task_id: task.to_owned(),
        cancel: false,
        wait_ms: 30_000,
    };
    let began = Instant::now();
    while began.elapsed() < TIMEOUT {
        let ended: pb::EndTaskResponse = who
            .ask("/taskpass.v1.TaskService/EndTask", &request)
            .expect("an answer");
        if ended.state() == pb::TaskState::Ended {
            return (began.elapsed(), ended.receipts);
        }
    }
    panic!("task {task} does not end");
}
