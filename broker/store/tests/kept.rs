//! Ledgers and indexes that earlier versions wrote, in `fixtures/`: they open, verify, serve the
//! same answers as then, and take more entries. The format of the ledger is for good, and an index
//! that a release wrote is not built again without need.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "the helpers of the tests fail the test"
)]

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use taskpass_core::{
    Actor, CredentialId, Event, JoinTokenId, ManualClock, ProviderName, RevokeCause, SpiffeId,
    TaskId, Timestamp,
};
use taskpass_ledger::{Archiver, Reader, SigningKey, verify::verify_dir};
use taskpass_store::{
    Batch, Config, CredentialFilter, Entry, LogStore, MemoryLog, OpenReport, Page, Store,
    TaskFilter,
};
use tempfile::TempDir;

const ORIGIN: &str = "taskpass/acme.test";
/// The length of `index/db`, which is kept without the zeros at its end.
const INDEX_BYTES: u64 = 524_287;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/before-topics")
}

/// A copy of the fixture, as the broker that was killed left it.
fn data() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy(&fixture(), dir.path());
    let index = fs::File::options()
        .write(true)
        .open(dir.path().join("index/db"));
    index.unwrap().set_len(INDEX_BYTES).unwrap();
    dir
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
            fs::set_permissions(target, fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
}

/// An opened store, with the questions of a test.
struct Opened {
    store: LogStore,
    ledger: Reader,
    archiver: Archiver,
    report: OpenReport,
    clock: Arc<ManualClock>,
}

impl Opened {
    fn new(dir: &Path) -> Self {
        Self::with(&Config::new(dir))
    }

    fn with(config: &Config) -> Self {
        let key = SigningKey::load(ORIGIN, &config.dir.join("ledger.key")).unwrap();
        let clock = Arc::new(ManualClock::new(Timestamp::EPOCH));
        let opened = LogStore::open(config, key, clock.clone()).unwrap();
        let opened = Self {
            store: opened.store,
            ledger: opened.ledger,
            archiver: opened.archiver,
            report: opened.report,
            clock,
        };
        // As if it were opened a minute after the last entry of the fixture.
        let last = opened.entries().pop().unwrap();
        opened.clock.set(last.time.plus(Duration::from_secs(60)));
        opened
    }

    fn entries(&self) -> Vec<Entry> {
        let entries = self.ledger.entries(0..self.ledger.size()).unwrap();
        entries
            .map(|entry| Entry::parse(&entry.unwrap().1).unwrap())
            .collect()
    }

    fn now(&self) -> Timestamp {
        taskpass_core::Clock::now(&*self.clock)
    }
}

/// Offline, as an auditor does it.
fn verify(dir: &Path) -> u64 {
    let key = fs::read_to_string(dir.join("ledger.vkey")).unwrap();
    let key = key.trim().parse().unwrap();
    let verified = verify_dir(&dir.join("ledger"), &key, None, &mut |_| ()).unwrap();
    verified.entries + verified.unsigned
}

/// The ids and names in the entries.
#[derive(Default)]
struct Named {
    tasks: BTreeSet<TaskId>,
    credentials: BTreeSet<CredentialId>,
    tokens: BTreeSet<JoinTokenId>,
    serials: BTreeSet<String>,
    keys: BTreeSet<(SpiffeId, String)>,
}

impl Named {
    /// From the JSON alone, so that it does not depend on how events are written in Rust.
    fn of(entries: &[Entry]) -> Self {
        let mut named = Self::default();
        for entry in entries {
            let event = serde_json::to_value(&entry.event).unwrap();
            named.note(&event);
        }
        named
    }

    fn note(&mut self, event: &Value) {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        match event["type"].as_str().unwrap() {
            "task_started" => {
                self.tasks
                    .insert(text(&event["task"]["id"]).parse().unwrap());
            }
            "credential_intended" => {
                let id = text(&event["credential"]["id"]);
                self.credentials.insert(id.parse().unwrap());
            }
            "join_token_created" => {
                self.tokens
                    .insert(text(&event["token"]["id"]).parse().unwrap());
            }
            "svid_issued" => {
                self.serials.insert(text(&event["svid"]["serial"]));
            }
            "operator_svid_issued" => {
                self.serials.insert(text(&event["serial"]));
            }
            _ => {}
        }
        if let Some(key) = event.get("idempotency").filter(|key| !key.is_null()) {
            let caller = text(&key["caller"]).parse().unwrap();
            self.keys.insert((caller, text(&key["key"])));
        }
    }
}

/// Everything that can be asked of the store, a line of JSON for each answer.
async fn listing(store: &LogStore, entries: &[Entry], now: Timestamp) -> Vec<String> {
    let named = Named::of(entries);
    let mut lines = records(store, &named).await;
    lines.extend(of_tasks(store, &named).await);
    lines.extend(work(store, now).await);
    for (index, entry) in entries.iter().enumerate().step_by(40) {
        let first = store.first_index_since(entry.time).await.unwrap();
        lines.push(json!({"since": entry.time, "entry": index, "first": first}));
    }
    lines.into_iter().map(|line| line.to_string()).collect()
}

async fn records(store: &LogStore, named: &Named) -> Vec<Value> {
    let page = Page::first();
    let mut lines = Vec::new();
    for agent in store.list_agents(&page).await.unwrap().rows {
        let usage = store.usage_of_agent(&agent.name).await.unwrap();
        let holds = [usage.open_tasks, usage.live_credentials, usage.join_tokens];
        lines.push(json!({"agent": *agent, "holds": holds}));
    }
    for id in &named.tokens {
        let token = store.join_token(*id).await.unwrap();
        lines.push(json!({"join_token": id, "is": token.as_deref()}));
    }
    for serial in &named.serials {
        let svid = store.svid(serial).await.unwrap();
        lines.push(json!({"svid": serial, "is": svid.as_deref()}));
    }
    for (caller, key) in &named.keys {
        let made = store.idempotent(caller, key).await.unwrap();
        let made = made.map(|made| (made.request_sha256, made.subject));
        lines.push(json!({"key": key, "of": caller, "made": made}));
    }
    let tasks = store.list_tasks(&TaskFilter::default(), &page).await;
    let ids: Vec<_> = tasks.unwrap().rows.iter().map(|task| task.id).collect();
    assert!(ids.iter().rev().eq(&named.tasks));
    let filter = CredentialFilter::default();
    let credentials = store.list_credentials(&filter, &page).await.unwrap().rows;
    let ids: Vec<_> = credentials.iter().map(|c| c.id).collect();
    assert!(ids.iter().rev().eq(&named.credentials));
    for id in &named.credentials {
        let credential = store.credential(*id).await.unwrap().unwrap();
        lines.push(json!({"credential": *credential, "shown": credential.shown_state()}));
    }
    lines
}

async fn of_tasks(store: &LogStore, named: &Named) -> Vec<Value> {
    let mut lines = Vec::new();
    for id in &named.tasks {
        let credentials = store.credentials_of_task(*id).await.unwrap();
        let ids: Vec<_> = credentials.iter().map(|c| c.id).collect();
        let anchors = store.anchors_of_task(*id).await.unwrap();
        let anchors: Vec<_> = anchors.iter().map(|anchor| anchor.as_ref()).collect();
        lines.push(json!({
            "task": store.task(*id).await.unwrap().as_deref(),
            "credentials": ids,
            "live": store.live_in_task(*id).await.unwrap(),
            "anchors": anchors,
            "below": store.descendants(*id).await.unwrap(),
            "entries": store.entries_of_task(*id, 0, 10_000).await.unwrap(),
        }));
    }
    lines
}

async fn work(store: &LogStore, now: Timestamp) -> Vec<Value> {
    let mut lines = Vec::new();
    let provider: ProviderName = "vault-main".parse().unwrap();
    let usage = store.usage_of_provider(&provider).await.unwrap();
    lines.push(json!({"provider": provider, "holds": [usage.live_credentials, usage.revoking]}));
    for wait in [0, 30, 3600, 86_400] {
        let at = now.plus(Duration::from_secs(wait));
        let work = store.work(at, 100).await.unwrap();
        lines.push(json!({
            "after": wait,
            "overdue": work.overdue_tasks,
            "ending": work.ending_tasks,
            "expired": work.expired_credentials,
            "interrupted": work.interrupted,
            "next": work.next,
        }));
        let revocations = store.revocations(at, 100).await.unwrap();
        let due = revocations.due.iter();
        let due: Vec<_> = due
            .map(|due| json!([due.provider, due.task, due.credentials, due.attempts]))
            .collect();
        lines.push(json!({"after": wait, "due": due, "next_retry": revocations.next}));
    }
    lines
}

/// Compares with the listing that came with the fixture, line by line as JSON, since the order of
/// the keys depends on which packages are built together.
fn compare(lines: &[String], what: &str) {
    let written = fs::read_to_string(fixture().join("listing.jsonl")).unwrap();
    let value = |line: &str| serde_json::from_str::<Value>(line).unwrap();
    let expected: Vec<Value> = written.lines().map(value).collect();
    let found: Vec<Value> = lines.iter().map(|line| value(line)).collect();
    if found != expected {
        let seen = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("listing-{what}.jsonl"));
        fs::write(&seen, lines.join("\n") + "\n").unwrap();
        let differs = found.iter().zip(&expected).find(|(a, b)| a != b);
        panic!(
            "{what}: {differs:?}; all of it stands in `{}`",
            seen.display()
        );
    }
}

#[tokio::test]
async fn a_ledger_with_an_index_of_its_time_is_opened_and_serves() {
    let dir = data();
    let entries = verify(dir.path());
    let opened = Opened::new(dir.path());
    // Nothing binds the records of an index of that time to the ledger, so it is not believed.
    let rebuilt = opened.report.index.rebuilt.as_deref();
    assert_eq!(rebuilt, Some("it has format 5, not 6"));
    // Building the index again adds an entry of its own, which no listing shows.
    assert_eq!(opened.ledger.size(), entries + 1);
    let entries = opened.entries();
    let lines = listing(&opened.store, &entries, opened.now()).await;
    compare(&lines, "opened");
    take_more(&opened, dir.path()).await;
}

#[tokio::test]
async fn a_ledger_alone_gives_the_same() {
    let dir = data();
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    let entries = verify(dir.path());
    let opened = Opened::new(dir.path());
    let rebuilt = opened.report.index.rebuilt.as_deref();
    assert_eq!(rebuilt, Some("it was missing"));
    // Building the index again adds an entry of its own, which no listing shows.
    assert_eq!(opened.ledger.size(), entries + 1);
    let entries = opened.entries();
    let lines = listing(&opened.store, &entries, opened.now()).await;
    compare(&lines, "rebuilt");
    take_more(&opened, dir.path()).await;
}

/// An old ledger goes to an archive as a whole. The store then opens without it, and builds a lost
/// index again from archive and rest.
#[tokio::test]
async fn a_ledger_in_an_archive_gives_the_same() {
    let (dir, elsewhere) = (data(), tempfile::tempdir().unwrap());
    let archive = elsewhere.path().join("archive");
    let mut config = Config {
        segment_bytes: 64,
        ..Config::new(dir.path())
    };
    let size = verify(dir.path());
    // Building the index again adds an entry, which begins another segment.
    let opened = Opened::with(&config);
    opened.store.seal().await.unwrap();
    opened.store.flush_index().await.unwrap();
    assert_eq!(opened.archiver.cuts(), [size]);
    opened.archiver.begin(&archive).unwrap();
    let copied = opened.archiver.copy(size, &archive, &mut |_| ()).unwrap();
    opened.archiver.forget(&copied.unwrap()).unwrap();
    opened.store.close().await.unwrap();
    drop(opened);

    let key = || SigningKey::load(ORIGIN, &dir.path().join("ledger.key")).unwrap();
    let clock = || Arc::new(ManualClock::new(Timestamp::EPOCH));
    let opened = LogStore::open(&config, key(), clock()).unwrap();
    assert_eq!(opened.report.index.rebuilt, None);
    assert_eq!(opened.report.ledger.first, size);
    opened.store.close().await.unwrap();
    drop(opened);

    fs::remove_dir_all(dir.path().join("index")).unwrap();
    // The archive is unknown, or not mounted: nothing is begun.
    for unknown in [None, Some(elsewhere.path().join("empty"))] {
        config.archive = unknown;
        let refused = LogStore::open(&config, key(), clock()).unwrap_err();
        assert!(
            refused.to_string().contains("[ledger] archive"),
            "{refused}"
        );
        assert!(!dir.path().join("index").exists());
    }
    config.archive = Some(archive);
    let opened = Opened::with(&config);
    let rebuilt = opened.report.index.rebuilt.as_deref();
    assert_eq!(rebuilt, Some("it was missing"));
    // Each of the two times that the index was built again added an entry.
    let mut entries = opened.entries();
    entries.pop();
    assert_eq!(entries.len() as u64, size + 1);
    let lines = listing(&opened.store, &entries, opened.now()).await;
    compare(&lines, "archived");
}

/// The same entries over a log in memory: the store is one and the same over each log.
#[tokio::test]
async fn a_log_in_memory_gives_the_same() {
    let dir = data();
    let opened = Opened::new(dir.path());
    let entries = opened.entries();
    let bytes = opened.ledger.entries(0..opened.ledger.size()).unwrap();
    let log = MemoryLog::new(bytes.map(|entry| entry.unwrap().1).collect());
    let store = LogStore::in_memory(&log, opened.clock.clone()).unwrap();
    assert_eq!(store.last_time(), entries.last().unwrap().time);
    let lines = listing(&store, &entries, opened.now()).await;
    compare(&lines, "in-memory");
    assert!(opened.store.matches(&log).unwrap());
}

/// New entries fit the old ones: a used id stays used, live credentials are revoked, and the
/// history verifies.
async fn take_more(opened: &Opened, dir: &Path) {
    let store = &opened.store;
    let entries = opened.entries();
    let ended = TaskFilter {
        state: Some(taskpass_core::TaskState::Ended),
        ..TaskFilter::default()
    };
    let ended = store.list_tasks(&ended, &Page::first()).await.unwrap();
    let ended = ended.rows.first().unwrap().id;
    let again = entries
        .iter()
        .map(|entry| &entry.event)
        .find(|event| matches!(event, Event::TaskStarted { task, .. } if task.id == ended));
    let again = store.commit(Batch::new([again.unwrap().clone()])).await;
    assert!(again.is_err(), "the id of an ended task is used twice");

    let open = store.open_tasks().await.unwrap();
    let live = CredentialFilter {
        live: true,
        ..CredentialFilter::default()
    };
    let live = store.list_credentials(&live, &Page::first()).await.unwrap();
    let active = |c: &&Arc<taskpass_core::Credential>| {
        c.state == taskpass_core::CredentialState::Active && open.iter().any(|t| t.id == c.task)
    };
    let credential = live.rows.iter().find(active).unwrap().id;
    let revoking = Event::CredentialRevoking {
        credential,
        cause: RevokeCause::Requested,
        by: Actor::Broker,
    };
    store.commit(Batch::reserved([revoking])).await.unwrap();
    store.seal().await.unwrap();
    store.close().await.unwrap();
    assert_eq!(verify(dir), opened.ledger.size());

    let again = copy_of(dir);
    let again = Opened::new(again.path());
    assert_eq!(again.report.index.rebuilt, None);
    assert_eq!(again.report.index.replayed, 0);
    let revoking = again.store.credential(credential).await.unwrap().unwrap();
    assert_eq!(revoking.state.as_str(), "revoking");
}

fn copy_of(dir: &Path) -> TempDir {
    let other = tempfile::tempdir().unwrap();
    copy(dir, other.path());
    other
}
