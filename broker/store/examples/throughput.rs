//! Figures of the store on this machine.
//!
//! ```text
//! throughput commit             commits per second with 1 and 64 committers
//! throughput fill DIR ENTRIES LIVE
//!                               makes a store with ENTRIES of history and LIVE credentials
//! throughput open DIR           the time and memory that opening this store takes
//! ```

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::Path,
    sync::Arc,
};

use anyhow::Context;
use taskpass_core::{
    Actor, Agent, Clock, Credential, CredentialId, CredentialIntent, EndCause, Entropy, Event,
    Labels, Requester, RevocationClass, Scope, SystemClock, SystemEntropy, Task, TaskId, TaskState,
};
use taskpass_ledger::{Reader, SigningKey};
use taskpass_store::{Batch, Config, Guard, LogStore, Page, Store, TaskFilter};

struct Bench {
    store: LogStore,
    ledger: Reader,
    clock: Arc<SystemClock>,
    entropy: SystemEntropy,
}

fn say(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["fill", dir, entries, live] => fill(Path::new(dir), entries.parse()?, live.parse()?).await,
        ["open", dir] => open(Path::new(dir)).await,
        _ => commit().await,
    }
}

impl Bench {
    fn open(dir: &Path) -> anyhow::Result<Self> {
        let entropy = SystemEntropy::new();
        let file = dir.join("ledger.key");
        let key = if file.exists() {
            SigningKey::load("taskpass/bench.test", &file)?
        } else {
            SigningKey::generate("taskpass/bench.test", &file, &entropy)?
        };
        let clock = Arc::new(SystemClock::new());
        let opened = LogStore::open(&Config::new(dir), key, clock.clone())?;
        if let Some(reason) = opened.report.index.rebuilt {
            say(&format!("index built again: {reason}"))?;
        }
        Ok(Self {
            store: opened.store,
            ledger: opened.ledger,
            clock,
            entropy,
        })
    }

    async fn install(&self) -> anyhow::Result<()> {
        let agent = Agent {
            name: "builder".parse()?,
            owner: "alice@bench.test".parse()?,
            team: None,
            class: None,
            labels: Labels::default(),
            registered_at: self.clock.now(),
            registered_by: "spiffe://bench.test/operator/admin".parse()?,
            state: taskpass_core::AgentState::Active,
            changed: None,
            owner_departed: false,
        };
        let events = [
            Event::Initialized {
                trust_domain: "bench.test".parse()?,
                version: "0.1.0".to_owned(),
                root: None,
            },
            Event::AgentRegistered {
                agent,
                idempotency: None,
            },
        ];
        self.store.commit(Batch::new(events)).await?;
        Ok(())
    }

    fn task(&self) -> anyhow::Result<Task> {
        let now = self.clock.now();
        Ok(Task {
            id: TaskId::generate(self.clock.as_ref(), &self.entropy)?,
            agent: "builder".parse()?,
            purpose: "measure how fast this is".parse()?,
            requester: Requester::SelfDeclared { name: None },
            roles: BTreeMap::from([("vault-main/ci-db".parse()?, Scope::default())]),
            started_at: now,
            deadline: now.plus(std::time::Duration::from_secs(8 * 3600)),
            heartbeat: None,
            parent: None,
            depth: 0,
            max_credentials: 1_000_000,
            labels: Labels::default(),
            state: TaskState::Open,
            end_cause: None,
            ending_at: None,
            ended_at: None,
        })
    }

    fn intent(&self, task: &Task) -> anyhow::Result<Credential> {
        let now = self.clock.now();
        Ok(Credential::from(CredentialIntent {
            id: CredentialId::generate(self.clock.as_ref(), &self.entropy)?,
            task: task.id,
            agent: task.agent.clone(),
            role: "vault-main/ci-db".parse()?,
            scope: Scope::from_pairs([("database", "orders")])?,
            revocation_class: RevocationClass::Immediate,
            intended_at: now,
            expires_at: now.plus(std::time::Duration::from_secs(3600)),
            anchor_key: None,
            handle: None,
        }))
    }
}

fn issued(credential: &Credential, entropy: &dyn Entropy) -> anyhow::Result<Event> {
    Ok(Event::CredentialIssued {
        credential: credential.id,
        expires_at: credential.expires_at,
        revocation_class: RevocationClass::Immediate,
        anchor: None,
        handle: Some(serde_json::json!({"lease": format!("{:016x}", entropy.next_u64()?)}).into()),
        took_ms: 3,
    })
}

fn ended(task: TaskId, credentials: &[Credential]) -> Vec<Event> {
    let mut events = vec![Event::TaskEnding {
        task,
        cause: EndCause::Completed,
        by: Actor::Broker,
    }];
    events.extend(credentials.iter().map(|c| Event::CredentialRevoked {
        credential: c.id,
        verified: true,
        proof: "lookup says gone".to_owned(),
        took_ms: 2,
        may_live_until: None,
        identity_until: None,
    }));
    events.push(Event::TaskEnded { task });
    events
}

/// Commits a guarded intent and its outcome, as the engine does for each credential.
async fn commit() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let bench = Arc::new(Bench::open(dir.path())?);
    bench.install().await?;
    for (committers, rounds) in [(1_usize, 2_000_usize), (64, 800), (64, 800), (512, 100)] {
        let start = bench.clock.monotonic();
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..committers {
            let bench = Arc::clone(&bench);
            workers.spawn(async move { work(&bench, rounds).await });
        }
        while let Some(outcome) = workers.join_next().await {
            outcome??;
        }
        let took = bench.clock.monotonic().saturating_sub(start);
        let commits = committers * rounds * 2;
        let rate = commits as f64 / took.as_secs_f64();
        say(&format!("{committers:4} committers: {rate:8.0} commits/s"))?;
    }
    let start = bench.clock.monotonic();
    bench
        .store
        .list_tasks(&TaskFilter::default(), &Page::first())
        .await?;
    let lag = bench.clock.monotonic().saturating_sub(start);
    say(&format!("index caught up after {lag:?}; {}", memory()?))?;
    bench.store.close().await?;
    Ok(())
}

async fn work(bench: &Bench, rounds: usize) -> anyhow::Result<()> {
    let task = bench.task()?;
    let start = Event::TaskStarted {
        task: task.clone(),
        idempotency: None,
    };
    bench.store.commit(Batch::new([start])).await?;
    let mut credentials = Vec::new();
    for _ in 0..rounds {
        let credential = bench.intent(&task)?;
        let intent = Event::CredentialIntended {
            credential: Box::new(credential.clone()),
            idempotency: None,
        };
        let batch = Batch::new([intent])
            .guard(Guard::TaskOpen(task.id))
            .guard(Guard::TaskCredentialsWithin(task.id));
        bench.store.commit(batch).await?;
        let outcome = issued(&credential, &bench.entropy)?;
        bench.store.commit(Batch::new([outcome])).await?;
        credentials.push(credential);
    }
    for part in ended(task.id, &credentials).chunks(4000) {
        bench.store.commit(Batch::reserved(part.to_vec())).await?;
    }
    Ok(())
}

async fn fill(dir: &Path, entries: u64, live: u64) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir)?;
    let bench = Bench::open(dir)?;
    bench.install().await?;
    let start = bench.clock.monotonic();
    // One task with two credentials is 9 entries.
    for _ in 0..entries / (9 * 50) {
        let mut events = Vec::new();
        for _ in 0..50 {
            let task = bench.task()?;
            events.push(Event::TaskStarted {
                task: task.clone(),
                idempotency: None,
            });
            let credentials = [bench.intent(&task)?, bench.intent(&task)?];
            for credential in &credentials {
                events.push(Event::CredentialIntended {
                    credential: Box::new(credential.clone()),
                    idempotency: None,
                });
                events.push(issued(credential, &bench.entropy)?);
            }
            events.extend(ended(task.id, &credentials));
        }
        bench.store.commit(Batch::new(events)).await?;
    }
    for _ in 0..live / 10 {
        let task = bench.task()?;
        let mut events = vec![Event::TaskStarted {
            task: task.clone(),
            idempotency: None,
        }];
        for _ in 0..10 {
            let credential = bench.intent(&task)?;
            let outcome = issued(&credential, &bench.entropy)?;
            events.push(Event::CredentialIntended {
                credential: Box::new(credential),
                idempotency: None,
            });
            events.push(outcome);
        }
        bench.store.commit(Batch::new(events)).await?;
    }
    bench.store.close().await?;
    let took = bench.clock.monotonic().saturating_sub(start);
    let size = bench.ledger.size();
    say(&format!("{size} entries in {took:?}; {}", memory()?))?;
    Ok(())
}

async fn open(dir: &Path) -> anyhow::Result<()> {
    let clock = SystemClock::new();
    let start = clock.monotonic();
    let bench = Bench::open(dir)?;
    let took = clock.monotonic().saturating_sub(start);
    let open = bench.store.open_tasks().await?.len();
    let size = bench.ledger.size();
    say(&format!(
        "{size} entries, {open} open tasks: ready in {took:?}; {}",
        memory()?
    ))?;
    let listing = bench
        .store
        .list_tasks(&TaskFilter::default(), &Page::first())
        .await?;
    let rows = listing.rows.len();
    say(&format!("after a listing of {rows} rows: {}", memory()?))?;
    Ok(())
}

fn memory() -> anyhow::Result<String> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS"));
    Ok(line
        .context("no VmRSS in /proc/self/status")?
        .replace('\t', " "))
}
