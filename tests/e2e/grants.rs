//! Least privilege: a new installation grants no role, and operators can ask the policy in force
//! which agent may have which role.

use std::fs;

use serde_json::{Value, json};
use taskpass_tests::{Installation, OpenBao, World};

const ROLE: &str = "vault-main/config";
const GRANT: &str = r#"
@id("grant.builder")
permit (
  principal == Taskpass::Agent::"builder",
  action in Taskpass::Action::"access",
  resource in Taskpass::Role::"vault-main/config"
);
"#;

/// An installation as `taskpassd init` makes it, with a provider.
fn ungranted(bao: &OpenBao) -> Installation {
    let installation = Installation::new();
    installation.configure(&bao.provider("vault-main", ""));
    fs::remove_file(installation.home().join("policy/grants.cedar")).expect("the harness's grants");
    installation
}

fn outcomes(answer: &Value) -> Vec<(&str, bool)> {
    let decisions = answer["decisions"].as_array().expect("decisions");
    decisions
        .iter()
        .map(|d| {
            let action = d["action"].as_str().expect("an action");
            (action, d["allowed"].as_bool().expect("an outcome"))
        })
        .collect()
}

#[test]
fn nothing_is_granted_until_a_policy_grants_it_and_operators_can_ask() {
    let bao = OpenBao::start();
    let installation = ungranted(&bao);
    let broker = installation.start();
    let (builder, other) = (broker.agent("builder"), broker.agent("other"));
    let operator = broker.operator();
    let explain = ["policy", "explain", "--agent", "builder", "--role", ROLE];
    let start = ["task", "start", "--purpose", "p", "--role", ROLE];

    let (code, _) = builder.refused(&start);
    assert_eq!(code, 3, "no role is granted");
    let denied = operator.run(&explain);
    assert_eq!(denied.code, 1);
    assert!(denied.stdout.contains("no policy permits it"), "{denied:?}");
    assert_eq!(operator.json(&["policy", "who", ROLE]), json!([]));
    broker.stop();

    installation.policy("builder.cedar", GRANT);
    let broker = installation.start();
    let operator = broker.operator();
    let explained = operator.json(&explain);
    let all = ["task.start", "credential.issue", "credential.renew"];
    assert_eq!(outcomes(&explained), all.map(|action| (action, true)));
    assert_eq!(
        explained["decisions"][0]["policies"],
        json!(["grant.builder"])
    );
    let who = operator.json(&["policy", "who", ROLE]);
    assert_eq!(who.as_array().map(Vec::len), Some(1), "{who}");
    assert_eq!(who[0]["agent"], "builder");

    // The broker acts as it explained.
    let builder = builder.through(broker.address());
    let task = World::task(&builder, &[ROLE]);
    World::issue(&builder, &task, ROLE, &[]);
    let other = other.through(broker.address());
    let (code, _) = other.refused(&start);
    assert_eq!(code, 3);
    // Asking changed nothing: no task and no credential came of it.
    let tasks = operator.json(&["task", "list"]);
    assert_eq!(tasks.as_array().map(Vec::len), Some(1), "{tasks}");

    // A frozen agent has no role, whatever policy says.
    let frozen = ["agent", "freeze", "builder", "--reason", "a test"];
    operator.json(&frozen);
    assert_eq!(operator.json(&["policy", "who", ROLE]), json!([]));
    assert!(operator.refused(&explain).1.contains("frozen"));

    // Unknown names are told apart for operators; agents may not ask.
    let unknown = ["policy", "explain", "--agent", "nobody", "--role", ROLE];
    assert!(
        operator
            .refused(&unknown)
            .1
            .contains("agent `nobody` does not exist")
    );
    let unknown = ["policy", "who", "vault-main/none"];
    assert!(operator.refused(&unknown).1.contains("vault-main/none"));
    assert_eq!(other.refused(&["policy", "who", ROLE]).0, 3);
}
