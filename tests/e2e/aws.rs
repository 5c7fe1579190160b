//! AWS sessions: the calls they allow while their task is open, and that they allow none
//! afterwards.

use taskpass_tests::{Broker, Cli, Installation, Ministack, Session, World, eventually};

use crate::support::{end, receipt, text, wait_for_state};

struct Stage {
    aws: Ministack,
    installation: Installation,
}

impl Stage {
    fn new() -> Self {
        let aws = Ministack::start();
        let installation = Installation::new();
        installation.configure(&aws.provider("aws-prod"));
        Self { aws, installation }
    }

    fn start(&self) -> (Broker<'_>, Cli) {
        let broker = self.installation.start();
        let agent = broker.agent("builder");
        (broker, agent)
    }

    fn reads(&self, session: &Session) -> Result<String, String> {
        self.aws.read(session, "artifacts", "greeting")
    }
}

#[test]
fn a_session_has_the_rights_that_template_and_scope_both_allow_and_no_others() {
    let stage = Stage::new();
    let (_broker, agent) = stage.start();
    let task = World::task(&agent, &["aws-prod/reader"]);
    let issued = World::issue(&agent, &task, "aws-prod/reader", &["bucket=artifacts"]);
    assert_eq!(text(&issued, "revocation_class"), "denylist");
    let session = Session::from(&issued);

    assert_eq!(stage.reads(&session), Ok("hello from s3".to_owned()));
    // The role permits it, the scope does not.
    assert_eq!(
        stage.aws.read(&session, "other", "greeting"),
        Err("AccessDenied".to_owned())
    );
    // The role permits it, the template does not.
    assert_eq!(
        stage.aws.write(&session, "artifacts", "defaced"),
        Err("AccessDenied".to_owned())
    );
    for scope in [
        "bucket=*",
        "bucket=a",
        "bucket=artifacts/../other",
        "region=eu",
    ] {
        let args = [
            "credential",
            "issue",
            "--task",
            &task,
            "--role",
            "aws-prod/reader",
            "--scope",
            scope,
        ];
        agent.refused(&args);
    }
    agent.refused(&[
        "credential",
        "issue",
        "--task",
        &task,
        "--role",
        "aws-prod/reader",
    ]);
}

#[test]
fn ending_a_task_denies_its_sessions_and_no_sessions_of_other_tasks() {
    let stage = Stage::new();
    let (_broker, agent) = stage.start();
    let tasks: Vec<String> = (0..3)
        .map(|_| World::task(&agent, &["aws-prod/reader"]))
        .collect();
    let issued: Vec<_> = tasks
        .iter()
        .map(|task| World::issue(&agent, task, "aws-prod/reader", &["bucket=artifacts"]))
        .collect();
    let sessions: Vec<Session> = issued.iter().map(Session::from).collect();
    for session in &sessions {
        assert!(stage.reads(session).is_ok());
    }
    assert_eq!(stage.aws.denied_ids(), Vec::<String>::new());

    for (task, issued) in tasks.iter().zip(&issued).take(2) {
        end(&agent, task);
        let shown = wait_for_state(&agent, task, "ended");
        assert_eq!(text(receipt(&shown, issued), "state"), "revoked_verified");
    }

    assert_eq!(stage.reads(&sessions[0]), Err("AccessDenied".to_owned()));
    assert_eq!(stage.reads(&sessions[1]), Err("AccessDenied".to_owned()));
    assert_eq!(stage.reads(&sessions[2]), Ok("hello from s3".to_owned()));
    let mut ended = tasks[..2].to_vec();
    ended.sort();
    assert_eq!(stage.aws.denied_ids(), ended);
}

#[test]
fn a_session_ends_at_the_tasks_deadline_also_when_no_broker_is_there_to_end_it() {
    let stage = Stage::new();
    let (broker, agent) = stage.start();
    let args = [
        "task",
        "start",
        "--purpose",
        "short",
        "--ttl",
        "15s",
        "--role",
        "aws-prod/reader",
    ];
    let task = text(&agent.json(&args), "task_id").to_owned();
    let session = Session::from(&World::issue(
        &agent,
        &task,
        "aws-prod/reader",
        &["bucket=artifacts"],
    ));
    assert_eq!(stage.reads(&session), Ok("hello from s3".to_owned()));
    broker.kill();

    let refusal = eventually("the session is denied", || stage.reads(&session).err());

    assert_eq!(refusal, "AccessDenied");
    assert_eq!(stage.aws.denied_ids(), Vec::<String>::new());
}

#[test]
fn a_broker_that_was_killed_while_a_task_ended_denies_its_session_later() {
    let stage = Stage::new();
    let (broker, agent) = stage.start();
    let task = World::task(&agent, &["aws-prod/reader"]);
    let issued = World::issue(&agent, &task, "aws-prod/reader", &["bucket=artifacts"]);
    let session = Session::from(&issued);
    broker.kill();
    let broker = stage
        .installation
        .start_with(&[("TASKPASS_FAILPOINT", "end.intended")]);
    broker.attested("builder").refused(&["task", "end", &task]);
    broker.wait_killed();

    let broker = stage.installation.start();
    let shown = wait_for_state(&broker.operator(), &task, "ended");

    assert_eq!(text(receipt(&shown, &issued), "state"), "revoked_verified");
    assert_eq!(stage.reads(&session), Err("AccessDenied".to_owned()));
    assert_eq!(stage.aws.denied_ids(), vec![task]);
}
