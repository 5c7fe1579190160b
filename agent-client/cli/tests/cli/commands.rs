//! The program `taskpass`: its output, for people and for programs, and its exit codes.

use std::{
    io::Write,
    process::{Output, Stdio},
};

use serde_json::{Value, json};
use taskpass_client_testing::{fake::Fake, services::refusal};
use taskpass_proto::v1::{Revocation, RevokeCause};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Runs `taskpass` against the fake, with nothing of this process's environment that it reads.
pub(crate) fn command(fake: &Fake, args: &[&str]) -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_taskpass"));
    command
        .args(args)
        .env("TASKPASS_ADDR", fake.addr.to_string())
        .env("TASKPASS_IDENTITY", fake.identity())
        .env_remove("TASKPASS_TASK")
        .stdin(Stdio::null());
    command
}

pub(crate) async fn run(fake: &Fake, args: &[&str]) -> Output {
    let mut command = command(fake, args);
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

pub(crate) async fn json(fake: &Fake, args: &[&str]) -> Value {
    let output = run(fake, &[args, &["-o", "json"]].concat()).await;
    assert!(output.status.success(), "{args:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A broker that an agent has logged in to.
pub(crate) async fn logged_in() -> Fake {
    let fake = Fake::start().await;
    drop(fake.client().await);
    fake
}

#[tokio::test]
async fn the_shapes_of_json() {
    let fake = logged_in().await;
    let token = json(&fake, &["agent", "token", "builder"]).await;
    assert_eq!(token["join_token"], "tp1.j0123456789abcdef.x.y");
    assert_eq!(token["expires_at"], "2026-11-22T10:00:00.500Z");

    let args = [
        "task",
        "start",
        "--purpose",
        "p",
        "--role",
        "vault-main/ci-db:schema=a",
    ];
    let task = json(&fake, &args).await;
    assert_eq!(task["task_id"], "t0000000000000000");
    assert_eq!(
        task["roles"],
        json!([{"role": "vault-main/ci-db", "scope": {"schema": "a"}}])
    );
    assert_eq!(
        (&task["parent"], &task["state"]),
        (&Value::Null, &json!("open"))
    );

    let id = task["task_id"].as_str().unwrap();
    let args = [
        "credential",
        "issue",
        "--task",
        id,
        "--role",
        "vault-main/ci-db",
    ];
    let issued = json(&fake, &args).await;
    assert_eq!(issued["credential_id"], "c0000000000000000");
    assert_eq!(
        issued["data"],
        json!({"username": "u", "password": "hunter2"})
    );
    assert_eq!(issued["revocation_class"], "immediate");
    assert!(issued["expires_at"].as_str().unwrap().ends_with('Z'));

    let ended = json(&fake, &["task", "end", id]).await;
    assert_eq!(
        (&ended["task_id"], &ended["state"]),
        (&json!(id), &json!("ended"))
    );
    let receipt = &ended["receipts"][0];
    for key in [
        "credential_id",
        "role",
        "state",
        "revocation_class",
        "took_ms",
        "may_live_until",
        "identity_until",
    ] {
        assert!(receipt.get(key).is_some(), "{key}");
    }
    let who = json(&fake, &["svid", "show"]).await;
    assert_eq!(who["spiffe_id"], "spiffe://acme.test/agent/builder");
    assert_eq!(who["expired"], false);
}

#[tokio::test]
async fn every_other_command_speaks_json_and_keeps_secrets() {
    let fake = logged_in().await;
    let id = "t0000000000000000";
    json(&fake, &["task", "start", "--purpose", "p", "--role", "v/r"]).await;
    json(
        &fake,
        &["credential", "issue", "--task", id, "--role", "v/r"],
    )
    .await;
    let credential = "c0000000000000000";
    for args in [
        vec![
            "agent",
            "register",
            "builder",
            "--owner",
            "alice@acme.test",
            "--label",
            "a=b",
        ],
        vec!["agent", "list"],
        vec!["agent", "show", "builder"],
        vec!["task", "list", "--state", "open"],
        vec!["task", "show", id],
        vec!["task", "heartbeat", id],
        vec!["credential", "list", "--live"],
        vec!["credential", "show", credential],
        vec!["credential", "renew", credential, "--ttl", "5m"],
        vec!["credential", "revoke", credential],
        vec!["provider", "list"],
        vec!["provider", "show", "vault-main"],
        vec!["policy", "show"],
        vec!["policy", "who", "vault-main/ci-db"],
        vec![
            "policy",
            "explain",
            "--agent",
            "builder",
            "--role",
            "vault-main/ci-db",
            "--scope",
            "schema=a",
            "--address",
            "10.0.0.7",
        ],
        vec!["svid", "renew"],
        vec!["doctor"],
    ] {
        let value = json(&fake, &args).await;
        assert!(value.is_object() || value.is_array(), "{args:?}");
        let table = run(&fake, &args).await;
        assert!(
            table.status.success() && !table.stdout.is_empty(),
            "{args:?}: {table:?}"
        );
        assert!(!text(&table.stdout).contains("hunter2"), "{args:?}");
        assert!(!value.to_string().contains("hunter2"), "{args:?}");
    }
}

#[tokio::test]
async fn lists_go_through_all_pages_unless_told_otherwise() {
    let fake = logged_in().await;
    for _ in 0..5 {
        json(&fake, &["task", "start", "--purpose", "p", "--role", "v/r"]).await;
    }
    let all = json(&fake, &["task", "list"]).await;
    assert_eq!(all.as_array().unwrap().len(), 5);
    let some = json(&fake, &["task", "list", "--limit", "3"]).await;
    assert_eq!(some.as_array().unwrap().len(), 3);
}

/// A newer broker may know states that this client does not.
#[tokio::test]
async fn a_state_of_a_newer_broker_is_shown_by_its_number() {
    let fake = logged_in().await;
    json(&fake, &["task", "start", "--purpose", "p", "--role", "v/r"]).await;
    fake.state().tasks[0].state = 7;
    fake.state().tasks[0].end_cause = 8;
    let shown = json(&fake, &["task", "show", "t0000000000000000"]).await;
    assert_eq!(shown["state"], "unknown(7)");
    assert_eq!(shown["end_cause"], "unknown(8)");
    let listed = run(&fake, &["task", "list"]).await;
    assert!(listed.status.success(), "{listed:?}");
    assert!(text(&listed.stdout).contains("unknown(7)"), "{listed:?}");
}

#[tokio::test]
async fn errors_name_fields_and_the_next_step_and_have_their_exit_code() {
    let fake = logged_in().await;
    let mut details = ErrorDetails::with_bad_request_violation("roles[0]", "there is no such role");
    let metadata: std::collections::HashMap<_, _> =
        [("provider".to_owned(), "v".to_owned())].into();
    details.set_error_info("PROVIDER_UNSUPPORTED", "taskpass", metadata);
    let wrong = Status::with_error_details(Code::InvalidArgument, "the role is unknown", details);
    let down = (0..5).map(|_| refusal(Code::Unavailable, "STARTING", &[]));
    let script = [wrong, refusal(Code::PermissionDenied, "DENIED", &[])];
    fake.state()
        .refuse
        .insert("start_task", script.into_iter().chain(down).collect());
    let args = ["task", "start", "--purpose", "p", "--role", "v/r"];

    let failed = run(&fake, &args).await;
    assert_eq!(failed.status.code(), Some(1));
    assert_eq!(
        text(&failed.stderr),
        "error: the role is unknown\n  roles[0]: there is no such role\ntry: ask an operator, who sees more with `taskpass provider check v`\n"
    );
    let denied = run(&fake, &args).await;
    assert_eq!(denied.status.code(), Some(3));
    assert!(text(&denied.stderr).starts_with("error: refused: DENIED\n"));
    let unavailable = run(&fake, &args).await;
    assert_eq!(unavailable.status.code(), Some(5));

    let away = run(&fake, &["task", "list", "--addr", "127.0.0.1:1"]).await;
    assert_eq!(away.status.code(), Some(5));
    assert!(
        text(&away.stderr).contains("cannot reach the broker at `127.0.0.1:1`"),
        "{away:?}"
    );
    let stranger = run(&fake, &["task", "list", "--identity", "/nonexistent"]).await;
    assert_eq!(stranger.status.code(), Some(1));
    assert!(
        text(&stranger.stderr).contains("try: taskpass login"),
        "{stranger:?}"
    );
    assert!(failed.stdout.is_empty() && denied.stdout.is_empty());
}

#[tokio::test]
async fn a_refusal_names_its_request_for_the_operator() {
    let fake = logged_in().await;
    let metadata = [("request_id", "5f3a1b2c-7")];
    let refused = || refusal(Code::PermissionDenied, "DENIED", &metadata);
    let mut bare = Status::resource_exhausted("too many");
    let id = "5f3a1b2c-8".parse().unwrap();
    bare.metadata_mut().insert("x-request-id", id);
    let script = [refused(), refused(), bare];
    fake.state().refuse.insert("list_tasks", script.into());

    for (args, lines) in [
        (
            &["task", "list"][..],
            "error: refused: DENIED\nrequest 5f3a1b2c-7 in the broker's log\n",
        ),
        (
            &["task", "list", "-o", "json"],
            "error: refused: DENIED\nrequest 5f3a1b2c-7 in the broker's log\n",
        ),
        (
            &["task", "list"],
            "error: too many\nrequest 5f3a1b2c-8 in the broker's log\n",
        ),
    ] {
        let output = run(&fake, args).await;
        assert!(text(&output.stderr).starts_with(lines), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
    }
}

/// Another user who can write into the directory must not choose which file is read.
#[tokio::test]
async fn a_key_that_is_a_link_or_a_pipe_is_refused_with_the_command_that_helps() {
    let fake = logged_in().await;
    let key = fake.identity().join("key.pem");
    let elsewhere = fake.dir.path().join("elsewhere");
    std::fs::rename(&key, &elsewhere).unwrap();
    let mend = format!("run `mv {0} {0}.old`, and log in again", key.display());

    std::os::unix::fs::symlink(&elsewhere, &key).unwrap();
    let linked = run(&fake, &["task", "list"]).await;
    assert_eq!(linked.status.code(), Some(1));
    let said = text(&linked.stderr);
    assert!(
        said.contains("it is a symbolic link; ") && said.contains(&mend),
        "{said}"
    );

    std::fs::remove_file(&key).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&key).status();
    assert!(made.unwrap().success());
    let piped = run(&fake, &["task", "list"]).await;
    assert_eq!(piped.status.code(), Some(1));
    let said = text(&piped.stderr);
    assert!(
        said.contains("it is no regular file; ") && said.contains(&mend),
        "{said}"
    );
}

#[tokio::test]
async fn a_receipt_says_until_when_an_identity_is_left() {
    let fake = logged_in().await;
    let id = "t0000000000000000";
    json(&fake, &["task", "start", "--purpose", "p", "--role", "v/r"]).await;
    let issue = ["credential", "issue", "--task", id, "--role", "v/r"];
    json(&fake, &issue).await;
    fake.state().identity_until = Some(prost_types::Timestamp {
        seconds: 1_795_341_600,
        nanos: 0,
    });
    let ended = json(&fake, &["task", "end", id]).await;
    let until = &ended["receipts"][0]["identity_until"];
    assert!(until.as_str().unwrap().starts_with("2026-"), "{ended}");
    let table = text(&run(&fake, &["task", "end", id]).await.stdout);
    let words = format!("access denied, identity until {}", until.as_str().unwrap());
    assert!(table.contains(&words), "{table}");
}

#[tokio::test]
async fn a_credential_whose_outcome_is_unknown_says_so() {
    let fake = logged_in().await;
    fake.state().revocation = Some(Revocation {
        cause: RevokeCause::OutcomeUnknown.into(),
        ..Revocation::default()
    });
    let show = ["credential", "show", "c0123456789abcdef"];
    let shown = json(&fake, &show).await;
    assert_eq!(shown["revocation"]["cause"], "outcome_unknown");
    let table = text(&run(&fake, &show).await.stdout);
    assert!(table.contains("outcome_unknown"), "{table}");
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one table of cases")]
async fn wrong_arguments_are_told_apart_before_anything_is_sent() {
    let fake = logged_in().await;
    let before = fake.state().calls.len();
    for (args, word) in [
        (vec!["task", "start", "--role", "v/r"], "--purpose"),
        (vec!["task", "start", "--purpose", "p"], "--role"),
        (
            vec!["task", "start", "--purpose", "p", "--role", "r"],
            "<provider>/<name>",
        ),
        (
            vec!["task", "start", "--purpose", "p", "--role", "v/r:x"],
            "KEY=VALUE",
        ),
        (
            vec![
                "task",
                "start",
                "--purpose",
                "p",
                "--role",
                "v/r",
                "--ttl",
                "15",
            ],
            "lifetime",
        ),
        (vec!["task", "end", "x"], "task id"),
        (vec!["task", "list", "--addr", "nowhere"], "HOST:PORT"),
        (vec!["task", "list", "-o", "yaml"], "table"),
        (vec!["agent", "register", "b", "--owner", "alice"], "owner"),
        (
            vec![
                "agent", "register", "b", "--owner", "a@b.c", "--label", "k=1", "--label", "k=2",
            ],
            "twice",
        ),
        (vec!["credential", "issue", "--role", "v/r"], "--task"),
        (vec!["login"], "--join-token"),
        (
            vec!["login", "--join-token", "abc"],
            "--join-token-file FILE",
        ),
        (
            vec!["login", "--oidc-token-file", "f"],
            "unexpected argument",
        ),
        (vec!["approval", "list"], "unrecognized subcommand"),
        (vec!["policy", "grant"], "unrecognized subcommand"),
        (vec!["agent", "freeze", "b"], "--reason"),
        (vec!["run", "--purpose", "p", "--role", "v/r"], "COMMAND"),
        (
            vec![
                "run",
                "--purpose",
                "p",
                "--role",
                "v/r",
                "--role",
                "v/r",
                "--",
                "true",
            ],
            "twice",
        ),
        (
            vec![
                "run",
                "--purpose",
                "p",
                "--role",
                "v/r",
                "--scope",
                "v/x:a=b",
                "--",
                "true",
            ],
            "not among",
        ),
        (vec!["ledger", "export", "--format", "tlog-tiles"], "--to"),
    ] {
        let output = run(&fake, &args).await;
        assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
        assert!(text(&output.stderr).contains(word), "{args:?}: {output:?}");
    }
    let sent: Vec<_> = fake.state().calls.split_off(before);
    assert!(sent.is_empty(), "{sent:?}");
}

#[tokio::test]
async fn logging_in_works_from_a_file_and_standard_input_and_never_from_an_argument() {
    let fake = Fake::start().await;
    let token = fake.token_text();
    let output = run(&fake, &["login", "--join-token", &token]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = text(&output.stderr);
    assert!(
        said.contains("every user of this machine can read it"),
        "{said}"
    );
    assert!(!said.contains(&token), "{said}");
    for how in ["file", "stdin"] {
        let fake = Fake::start().await;
        let token = fake.token_text();
        let file = fake.dir.path().join("token");
        std::fs::write(&file, &token).unwrap();
        let args = match how {
            "file" => vec!["login", "--join-token-file", file.to_str().unwrap()],
            _ => vec!["login", "--join-token", "-"],
        };
        let mut command = command(&fake, &args);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let output = tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().unwrap();
            // A login that does not read it closes the pipe; both are fine.
            drop(child.stdin.take().unwrap().write_all(token.as_bytes()));
            child.wait_with_output().unwrap()
        })
        .await
        .unwrap();
        assert!(output.status.success(), "{how}: {output:?}");
        assert!(text(&output.stdout).contains("spiffe://acme.test/agent/builder"));
        assert!(run(&fake, &["svid", "show"]).await.status.success());
    }
}

#[tokio::test]
async fn an_unhealthy_provider_is_a_failure() {
    let fake = logged_in().await;
    let output = run(&fake, &["provider", "check", "vault-main"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("error    the token may not renew itself"));
}

#[tokio::test]
async fn policies_are_checked_offline() {
    let fake = Fake::start().await;
    let dir = fake.dir.path().join("policy");
    std::fs::create_dir(&dir).unwrap();
    let good = "@id(\"readers\") permit (principal is Taskpass::Operator, action in Taskpass::Action::\"read\", resource);";
    std::fs::write(dir.join("a.cedar"), good).unwrap();
    let path = dir.to_str().unwrap();
    let valid = json(&fake, &["policy", "check", path]).await;
    assert_eq!(
        (&valid["valid"], &valid["policies"]),
        (&json!(true), &json!(1))
    );
    std::fs::write(dir.join("b.cedar"), "permit (principal, action").unwrap();
    let output = run(&fake, &["policy", "check", path]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("b.cedar:"), "{output:?}");
}

#[tokio::test]
async fn doctor_names_the_mistakes_and_their_remedies() {
    let fake = Fake::start().await;
    let output = run(&fake, &["doctor"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stdout).contains("taskpass login"),
        "{output:?}"
    );
    drop(fake.client().await);
    let well = json(&fake, &["doctor"]).await;
    let verdicts: Vec<_> = well
        .as_array()
        .unwrap()
        .iter()
        .map(|f| &f["verdict"])
        .collect();
    assert_eq!(verdicts, [&json!("ok"); 6], "{well}");
    let away = run(&fake, &["doctor", "--addr", "127.0.0.1:1"]).await;
    assert_eq!(away.status.code(), Some(1));
    assert!(
        text(&away.stdout).contains("FAILED   connection"),
        "{away:?}"
    );
}

#[tokio::test]
async fn completions_are_printed() {
    let fake = Fake::start().await;
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&fake, &["completions", shell]).await;
        assert!(
            output.status.success() && output.stdout.len() > 1000,
            "{shell}"
        );
    }
}
