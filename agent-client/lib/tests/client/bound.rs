//! Tasks through an identity of their own, of which nothing touches the disk.

use std::{collections::BTreeMap, fs, path::Path};

use taskpass_client::{EndMode, Error, TaskOptions};
use taskpass_client_testing::{fake::Fake, services::refusal};
use taskpass_core::Ttl;
use taskpass_proto::v1::{EndCause, TaskState};
use tonic::Code;

const ROLE: &str = "vault-main/ci-db";
const AGENT: &str = "spiffe://acme.test/agent/builder";
const BOUND: &str = "spiffe://acme.test/agent/builder/task/t0000000000000000";

fn options() -> TaskOptions {
    TaskOptions::new("test").role(ROLE.parse().unwrap())
}

fn with_heartbeats() -> TaskOptions {
    options().heartbeat(Ttl::from_seconds(1).unwrap())
}

/// The files below a directory, with their contents.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .map(|path| (path.display().to_string(), fs::read(path).unwrap()))
        .collect()
}

#[tokio::test]
async fn everything_after_the_start_is_done_by_the_identity_of_the_task() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let before = files(&fake.identity());
    let task = client.start_bound_task(with_heartbeats()).await.unwrap();
    let role = ROLE.parse().unwrap();
    task.credential(role).issue_once().await.unwrap();
    fake.shared.until(|s| s.count("heartbeat") >= 1).await;
    assert_eq!(task.end().await.unwrap().len(), 1);

    let state = fake.state();
    assert_eq!(state.callers[0], AGENT, "the start");
    let after = &state.callers[1..];
    assert!(after.len() >= 3, "{after:?}");
    assert!(after.iter().all(|caller| caller == BOUND), "{after:?}");
    drop(state);
    assert!(
        files(&fake.identity()) == before,
        "the directory is as it was"
    );
}

#[tokio::test]
async fn the_identity_of_a_task_is_renewed_in_memory() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let before = files(&fake.identity());
    // Backdated by 10 s and valid for 4 s more: past two thirds of its life from the start.
    fake.state().svid_life = time::Duration::seconds(4);
    let task = client.start_bound_task(with_heartbeats()).await.unwrap();
    fake.state().svid_life = time::Duration::hours(1);
    fake.shared.until(|s| s.dead_serials.len() == 1).await;
    let beats = fake.state().count("heartbeat");
    fake.shared
        .until(|s| s.count("heartbeat") > beats + 1)
        .await;
    task.end().await.unwrap();
    assert!(
        fake.state().callers[1..]
            .iter()
            .all(|caller| caller == BOUND)
    );
    assert!(
        files(&fake.identity()) == before,
        "the directory is as it was"
    );
}

/// The broker has seen the new certificate and dropped the old one, and the answer is lost.
#[tokio::test]
async fn a_new_identity_of_a_task_that_could_not_be_proven_counts_all_the_same() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    fake.state().svid_life = time::Duration::seconds(4);
    fake.state().lose.insert("who_am_i", 1);
    let task = client.start_bound_task(with_heartbeats()).await.unwrap();
    fake.state().svid_life = time::Duration::hours(1);
    fake.shared.until(|s| s.dead_serials.len() == 1).await;
    let beats = fake.state().count("heartbeat");
    fake.shared
        .until(|s| s.count("heartbeat") > beats + 1)
        .await;
    task.end().await.unwrap();
    assert!(
        fake.state().callers[1..]
            .iter()
            .all(|caller| caller == BOUND)
    );
}

/// It would end there again, and again each time it is asked for.
#[tokio::test]
async fn an_identity_that_ends_with_its_task_is_not_renewed() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let life = time::Duration::seconds(6);
    fake.state().svid_life = life;
    fake.state().task_life = life;
    let task = client.start_bound_task(with_heartbeats()).await.unwrap();
    // Ten take more than three seconds; the other tests see a renewal within one.
    fake.shared.until(|s| s.count("heartbeat") >= 10).await;
    assert_eq!(fake.state().count("renew_svid"), 0);
    task.end().await.unwrap();
}

#[tokio::test]
async fn the_receipts_of_a_task_that_others_ended_are_read_all_the_same() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let task = client.start_bound_task(options()).await.unwrap();
    task.credential(ROLE.parse().unwrap())
        .issue_once()
        .await
        .unwrap();
    fake.state().tasks[0].set_state(TaskState::Ended);
    let ended = task.finish(EndMode::Completed).await.unwrap();
    assert_eq!(ended.receipts.len(), 1);
    assert_eq!(fake.state().callers.last().unwrap(), AGENT);
}

#[tokio::test]
async fn a_lost_answer_to_the_end_is_made_good() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let task = client.start_bound_task(options()).await.unwrap();
    fake.state().lose.insert("end_task", 1);
    task.end().await.unwrap();
}

#[tokio::test]
async fn a_task_that_came_without_its_identity_is_ended_and_another_started() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    fake.state().keeps_bound_svids = 1;
    let task = client.start_bound_task(options()).await.unwrap();
    assert_eq!(task.id().to_string(), "t0000000000000001");
    assert_eq!(fake.state().tasks[0].end_cause(), EndCause::Cancelled);
    task.end().await.unwrap();

    fake.state().keeps_bound_svids = 9;
    let error = client.start_bound_task(options()).await.unwrap_err();
    assert!(matches!(error, Error::Reply(_)), "{error}");
    let state = fake.state();
    assert!(state.tasks.iter().all(|t| t.state() == TaskState::Ended));
}

#[tokio::test]
async fn a_dropped_guard_ends_its_task_also_without_its_identity() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let task = client.start_bound_task(options()).await.unwrap();
    let unknown = refusal(Code::Unauthenticated, "UNAUTHENTICATED", &[]);
    fake.state().refuse.insert("end_task", [unknown].into());
    drop(task);
    client.shutdown().await;
    assert_eq!(fake.state().tasks[0].end_cause(), EndCause::Cancelled);
}

/// Each party parses the names for itself: this broker is not trusted with them.
#[tokio::test]
async fn a_broker_that_names_a_variable_which_runs_code_is_refused() {
    for name in ["LD_PRELOAD", "GIT_SSH_COMMAND", "PATH", "TASKPASS_IDENTITY"] {
        let fake = Fake::start().await;
        let client = fake.client().await;
        fake.state().env = vec![("username", name)];
        let task = client.start_bound_task(options()).await.unwrap();
        let credential = task.credential(ROLE.parse().unwrap());
        let error = credential.issue_once().await.unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
        task.cancel().await.unwrap();
    }
}
