//! The root is replaced while old and new agents and operators are served, also when the broker is
//! killed or restarted at any step.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use serde_json::{Value, json};
use taskpass_tests::{Broker, Cli, History, Installation, World, eventually};

use crate::support::{end, text};

const CONFIG: &str = "vault-main/config";
/// The purpose of the task that lasts for the whole replacement.
const THROUGHOUT: &str = "to last throughout";

fn root(installation: &Installation, words: &[&str]) -> Output {
    let config = installation.home().join("taskpass.toml");
    let config = config.to_str().expect("a path in UTF-8");
    installation.daemon(&[&["root"], words, &["--config", config, "-o", "json"]].concat())
}

fn done(installation: &Installation, words: &[&str]) -> Value {
    let done = root(installation, words);
    let complaint = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{words:?}: {complaint}");
    serde_json::from_slice(&done.stdout).expect("JSON")
}

fn refused(installation: &Installation, words: &[&str]) -> String {
    let done = root(installation, words);
    assert_eq!(done.status.code(), Some(1), "{words:?}");
    String::from_utf8_lossy(&done.stderr).into_owned()
}

/// The roots and their stages, as the broker says.
fn stages(installation: &Installation) -> Value {
    let report = done(installation, &["status"]);
    let roots = report["roots"].as_array().expect("roots");
    roots
        .iter()
        .map(|root| json!([root["root"], root["stage"]]))
        .collect()
}

fn known_roots(cli: &Cli) -> usize {
    let bundle = fs::read_to_string(cli.identity().join("bundle.pem")).expect("a bundle");
    bundle.matches("BEGIN CERTIFICATE").count()
}

fn join_token(operator: &Cli, name: &str) -> String {
    operator.json(&["agent", "register", name, "--owner", "alice@acme.test"]);
    text(&operator.json(&["agent", "token", name]), "join_token").to_owned()
}

fn login(broker: &Broker<'_>, name: &str, token: &str) -> Cli {
    let agent = broker.attested(name);
    let done = agent.run_with(&["login", "--join-token", "-"], token);
    assert_eq!(done.code, 0, "{name}: {}", done.stderr);
    agent
}

/// Issues and ends, again and again, until told to stop.
fn works_on(agent: &Cli, stop: &AtomicBool, rounds: &AtomicUsize) {
    while !stop.load(Ordering::SeqCst) {
        let task = World::task(agent, &[CONFIG]);
        World::issue(agent, &task, CONFIG, &[]);
        end(agent, &task);
        rounds.fetch_add(1, Ordering::SeqCst);
    }
}

/// Stops the agent at work, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn one_more_round(rounds: &AtomicUsize) {
    let before = rounds.load(Ordering::SeqCst);
    eventually("the agent at work issues and ends once more", || {
        (rounds.load(Ordering::SeqCst) > before + 1).then_some(())
    });
}

#[test]
fn everyone_is_served_throughout_a_replacement_of_the_root() {
    let world = World::new();
    let installation = &world.installation;
    let broker = world.start();
    let operator = broker.operator();
    let (busy, sleeper) = (broker.agent("busy"), broker.agent("sleeper"));
    let (early, idle) = (join_token(&operator, "early"), broker.agent("idle"));
    // A task-bound identity, the key of which is nowhere but in the memory of the program.
    let mut running = busy
        .command(&[
            "run",
            "--purpose",
            THROUGHOUT,
            "--role",
            CONFIG,
            "--",
            "cat",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("taskpass run starts");
    let mut input = running.stdin.take().expect("a pipe");
    let (stop, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let at_work = scope.spawn(|| works_on(&busy, &stop, &rounds));
        let _stop = Stop(&stop);
        one_more_round(&rounds);
        eventually("the long task has begun", || {
            let open = operator.run(&["task", "list", "--state", "open"]).stdout;
            open.contains(THROUGHOUT).then_some(())
        });

        done(installation, &["prepare"]);
        assert_eq!(
            stages(installation),
            json!([[1, "active"], [2, "prepared"]])
        );
        one_more_round(&rounds);
        operator.json(&["agent", "list"]);
        assert_eq!((known_roots(&operator), known_roots(&sleeper)), (2, 1));
        let middle = join_token(&operator, "middle");

        done(installation, &["activate"]);
        assert_eq!(
            stages(installation),
            json!([[2, "active"], [1, "outgoing"]])
        );
        one_more_round(&rounds);
        // Tokens from before pin the old root, and clients that know only that root are served.
        login(&broker, "early", &early);
        login(&broker, "middle", &middle);
        // Its directory has the old root only, and the identity of the task is under the new one.
        assert_eq!(known_roots(&idle), 1);
        let ran = idle.run(&["run", "--purpose", "late", "--role", CONFIG, "--", "true"]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let complaint = refused(installation, &["retire"]);
        for part in ["root 1 is still needed", "admin", "--force"] {
            assert!(complaint.contains(part), "{complaint}");
        }
        let before = operator.json(&["svid", "show"]);
        operator.json(&["agent", "list"]);
        let after = operator.json(&["svid", "show"]);
        assert_ne!(
            before["serial"], after["serial"],
            "it moved to the new root"
        );
        let late = join_token(&operator, "late");
        login(&broker, "late", &late);

        writeln!(input, "served").expect("the command reads");
        drop(input);
        let ran = running.wait_with_output().expect("taskpass run ends");
        let complaint = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{complaint}");
        assert_eq!(ran.stdout, b"served\n");

        // The agent at work has moved by itself; the sleeper stands in the way.
        let complaint = refused(installation, &["retire"]);
        assert!(
            complaint.contains("1 agents, 0 tasks, 0 operators and 0 join"),
            "{complaint}"
        );
        let retired = done(installation, &["retire", "--force"]);
        assert_eq!(retired["retired"]["agents"], json!(["sleeper"]));
        assert_eq!(stages(installation), json!([[2, "active"]]));
        one_more_round(&rounds);
        stop.store(true, Ordering::SeqCst);
        at_work.join().expect("the agent at work is never refused");
    });
    operator.json(&["agent", "list"]);
    assert_eq!(known_roots(&operator), 1, "the old root is dropped");

    let (_, complaint) = sleeper.refused(&["task", "list"]);
    assert!(complaint.contains("root was replaced"), "{complaint}");
    assert!(complaint.contains("taskpass login"), "{complaint}");
    let token = operator.json(&["agent", "token", "sleeper"]);
    login(&broker, "sleeper", text(&token, "join_token")).json(&["task", "list"]);

    let history = History::verified(installation, &operator, "replaced.jsonl");
    assert_eq!(
        recorded(&history),
        ["2 prepared", "2 active", "1 outgoing", "1 retired by force"]
    );
}

/// The steps of roots in the ledger.
fn recorded(history: &History) -> Vec<String> {
    let step = |event: &Value| {
        let force = if event["forced"] == true {
            " by force"
        } else {
            ""
        };
        format!("{} {}{force}", event["root"], text(event, "stage"))
    };
    history.of_type("root_changed").map(step).collect()
}

/// A real SIGKILL between each change of the disk and its record, in either order, and so a restart
/// between every two steps.
#[test]
fn a_broker_that_is_killed_at_any_step_goes_on_where_it_was() {
    let installation = Installation::new();
    let broker = installation.start_with(&[("TASKPASS_FAILPOINT", "root.prepared")]);
    broker.agent("builder");
    let broker = killed(&installation, broker, "prepare", "root.activated");
    assert_eq!(
        stages(&installation),
        json!([[1, "active"], [2, "prepared"]])
    );
    let broker = killed(&installation, broker, "activate", "root.retiring");
    assert_eq!(
        stages(&installation),
        json!([[2, "active"], [1, "outgoing"]])
    );
    // Both callers have moved to the new root by now. The start finishes what is on record.
    let broker = killed(&installation, broker, "retire", "root.retired");
    assert_eq!(stages(&installation), json!([[2, "active"]]));
    done(&installation, &["prepare"]);
    done(&installation, &["activate"]);
    is_served(&broker);
    let broker = killed(&installation, broker, "retire", "none");
    assert_eq!(stages(&installation), json!([[3, "active"]]));

    let history = History::verified(&installation, &broker.operator(), "killed.jsonl");
    assert_eq!(
        recorded(&history),
        [
            "2 prepared",
            "2 active",
            "1 outgoing",
            "1 retired",
            "3 prepared",
            "3 active",
            "2 outgoing",
            "2 retired",
        ]
    );
}

/// Takes a step in which the broker is killed, and starts it again.
fn killed<'a>(
    installation: &'a Installation,
    broker: Broker<'_>,
    step: &str,
    next: &str,
) -> Broker<'a> {
    let complaint = refused(installation, &[step]);
    assert!(complaint.contains("no answer"), "{complaint}");
    broker.wait_killed();
    let broker = installation.start_with(&[("TASKPASS_FAILPOINT", next)]);
    is_served(&broker);
    broker
}

/// An agent and an operator are served, and renew.
fn is_served(broker: &Broker<'_>) {
    let (operator, agent) = (broker.operator(), broker.attested("builder"));
    for caller in [&operator, &agent] {
        caller.json(&["svid", "renew"]);
        caller.json(&["task", "list"]);
    }
}

/// A start that fails, and what it says.
fn does_not_start(installation: &Installation) -> String {
    let config = installation.home().join("taskpass.toml");
    let config = config.to_str().expect("a path in UTF-8");
    let refused = installation.daemon(&["run", "--config", config]);
    let said = [refused.stdout, refused.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(!refused.status.success(), "{said}");
    assert!(!said.contains("ready addr="), "{said}");
    said
}

fn doctor(installation: &Installation) -> String {
    let config = installation.home().join("taskpass.toml");
    let config = config.to_str().expect("a path in UTF-8");
    let done = installation.daemon(&["doctor", "--config", config]);
    String::from_utf8_lossy(&done.stdout).into_owned()
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(done.expect("cp runs").success());
}

/// The root that was replaced may be in other hands, and an old backup has its key.
#[test]
fn a_broker_does_not_start_from_the_authority_of_before_a_replacement() {
    let installation = Installation::new();
    installation.start().stop();
    let ca = installation.home().join("data/ca");
    let (older, newer) = (ca.with_extension("older"), ca.with_extension("newer"));
    copy(&ca, &older);
    let broker = installation.start();
    done(&installation, &["prepare"]);
    let prepared = ca.with_extension("prepared");
    copy(&ca, &prepared);
    done(&installation, &["activate"]);
    done(&installation, &["retire", "--force"]);
    broker.stop();
    fs::rename(&ca, &newer).expect("renamed");
    for older in [older, prepared] {
        copy(&older, &ca);
        let said = does_not_start(&installation);
        for part in ["`ca/` is older than the ledger", "restore the newer copy"] {
            assert!(said.contains(part), "{said}");
        }
        let said = doctor(&installation);
        assert!(said.contains("[fail] roots: `ca/` is older"), "{said}");
        fs::remove_dir_all(&ca).expect("removed");
    }
    fs::rename(&newer, &ca).expect("renamed");
    let said = doctor(&installation);
    assert!(
        said.contains("the roots in `ca/` are those of the ledger"),
        "{said}"
    );
    let broker = installation.start();
    assert_eq!(stages(&installation), json!([[2, "active"]]));
    broker.stop();
}

/// `state.json` and the certificates in `ca/` are not signed.
#[test]
fn a_root_that_was_planted_in_the_authoritys_directory_reaches_nobody() {
    let (installation, stranger) = (Installation::new(), Installation::new());
    let directory = |of: &Installation| of.home().join("data/ca");
    let state = |of: &Installation| -> Value {
        let state = fs::read(directory(of).join("state.json")).expect("a file");
        serde_json::from_slice(&state).expect("JSON")
    };
    let broker = stranger.start();
    done(&stranger, &["prepare"]);
    done(&stranger, &["activate"]);
    broker.stop();
    let mut planted = state(&stranger)["roots"][0].clone();
    assert_eq!(planted["stage"], "outgoing");
    planted["number"] = 3.into();
    let broker = installation.start();
    done(&installation, &["prepare"]);
    broker.stop();
    let mut changed = state(&installation);
    changed["roots"][1] = planted;
    let ca = directory(&installation);
    for file in ["root-3.pem", "root.cross.pem"] {
        copy(&directory(&stranger).join("root.pem"), &ca.join(file));
    }
    fs::write(ca.join("state.json"), changed.to_string()).expect("written");
    let said = does_not_start(&installation);
    assert!(said.contains("root.cross.pem"), "{said}");
    let said = doctor(&installation);
    assert!(said.contains("the ledger has no root 3"), "{said}");
}
