//! Agents that a person stops, and identities that a thief has copied. OpenBao says whether the
//! credentials are dead.

use std::{
    fs,
    time::{Duration, Instant},
};

use serde_json::Value;
use taskpass_tests::{
    Broker, Cli, World, eventually,
    wire::{Certificate, Wire},
};

use crate::support::{History, runtime, text, wait_for_state};

const CONFIG: &str = "vault-main/config";

/// A second holder of the same key and certificate.
fn stolen(world: &World, from: &Cli, name: &str) -> Cli {
    let to = world.installation.scratch().join(name);
    fs::create_dir(&to).expect("a new directory");
    for file in ["svid.pem", "key.pem", "bundle.pem", "ledger.vkey"] {
        fs::copy(from.identity().join(file), to.join(file)).expect("the file can be copied");
    }
    Cli::new(from.address(), &to)
}

/// The owner logs in again in the same directory.
fn login_again(broker: &Broker<'_>, agent: &Cli, name: &str) {
    let token = broker.operator().json(&["agent", "token", name]);
    let token = text(&token, "join_token").to_owned();
    let done = agent.run_with(&["login", "--join-token", "-"], &token);
    assert_eq!(done.code, 0, "login: {}", done.stderr);
}

fn freeze(operator: &Cli, name: &str) -> Value {
    operator.json(&["agent", "freeze", name, "--reason", "it misbehaves"])
}

#[test]
fn a_frozen_agent_loses_everything_and_gets_nothing_until_it_is_released_and_logs_in_anew() {
    let world = World::new();
    let broker = world.start();
    let (operator, agent) = (broker.operator(), broker.agent("builder"));
    let other = broker.agent("other");
    let task = World::task(&agent, &[CONFIG]);
    let issued = World::issue(&agent, &task, CONFIG, &[]);
    let secret = text(&issued["data"], "token").to_owned();
    let theirs = World::task(&other, &[CONFIG]);
    let kept = World::issue(&other, &theirs, CONFIG, &[]);
    let spare = operator.json(&["agent", "token", "builder"]);
    assert!(world.bao.token_works(&secret));

    let frozen = freeze(&operator, "builder");

    assert_eq!(text(&frozen, "state"), "frozen");
    assert_eq!(text(&frozen, "change_reason"), "it misbehaves");
    assert_eq!(frozen["task_ids"][0], task.as_str());
    assert_eq!(text(&frozen["receipts"][0], "state"), "revoked_verified");
    assert!(!world.bao.token_works(&secret));
    assert!(world.bao.token_works(text(&kept["data"], "token")));
    let shown = operator.json(&["task", "show", &task]);
    assert_eq!(text(&shown, "end_cause"), "frozen");
    for args in [
        ["task", "list"].as_slice(),
        &["svid", "renew"],
        &["task", "start", "--purpose", "more", "--role", CONFIG],
    ] {
        let (code, complaint) = agent.refused(args);
        assert_eq!(code, 3, "{complaint}");
        assert!(complaint.contains("is frozen"), "{complaint}");
    }
    let (_, complaint) = operator.refused(&["agent", "token", "builder"]);
    assert!(complaint.contains("is frozen"), "{complaint}");
    let late = Cli::new(broker.address(), &world.installation.scratch().join("late"));
    let done = late.run_with(&["login", "--join-token", "-"], text(&spare, "join_token"));
    assert_ne!(done.code, 0, "a token from before the freeze");

    let released = operator.json(&["agent", "release", "builder", "--reason", "mended"]);
    assert_eq!(text(&released, "state"), "active");
    let (_, complaint) = agent.refused(&["task", "list"]);
    assert!(complaint.contains("log in again"), "{complaint}");
    let done = late.run_with(&["login", "--join-token", "-"], text(&spare, "join_token"));
    assert_ne!(done.code, 0, "a token from before the freeze");
    assert!(!world.bao.token_works(&secret));
    login_again(&broker, &agent, "builder");
    let task = World::task(&agent, &[CONFIG]);
    World::issue(&agent, &task, CONFIG, &[]);
}

#[test]
fn a_restart_frees_no_frozen_agent() {
    let world = World::new();
    let broker = world.start();
    broker.agent("builder");
    freeze(&broker.operator(), "builder");
    broker.kill();
    let broker = world.start();
    let (operator, agent) = (broker.operator(), broker.attested("builder"));
    let (_, complaint) = agent.refused(&["task", "list"]);
    assert!(complaint.contains("is frozen"), "{complaint}");
    let shown = operator.json(&["agent", "show", "builder"]);
    assert_eq!(text(&shown, "state"), "frozen");
    assert_eq!(
        text(&shown, "changed_by"),
        "spiffe://acme.test/operator/admin"
    );
}

#[test]
fn a_retired_agent_stays_retired() {
    let world = World::new();
    let broker = world.start();
    let (operator, agent) = (broker.operator(), broker.agent("builder"));
    operator.json(&["agent", "retire", "builder", "--reason", "its work is over"]);
    let (_, complaint) = agent.refused(&["task", "list"]);
    assert!(complaint.contains("retired for good"), "{complaint}");
    let (_, complaint) =
        operator.refused(&["agent", "release", "builder", "--reason", "a mistake"]);
    assert!(complaint.contains("retired for good"), "{complaint}");
    operator.refused(&["agent", "register", "builder", "--owner", "eve@acme.test"]);
}

/// An open stream and an idle connection end with the freeze; the next request on a new connection
/// is refused.
#[test]
#[expect(clippy::disallowed_methods, reason = "it measures real time")]
fn open_connections_are_cut_and_the_next_issue_is_refused_at_once() {
    let world = World::new();
    let broker = world.start();
    let (operator, agent) = (broker.operator(), broker.agent("builder"));
    let certificate = Certificate::load(agent.identity());
    let wire = Wire::new(broker.address(), Some(&certificate));
    let (method, message) = ("/taskpass.v1.IdentityService/WhoAmI", Vec::new());
    wire.call(method, message.clone()).expect("it counts");

    let operator_wire = Wire::new(
        broker.address(),
        Some(&Certificate::load(operator.identity())),
    );
    let request = taskpass_proto::v1::FreezeAgentRequest {
        name: "builder".to_owned(),
        reason: "a test".to_owned(),
        wait_ms: 1,
    };
    let began = Instant::now();
    let frozen: taskpass_proto::v1::FreezeAgentResponse = operator_wire
        .ask("/taskpass.v1.AgentService/FreezeAgent", &request)
        .expect("it is frozen");
    assert!(frozen.agent.is_some());
    let answered = began.elapsed();
    let status = wire.call(method, message).expect_err("it is frozen");
    let refused = began.elapsed() - answered;
    // The connection is cut, so the answer is either the cut or the refusal on a new connection.
    let cut = broker.log().contains("connections=1");
    assert!(cut, "{}", broker.log());
    eprintln!("frozen after {answered:?}, refused {refused:?} later: {status}");
    assert!(
        answered + refused < Duration::from_secs(2),
        "{answered:?} {refused:?}"
    );
}

/// The thief copied the identity directory once, and opened a task with an identity of its own.
#[test]
fn theft_does_not_survive_a_new_login_of_the_owner() {
    let world = World::new();
    let broker = world.start();
    let (operator, owner) = (broker.operator(), broker.agent("builder"));
    let thief = stolen(&world, &owner, "thief");
    let (task, bound) = crate::rpc_matrix::started(&Wire::new(
        broker.address(),
        Some(&Certificate::load(thief.identity())),
    ));
    let issued = World::issue(&thief, &task, CONFIG, &[]);
    let secret = text(&issued["data"], "token").to_owned();
    let of_task = Wire::new(broker.address(), Some(&bound));
    let who = "/taskpass.v1.IdentityService/WhoAmI";
    of_task.call(who, Vec::new()).expect("it counts");

    login_again(&broker, &owner, "builder");
    owner.json(&["task", "list"]);

    of_task
        .call(who, Vec::new())
        .expect_err("the task's identity");
    thief.refused(&["task", "list"]);
    wait_for_state(&operator, &task, "ended");
    assert!(!world.bao.token_works(&secret));
    let shown = operator.json(&["task", "show", &task]);
    assert_eq!(text(&shown, "end_cause"), "identity_replaced");
    // The owner works on, and renewals end nothing.
    let task = World::task(&owner, &[CONFIG]);
    let issued = World::issue(&owner, &task, CONFIG, &[]);
    owner.json(&["svid", "renew"]);
    owner.json(&["task", "list"]);
    assert!(world.bao.token_works(text(&issued["data"], "token")));
    assert_eq!(text(&owner.json(&["task", "show", &task]), "state"), "open");
}

fn conflicts(world: &World, operator: &Cli, name: &str) -> usize {
    let history = History::verified(&world.installation, operator, name);
    history.of_type("identity_conflict").count()
}

#[test]
fn the_use_of_a_superseded_certificate_is_on_record_once() {
    let world = World::new();
    let broker = world.start();
    let (operator, owner) = (broker.operator(), broker.agent("builder"));
    let thief = stolen(&world, &owner, "thief");
    // The thief is first; the owner notices nothing but a refusal.
    thief.json(&["svid", "renew"]);
    thief.json(&["task", "list"]);
    assert_eq!(conflicts(&world, &operator, "before.jsonl"), 0);
    for _ in 0..3 {
        owner.refused(&["task", "list"]);
    }
    assert_eq!(conflicts(&world, &operator, "after.jsonl"), 1);
    assert!(broker.log().contains("a superseded certificate is used"));
    let shown = operator.json(&["agent", "show", "builder"]);
    assert_eq!(text(&shown, "state"), "active", "the default is a record");
}

/// The owner logs in anew while a command of its own works with the identity of a task.
#[test]
fn a_new_login_does_not_freeze_its_own_agent() {
    let world = World::new();
    world
        .installation
        .configure("\n[agents]\non_identity_conflict = \"freeze\"\n");
    let broker = world.start();
    let (operator, owner) = (broker.operator(), broker.agent("builder"));
    let (_, bound) = crate::rpc_matrix::started(&Wire::new(
        broker.address(),
        Some(&Certificate::load(owner.identity())),
    ));
    let command = Wire::new(broker.address(), Some(&bound));
    let who = "/taskpass.v1.IdentityService/WhoAmI";
    command.call(who, Vec::new()).expect("it counts");

    login_again(&broker, &owner, "builder");
    owner.json(&["task", "list"]);

    command.call(who, Vec::new()).expect_err("its task ended");
    assert_eq!(conflicts(&world, &operator, "all.jsonl"), 0);
    let shown = operator.json(&["agent", "show", "builder"]);
    assert_eq!(text(&shown, "state"), "active");
    owner.json(&["task", "list"]);
}

#[test]
fn by_configuration_the_use_of_a_superseded_certificate_freezes_the_agent() {
    let world = World::new();
    world
        .installation
        .configure("\n[agents]\non_identity_conflict = \"freeze\"\n");
    let broker = world.start();
    let (operator, owner) = (broker.operator(), broker.agent("builder"));
    let thief = stolen(&world, &owner, "thief");
    thief.json(&["svid", "renew"]);
    let task = World::task(&thief, &[CONFIG]);
    let issued = World::issue(&thief, &task, CONFIG, &[]);
    owner.refused(&["task", "list"]);
    let (_, complaint) = thief.refused(&["task", "list"]);
    assert!(complaint.contains("is frozen"), "{complaint}");
    let shown = operator.json(&["agent", "show", "builder"]);
    assert_eq!(text(&shown, "state"), "frozen");
    assert_eq!(text(&shown, "changed_by"), "broker");
    eventually("the thief's credential is dead", || {
        (!world.bao.token_works(text(&issued["data"], "token"))).then_some(())
    });
    assert_eq!(conflicts(&world, &operator, "after.jsonl"), 1);
}

#[test]
fn join_tokens_are_listed_and_withdrawn() {
    let world = World::new();
    let broker = world.start();
    let operator = broker.operator();
    operator.json(&["agent", "register", "builder", "--owner", "alice@acme.test"]);
    let made = operator.json(&["agent", "token", "builder"]);
    let id = text(&made, "id");
    let listed = operator.json(&["join-token", "list", "builder"]);
    assert_eq!(listed[0]["id"], id);
    assert_eq!(text(&listed[0], "state"), "unused");
    assert!(!listed.to_string().contains(text(&made, "join_token")));
    let withdrawn = operator.json(&["join-token", "withdraw", id]);
    assert_eq!(text(&withdrawn, "state"), "withdrawn");
    let agent = broker.attested("builder");
    let done = agent.run_with(&["login", "--join-token", "-"], text(&made, "join_token"));
    assert_ne!(done.code, 0);
    login_again(&broker, &agent, "builder");
    let listed = operator.json(&["join-token", "list"]);
    let states: Vec<_> = listed.as_array().expect("a list").iter().collect();
    assert_eq!(text(states[0], "state"), "used");
    let (_, complaint) = operator.refused(&["join-token", "withdraw", text(states[0], "id")]);
    assert!(
        complaint.contains("taskpass agent freeze builder"),
        "{complaint}"
    );
}

#[test]
fn the_agents_of_an_owner_who_left_wait_for_another_owner() {
    let world = World::new();
    let broker = world.start();
    let (operator, agent) = (broker.operator(), broker.agent("builder"));
    broker.agent("second");
    let left = operator.json(&[
        "agent",
        "owner",
        "--departed",
        "alice@acme.test",
        "--reason",
        "left the company",
    ]);
    let states: Vec<_> = left.as_array().expect("a list").iter().collect();
    assert_eq!(states.len(), 2);
    assert!(states.iter().all(|agent| agent["state"] == "frozen"));
    agent.refused(&["task", "list"]);
    let release = ["agent", "release", "builder", "--reason", "bob takes over"];
    let (_, complaint) = operator.refused(&release);
    assert!(
        complaint.contains("taskpass agent owner builder"),
        "{complaint}"
    );
    operator.json(&["agent", "owner", "builder", "bob@acme.test"]);
    operator.json(&release);
    login_again(&broker, &agent, "builder");
    agent.json(&["task", "list"]);
}

/// 50 clients with 20 requests each run while the agent is frozen: none is answered with a
/// credential that was asked for after the freeze was answered.
#[test]
fn no_request_after_the_freeze_gets_a_credential() {
    let world = World::new();
    let broker = world.start();
    let (operator, agent) = (broker.operator(), broker.agent("builder"));
    let task = World::task(&agent, &[CONFIG]);
    let certificate = Certificate::load(agent.identity());
    let request = taskpass_proto::v1::IssueCredentialRequest {
        task_id: task.clone(),
        role: CONFIG.to_owned(),
        ..Default::default()
    };
    let message = prost::Message::encode_to_vec(&request);
    let frozen = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let issued_late = runtime().block_on(async {
        let mut running = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let wire = Wire::new(broker.address(), Some(&certificate));
            let (message, frozen) = (message.clone(), std::sync::Arc::clone(&frozen));
            running.spawn(async move {
                let mut late = 0;
                for _ in 0..20 {
                    let is_late = frozen.load(std::sync::atomic::Ordering::SeqCst);
                    let method = "/taskpass.v1.CredentialService/IssueCredential";
                    let answer = wire.call_async(method, message.clone()).await;
                    late += usize::from(is_late && answer.is_ok());
                }
                late
            });
        }
        let freezing = tokio::task::spawn_blocking(move || {
            freeze(&operator, "builder");
            frozen.store(true, std::sync::atomic::Ordering::SeqCst);
        });
        freezing.await.expect("it is frozen");
        running.join_all().await.into_iter().sum::<usize>()
    });
    assert_eq!(issued_late, 0);
    World::wait_all_final(&broker.operator());
    assert!(world.bao.task_tokens().is_empty());
}
