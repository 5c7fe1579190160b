//! Fifty kills at random moments under load: whatever was acknowledged stays true, and nothing is alive that the
//! ledger does not know of.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;
use taskpass_client::{Client, EndMode, Error, TaskOptions};
use taskpass_core::{CredentialId, Entropy, RoleName, Scope, SeededEntropy, TaskId, Timestamp};
use taskpass_tests::{Broker, Cli, World, eventually};
use tokio::task::JoinSet;

use crate::support::{
    CERT_PATH, History, assert_nothing_untracked, client, is_waiting_for_probation, runtime, text,
    time, wait_one_sweep,
};

const KILLS: u32 = 50;
const AGENTS: [&str; 3] = ["one", "two", "three"];
/// Tasks of each agent at the same time.
const WORKERS: u64 = 2;
/// The longest time between the first request and the kill.
const LIFE_MAX_MS: u64 = 500;
const SEED: u64 = 20_261_122;

const LIMITS: &str = "
[limits]
agent_requests_per_second = 100000
agent_requests_burst = 1000000
task_requests_per_second = 100000
task_requests_burst = 1000000

[tasks]
open_per_agent = 10000

[credentials]
live_per_agent = 100000
";

/// What the broker has said to somebody.
#[derive(Debug, Default)]
struct Acknowledged {
    tasks: Vec<TaskId>,
    issued: Vec<(CredentialId, Timestamp)>,
    renewed: Vec<(CredentialId, Timestamp)>,
    receipts: Vec<(CredentialId, String)>,
    ended: Vec<(TaskId, String)>,
}

type Shared = Arc<Mutex<Acknowledged>>;

#[test]
fn nothing_that_was_acknowledged_is_lost_and_nothing_untracked_is_alive() {
    let world = World::new();
    world.installation.configure(LIMITS);
    let broker = world.start();
    for name in AGENTS {
        broker.agent(name);
    }
    broker.kill();
    let acknowledged = Shared::default();
    let random = SeededEntropy::new(SEED);
    let runtime = runtime();
    for round in 0..KILLS {
        let broker = world.start();
        let life = Duration::from_millis(random.next_u64().expect("randomness") % LIFE_MAX_MS);
        runtime.block_on(load_for(life, &broker, u64::from(round), &acknowledged));
    }
    let broker = world.start();
    let operator = broker.operator();
    wait_one_sweep(&operator);
    let history = History::verified(&world.installation, &operator, "after-kills.jsonl");
    assert_nothing_untracked(&world.bao, &history, &operator);
    let acknowledged = acknowledged.lock().expect("no worker panicked");
    assert_kept(&acknowledged, &operator);
    runtime.block_on(end_all(&operator));
    eventually("everything that is on record is revoked", || {
        World::live_credentials(&operator)
            .iter()
            .all(is_waiting_for_probation)
            .then_some(())
    });
    assert_eq!(world.bao.leases(CERT_PATH), Vec::<String>::new());
    let history = History::verified(&world.installation, &operator, "at-the-end.jsonl");
    assert_nothing_untracked(&world.bao, &history, &operator);
}

/// Works on the broker for a while. It is killed while requests are in flight: the workers are let go afterwards.
async fn load_for(life: Duration, broker: &Broker<'_>, round: u64, acknowledged: &Shared) {
    let mut workers = JoinSet::new();
    for (number, name) in (0_u64..).zip(AGENTS) {
        let client = client(&broker.known(name)).await;
        for worker in 0..WORKERS {
            let entropy = SeededEntropy::new(SEED ^ (round << 8 | number << 4 | worker));
            workers.spawn(work(client.clone(), entropy, Arc::clone(acknowledged)));
        }
    }
    let pid = i32::try_from(broker.pid()).expect("a pid");
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    let early = tokio::time::timeout(life, workers.join_next()).await;
    if let Ok(Some(Ok(Err(error)))) = early {
        panic!("a request failed although nothing was killed: {error}");
    }
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it can be killed");
    workers.shutdown().await;
}

/// Opens tasks, draws, renews, revokes and ends, and notes what it was told. Ends with the first error.
async fn work(client: Client, random: SeededEntropy, told: Shared) -> Result<(), Error> {
    let dice = |sides: u64| random.next_u64().expect("randomness") % sides;
    let role = |name: &str| -> RoleName { name.parse().expect("a role") };
    loop {
        let options = TaskOptions::new("under load")
            .role(role("vault-main/config"))
            .role(role("vault-main/cert"));
        let task = client.open_task(options).await?;
        let task: TaskId = task.id.parse()?;
        told.lock().expect("no poison").tasks.push(task);
        for _ in 0..=dice(3) {
            let (name, scope) = match dice(2) {
                0 => ("vault-main/config", Scope::default()),
                _ => (
                    "vault-main/cert",
                    Scope::from_pairs([("common_name", "ci.acme.test")])?,
                ),
            };
            let issued = client
                .issue_credential(task, &role(name), &scope, None)
                .await?;
            told.lock()
                .expect("no poison")
                .issued
                .push((issued.id, issued.expires_at));
            match dice(4) {
                0 if issued.renewable => {
                    let until = client.renew_credential(issued.id, None).await?;
                    told.lock()
                        .expect("no poison")
                        .renewed
                        .push((issued.id, until));
                }
                1 => {
                    let receipt = client.revoke_credential(issued.id, None).await?;
                    told.lock()
                        .expect("no poison")
                        .receipts
                        .push((receipt.credential_id, receipt.state));
                }
                _ => {}
            }
        }
        if dice(4) > 0 {
            let ended = client.end_task(task, EndMode::Completed, None).await?;
            let mut told = told.lock().expect("no poison");
            told.ended.push((task, ended.state));
            told.receipts.extend(
                ended
                    .receipts
                    .into_iter()
                    .map(|r| (r.credential_id, r.state)),
            );
        }
    }
}

/// Each acknowledged thing is in the state that was told, or a later one.
fn assert_kept(told: &Acknowledged, operator: &Cli) {
    let by = |args: &[&str], key: &str| -> BTreeMap<String, Value> {
        let rows = operator.json(args);
        let rows = rows.as_array().expect("a list").clone();
        rows.into_iter()
            .map(|row| (text(&row, key).to_owned(), row))
            .collect()
    };
    let tasks = by(&["task", "list"], "task_id");
    let credentials = by(&["credential", "list"], "credential_id");
    let credential = |id: &CredentialId| {
        credentials
            .get(&id.to_string())
            .unwrap_or_else(|| panic!("{id} is lost"))
    };
    println!(
        "acknowledged: {} tasks, {} credentials, {} renewals, {} receipts, {} ends",
        told.tasks.len(),
        told.issued.len(),
        told.renewed.len(),
        told.receipts.len(),
        told.ended.len()
    );
    assert!(
        told.issued.len() > 50 && told.receipts.len() > 20 && !told.renewed.is_empty(),
        "there was hardly any load"
    );
    for task in &told.tasks {
        assert!(tasks.contains_key(&task.to_string()), "task {task} is lost");
    }
    for (id, _) in &told.issued {
        let state = text(credential(id), "state");
        assert!(
            !["intended", "abandoned"].contains(&state),
            "{id} was handed out and is {state}"
        );
    }
    for (id, until) in &told.renewed {
        let kept = credential(id);
        assert!(
            time(kept, "expires_at") >= *until,
            "{id} was renewed until {until}: {kept}"
        );
    }
    for (id, state) in &told.receipts {
        let now = text(credential(id), "state");
        let later = ["revoking", "stuck"].contains(&state.as_str());
        assert!(later || now == state, "{id} was {state} and is {now}");
        assert!(
            !["intended", "active", "abandoned"].contains(&now),
            "{id} was {state} and is {now}"
        );
    }
    for (task, state) in &told.ended {
        let now = text(&tasks[&task.to_string()], "state");
        assert!(
            now == "ended" || (now == "ending" && state == "ending"),
            "{task} was {state} and is {now}"
        );
    }
}

async fn end_all(operator: &Cli) {
    let open = operator.json(&["task", "list", "--state", "open"]);
    let client = client(operator).await;
    let mut ending = JoinSet::new();
    for task in open.as_array().expect("tasks") {
        let (client, task) = (
            client.clone(),
            text(task, "task_id").parse().expect("a task id"),
        );
        ending.spawn(async move { client.end_task(task, EndMode::Cancelled, None).await });
    }
    for ended in ending.join_all().await {
        ended.expect("an open task can be ended");
    }
}
