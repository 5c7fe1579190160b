//! `taskpass run`: a task around one command, however the command ends.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use taskpass_tests::{Cli, History, World, eventually, program};

use crate::support::{text, wait_for_state};

const AGENT: &str = "spiffe://acme.test/agent/builder";
const RUN: [&str; 3] = ["run", "--purpose", "a test"];

fn run(agent: &Cli, more: &[&str]) -> taskpass_tests::Output {
    agent.run(&[RUN.as_slice(), more].concat())
}

/// Starts it and reads the first line that the command prints.
fn begin(agent: &Cli, more: &[&str]) -> (Child, String) {
    let mut command: Command = agent.command(&[RUN.as_slice(), more].concat());
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn().expect("taskpass starts");
    let mut line = String::new();
    let out = child.stdout.take().expect("stdout is piped");
    BufReader::new(out)
        .read_line(&mut line)
        .expect("the command prints a line");
    (child, line.trim().to_owned())
}

fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
    kill_process(pid, signal).expect("it can be signalled");
}

fn only_task(operator: &Cli) -> Value {
    let tasks = operator.json(&["task", "list"]);
    let tasks = tasks.as_array().expect("tasks");
    assert_eq!(tasks.len(), 1);
    tasks[0].clone()
}

#[test]
fn the_command_gets_the_credentials_and_gives_its_exit_code() {
    let world = World::new();
    let broker = world.start();
    let agent = broker.agent("builder");
    let script = "echo \"$VAULT_TOKEN $CERT_SERIAL_NUMBER $TASKPASS_TASK\"; exit 7";
    let roles = [
        "--role",
        "vault-main/config",
        "--role",
        "vault-main/cert:common_name=ci.acme.test",
    ];
    let done = run(
        &agent,
        &[roles.as_slice(), &["--", "sh", "-c", script]].concat(),
    );

    assert_eq!(done.code, 7, "{}", done.stderr);
    let words: Vec<&str> = done.stdout.split_whitespace().collect();
    let [token, serial, task] = words.as_slice() else {
        panic!("{}", done.stdout)
    };
    assert!(token.starts_with("s."), "an OpenBao token");
    assert!(!world.bao.token_works(token));
    assert!(world.bao.certificate_is_revoked(serial));
    let shown = wait_for_state(&broker.operator(), task, "ended");
    assert_eq!(text(&shown, "end_cause"), "cancelled");
    assert!(
        done.stderr.contains("2 of 2 credentials proven revoked"),
        "{}",
        done.stderr
    );
    assert!(!done.stderr.contains(token));

    let done = run(&agent, &["--role", "vault-main/config", "--", "true"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let ten_minutes = ["--ttl", "10m", "--role", "vault-main/config", "--", "true"];
    let done = run(&agent, &ten_minutes);
    assert!(
        done.code == 0 && !done.stderr.contains("warning"),
        "the role allows so long: {}",
        done.stderr
    );
    let done = run(
        &agent,
        &["--role", "vault-main/config", "--", "/no/such/program"],
    );
    assert_eq!(done.code, 127, "{}", done.stderr);
    assert!(world.bao.task_tokens().is_empty());
}

#[test]
fn the_credentials_work_while_the_command_runs_and_signals_reach_it() {
    let world = World::new();
    let broker = world.start();
    let agent = broker.agent("builder");
    let script =
        "trap 'kill $waiting; exit 42' TERM; sleep 600 & waiting=$!; echo \"$VAULT_TOKEN\"; wait";
    let (mut child, token) = begin(
        &agent,
        &["--role", "vault-main/config", "--", "sh", "-c", script],
    );
    assert!(world.bao.token_works(&token));

    send(child.id(), Signal::TERM);

    let status = child.wait().expect("taskpass ends");
    assert_eq!(status.code(), Some(42));
    assert!(!world.bao.token_works(&token));
    let task = only_task(&broker.operator());
    assert_eq!(
        (text(&task, "state"), text(&task, "end_cause")),
        ("ended", "cancelled")
    );
}

#[test]
fn when_taskpass_itself_is_killed_the_lost_heartbeat_ends_the_task() {
    let world = World::new();
    let broker = world.start();
    let agent = broker.agent("builder");
    let script = "echo \"$$ $VAULT_TOKEN\"; exec sleep 600";
    let more = [
        "--heartbeat",
        "5s",
        "--role",
        "vault-main/config",
        "--",
        "sh",
        "-c",
        script,
    ];
    let (mut child, line) = begin(&agent, &more);
    let (pid, token) = line.split_once(' ').expect("two words");
    assert!(world.bao.token_works(token));

    child.kill().expect("it can be killed");
    child.wait().expect("taskpass is gone");

    let task = only_task(&broker.operator());
    let shown = wait_for_state(&broker.operator(), text(&task, "task_id"), "ended");
    assert_eq!(text(&shown, "end_cause"), "heartbeat_lost");
    assert!(!world.bao.token_works(token));
    // The killed `taskpass` no longer stops the command, so the test does.
    send(pid.parse().expect("a pid"), Signal::KILL);
}

#[test]
fn a_command_is_stopped_when_its_task_is_cancelled() {
    let world = World::new();
    let broker = world.start();
    let agent = broker.agent("builder");
    let more = [
        "--heartbeat",
        "5s",
        "--role",
        "vault-main/config",
        "--",
        "sh",
        "-c",
        "echo $$; exec sleep 600",
    ];
    let (mut child, pid) = begin(&agent, &more);
    let operator = broker.operator();
    let task = only_task(&operator);
    operator.json(&["task", "end", text(&task, "task_id")]);
    eventually("taskpass stops the command and ends", || {
        child.try_wait().expect("its state can be read")
    });
    assert!(
        !std::path::Path::new(&format!("/proc/{pid}")).exists(),
        "the command is still there"
    );
}

/// Another machine logs in as the same agent, so no heartbeat of this one keeps the task alive.
#[test]
fn a_command_is_stopped_when_its_identity_is_superseded() {
    let world = World::new();
    let broker = world.start();
    let agent = broker.agent("builder");
    let notes = world.installation.scratch().join("notes");
    let mut command = agent.command(&[
        "run",
        "--purpose",
        "a test",
        "--heartbeat",
        "5s",
        "--role",
        "vault-main/config",
        "--",
        "sh",
        "-c",
        "echo \"$$ $VAULT_TOKEN\"; exec sleep 600",
    ]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(&notes).expect("a new file"));
    let mut child = command.spawn().expect("taskpass starts");
    let mut line = String::new();
    let out = child.stdout.take().expect("stdout is piped");
    BufReader::new(out)
        .read_line(&mut line)
        .expect("the command prints a line");
    let (pid, token) = line.trim().split_once(' ').expect("two words");

    let elsewhere = Cli::new(
        broker.address(),
        &world.installation.scratch().join("elsewhere"),
    );
    let join = broker.operator().json(&["agent", "token", "builder"]);
    let done = elsewhere.run_with(&["login", "--join-token", "-"], text(&join, "join_token"));
    assert_eq!(done.code, 0, "{}", done.stderr);
    elsewhere.json(&["task", "list"]);

    let status = eventually("taskpass stops the command and ends", || {
        child.try_wait().expect("its state can be read")
    });
    assert_eq!(status.code(), Some(143));
    assert!(
        !std::path::Path::new(&format!("/proc/{pid}")).exists(),
        "the command is still there"
    );
    let notes = fs::read_to_string(notes).expect("what it complained");
    assert!(
        notes.contains("stopping the command") && notes.contains("it was replaced by a newer one"),
        "{notes}"
    );
    let task = only_task(&broker.operator());
    let shown = wait_for_state(&broker.operator(), text(&task, "task_id"), "ended");
    assert_eq!(text(&shown, "end_cause"), "identity_replaced");
    assert!(!world.bao.token_works(token));
}

#[test]
fn two_roles_that_would_set_the_same_variable_are_refused_and_nothing_stays() {
    let world = World::new();
    let more = "
  [[provider.role]]
  name = \"config-too\"
  type = \"token\"
  policies = [\"config\"]
  max_ttl = \"15m\"
  impact = 0
";
    world.installation.configure(more);
    let broker = world.start();
    let agent = broker.agent("builder");
    let roles = [
        "--role",
        "vault-main/config",
        "--role",
        "vault-main/config-too",
    ];
    let done = run(&agent, &[roles.as_slice(), &["--", "true"]].concat());
    assert_eq!(done.code, 2, "{}", done.stderr);
    assert!(done.stderr.contains("VAULT_TOKEN"), "{}", done.stderr);
    assert!(World::live_credentials(&broker.operator()).is_empty());
    assert!(world.bao.task_tokens().is_empty());
}

/// What the command sees must not be enough to act as the agent: it gets the way to the broker
/// here, and still neither the identity nor any other role.
#[test]
fn the_command_cannot_act_as_the_agent() {
    let world = World::new();
    let broker = world.start();
    let agent = broker.agent("builder");
    let script = r#"
        env | grep -c '^TASKPASS_'
        "$1" --addr "$2" --identity "$3" task start --purpose stolen --role vault-main/static
        "$1" --addr "$2" --identity "$3" svid renew
        cat "$3/key.pem"
        dd if="/proc/$PPID/mem" bs=1 count=1
        echo "$VAULT_TOKEN""#;
    let (program, directory) = (program("taskpass"), agent.identity());
    let arguments = [
        "--hide-identity",
        "always",
        "--role",
        "vault-main/config",
        "--",
        "sh",
        "-c",
        script,
        "sh",
        program.to_str().expect("a path in UTF-8"),
        broker.address(),
        directory.to_str().expect("a path in UTF-8"),
    ];
    let done = run(&agent, &arguments);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let lines: Vec<&str> = done.stdout.lines().collect();
    let [variables, token] = lines.as_slice() else {
        panic!("{}{}", done.stdout, done.stderr)
    };
    assert_eq!(*variables, "1", "TASKPASS_TASK and nothing else");
    assert!(token.starts_with("s."), "an OpenBao token");
    let denied = done.stderr.matches("Permission denied").count();
    assert!(denied >= 4, "{}", done.stderr);

    // The agent's own identity started the task, and did nothing else.
    let task = only_task(&broker.operator());
    let of_task = format!("{AGENT}/task/{}", text(&task, "task_id"));
    let history = History::verified(&world.installation, &broker.operator(), "history");
    let callers = |action: &str| {
        let decisions = history.of_type("decided").map(|e| &e["decision"]);
        decisions
            .filter(|decision| decision["action"] == action)
            .map(|decision| text(decision, "principal").to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(callers("task.start"), [AGENT]);
    assert_eq!(callers("credential.issue"), [of_task.as_str()]);
    assert_eq!(callers("task.end"), [of_task.as_str()]);
}

/// The writer of a static secret names its fields, and with them no variable.
#[test]
fn the_fields_of_a_static_secret_set_only_what_the_role_declares() {
    let world = World::new();
    let more = "
  [[provider.role]]
  name = \"git\"
  type = \"kv\"
  path = \"secret/data/ci\"
  policies = [\"config\"]
  max_ttl = \"15m\"
  impact = 0
  env = { token = \"GIT_TOKEN\" }
";
    world.installation.configure(more);
    let secret = serde_json::json!({ "data": {
        "token": "of-the-secret",
        "ssh_command": "touch /tmp/owned",
        "ld_preload": "/tmp/owned.so",
        "path": "/tmp/owned",
    } });
    world
        .bao
        .call("POST", "secret/data/ci", Some(secret))
        .expect("the secret is written");
    let broker = world.start();
    let agent = broker.agent("builder");
    let done = run(&agent, &["--role", "vault-main/git", "--", "env"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(
        done.stdout.contains("GIT_TOKEN=of-the-secret"),
        "{}",
        done.stdout
    );
    assert!(!done.stdout.contains("owned"), "{}", done.stdout);

    // A role that declares none gives the command nothing, so the command does not run.
    let done = run(&agent, &["--role", "vault-main/static", "--", "env"]);
    assert_eq!(
        (done.code, done.stdout.as_str()),
        (2, ""),
        "{}",
        done.stderr
    );
    assert!(
        done.stderr.contains("declares no environment variable"),
        "{}",
        done.stderr
    );
}

#[test]
fn a_configuration_that_lets_a_secret_run_code_is_refused() {
    let world = World::new();
    let role = "
  [[provider.role]]
  name = \"node\"
  type = \"kv\"
  path = \"secret/data/ci\"
  policies = [\"config\"]
  max_ttl = \"15m\"
  impact = 0
  env = { options = \"NODE_OPTIONS\" }
";
    world.installation.configure(role);
    let config = world.installation.home().join("taskpass.toml");
    let config = config.to_str().expect("a path in UTF-8");
    for command in [
        ["config", "check", "--config", config].as_slice(),
        &["run", "--config", config],
    ] {
        let done = world.installation.daemon(command);
        assert_eq!(done.status.code(), Some(1), "{command:?}");
        let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
        assert!(
            said.contains("NODE_OPTIONS") && said.contains("load code"),
            "{said}"
        );
    }
}
