//! Renewing, tasks and credentials through the library.

use std::{sync::Arc, time::Duration};

use taskpass_client::{Client, ClientConfig, Credential, Error, Renewal, TaskGuard, TaskOptions};
use taskpass_client_testing::{fake::Fake, services::refusal};
use taskpass_core::{Clock, ManualClock, SystemClock};
use taskpass_proto::v1::{EndCause, TaskState};
use tonic::{Code, Status};

const ROLE: &str = "vault-main/ci-db";

fn options() -> TaskOptions {
    TaskOptions::new("test").role(ROLE.parse().unwrap())
}

/// A client with a clock that stands still, and the clock.
async fn with_clock(fake: &Fake) -> (Client, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(SystemClock::new().now()));
    let config = ClientConfig {
        clock: clock.clone(),
        ..fake.config()
    };
    (Client::attest(config, &fake.token()).await.unwrap(), clock)
}

async fn credential(client: &Client) -> (TaskGuard, Credential) {
    let task = client.start_task(options()).await.unwrap();
    let credential = task
        .credential(ROLE.parse().unwrap())
        .issue()
        .await
        .unwrap();
    (task, credential)
}

#[tokio::test]
async fn a_renewed_identity_is_proven_before_it_replaces_the_old_one() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let old = client.svid();
    let new = client.renew_svid().await.unwrap();
    assert_ne!(old.serial, new.serial);
    assert_eq!(client.svid(), new);
    assert_eq!(fake.config().directory.leaf().unwrap(), new);
    assert_eq!(
        client.whoami().await.unwrap().spiffe_id,
        new.spiffe_id.as_str()
    );
    assert_eq!(fake.state().dead_serials.len(), 1);
}

#[tokio::test]
async fn a_new_identity_that_the_broker_does_not_accept_is_not_used() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let old = client.svid();
    let no = refusal(Code::Unauthenticated, "UNAUTHENTICATED", &[]);
    fake.state().refuse.insert("who_am_i", [no].into());
    client.renew_svid().await.unwrap_err();
    assert_eq!(client.svid(), old);
    assert_eq!(fake.config().directory.leaf().unwrap(), old);
    client.whoami().await.unwrap();
}

#[tokio::test]
async fn a_lost_answer_to_renewing_is_made_good() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    fake.state().lose.insert("renew_svid", 1);
    client.renew_svid().await.unwrap();
    assert_eq!(fake.state().count("renew_svid"), 2);
    client.whoami().await.unwrap();
}

#[tokio::test]
async fn an_identity_that_could_not_be_proven_counts_all_the_same() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let old = client.svid();
    // The broker has seen the new certificate and dropped the old one, and the answer is lost.
    fake.state().lose.insert("who_am_i", 1);
    client.renew_svid().await.unwrap_err();
    assert_ne!(fake.config().directory.leaf().unwrap(), old);
    client.whoami().await.unwrap();
    assert_ne!(client.svid(), old);
}

#[tokio::test]
async fn a_process_that_shares_the_directory_follows_the_others_renewal() {
    let fake = Fake::start().await;
    let first = fake.client().await;
    let second = Client::connect(fake.config()).await.unwrap();
    first.renew_svid().await.unwrap();
    assert_ne!(first.svid(), second.svid());
    second.whoami().await.unwrap();
    assert_eq!(first.svid(), second.svid());
}

/// An operator's identity of a year is renewed for 30 days: the newer one ends sooner.
#[tokio::test]
async fn a_renewal_by_another_process_is_followed_although_it_ends_sooner() {
    let fake = Fake::start().await;
    fake.state().svid_life = time::Duration::days(365);
    let first = fake.client().await;
    let second = Client::connect(fake.config()).await.unwrap();
    fake.state().svid_life = time::Duration::days(30);
    first.renew_svid().await.unwrap();
    assert!(first.svid().not_after < second.svid().not_after);
    second.whoami().await.unwrap();
    assert_eq!(first.svid(), second.svid());
}

#[tokio::test]
async fn of_two_processes_that_share_the_directory_one_renews() {
    let fake = Fake::start().await;
    let (first, clock) = with_clock(&fake).await;
    let config = ClientConfig {
        clock: clock.clone(),
        ..fake.config()
    };
    let second = Client::connect(config).await.unwrap();
    fake.state().svid_life = time::Duration::hours(10);
    clock.advance(Duration::from_secs(45 * 60));
    let (one, other) = tokio::join!(first.renew_svid_if_due(), second.renew_svid_if_due());
    assert_eq!(one.unwrap(), other.unwrap());
    assert_eq!(fake.state().count("renew_svid"), 1);
    first.whoami().await.unwrap();
    second.whoami().await.unwrap();
    assert_eq!(first.svid(), fake.config().directory.leaf().unwrap());
}

#[tokio::test]
async fn identities_are_renewed_in_the_background_when_due() {
    let fake = Fake::start().await;
    // Backdated by 10 s and valid for 4 s more: past two thirds of its life from the start.
    fake.state().svid_life = time::Duration::seconds(4);
    Client::login(&fake.config(), &fake.token()).await.unwrap();
    fake.state().svid_life = time::Duration::hours(1);
    let mut config = fake.config();
    config.renewal = Renewal::Background;
    let client = Client::connect(config).await.unwrap();
    fake.shared.until(|s| s.dead_serials.len() == 1).await;
    client.shutdown().await;
    let fresh = fake.config().directory.leaf().unwrap();
    assert!(fresh.not_after.since(SystemClock::new().now()) > Duration::from_secs(60));
    assert_eq!(fake.state().count("renew_svid"), 1);
}

#[tokio::test]
async fn an_identity_that_is_not_due_is_left_alone() {
    let fake = Fake::start().await;
    let (client, clock) = with_clock(&fake).await;
    client.renew_svid_if_due().await.unwrap();
    assert_eq!(fake.state().count("renew_svid"), 0);
    clock.advance(Duration::from_secs(45 * 60));
    client.renew_svid_if_due().await.unwrap();
    assert_eq!(fake.state().count("renew_svid"), 1);
}

#[tokio::test]
async fn ending_returns_receipts_and_dropping_ends() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let (task, _credential) = credential(&client).await;
    let receipts = task.end().await.unwrap();
    assert!(receipts.len() == 1 && receipts[0].is_verified());
    assert_eq!(fake.state().tasks[0].end_cause(), EndCause::Completed);

    drop(client.start_task(options()).await.unwrap());
    fake.shared
        .until(|s| s.tasks[1].state() == TaskState::Ended)
        .await;
    client.shutdown().await;
    assert_eq!(fake.state().tasks[1].end_cause(), EndCause::Cancelled);
    assert_eq!(fake.state().count("end_task"), 2);
}

#[tokio::test]
async fn heartbeats_go_out_and_the_brokers_end_is_the_end() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let over = refusal(Code::FailedPrecondition, "TASK_ENDED", &[]);
    let down = Status::invalid_argument("a bad moment");
    fake.state().refuse.insert("heartbeat", [down, over].into());
    let task = client
        .start_task(options().heartbeat("1s".parse().unwrap()))
        .await
        .unwrap();
    let credential = task
        .credential(ROLE.parse().unwrap())
        .issue()
        .await
        .unwrap();
    let why = task.ended().await;
    assert!(why.contains("TASK_ENDED"), "{why}");
    assert!(
        fake.state().count("heartbeat") == 2,
        "one bad moment is not the end"
    );
    let refusal = credential.current().await.unwrap_err();
    assert!(matches!(refusal, Error::TaskEnded { .. }), "{refusal:?}");
}

#[tokio::test]
async fn repeated_calls_carry_one_key_and_an_unheard_secret_is_revoked() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    fake.state().lose.insert("issue_credential", 1);
    let (_task, credential) = credential(&client).await;
    let state = fake.state();
    // Issued and lost; repeated with the same key and told so; revoked; issued with another key.
    assert_eq!(state.count("issue_credential"), 3);
    assert_eq!(state.revoked, [state.issued[0].clone()]);
    assert_eq!(credential.id().to_string(), state.issued[1]);
    assert_ne!(state.keys[0].0, state.keys[1].0);
}

/// The broker remembers a key together with the failure, so repeating it could never succeed.
#[tokio::test]
async fn a_failure_of_the_provider_is_repeated_with_another_key() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let down = refusal(Code::Unavailable, "PROVIDER_UNAVAILABLE", &[]);
    fake.state()
        .refuse
        .insert("issue_credential", [down].into());
    let (_task, _credential) = credential(&client).await;
    let state = fake.state();
    assert_eq!(state.tried_keys.len(), 2);
    assert_ne!(state.tried_keys[0], state.tried_keys[1]);
}

#[tokio::test]
async fn refusals_carry_everything_the_broker_said_and_are_not_repeated() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let no = refusal(Code::PermissionDenied, "DENIED", &[("policy", "p1")]);
    fake.state().refuse.insert("start_task", [no].into());
    let error = client.start_task(options()).await.unwrap_err();
    assert!(error.is_denied());
    assert_eq!(error.reason(), Some("DENIED"));
    assert_eq!(error.refusal().unwrap().metadata["policy"], "p1");
    assert_eq!(fake.state().count("start_task"), 1);
}

#[tokio::test]
async fn a_credential_is_replaced_in_time_once_and_the_old_one_revoked() {
    let fake = Fake::start().await;
    let (client, clock) = with_clock(&fake).await;
    let (_task, credential) = credential(&client).await;
    let first = credential.current().await.unwrap();
    assert_eq!(first.field("password").unwrap().expose(), "hunter2");
    credential.refresh().await.unwrap();
    assert_eq!(fake.state().count("issue_credential"), 1, "not due yet");

    clock.advance(Duration::from_secs(11 * 60));
    // Many ask at once: one refresh serves all.
    let all = tokio::join!(
        credential.refresh(),
        credential.refresh(),
        credential.refresh()
    );
    assert!(all.0.is_ok() && all.1.is_ok() && all.2.is_ok());
    // The fake gives new ones by the machine's clock, which is 11 minutes behind.
    assert_eq!(fake.state().issued.len(), 2);
    assert_ne!(credential.id(), first.id);
    let old = first.id.to_string();
    fake.shared.until(|s| s.revoked == [old.clone()]).await;
}

#[tokio::test]
async fn a_renewable_credential_keeps_its_secret() {
    let fake = Fake::start().await;
    fake.state().renewable = true;
    let (client, clock) = with_clock(&fake).await;
    let (_task, credential) = credential(&client).await;
    let (id, until) = (credential.id(), credential.expires_at());
    clock.advance(Duration::from_secs(11 * 60));
    credential.refresh().await.unwrap();
    assert_eq!((credential.id(), fake.state().issued.len()), (id, 1));
    assert!(credential.expires_at() > until);
    assert_eq!(fake.state().count("renew_credential"), 1);
}

#[tokio::test]
async fn an_expired_secret_is_never_handed_out() {
    let fake = Fake::start().await;
    let (client, clock) = with_clock(&fake).await;
    let (_task, credential) = credential(&client).await;
    clock.advance(Duration::from_secs(16 * 60));
    let no = || refusal(Code::PermissionDenied, "DENIED", &[]);
    let denials = (0..3).map(|_| no()).collect();
    fake.state().refuse.insert("issue_credential", denials);
    let error = credential.current().await.unwrap_err();
    assert!(
        matches!(error, Error::CredentialExpired { .. }),
        "{error:?}"
    );
    assert!(error.is_denied() && !format!("{error:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_credential_that_lives_as_long_as_its_task_is_not_refreshed() {
    let fake = Fake::start().await;
    fake.state().credential_life = time::Duration::hours(2);
    fake.state().task_life = time::Duration::hours(1);
    let (client, clock) = with_clock(&fake).await;
    let (_task, credential) = credential(&client).await;
    clock.advance(Duration::from_secs(110 * 60));
    credential.refresh().await.unwrap();
    assert_eq!(fake.state().issued.len(), 1);
}

#[tokio::test]
async fn a_broker_that_does_not_listen_is_unreachable() {
    let fake = Fake::start().await;
    Client::login(&fake.config(), &fake.token()).await.unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = fake.config();
    config.addr = closed.local_addr().unwrap().to_string().parse().unwrap();
    drop(closed);
    let error = Client::connect(config).await.unwrap_err();
    assert!(
        matches!(error, Error::Unreachable { .. }) && error.is_unavailable(),
        "{error:?}"
    );
}

#[cfg(feature = "aws")]
#[tokio::test]
async fn an_aws_sdk_gets_the_present_secret_with_its_end() {
    use aws_credential_types::provider::ProvideCredentials;
    let fake = Fake::start().await;
    fake.state().data = ["access_key_id", "secret_access_key", "session_token"]
        .map(|name| (name, format!("v-{name}")))
        .to_vec();
    let client = fake.client().await;
    let (_task, credential) = credential(&client).await;
    let provider = taskpass_client::AwsCredentials::new(credential);
    let given = provider.provide_credentials().await.unwrap();
    assert_eq!(given.access_key_id(), "v-access_key_id");
    assert_eq!(given.secret_access_key(), "v-secret_access_key");
    assert_eq!(given.session_token(), Some("v-session_token"));
    assert!(given.expiry().is_some());
}
