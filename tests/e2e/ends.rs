//! Every way in which a task can end; and a child is never wider than its parent.

use serde_json::Value;
use taskpass_client::TaskOptions;
use taskpass_tests::{Cli, World};

use crate::support::{client, end, receipt, runtime, text, wait_for_state};

const CONFIG: &str = "vault-main/config";
const CERT: &str = "vault-main/cert";

fn start(agent: &Cli, more: &[&str]) -> String {
    let args = [&["task", "start", "--purpose", "a test"], more].concat();
    text(&agent.json(&args), "task_id").to_owned()
}

/// Waits for the end, and asserts its cause and that the token is dead.
fn assert_ended(world: &World, cli: &Cli, task: &str, cause: &str, token: &Value) {
    let shown = wait_for_state(cli, task, "ended");
    assert_eq!(text(&shown, "end_cause"), cause);
    let state = text(receipt(&shown, token), "state");
    // At the deadline the token expires at the same moment.
    let by_itself = cause == "deadline" && state == "expired";
    assert!(state == "revoked_verified" || by_itself, "{shown}");
    assert!(!world.bao.token_works(text(&token["data"], "token")));
    assert!(world.bao.task_tokens().is_empty());
}

#[test]
fn a_lost_heartbeat_ends_the_task() {
    let world = World::new();
    let broker = world.start();
    let agent = broker.agent("builder");
    let task = start(&agent, &["--role", CONFIG, "--heartbeat", "5s"]);
    let token = World::issue(&agent, &task, CONFIG, &[]);
    let beat = agent.json(&["task", "heartbeat", &task]);
    assert!(text(&beat, "next_before") < text(&beat, "deadline"));
    assert_ended(&world, &agent, &task, "heartbeat_lost", &token);
    let (_, complaint) = agent.refused(&["task", "heartbeat", &task]);
    assert!(complaint.contains("has ended"), "{complaint}");
}

#[test]
fn the_deadline_ends_the_task() {
    let world = World::new();
    let broker = world.start();
    let agent = broker.agent("builder");
    let task = start(&agent, &["--role", CONFIG, "--ttl", "8s"]);
    let token = World::issue(&agent, &task, CONFIG, &[]);
    let shown = agent.json(&["task", "show", &task]);
    assert!(text(&token, "expires_at") <= text(&shown, "deadline"));
    assert_ended(&world, &agent, &task, "deadline", &token);
}

#[test]
fn the_deadline_counts_also_while_the_broker_is_off() {
    let world = World::new();
    let broker = world.start();
    let agent = broker.agent("builder");
    let task = start(&agent, &["--role", CONFIG, "--ttl", "8s"]);
    let token = World::issue(&agent, &task, CONFIG, &[]);
    broker.kill();
    // OpenBao ends the token by itself, because its life was never longer than the task's.
    taskpass_tests::eventually("the token ends", || {
        (!world.bao.token_works(text(&token["data"], "token"))).then_some(())
    });
    let broker = world.start();
    assert_ended(&world, &broker.operator(), &task, "deadline", &token);
}

#[test]
fn only_the_agent_and_operators_can_cancel_a_task() {
    let world = World::new();
    let broker = world.start();
    let (agent, operator) = (broker.agent("builder"), broker.operator());
    let other = broker.agent("other");
    for (who, more) in [(&agent, Some("--cancel")), (&operator, None)] {
        let task = start(&agent, &["--role", CONFIG]);
        let token = World::issue(&agent, &task, CONFIG, &[]);
        other.refused(&["task", "end", &task]);
        other.refused(&["credential", "revoke", text(&token, "credential_id")]);
        assert!(world.bao.token_works(text(&token["data"], "token")));
        let args: Vec<&str> = ["task", "end", &task].into_iter().chain(more).collect();
        who.json(&args);
        assert_ended(&world, &agent, &task, "cancelled", &token);
    }
}

#[test]
fn ending_twice_gives_the_same_receipts() {
    let world = World::new();
    let broker = world.start();
    let agent = broker.agent("builder");
    let task = start(&agent, &["--role", CONFIG]);
    World::issue(&agent, &task, CONFIG, &[]);
    assert_eq!(end(&agent, &task), end(&agent, &task));
}

#[test]
fn the_end_of_a_parent_ends_all_below_it() {
    let world = World::new();
    let broker = world.start();
    let agent = broker.agent("builder");
    let parent = start(&agent, &["--role", CONFIG]);
    let child = start(&agent, &["--role", CONFIG, "--parent", &parent]);
    let grandchild = start(&agent, &["--role", CONFIG, "--parent", &child]);
    let bystander = start(&agent, &["--role", CONFIG]);
    let tokens: Vec<Value> = [&parent, &child, &grandchild]
        .iter()
        .map(|task| World::issue(&agent, task, CONFIG, &[]))
        .collect();
    let spared = World::issue(&agent, &bystander, CONFIG, &[]);

    let ended = end(&agent, &parent);

    for token in &tokens {
        assert_eq!(text(receipt(&ended, token), "state"), "revoked_verified");
        assert!(!world.bao.token_works(text(&token["data"], "token")));
    }
    for below in [&child, &grandchild] {
        assert_eq!(
            text(&wait_for_state(&agent, below, "ended"), "end_cause"),
            "parent_ended"
        );
    }
    assert!(world.bao.token_works(text(&spared["data"], "token")));
    let (_, complaint) = agent.refused(&[
        "task",
        "start",
        "--purpose",
        "late",
        "--role",
        CONFIG,
        "--parent",
        &parent,
    ]);
    assert!(complaint.contains("has ended"), "{complaint}");
}

#[test]
fn the_end_of_a_child_leaves_its_parent_alone() {
    let world = World::new();
    let broker = world.start();
    let agent = broker.agent("builder");
    let parent = start(&agent, &["--role", CONFIG]);
    let child = start(&agent, &["--role", CONFIG, "--parent", &parent]);
    let (kept, taken) = (
        World::issue(&agent, &parent, CONFIG, &[]),
        World::issue(&agent, &child, CONFIG, &[]),
    );
    end(&agent, &child);
    assert!(!world.bao.token_works(text(&taken["data"], "token")));
    assert!(world.bao.token_works(text(&kept["data"], "token")));
}

#[test]
fn a_child_is_not_wider_than_its_parent_in_anything() {
    let world = World::new();
    let broker = world.start();
    let agent = broker.agent("builder");
    let pinned = format!("{CERT}:common_name=a.acme.test");
    let parent = start(&agent, &["--role", &pinned, "--ttl", "5m"]);
    let child = |more: &[&str]| {
        let args = [
            &[
                "task",
                "start",
                "--purpose",
                "delegated",
                "--parent",
                &parent,
            ],
            more,
        ]
        .concat();
        agent.run(&args)
    };
    let refused = |what: &str, more: &[&str], code: i32| {
        let done = child(more);
        assert_eq!(done.code, code, "{what}: {}{}", done.stdout, done.stderr);
    };
    refused("another role", &["--role", CONFIG], 3);
    refused(
        "another scope",
        &["--role", &format!("{CERT}:common_name=b.acme.test")],
        1,
    );
    refused("a later deadline", &["--role", CERT, "--ttl", "10m"], 1);
    assert_eq!(child(&["--role", CERT]).code, 0);

    // The parent's fixed parameters bind the child, also when the child does not mention them.
    let task = start(&agent, &["--role", CERT, "--parent", &parent]);
    let issue = ["credential", "issue", "--task", &task, "--role", CERT];
    agent.refused(&[issue.as_slice(), &["--scope", "common_name=b.acme.test"]].concat());
    agent.json(&issue);
    let other = broker.agent("other");
    other.refused(&[
        "task",
        "start",
        "--purpose",
        "hijack",
        "--role",
        CERT,
        "--parent",
        &parent,
    ]);
}

#[test]
fn delegation_has_a_floor_and_a_count() {
    let world = World::new();
    let broker = world.start();
    let agent = broker.agent("builder");
    runtime().block_on(async {
        let client = client(&agent).await;
        let options =
            |purpose: &str| TaskOptions::new(purpose).role(CONFIG.parse().expect("a role"));
        let parent = client
            .open_task(options("parent").max_credentials(2))
            .await
            .expect("a task");
        let parent_id = parent.id;
        let wider = client
            .open_task(options("wider").parent(parent_id).max_credentials(3))
            .await;
        assert_eq!(
            wider
                .expect_err("more credentials than the parent")
                .reason(),
            Some("INVALID_ARGUMENT")
        );
        let mut deepest = parent_id;
        for depth in 1..=taskpass_core::limits::TASK_DEPTH_MAX {
            let child = client
                .open_task(options("deeper").parent(deepest))
                .await
                .expect("a child");
            assert_eq!((child.depth, child.max_credentials), (u32::from(depth), 2));
            deepest = child.id;
        }
        let error = client
            .open_task(options("too deep").parent(deepest))
            .await
            .expect_err("too deep");
        assert!(error.refusal().is_some(), "{error}");
        // The parent's limit holds for all its descendants together.
        let issue = async |task: &str| {
            let scope = taskpass_core::Scope::default();
            client
                .issue_credential(
                    task.parse().expect("an id"),
                    &CONFIG.parse().expect("a role"),
                    &scope,
                    None,
                )
                .await
        };
        issue(&parent_id.to_string()).await.expect("the first");
        issue(&deepest.to_string()).await.expect("the second");
        for task in [&parent_id.to_string(), &deepest.to_string()] {
            let request = crate::quotas::issue_once(&client, task, CONFIG).await;
            assert_eq!(
                request.expect_err("a third").code(),
                tonic::Code::ResourceExhausted
            );
        }
    });
}

/// The refusal names the state of the task or credential. Policy could only say that it does not
/// permit the request.
#[test]
fn an_ended_credential_is_not_renewed_and_its_agent_is_told_why() {
    let world = World::new();
    let broker = world.start();
    let agent = broker.agent("builder");
    let task = World::task(&agent, &["vault-main/config"]);
    let [first, second] =
        std::array::from_fn(|_| World::issue(&agent, &task, "vault-main/config", &[]));
    let renew =
        |issued: &Value| agent.refused(&["credential", "renew", text(issued, "credential_id")]);

    agent.json(&["credential", "revoke", text(&first, "credential_id")]);
    let (code, complaint) = renew(&first);
    assert_eq!(code, 1, "{complaint}");
    assert!(
        complaint.contains("it is revoked_verified; issue a new one"),
        "{complaint}"
    );

    end(&agent, &task);
    for issued in [&first, &second] {
        let (code, complaint) = renew(issued);
        assert_eq!(code, 1, "{complaint}");
        assert!(
            complaint.contains("has ended; start a new one"),
            "{complaint}"
        );
    }
}
