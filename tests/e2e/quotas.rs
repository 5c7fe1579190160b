//! Quotas and rates: refused with the name of the limit and a time to ask again, before any
//! provider is called.

use std::time::Duration;

use taskpass_client::Client;
use taskpass_proto::v1::{
    IssueCredentialRequest, IssueCredentialResponse, StartTaskRequest, TaskRole,
    credential_service_client::CredentialServiceClient, task_service_client::TaskServiceClient,
};
use taskpass_tests::World;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::support::{client, end, runtime};

const CONFIG: &str = "vault-main/config";

/// One attempt, without the library's retries.
pub async fn issue_once(
    client: &Client,
    task: &str,
    role: &str,
) -> Result<IssueCredentialResponse, Status> {
    let request = IssueCredentialRequest {
        idempotency_key: client.new_idempotency_key().expect("randomness"),
        task_id: task.to_owned(),
        role: role.to_owned(),
        ..IssueCredentialRequest::default()
    };
    let mut service = CredentialServiceClient::new(client.channel());
    service
        .issue_credential(request)
        .await
        .map(tonic::Response::into_inner)
}

async fn start_once(client: &Client) -> Result<String, Status> {
    let request = StartTaskRequest {
        idempotency_key: client.new_idempotency_key().expect("randomness"),
        purpose: "a test".to_owned(),
        roles: vec![TaskRole {
            role: CONFIG.to_owned(),
            ..TaskRole::default()
        }],
        ..StartTaskRequest::default()
    };
    let started = TaskServiceClient::new(client.channel())
        .start_task(request)
        .await?
        .into_inner();
    Ok(started.task.expect("a task").id)
}

/// One task cannot take the keys that others need. Requests without a key go on.
#[test]
fn remembered_idempotency_keys_are_limited() {
    let world = World::new();
    world
        .installation
        .configure("[limits]\nidempotency_keys_per_caller = 6\n");
    let broker = world.start();
    // Registering two agents takes the operator four keys.
    let (agent, other) = (broker.agent("builder"), broker.agent("other"));
    let runtime = runtime();
    let (client, other) = runtime.block_on(async { (client(&agent).await, client(&other).await) });
    let task = runtime.block_on(async {
        let task = start_once(&client).await.expect("the first key");
        for _ in 0..3 {
            let issued = issue_once(&client, &task, CONFIG).await;
            issued.expect("as many as it leaves");
        }
        task
    });
    let tokens = world.bao.task_tokens().len();
    let refused = runtime.block_on(issue_once(&client, &task, CONFIG));
    let status = refused.expect_err("one key more");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    let retry = status.get_details_retry_info();
    let wait = retry.and_then(|info| info.retry_delay).expect("a hint");
    let day = Duration::from_secs(86_400);
    assert!(
        wait <= day && wait > day - Duration::from_secs(600),
        "{wait:?}"
    );
    assert_eq!(
        world.bao.task_tokens().len(),
        tokens,
        "a refused request made a token"
    );
    runtime.block_on(async {
        let second = start_once(&client).await.expect("a key that was left");
        let issued = issue_once(&client, &second, CONFIG).await;
        issued.expect("another task is not held up");
        let without = IssueCredentialRequest {
            task_id: task,
            role: CONFIG.to_owned(),
            ..IssueCredentialRequest::default()
        };
        CredentialServiceClient::new(client.channel())
            .issue_credential(without)
            .await
            .expect("no key, no limit");
        start_once(&other).await.expect("others are not held up");
    });
}

/// Asserts the answer to a full quota or rate: the code, the reason and the time to ask again.
fn assert_exhausted(status: &Status) {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    let details = status.get_error_details();
    let info = details.error_info().expect("an ErrorInfo");
    assert_eq!(
        (info.domain.as_str(), info.reason.as_str()),
        ("taskpass", "LIMIT_EXCEEDED")
    );
    let wait = details
        .retry_info()
        .and_then(|r| r.retry_delay)
        .expect("a hint when to try again");
    assert!(
        wait > Duration::ZERO && wait <= Duration::from_secs(60),
        "{wait:?}"
    );
}

#[test]
fn live_credentials_of_an_agent_are_limited_and_revoking_makes_room() {
    let world = World::new();
    world
        .installation
        .configure("[credentials]\nlive_per_agent = 2\n");
    let broker = world.start();
    let (agent, other) = (broker.agent("builder"), broker.agent("other"));
    let task = World::task(&agent, &[CONFIG]);
    let second = World::task(&agent, &[CONFIG]);
    World::issue(&agent, &task, CONFIG, &[]);
    World::issue(&agent, &second, CONFIG, &[]);
    let before = world.bao.task_tokens().len();
    runtime().block_on(async {
        let client = client(&agent).await;
        assert_exhausted(
            &issue_once(&client, &task, CONFIG)
                .await
                .expect_err("a third credential"),
        );
    });
    assert_eq!(
        world.bao.task_tokens().len(),
        before,
        "a refused request made a token"
    );
    let others = World::task(&other, &[CONFIG]);
    World::issue(&other, &others, CONFIG, &[]);
    end(&agent, &second);
    World::issue(&agent, &task, CONFIG, &[]);
}

#[test]
fn of_many_requests_at_once_only_as_many_get_a_credential_as_the_quota_allows() {
    let world = World::new();
    world
        .installation
        .configure("[credentials]\nlive_per_task = 5\n");
    let broker = world.start();
    let agent = broker.agent("builder");
    let task = World::task(&agent, &[CONFIG]);
    let issued = runtime().block_on(async {
        let client = client(&agent).await;
        let mut racing = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let (client, task) = (client.clone(), task.clone());
            racing.spawn(async move { issue_once(&client, &task, CONFIG).await });
        }
        let outcomes = racing.join_all().await;
        for status in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
            assert_exhausted(status);
        }
        outcomes.iter().filter(|outcome| outcome.is_ok()).count()
    });
    assert_eq!(issued, 5);
    assert_eq!(World::live_credentials(&agent).len(), 5);
}

#[test]
fn requests_have_a_rate_and_tasks_a_number() {
    let world = World::new();
    let limits = "[limits]\nagent_requests_per_second = 1\nagent_requests_burst = 4\n\n[tasks]\nopen_per_agent = 2\n";
    world.installation.configure(limits);
    let broker = world.start();
    let agent = broker.agent("builder");
    let other = broker.agent("other");
    runtime().block_on(async {
        let (client, other) = (client(&agent).await, client(&other).await);
        let task = start_once(&client).await.expect("the first task");
        start_once(&client).await.expect("the second task");
        assert_exhausted(&start_once(&client).await.expect_err("a third open task"));
        let mut refused = None;
        for _ in 0..8 {
            refused = issue_once(&client, &task, CONFIG).await.err().or(refused);
        }
        assert_exhausted(&refused.expect("the rate is exceeded"));
        start_once(&other).await.expect("others are not held up");
    });
}
