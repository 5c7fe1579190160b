//! A hundred reloads while agents go on issuing.

use std::{
    collections::{BTreeSet, HashMap},
    sync::atomic::AtomicBool,
};

use super::*;

const RELOADS: usize = 100;
const CALLERS: usize = 4;
const STATIC: &str = "vault-main/static";
/// Limits that refuse no request of this test.
const ROOM: &str = "
[limits]
task_requests_per_second = 10_000
task_requests_burst = 100_000
agent_requests_per_second = 10_000
agent_requests_burst = 100_000
agent_ledger_bytes_per_hour = 4000000000
agent_task_starts_per_hour = 100000000
agent_denials_per_hour = 100000000

[credentials]
live_per_agent = 100_000
live_per_task = 100_000
";
const NO_STATIC: &str = r#"
@id("test.no-static")
forbid (
  principal is Taskpass::Agent,
  action == Taskpass::Action::"credential.issue",
  resource == Taskpass::Role::"vault-main/static"
);
"#;

/// Two configurations: policy, and the lifetime that a provider's role allows.
const WIDE: (&str, &str) = ("", "3m");
const NARROW: (&str, &str) = (NO_STATIC, "2m");

fn write(installation: &Installation, (policy, max_ttl): (&str, &str)) {
    installation.policy("switched.cedar", policy);
    installation.edit(|text| {
        let other = if max_ttl == "3m" { "2m" } else { "3m" };
        let line = |ttl: &str| format!("max_ttl = \"{ttl}\"");
        text.replace(&line("15m"), &line(max_ttl))
            .replace(&line(other), &line(max_ttl))
    });
}

/// Issues until told to stop. Returns how often each role was issued and denied; every other answer
/// is a lost request.
async fn calls(
    client: &taskpass_client::Client,
    task: &str,
    stop: &AtomicBool,
) -> HashMap<(&'static str, Code), usize> {
    let mut answers = HashMap::new();
    while !stop.load(Ordering::Acquire) {
        for role in [CONFIG, STATIC] {
            let code = match issue_once(client, task, role).await {
                Ok(_) => Code::Ok,
                Err(status) => {
                    assert_eq!(status.code(), Code::PermissionDenied, "{role}: {status:?}");
                    status.code()
                }
            };
            *answers.entry((role, code)).or_default() += 1;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    answers
}

#[test]
fn a_hundred_reloads_under_load_lose_no_request_and_mix_no_snapshot() {
    let world = World::new();
    world.installation.configure(ROOM);
    write(&world.installation, WIDE);
    let broker = world.start();
    let agents: Vec<_> = (0..CALLERS)
        .map(|n| broker.agent(&format!("builder-{n}")))
        .collect();
    let start = ["task", "start", "--purpose", "load", "--ttl", "1h"];
    let roles = ["--role", CONFIG, "--role", STATIC];
    let tasks: Vec<String> = agents
        .iter()
        .map(|agent| text(&agent.json(&[&start[..], &roles].concat()), "task_id").to_owned())
        .collect();
    let runtime = runtime();
    let stop = AtomicBool::new(false);
    let answers: Vec<_> = std::thread::scope(|scope| {
        let (runtime, stop) = (&runtime, &stop);
        let callers: Vec<_> = agents
            .iter()
            .zip(&tasks)
            .map(|(agent, task)| {
                scope.spawn(move || {
                    runtime.block_on(async {
                        let client = client(agent).await;
                        calls(&client, task, stop).await
                    })
                })
            })
            .collect();
        for number in 0..RELOADS {
            let next = if number % 2 == 0 { NARROW } else { WIDE };
            write(&world.installation, next);
            reloaded(&world.installation);
        }
        stop.store(true, Ordering::Release);
        let ended = callers.into_iter().map(|caller| caller.join());
        ended
            .map(|answers| answers.expect("no request is lost"))
            .collect()
    });
    for role_and_code in [
        (CONFIG, Code::Ok),
        (STATIC, Code::Ok),
        (STATIC, Code::PermissionDenied),
    ] {
        let times: usize = answers.iter().filter_map(|it| it.get(&role_and_code)).sum();
        assert!(
            times > RELOADS,
            "{role_and_code:?} was answered {times} times only"
        );
    }
    assert!(
        answers
            .iter()
            .all(|it| !it.contains_key(&(CONFIG, Code::PermissionDenied)))
    );

    let history = History::verified(&world.installation, &broker.operator(), "load.jsonl");
    let reloads = chained(&history);
    assert_eq!(reloads.len(), RELOADS);
    let narrow = text(reloads[0], "policy_set");
    let wide = text(reloads[0], "previous_policy_set");
    assert_unmixed(&history, narrow, wide);
}

/// Compares each decision, and the life of each credential, with the policy set that decided.
fn assert_unmixed(history: &History, narrow: &str, wide: &str) {
    let mut seen = BTreeSet::new();
    for pair in history.events.windows(2) {
        let [decided, next] = pair else { continue };
        let decision = &decided["decision"];
        if decision["action"] != "credential.issue" {
            continue;
        }
        let set = text(decision, "policy_set");
        assert!([narrow, wide].contains(&set), "{decision}");
        if decision["outcome"] == "deny" {
            assert_eq!(set, narrow, "{decision}");
            continue;
        }
        assert_eq!(text(next, "type"), "credential_intended", "{next}");
        let credential = &next["credential"];
        let is_static = text(credential, "role") == STATIC;
        assert!(!(is_static && set == narrow), "{decision}");
        let time = |key| crate::support::time(credential, key);
        let lives = time("expires_at").since(time("intended_at")).as_secs();
        let expected = if set == narrow { 120 } else { 180 };
        assert_eq!(lives, expected, "under {decision}: {credential}");
        seen.insert((set.to_owned(), is_static));
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
}
