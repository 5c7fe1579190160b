//! Policy and configuration read again while the broker runs: by command and by SIGHUP, all or
//! nothing, and without a request that notices.

use std::{process::Output, sync::atomic::Ordering, time::Duration};

use rustix::process::Signal;
use serde_json::{Value, json};
use taskpass_tests::{Installation, World, eventually};
use tonic::Code;

use crate::{
    quotas::issue_once,
    support::{History, client, end, receipt, runtime, text, wait_for_state},
};

mod under_load;

const CONFIG: &str = "vault-main/config";
const REFUSED: &str = "the reload was refused";

const FORBID: &str = r#"
@id("test.closed")
forbid (
  principal is Taskpass::Agent,
  action == Taskpass::Action::"credential.issue",
  resource
);
"#;

const MORE: &str = r#"
  [[provider.role]]
  name = "second"
  type = "token"
  policies = ["config"]
  max_ttl = "15m"
  impact = 0
"#;

fn config(installation: &Installation) -> String {
    let path = installation.home().join("taskpass.toml");
    path.to_str().expect("a path in UTF-8").to_owned()
}

fn reload(installation: &Installation) -> Output {
    installation.daemon(&["reload", "--config", &config(installation)])
}

/// A reload that must succeed. Returns its output.
fn reloaded(installation: &Installation) -> String {
    let done = reload(installation);
    let complaint = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{complaint}");
    String::from_utf8(done.stdout).expect("text")
}

fn doctor(installation: &Installation) -> String {
    let done = installation.daemon(&["doctor", "--config", &config(installation)]);
    String::from_utf8(done.stdout).expect("text")
}

/// The reloads on record, after a look at their hashes: each begins where the one before ended.
fn chained(history: &History) -> Vec<&Value> {
    let mut before: Option<&Value> = None;
    let mut reloads = Vec::new();
    for event in &history.events {
        match text(event, "type") {
            "broker_started" => before = Some(event),
            "configuration_reloaded" => {
                let before = before.replace(event).expect("a start");
                for hash in ["config_sha256", "policy_set"] {
                    assert_eq!(event[&format!("previous_{hash}")], before[hash], "{event}");
                }
                reloads.push(event);
            }
            _ => {}
        }
    }
    reloads
}

#[test]
fn providers_and_roles_are_added_without_a_restart() {
    let world = World::new();
    let broker = world.start();
    let agent = broker.agent("builder");
    let before = World::task(&agent, &[CONFIG]);
    World::issue(&agent, &before, CONFIG, &[]);
    let second = world.bao.provider("vault-second", "");
    world
        .installation
        .edit(|text| format!("{text}{MORE}\n{second}"));

    let said = reloaded(&world.installation);
    assert!(
        said.contains("provider `vault-main`: changed")
            && said.contains("provider `vault-second`: added"),
        "{said}"
    );
    let roles = ["vault-main/second", "vault-second/config"];
    let task = World::task(&agent, &roles);
    for role in roles {
        let issued = World::issue(&agent, &task, role, &[]);
        assert!(world.bao.token_works(text(&issued["data"], "token")));
    }
    // The task from before goes on, and its credentials end with it.
    World::issue(&agent, &before, CONFIG, &[]);
    for task in [&before, &task] {
        end(&agent, task);
        wait_for_state(&agent, task, "ended");
    }
    assert!(world.bao.task_tokens().is_empty());
    let history = History::verified(&world.installation, &broker.operator(), "added.jsonl");
    let reloads = chained(&history);
    assert_eq!(reloads.len(), 1);
    assert_eq!(reloads[0]["providers_added"], json!(["vault-second"]));
    assert_eq!(reloads[0]["providers_changed"], json!(["vault-main"]));
}

#[test]
fn a_provider_that_left_the_configuration_revokes_its_credentials() {
    let world = World::new();
    let before = std::fs::read_to_string(config(&world.installation)).expect("a file");
    let (without, _) = before
        .split_once("[[provider]]\nname = \"vault-main\"")
        .expect("it");
    let broker = world.start();
    let agent = broker.agent("builder");
    let task = World::task(&agent, &[CONFIG, "vault-main/cert"]);
    let token = World::issue(&agent, &task, CONFIG, &[]);
    let cert = World::issue(
        &agent,
        &task,
        "vault-main/cert",
        &["common_name=ci.acme.test"],
    );
    world.installation.edit(|_| without.to_owned());

    let said = reloaded(&world.installation);
    assert!(said.contains("provider `vault-main`: removed"), "{said}");
    let issue = ["credential", "issue", "--task", &task, "--role", CONFIG];
    let (_, complaint) = agent.refused(&issue);
    assert!(complaint.contains("does not exist"), "{complaint}");
    end(&agent, &task);
    let ended = wait_for_state(&agent, &task, "ended");
    for issued in [&token, &cert] {
        assert_eq!(text(receipt(&ended, issued), "state"), "revoked_verified");
    }
    assert!(world.bao.task_tokens().is_empty());
}

#[test]
fn a_bad_file_changes_nothing_and_says_why_in_four_places() {
    let mut installation = Installation::new();
    installation.expect_error(REFUSED);
    let broker = installation.start();
    let operator = broker.operator();
    let good = std::fs::read_to_string(config(&installation)).expect("a file");
    // The policy alone would lock every operator out.
    installation.policy(
        "closed.cedar",
        "@id(\"x\") forbid (principal, action, resource);",
    );
    installation.configure("[tasks]\nttl_maximum = \"1h\"\n");
    let line = format!("taskpass.toml:{}:1: ", good.lines().count() + 3);
    let says_why = |place: &str, text: &str| {
        let said = text.contains(&line) && text.contains("ttl_maximum");
        assert!(said, "{place} does not name `{line}`:\n{text}");
    };

    let done = reload(&installation);
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    says_why("the answer", &String::from_utf8_lossy(&done.stderr));
    says_why("the log", &broker.log());
    says_why("doctor", &doctor(&installation));
    assert!(doctor(&installation).contains("[fail] reload: the reload at "));
    operator.json(&["agent", "list"]);

    // The file is not even TOML; the command finds the broker all the same.
    installation.edit(|_| format!("{good}\n[tasks\n"));
    let done = reload(&installation);
    let complaint = String::from_utf8_lossy(&done.stderr);
    assert!(complaint.contains("this is not TOML"), "{complaint}");
    operator.json(&["agent", "list"]);

    installation.edit(|_| good.replace("127.0.0.1:0", "127.0.0.1:1"));
    let done = reload(&installation);
    let complaint = String::from_utf8_lossy(&done.stderr);
    assert!(
        complaint.contains("cannot change while the broker runs: `listen.grpc`"),
        "{complaint}"
    );
    operator.json(&["agent", "list"]);

    installation.edit(|_| good.clone());
    assert!(reloaded(&installation).contains("policy set: "));
    assert!(doctor(&installation).contains("[ok]   reload: "));
    operator.refused(&["agent", "list"]);
    std::fs::remove_file(installation.home().join("policy/closed.cedar")).expect("it was there");
    reloaded(&installation);
    let history = History::verified(&installation, &operator, "bad.jsonl");
    assert_eq!(chained(&history).len(), 2, "a refused reload is on record");
    broker.stop();
    let done = reload(&installation);
    let complaint = String::from_utf8_lossy(&done.stderr);
    assert!(
        complaint.contains("no broker can be reached"),
        "{complaint}"
    );
}

#[test]
fn sighup_does_the_same_as_the_command() {
    let mut installation = Installation::new();
    installation.expect_error(REFUSED);
    let broker = installation.start();
    let times = |words: &str| broker.log().matches(words).count();
    installation.configure("[tasks]\nopen_per_agent = 0\n");
    broker.signal(Signal::HUP);
    eventually("the refusal is on the log", || {
        (times(REFUSED) == 1).then_some(())
    });
    assert!(doctor(&installation).contains("[fail] reload: "));
    installation.edit(|text| text.replace("open_per_agent = 0", "open_per_agent = 1"));
    broker.signal(Signal::HUP);
    eventually("the reload is on the log", || {
        (times("the configuration was reloaded") == 1).then_some(())
    });
    assert!(doctor(&installation).contains("[ok]   reload: "));
    let history = History::verified(&installation, &broker.operator(), "hup.jsonl");
    let reloads = chained(&history);
    assert_eq!(reloads.len(), 1);
    assert_eq!(reloads[0]["keys"], json!(["tasks.open_per_agent"]));
}

/// The provider is called under the old policy while the new one comes into force.
#[test]
fn a_request_in_flight_keeps_the_policy_it_began_with() {
    let world = World::new();
    let broker = world.start();
    let (operator, agent) = (broker.operator(), broker.agent("builder"));
    let task = World::task(&agent, &[CONFIG]);
    let wire = runtime();
    let client = wire.block_on(client(&agent));
    world.bao.pause();
    let (early, late) = std::thread::scope(|scope| {
        let early = scope.spawn(|| wire.block_on(issue_once(&client, &task, CONFIG)));
        eventually("the provider is being asked", || {
            (!World::live_credentials(&operator).is_empty()).then_some(())
        });
        world.installation.policy("closed.cedar", FORBID);
        reloaded(&world.installation);
        let late = wire.block_on(issue_once(&client, &task, CONFIG));
        world.bao.resume();
        (early.join().expect("it ends"), late)
    });
    let denied = late.expect_err("the new policy forbids it");
    assert_eq!(denied.code(), Code::PermissionDenied, "{denied}");
    early.expect("the old policy permits it");
}
