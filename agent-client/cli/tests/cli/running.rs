//! `taskpass run`: the environment of the command, signals, exit codes, and that the task always
//! ends.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use rustix::process::{Pid, Signal, kill_process};
use taskpass_client::Client;
use taskpass_client_testing::{fake::Fake, services::refusal};
use taskpass_proto::v1::{EndCause, TaskState};
use tonic::Code;

use crate::commands::{command, logged_in, run, text};

const HEAD: [&str; 5] = ["run", "--purpose", "p", "--role", "vault-main/ci-db"];

async fn sh(fake: &Fake, script: &str) -> std::process::Output {
    run(fake, &[&HEAD[..], &["--", "sh", "-c", script]].concat()).await
}

/// Starts `script`, which prints a line when it is ready, sends `signal` to taskpass and returns
/// the exit code.
async fn interrupted(fake: &Fake, script: &str, signal: Option<Signal>) -> Option<i32> {
    let mut command = command(
        fake,
        &[&HEAD[..], &["--heartbeat", "3s", "--", "sh", "-c", script]].concat(),
    );
    command.stdout(Stdio::piped());
    tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        if let Some(signal) = signal {
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
            kill_process(pid, signal).unwrap();
        }
        child.wait().unwrap().code()
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn the_command_alone_gets_the_credentials_and_the_task_ends() {
    let fake = logged_in().await;
    let output = sh(&fake, "echo $CI_DB_USERNAME $CI_DB_PASSWORD $TASKPASS_TASK").await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(text(&output.stdout), "u hunter2 t0000000000000000\n");
    let notes = text(&output.stderr);
    assert!(notes.contains("1 of 1 credentials proven revoked") && !notes.contains("hunter2"));
    assert!(!notes.contains("warning"), "nothing has expired: {notes}");
    assert_eq!(fake.state().tasks[0].end_cause(), EndCause::Completed);
}

#[tokio::test]
async fn a_credential_that_ends_before_its_task_is_told_when_that_matters() {
    let fake = logged_in().await;
    let asked = run(&fake, &[&HEAD[..], &["--ttl", "2h", "--", "true"]].concat()).await;
    let notes = text(&asked.stderr);
    assert!(
        notes.contains("before the task does"),
        "15 minutes of the 2 hours that were asked for: {notes}"
    );
    fake.state().credential_life = time::Duration::milliseconds(100);
    let notes = text(&sh(&fake, "exec sleep 1").await.stderr);
    assert!(
        notes.contains("the credential of `vault-main/ci-db` has expired"),
        "{notes}"
    );
}

/// The command's own list of its variables, and the messages of `taskpass` about them.
async fn environment(fake: &Fake, more: &[&str], caller: &[(&str, &str)]) -> (String, String) {
    let mut command = command(fake, &[&HEAD[..], more, &["--", "env"]].concat());
    command.envs(caller.iter().copied());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    (text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn the_command_gets_neither_the_identity_nor_the_callers_secrets() {
    let fake = logged_in().await;
    let caller = [
        ("GITHUB_TOKEN", "of-the-caller"),
        ("DATABASE", "postgres://ci:of-the-caller@db/x"),
        ("NPM_TOKEN", "kept"),
        ("PLAIN", "plain"),
    ];
    let (seen, notes) = environment(&fake, &["--keep-env", "NPM_TOKEN"], &caller).await;
    for line in ["NPM_TOKEN=kept", "PLAIN=plain", "CI_DB_USERNAME=u"] {
        assert!(seen.lines().any(|l| l == line), "{line}: {seen}");
    }
    assert!(!seen.contains("of-the-caller"), "{seen}");
    let ours: Vec<&str> = seen.lines().filter(|l| l.starts_with("TASKPASS")).collect();
    assert_eq!(ours, ["TASKPASS_TASK=t0000000000000000"]);
    assert!(
        notes.contains("GITHUB_TOKEN") && notes.contains("--keep-env"),
        "{notes}"
    );
    assert!(!notes.contains("of-the-caller"), "{notes}");

    let never = ["--keep-env", "TASKPASS_IDENTITY", "--", "true"];
    let refused = run(&fake, &[&HEAD[..], &never].concat()).await;
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
}

#[tokio::test]
async fn fields_that_the_role_does_not_declare_set_no_variable() {
    let fake = logged_in().await;
    fake.state().data = ["token", "ssh_command", "path"]
        .map(|name| (name, format!("of-{name}")))
        .to_vec();
    fake.state().env = vec![("token", "GIT_TOKEN")];
    let (seen, _) = environment(&fake, &[], &[]).await;
    assert!(seen.contains("GIT_TOKEN=of-token"), "{seen}");
    assert!(!seen.contains("of-ssh_command") && !seen.contains("of-path"));

    fake.state().env = vec![("another", "GIT_TOKEN")];
    let output = sh(&fake, "echo must not run").await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let notes = text(&output.stderr);
    assert!(
        notes.contains("declares no environment variable"),
        "{notes}"
    );
    assert!(output.stdout.is_empty());
}

#[tokio::test]
async fn a_broker_that_names_a_variable_which_runs_code_runs_nothing() {
    let fake = logged_in().await;
    fake.state().env = vec![("username", "LD_PRELOAD")];
    let output = sh(&fake, "echo must not run").await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains("LD_PRELOAD") && output.stdout.is_empty());
    assert_eq!(fake.state().tasks[0].end_cause(), EndCause::Cancelled);
}

/// Runs `script` with the identity directory as `$1`, and `hide` as the mode of hiding.
async fn behind(fake: &Fake, hide: &str, script: &str) -> (String, String) {
    let directory = fake.identity().display().to_string();
    let more = [
        "--hide-identity",
        hide,
        "--",
        "sh",
        "-c",
        script,
        "sh",
        &directory,
    ];
    let output = run(fake, &[&HEAD[..], &more].concat()).await;
    (text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn a_hidden_identity_can_be_read_in_no_way_and_all_else_can() {
    let fake = logged_in().await;
    let beside = fake.dir.path().join("beside");
    std::fs::create_dir(&beside).unwrap();
    std::fs::write(beside.join("file"), "beside\n").unwrap();
    std::os::unix::fs::symlink(fake.identity(), beside.join("link")).unwrap();
    let script = r#"
        cat "$1/../beside/file"
        mv "$1/../beside/file" "$1/../beside/sub" && cat "$1/../beside/sub"
        cat "$1/key.pem" "$1/svid.pem"
        cat "$1/../beside/link/key.pem"
        ln "$1/key.pem" "$1/../beside/key" && cat "$1/../beside/key"
        mv "$1" "$1/../beside/moved" && cat "$1/../beside/moved/key.pem"
        cat /proc/self/root"$1"/key.pem
        # Root reads the environment of any process, by the right to measure performance.
        [ "$(id -u)" = 0 ] || cat "/proc/$PPID/environ" | tr '\0' '\n' | grep TASKPASS
        cat "/proc/$PPID/root$1/key.pem"
        dd if="/proc/$PPID/mem" bs=1 count=1 2>&1 | grep -c 'ermission denied'
        echo end"#;
    let (seen, notes) = behind(&fake, "always", script).await;
    assert_eq!(seen, "beside\nbeside\n1\nend\n", "{notes}");
    assert!(fake.identity().join("key.pem").exists());

    let (seen, _) = behind(&fake, "never", r#"cat "$1/key.pem""#).await;
    assert!(seen.contains("PRIVATE KEY"), "the test can fail: {seen}");
}

/// The command may rename the directory that it cannot read, and put a link of its own there.
#[tokio::test]
async fn a_renewal_follows_no_link_that_the_command_put_in_place_of_a_hidden_identity() {
    let fake = Fake::start().await;
    // Backdated by 10 s: due some five seconds from now, when the command has begun.
    fake.state().svid_life = time::Duration::seconds(14);
    Client::login(&fake.config(), &fake.token()).await.unwrap();
    fake.state().svid_life = time::Duration::hours(1);
    let key = std::fs::read(fake.identity().join("key.pem")).unwrap();
    std::fs::create_dir_all(fake.dir.path().join("beside/trap")).unwrap();
    let script = r#"
        cd "$1/../beside" && touch stamp && mv "$1" "$1.moved" && ln -s beside/trap "$1" || exit 1
        for try in $(seq 150); do
            [ -n "$(ls trap)" ] && break
            [ "$1.moved/svid.pem" -nt stamp ] && break
            sleep 0.1
        done
        sleep 0.2
        ls trap
        cat trap/*.pem "$1.moved"/*.pem"#;
    let (seen, notes) = behind(&fake, "always", script).await;
    assert_eq!(seen, "", "{notes}");
    let calls = fake.state().calls.clone();
    let at = |call| calls.iter().position(|c| *c == call);
    assert!(at("renew_svid") > at("issue_credential"), "{calls:?}");
    let moved = fake.identity().with_extension("moved");
    assert_ne!(std::fs::read(moved.join("key.pem")).unwrap(), key);
}

#[tokio::test]
async fn what_cannot_be_hidden_without_a_cost_is_said() {
    let fake = logged_in().await;
    // The identity lies below a directory in which this user creates files.
    let (_, notes) = behind(&fake, "auto", "true").await;
    assert!(
        notes.contains("note: the command can read the identity"),
        "{notes}"
    );
    let (_, notes) = behind(&fake, "never", "true").await;
    assert!(!notes.contains("note:"), "{notes}");
}

#[tokio::test]
async fn the_exit_code_is_the_commands_own() {
    let fake = logged_in().await;
    assert_eq!(sh(&fake, "exit 42").await.status.code(), Some(42));
    assert_eq!(sh(&fake, "kill -KILL $$").await.status.code(), Some(137));
    let missing = run(&fake, &[&HEAD[..], &["--", "/nonexistent"]].concat()).await;
    assert_eq!(missing.status.code(), Some(127), "{missing:?}");
    let not_executable = run(&fake, &[&HEAD[..], &["--", "/etc/hostname"]].concat()).await;
    assert_eq!(
        not_executable.status.code(),
        Some(126),
        "{not_executable:?}"
    );
    let state = fake.state();
    assert!(
        state
            .tasks
            .iter()
            .all(|t| t.end_cause() == EndCause::Cancelled),
        "{:?}",
        state.tasks
    );
    assert_eq!(state.tasks.len(), 4);
}

#[tokio::test]
async fn signals_reach_the_command_which_decides() {
    let fake = logged_in().await;
    let polite = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done";
    assert_eq!(
        interrupted(&fake, polite, Some(Signal::TERM)).await,
        Some(7)
    );
    // `exec`, so that no shell dies between a signal and the start of its command, which would then
    // outlive it.
    let plain = "echo ready; exec sleep 60";
    assert_eq!(
        interrupted(&fake, plain, Some(Signal::INT)).await,
        Some(130)
    );
    assert_eq!(
        interrupted(&fake, plain, Some(Signal::HUP)).await,
        Some(129)
    );
    assert!(
        fake.state()
            .tasks
            .iter()
            .all(|t| t.state() == TaskState::Ended)
    );
}

#[tokio::test]
async fn a_task_that_the_broker_ended_stops_the_command() {
    let fake = logged_in().await;
    let over = refusal(Code::FailedPrecondition, "TASK_ENDED", &[]);
    fake.state().refuse.insert("heartbeat", [over].into());
    assert_eq!(
        interrupted(&fake, "echo ready; exec sleep 60", None).await,
        Some(143)
    );
}

/// The broker would say so at the next heartbeat; it need not be there.
#[tokio::test]
async fn the_deadline_stops_the_command_without_a_broker() {
    let fake = logged_in().await;
    fake.state().task_life = time::Duration::seconds(2);
    let away = refusal(Code::Unavailable, "AWAY", &[]);
    let away = std::iter::repeat_n(away, 60).collect();
    fake.state().refuse.insert("heartbeat", away);
    assert_eq!(
        interrupted(&fake, "echo ready; exec sleep 60", None).await,
        Some(143)
    );
}

#[tokio::test]
async fn a_refused_credential_ends_the_task_and_runs_nothing() {
    let fake = logged_in().await;
    let denied = refusal(Code::PermissionDenied, "DENIED", &[]);
    fake.state()
        .refuse
        .insert("issue_credential", [denied].into());
    let output = sh(&fake, "echo must not run").await;
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(output.stdout.is_empty());
    assert_eq!(fake.state().tasks[0].end_cause(), EndCause::Cancelled);
}

#[tokio::test]
async fn names_that_clash_are_refused_and_nothing_is_run() {
    let fake = logged_in().await;
    fake.state().data = vec![("token", "hvs.x".to_owned())];
    fake.state().env = vec![("token", "VAULT_TOKEN")];
    let both = ["--role", "vault-main/other", "--", "echo", "must not run"];
    let output = run(&fake, &[&HEAD[..], &both].concat()).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output.stderr).contains("VAULT_TOKEN") && output.stdout.is_empty());
    assert_eq!(fake.state().tasks[0].end_cause(), EndCause::Cancelled);
}

#[tokio::test]
async fn aws_and_vault_tools_find_their_own_names() {
    let fake = logged_in().await;
    fake.state().data = vec![("token", "hvs.x".to_owned())];
    fake.state().env = vec![("token", "VAULT_TOKEN")];
    assert_eq!(
        text(&sh(&fake, "echo $VAULT_TOKEN").await.stdout),
        "hvs.x\n"
    );
    {
        fake.state().data = ["access_key_id", "secret_access_key", "session_token"]
            .map(|name| (name, format!("v-{name}")))
            .to_vec();
        fake.state().env = vec![
            ("access_key_id", "AWS_ACCESS_KEY_ID"),
            ("secret_access_key", "AWS_SECRET_ACCESS_KEY"),
            ("session_token", "AWS_SESSION_TOKEN"),
        ];
    }
    let script = "echo $AWS_ACCESS_KEY_ID $AWS_SECRET_ACCESS_KEY $AWS_SESSION_TOKEN";
    let output = sh(&fake, script).await;
    assert_eq!(
        text(&output.stdout),
        "v-access_key_id v-secret_access_key v-session_token\n"
    );
}
