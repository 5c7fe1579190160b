//! SIGKILL between each intent and its outcome. After a restart and one sweep nothing is alive that
//! is not on record, the history verifies, and the task goes on.

use std::process::Stdio;

use serde_json::Value;
use taskpass_tests::{Cli, World, eventually};

use crate::support::{
    History, assert_not_shortened, assert_nothing_untracked, both, end, text, wait_for_state,
    wait_one_sweep,
};

const CONFIG: &str = "vault-main/config";
const CERT: &str = "vault-main/cert";

/// The action that reaches the failpoint.
#[derive(Debug, Clone, Copy)]
enum Act {
    Issue(&'static str),
    /// A second lease through a session that the broker holds.
    IssueAgain,
    Renew,
    Revoke,
    End,
    Deadline,
}

/// One test for each failpoint, so that the name of a failing test shows the place.
macro_rules! killed_at {
    ($($test:ident: $place:literal, $act:expr;)*) => {$(
        #[test]
        fn $test() {
            survive($place, $act);
        }
    )*};
}

killed_at! {
    issue_token_intended: "issue.intended", Act::Issue(CONFIG);
    issue_lease_intended: "issue.intended", Act::Issue(CERT);
    issue_token_made: "anchor.made", Act::Issue(CONFIG);
    issue_session_made: "anchor.made", Act::Issue(CERT);
    issue_token_anchored: "anchor.recorded", Act::Issue(CONFIG);
    issue_session_anchored: "anchor.recorded", Act::Issue(CERT);
    issue_token_minted: "issue.minted", Act::Issue(CONFIG);
    issue_lease_minted: "issue.minted", Act::Issue(CERT);
    issue_token_recorded: "issue.recorded", Act::Issue(CONFIG);
    issue_lease_recorded: "issue.recorded", Act::Issue(CERT);
    issue_again_in_order: "issue.intended:2", Act::IssueAgain;
    issue_again_minted: "issue.minted:2", Act::IssueAgain;
    issue_again_recorded: "issue.recorded:2", Act::IssueAgain;
    renew_intended: "renew.intended", Act::Renew;
    renew_extended: "renew.extended", Act::Renew;
    renew_recorded: "renew.recorded", Act::Renew;
    revoke_intended: "revoke.intended", Act::Revoke;
    revoke_called: "revoke.called", Act::Revoke;
    revoke_recorded: "revoke.recorded", Act::Revoke;
    end_intended: "end.intended", Act::End;
    end_called: "revoke.called", Act::End;
    end_revoked: "revoke.recorded", Act::End;
    end_recorded: "end.recorded", Act::End;
    deadline_passed: "end.by_broker", Act::Deadline;
    deadline_recorded: "end.recorded", Act::Deadline;
}

fn survive(place: &str, act: Act) {
    let world = World::new();
    let broker = world.start();
    let agent = broker.agent("builder");
    let (task, token) = stage(&agent, act);
    broker.kill();

    let broker = world
        .installation
        .start_with(&[("TASKPASS_FAILPOINT", place)]);
    let agent = broker.attested("builder");
    let mut running = start(&agent, act, &task, &token);
    broker.wait_killed();
    if let Some(running) = &mut running {
        let status = running.wait().expect("taskpass ends");
        // The client may learn of recorded outcomes only.
        let is_done = ["revoke.recorded", "end.recorded"].contains(&place);
        assert!(
            is_done || !status.success(),
            "the answer came although the broker was killed at {place}"
        );
    }

    let broker = world.start();
    let (operator, agent) = both(&broker, "builder");
    if matches!(act, Act::End | Act::Deadline) {
        wait_for_state(&operator, &task, "ended");
    }
    wait_one_sweep(&operator);
    let history = History::verified(&world.installation, &operator, "after-crash.jsonl");
    assert_nothing_untracked(&world.bao, &history, &operator);
    assert_outcome(&world, &operator, act, &token);
    match act {
        Act::End | Act::Deadline => assert!(!world.bao.token_works(text(&token["data"], "token"))),
        Act::Issue(_) | Act::IssueAgain | Act::Renew | Act::Revoke => {
            go_on_and_end(&world, &agent, &operator, &task)
        }
    }
    let history = History::verified(&world.installation, &operator, "at-the-end.jsonl");
    assert_nothing_untracked(&world.bao, &history, &operator);
}

/// A task with the token that is renewed or revoked. Where issuing is killed the task has no
/// session yet, so that issuing takes its whole path.
fn stage(agent: &Cli, act: Act) -> (String, Value) {
    let ttl = if matches!(act, Act::Deadline) {
        "8s"
    } else {
        "10m"
    };
    let args = [
        "task",
        "start",
        "--purpose",
        "to be killed",
        "--role",
        CONFIG,
        "--role",
        CERT,
        "--ttl",
        ttl,
    ];
    let task = text(&agent.json(&args), "task_id").to_owned();
    let token = match act {
        Act::Issue(_) | Act::IssueAgain => Value::Null,
        _ => World::issue(agent, &task, CONFIG, &[]),
    };
    (task, token)
}

/// Begins the action that reaches the failpoint, without waiting for it.
fn start(agent: &Cli, act: Act, task: &str, token: &Value) -> Option<std::process::Child> {
    let id = token["credential_id"].as_str().unwrap_or_default();
    let scope = "common_name=ci.acme.test";
    if matches!(act, Act::IssueAgain) {
        World::issue(agent, task, CERT, &[scope]);
    }
    let args = match act {
        Act::Issue(CERT) | Act::IssueAgain => vec![
            "credential",
            "issue",
            "--task",
            task,
            "--role",
            CERT,
            "--scope",
            scope,
        ],
        Act::Issue(role) => vec!["credential", "issue", "--task", task, "--role", role],
        Act::Renew => vec!["credential", "renew", id],
        Act::Revoke => vec!["credential", "revoke", id],
        Act::End => vec!["task", "end", task],
        Act::Deadline => return None,
    };
    let mut command = agent.command(&args);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    Some(command.spawn().expect("taskpass starts"))
}

/// Asserts the state of the credential that the broker was working on.
fn assert_outcome(world: &World, operator: &Cli, act: Act, token: &Value) {
    match act {
        // Its secret was never delivered, so it must not stay alive.
        Act::Issue(_) | Act::IssueAgain => {
            let all = operator.json(&["credential", "list"]);
            for credential in all.as_array().expect("credentials") {
                let state = text(credential, "state");
                let waits = state == "revoking";
                assert!(
                    waits || state == "revoked_verified" || state == "active",
                    "{credential}"
                );
            }
        }
        Act::Renew => {
            let shown = operator.json(&["credential", "show", text(token, "credential_id")]);
            assert_eq!(text(&shown, "state"), "active");
            assert_not_shortened(token, &shown);
            assert!(world.bao.token_works(text(&token["data"], "token")));
        }
        Act::Revoke | Act::End => {
            let shown = operator.json(&["credential", "show", text(token, "credential_id")]);
            assert_eq!(text(&shown, "state"), "revoked_verified", "{shown}");
            assert!(!world.bao.token_works(text(&token["data"], "token")));
        }
        Act::Deadline => {
            let shown = operator.json(&["credential", "show", text(token, "credential_id")]);
            assert!(
                ["revoked_verified", "expired"].contains(&text(&shown, "state")),
                "{shown}"
            );
        }
    }
}

/// Asserts that the task is as usable as before, and that its end revokes everything that is left.
fn go_on_and_end(world: &World, agent: &Cli, operator: &Cli, task: &str) {
    let token = World::issue(agent, task, CONFIG, &[]);
    let cert = World::issue(agent, task, CERT, &["common_name=ci.acme.test"]);
    assert!(world.bao.token_works(text(&token["data"], "token")));
    end(agent, task);
    eventually("everything that is on record is revoked", || {
        let live = World::live_credentials(operator);
        live.iter()
            .all(crate::support::is_waiting_for_probation)
            .then_some(())
    });
    assert!(!world.bao.token_works(text(&token["data"], "token")));
    assert!(
        world
            .bao
            .certificate_is_revoked(text(&cert["data"], "serial_number"))
    );
}
