//! Kills at random moments under load, and a comparison of ledger and back end after each.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use taskpass_client::{Client, EndMode, Error, TaskOptions};
use taskpass_core::{Entropy, RoleName, Scope, SeededEntropy};
use tokio::task::JoinSet;

use crate::{
    Broker, Cli, History, IssuedSecret, Journal, Told, World, eventually,
    wire::runtime,
    witness::{assert_nothing_untracked, client, is_waiting_for_probation, text, wait_one_sweep},
};

/// Agents that work at the same time.
pub const AGENTS: [&str; 3] = ["one", "two", "three"];
/// Tasks that each agent has open at the same time.
const WORKERS: u64 = 2;

/// Limits that the load of these tests does not reach.
pub const LIMITS: &str = "
[limits]
agent_requests_per_second = 100000
agent_requests_burst = 1000000
agent_ledger_bytes_per_hour = 4000000000
agent_task_starts_per_hour = 100000000
agent_denials_per_hour = 100000000
task_requests_per_second = 100000
task_requests_burst = 1000000

[tasks]
open_per_agent = 10000

[credentials]
live_per_agent = 100000
";

/// The journal of all clients.
pub type Shared = Arc<Mutex<Journal>>;

/// Each kill comes after at most this many answers. Answers are counted because a time limit would
/// give a busy machine less load.
const ANSWERS_MAX: u64 = 32;
/// The kill comes at most this long after the last counted answer.
const MOMENT_MAX_MS: u64 = 20;

/// A number of random kills.
#[derive(Debug, Clone, Copy)]
pub struct Kills {
    /// The number of kills.
    pub count: u32,
    /// Seed of the random moments. Runs with different seeds differ.
    pub seed: u64,
}

impl Kills {
    /// Kills the broker while agents work, then has the witnesses compare ledger, clients and back
    /// end. Returns the answers of the clients. Panics with the differences.
    pub fn survive(self, killed: impl Fn()) -> Journal {
        let world = World::new();
        world.installation.configure(LIMITS);
        let broker = world.start();
        for name in AGENTS {
            broker.agent(name);
        }
        broker.kill();
        let shared = Shared::default();
        let random = SeededEntropy::new(self.seed);
        let dice = |sides: u64| random.next_u64().expect("randomness") % sides;
        for round in 0..self.count {
            let broker = world.start();
            let life = (
                usize::try_from(dice(ANSWERS_MAX)).expect("a small number"),
                Duration::from_millis(dice(MOMENT_MAX_MS)),
            );
            let seed = self.seed ^ (u64::from(round) << 8);
            runtime().block_on(load_until_killed(life, &broker, seed, &shared));
            broker.wait_killed();
            killed();
        }
        let journal = shared.lock().expect("no worker panicked").clone();
        verify_and_end(&world, &journal);
        journal
    }
}

/// Waits for one sweep, compares, ends every task, and compares again.
fn verify_and_end(world: &World, journal: &Journal) {
    let broker = world.start();
    let operator = broker.operator();
    let compare = |name: &str| {
        let history = History::verified(&world.installation, &operator, name);
        assert_nothing_untracked(&world.bao, &history, &operator);
        assert_eq!(journal.lost(&history), Vec::<String>::new());
        let states = history.credential_states();
        let false_proofs = journal.false_proofs(&world.bao, |id| {
            states.get(&id.to_string()) == Some(&"revoked_verified")
        });
        assert_eq!(false_proofs, Vec::<String>::new());
    };
    wait_one_sweep(&operator);
    compare("after-kills.jsonl");
    runtime().block_on(end_all(&operator));
    eventually("everything that is on record is revoked", || {
        World::live_credentials(&operator)
            .iter()
            .all(is_waiting_for_probation)
            .then_some(())
    });
    assert_eq!(world.bao.usable_certificates(), Vec::<String>::new());
    compare("at-the-end.jsonl");
}

/// Puts load on the broker and kills it while requests are in flight. The workers stop afterwards.
async fn load_until_killed(
    (answers, moment): (usize, Duration),
    broker: &Broker<'_>,
    seed: u64,
    shared: &Shared,
) {
    let count = || shared.lock().expect("no poison").len();
    let enough = count() + answers;
    let mut workers = JoinSet::new();
    for (number, name) in (0_u64..).zip(AGENTS) {
        let client = client(&broker.attested(name)).await;
        for worker in 0..WORKERS {
            let random = SeededEntropy::new(seed ^ (number << 4 | worker));
            workers.spawn(work(client.clone(), random, Arc::clone(shared)));
        }
    }
    let life = async {
        while count() < enough {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(moment).await;
    };
    tokio::select! {
        () = life => {}
        early = workers.join_next() => panic!("a request failed although nothing was killed: {early:?}"),
    }
    broker.signal(rustix::process::Signal::KILL);
    workers.shutdown().await;
}

/// Opens tasks, issues, renews, revokes and ends, and notes each answer. Returns the first error.
pub async fn work(client: Client, random: SeededEntropy, told: Shared) -> Result<(), Error> {
    let dice = |sides: u64| random.next_u64().expect("randomness") % sides;
    let role = |name: &str| -> RoleName { name.parse().expect("a role") };
    let note = |write: &dyn Fn(&mut Journal)| write(&mut told.lock().expect("no poison"));
    loop {
        let options = TaskOptions::new("under load")
            .role(role("vault-main/config"))
            .role(role("vault-main/cert"));
        let task = client.open_task(options).await?.id;
        note(&|journal| journal.note(Told::Started(task.to_string())));
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
            let secret = IssuedSecret::from(&issued);
            note(&|journal| journal.note_secret(issued.id, secret.clone()));
            match dice(4) {
                0 if issued.renewable => {
                    let until = client.renew_credential(issued.id, None).await?;
                    note(&|journal| journal.note(Told::Renewed(issued.id, until)));
                }
                1 => {
                    let receipt = client.revoke_credential(issued.id, None).await?;
                    note(&|journal| journal.note_receipt(&receipt));
                }
                _ => {}
            }
        }
        if dice(4) > 0 {
            let ended = client.end_task(task, EndMode::Completed, None).await?;
            note(&|journal| journal.note_ended(&ended));
        }
    }
}

/// Ends every open task as the operator.
pub async fn end_all(operator: &Cli) {
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
