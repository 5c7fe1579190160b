//! The store as a whole: threads, files, races, crashes and damage.

mod clock;
mod crash;
mod imaged;
mod in_order;
mod listing;
mod log;
mod sealed;

use std::{path::Path, sync::Arc, time::Duration};

use taskpass_core::{Clock, Event, ManualClock, SeededEntropy, Task};
use taskpass_ledger::{Reader, SigningKey, disk::FaultyDisk};
use tempfile::TempDir;

use super::{Config, LogStore, OpenReport, Opened};
use crate::{
    Batch, CommitError, Committed, DueRevocation, Guard, GuardFailure, Page, Store, StoreError,
    Subject,
    testing::{
        HOUR, NOW, abandoned, admin, agent, agent_name, anchor, child, credential_id, ended,
        ending, initialized, intended, issued, joined, key, keyed, new_task, operator_svid,
        revoked, revoking, role, started, svid, svid_activated, svid_issued, task_id, token,
        token_id,
    },
};

/// A store in a directory of its own.
struct Fixture {
    dir: TempDir,
    clock: Arc<ManualClock>,
    disk: Arc<FaultyDisk>,
    store: Option<Arc<LogStore>>,
    ledger: Option<Reader>,
}

fn key_in(dir: &Path) -> SigningKey {
    let file = dir.join("ledger.key");
    let origin = "taskpass/acme.test";
    if file.exists() {
        SigningKey::load(origin, &file).unwrap()
    } else {
        SigningKey::generate(origin, &file, &SeededEntropy::new(1)).unwrap()
    }
}

impl Fixture {
    async fn new() -> Self {
        let mut fixture = Self::empty();
        fixture.open();
        let first = Batch::new([initialized(), agent(1), agent(2)]);
        fixture.store().commit(first).await.unwrap();
        fixture
    }

    fn empty() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            clock: Arc::new(ManualClock::new(NOW)),
            disk: Arc::new(FaultyDisk::default()),
            store: None,
            ledger: None,
        }
    }

    fn open(&mut self) -> OpenReport {
        let opened = self.try_open(self.dir.path()).unwrap();
        self.store = Some(Arc::new(opened.store));
        self.ledger = Some(opened.ledger);
        opened.report
    }

    fn try_open(&self, dir: &Path) -> Result<Opened, crate::OpenError> {
        let config = Config {
            disk: Arc::clone(&self.disk) as _,
            ..Config::new(dir)
        };
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        LogStore::open(&config, key_in(self.dir.path()), clock)
    }

    fn store(&self) -> &Arc<LogStore> {
        self.store.as_ref().unwrap()
    }

    fn ledger(&self) -> &Reader {
        self.ledger.as_ref().unwrap()
    }

    async fn all(&self, events: impl IntoIterator<Item = Event>) -> Committed {
        self.store().commit(Batch::new(events)).await.unwrap()
    }

    async fn reopen(&mut self) -> OpenReport {
        self.store().close().await.unwrap();
        self.store = None;
        self.open()
    }

    /// Everything that can be asked, for comparing a store before and after.
    async fn everything(&self, tasks: u64) -> String {
        everything(self.store(), tasks).await
    }
}

async fn everything(store: &LogStore, tasks: u64) -> String {
    let mut text = format!("{:?}", store.shared.state.read());
    // Hash maps print in any order.
    let mut letters: Vec<char> = text.chars().collect();
    letters.sort_unstable();
    text = letters.into_iter().collect();
    for n in 0..tasks {
        let id = task_id(n);
        text += &format!(
            "{:?} {:?} {:?} {:?}\n",
            store.task(id).await.unwrap(),
            store.credentials_of_task(id).await.unwrap(),
            store.anchors_of_task(id).await.unwrap(),
            store.entries_of_task(id, 0, 1000).await.unwrap(),
        );
    }
    let page = Page::first();
    text += &format!("{:?}", store.list_agents(&page).await.unwrap());
    text += &format!(
        "{:?}",
        store.list_tasks(&Default::default(), &page).await.unwrap()
    );
    text += &format!(
        "{:?}",
        store
            .list_credentials(&Default::default(), &page)
            .await
            .unwrap()
    );
    text
}

/// A history with everything in it: live, ending and ended tasks.
async fn furnish(fixture: &Fixture) {
    let top = new_task(1, 1);
    // The first use of a login ends all tasks of its agent.
    fixture
        .all([token(1, 1), token(2, 1), joined("s1", 1, 1)])
        .await;
    fixture
        .all([Event::SvidActivated {
            serial: "s1".to_owned(),
        }])
        .await;
    fixture
        .all([
            started(top.clone()),
            started(child(2, 2, &top)),
            started(new_task(3, 1)),
        ])
        .await;
    fixture
        .all([svid_issued(svid("s2", 1, Some(task_id(3))))])
        .await;
    fixture
        .all([
            intended(1, 1, 1),
            issued(1),
            intended(2, 2, 2),
            anchor(1, 2),
            keyed(intended(3, 3, 1), "three"),
            issued(3),
        ])
        .await;
    fixture.all([ending(1), revoked(1)]).await;
    let other = Event::TaskStarted {
        task: new_task(4, 2),
        idempotency: key("four", "request"),
    };
    fixture
        .all([
            other,
            keyed(intended(4, 4, 2), "ended"),
            issued(4),
            intended(5, 4, 2),
            ending(4),
            revoked(4),
            abandoned(5),
            ended(4),
        ])
        .await;
}

#[tokio::test]
async fn committed_records_can_be_read_alive_and_as_history() {
    let mut fixture = Fixture::new().await;
    furnish(&fixture).await;
    let before = fixture.everything(6).await;
    assert_furnished(fixture.store()).await;

    let report = fixture.reopen().await;
    assert_eq!((report.index.rebuilt, report.index.replayed), (None, 0));
    assert_eq!(fixture.everything(6).await, before);
    assert_eq!(
        fixture.ledger().checkpoint().size(),
        fixture.ledger().size()
    );
    // Used ids stay used after a restart, when only the index knows them.
    let again = fixture
        .store()
        .commit(Batch::new([started(new_task(4, 1))]))
        .await;
    assert!(matches!(again, Err(CommitError::Conflict(_))));
}

async fn assert_furnished(store: &LogStore) {
    // Ended, and so only in the index.
    assert_eq!(
        store
            .task(task_id(4))
            .await
            .unwrap()
            .unwrap()
            .state
            .as_str(),
        "ended"
    );
    assert_eq!(
        store.credentials_of_task(task_id(4)).await.unwrap().len(),
        2
    );
    assert_eq!(
        store
            .credential(credential_id(5))
            .await
            .unwrap()
            .unwrap()
            .state
            .as_str(),
        "abandoned"
    );
    assert_eq!(
        store
            .entries_of_task(task_id(4), 0, 100)
            .await
            .unwrap()
            .len(),
        10
    );
    assert_eq!(store.task(task_id(99)).await.unwrap(), None);
    let made = store.idempotent(&admin(), "four").await.unwrap().unwrap();
    assert_eq!(made.subject, Subject::Task(task_id(4)));
    assert_eq!(store.live_in_task(task_id(1)).await.unwrap(), 1);
    let at_provider = store.usage_of_provider(role().provider()).await.unwrap();
    assert_eq!((at_provider.live_credentials, at_provider.revoking), (2, 1));
    assert_eq!(
        store
            .usage_of_agent(&agent_name(1))
            .await
            .unwrap()
            .join_tokens,
        1
    );
    assert!(store.join_token(token_id(1)).await.unwrap().unwrap().used);
    assert!(store.svid("s1").await.unwrap().is_some());
    let revocations = store.revocations(NOW, 10).await.unwrap();
    assert_eq!(
        revocations.due,
        [DueRevocation {
            provider: role().provider().clone(),
            task: task_id(2),
            agent: agent_name(2),
            credentials: vec![credential_id(2)],
            attempts: 0,
        }]
    );
}

#[tokio::test]
async fn operators_svids_survive_a_restart_and_a_new_index() {
    let mut fixture = Fixture::empty();
    fixture.open();
    fixture
        .all([initialized(), operator_svid("o0", None)])
        .await;
    fixture
        .all([svid_activated("o0"), operator_svid("o1", Some("o0"))])
        .await;
    for rebuild in [false, true] {
        fixture.reopen().await;
        let pending = fixture.store().svid("o1").await.unwrap().unwrap();
        assert_eq!(pending.state, taskpass_core::SvidState::Pending);
        assert_eq!(pending.key_sha256, "key of o1");
        assert!(fixture.store().svid("o0").await.unwrap().is_some());
        if rebuild {
            fixture.all([svid_activated("o1")]).await;
        }
        fixture.store().close().await.unwrap();
        let size = fixture.ledger().size();
        fixture.store = None;
        std::fs::remove_dir_all(fixture.dir.path().join("index")).unwrap();
        assert_eq!(fixture.open().index.replayed, size);
    }
    for _ in 0..2 {
        assert_eq!(fixture.store().svid("o0").await.unwrap(), None);
        assert!(fixture.store().svid("o1").await.unwrap().is_some());
        fixture.reopen().await;
    }
}

/// An expired record takes no room: not in memory, not in the readers' copy, not in the index.
#[tokio::test]
async fn expired_records_are_forgotten_everywhere() {
    let mut fixture = Fixture::new().await;
    let task = Event::TaskStarted {
        task: new_task(1, 1),
        idempotency: key("once", "request"),
    };
    fixture
        .all([token(1, 1), joined("s1", 1, 1), token(2, 1), task])
        .await;
    fixture.clock.advance(49 * HOUR);
    let now = fixture.clock.now();
    let stale = |fixture: &Fixture| fixture.store().shared.state.read().stale(now).len();
    assert_eq!(stale(&fixture), 4);
    fixture.all([agent(3)]).await;
    assert_eq!(stale(&fixture), 0);
    let report = fixture.reopen().await;
    assert_eq!((report.index.rebuilt, report.index.replayed), (None, 0));
    assert_eq!(stale(&fixture), 0);
}

#[tokio::test]
async fn one_token_gives_one_identity_however_many_ask() {
    let fixture = Fixture::new().await;
    fixture.all([token(1, 1)]).await;
    let attempts: Vec<_> = (0..64)
        .map(|n| {
            let batch = Batch::new([joined(&format!("s{n}"), 1, 1)]);
            let store = Arc::clone(fixture.store());
            async move { store.commit(batch).await }
        })
        .collect();
    let outcomes = all_at_once(attempts).await;
    assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), 1);
    let used = Err(CommitError::Guard(GuardFailure::JoinTokenUsed(token_id(1))));
    assert_eq!(outcomes.iter().filter(|o| **o == used).count(), 63);
}

/// Runs futures on the test's runtime, all started before any is awaited.
async fn all_at_once<T: Send + 'static>(
    futures: Vec<impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let mut set = tokio::task::JoinSet::new();
    for future in futures {
        set.spawn(future);
    }
    set.join_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_are_never_overshot_and_never_left_unused() {
    let fixture = Fixture::new().await;
    let top = Task {
        max_credentials: 10,
        ..new_task(1, 1)
    };
    let below = Task {
        max_credentials: 10,
        ..child(2, 2, &top)
    };
    fixture.all([started(top), started(below)]).await;
    let attempts: Vec<_> = (0..64)
        .map(|n| {
            let task = n % 2 + 1;
            let batch = Batch::new([intended(n, task, task)])
                .guard(Guard::TaskCredentialsWithin(task_id(task)));
            let store = Arc::clone(fixture.store());
            async move { store.commit(batch).await }
        })
        .collect();
    let outcomes = all_at_once(attempts).await;
    assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), 10);
    assert_eq!(fixture.store().live_in_task(task_id(1)).await.unwrap(), 10);
    let tasks: Vec<_> = (10..74)
        .map(|n| {
            let batch = Batch::new([started(new_task(n, 1))])
                .guard(Guard::AgentOpenTasksBelow(agent_name(1), 5));
            let store = Arc::clone(fixture.store());
            async move { store.commit(batch).await }
        })
        .collect();
    let outcomes = all_at_once(tasks).await;
    assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), 4);
}

#[tokio::test]
async fn a_batch_happens_whole_or_not_at_all() {
    let fixture = Fixture::new().await;
    let before = fixture.everything(3).await;
    let batch = Batch::new([started(new_task(1, 1)), intended(1, 1, 1), issued(9)]);
    assert!(matches!(
        fixture.store().commit(batch).await,
        Err(CommitError::Conflict(_))
    ));
    assert_eq!(fixture.everything(3).await, before);
    let committed = fixture
        .all([started(new_task(1, 1)), intended(1, 1, 1), issued(1)])
        .await;
    assert_eq!((committed.first_index, committed.time), (3, NOW));
    assert_eq!(
        fixture
            .store()
            .entries_of_task(task_id(1), 0, 10)
            .await
            .unwrap(),
        [3, 4, 5]
    );
    assert_eq!(
        fixture
            .store()
            .entries_of_task(task_id(1), 4, 1)
            .await
            .unwrap(),
        [4]
    );
}

#[tokio::test]
async fn ledger_time_never_goes_back_and_can_be_searched() {
    let fixture = Fixture::new().await;
    for n in 1..=3 {
        fixture.clock.advance(Duration::from_secs(10));
        fixture.all([started(new_task(n, 1))]).await;
    }
    fixture.clock.set(NOW);
    let late = fixture.all([started(new_task(4, 1))]).await;
    assert_eq!(late.time, NOW.plus(Duration::from_secs(30)));
    let store = fixture.store();
    for (seconds, first) in [(0, 0), (1, 3), (10, 3), (11, 4), (30, 5), (31, 7)] {
        let since = NOW.plus(Duration::from_secs(seconds));
        assert_eq!(
            store.first_index_since(since).await.unwrap(),
            first,
            "{seconds}"
        );
    }
}

/// Leaves the disk without room for a batch of normal priority.
async fn fill(fixture: &Fixture) {
    fixture.disk.set_free(Some(0));
    // Ever smaller batches fill the blocks that are allocated already.
    for (bytes, times) in [(60_000, 50), (60_000, 1), (10, 1)] {
        let filler = Event::IndexRebuilt {
            reason: "x".repeat(bytes),
        };
        let batch = Batch::new(vec![filler; times]);
        while fixture.store().commit(batch.clone()).await.is_ok() {}
    }
}

/// An id counts as used when the ledger has it, and not because a batch that was refused had it.
#[tokio::test]
async fn what_is_refused_uses_up_no_id() {
    let fixture = Fixture::new().await;
    let life = |n| [started(new_task(n, 1)), ending(n), ended(n)];
    fill(&fixture).await;
    let full = fixture.store().commit(Batch::new(life(2))).await;
    assert_eq!(full, Err(CommitError::DiskFull));
    fixture.disk.set_free(None);
    fixture.all(life(2)).await;
    let again = fixture.store().commit(Batch::new(life(2))).await;
    assert!(matches!(again, Err(CommitError::Conflict(_))), "{again:?}");

    let refused = life(1).into_iter().chain([ended(1)]);
    let refused = fixture.store().commit(Batch::new(refused)).await;
    assert!(
        matches!(refused, Err(CommitError::Conflict(_))),
        "{refused:?}"
    );
    fixture.all(life(1)).await;
}

#[tokio::test]
async fn a_full_disk_stops_giving_and_not_taking() {
    let mut fixture = Fixture::new().await;
    fixture
        .all([started(new_task(1, 1)), intended(1, 1, 1), issued(1)])
        .await;
    let before = fixture.everything(3).await;
    fill(&fixture).await;
    let full = fixture
        .store()
        .commit(Batch::new([started(new_task(2, 1))]))
        .await;
    assert_eq!(full, Err(CommitError::DiskFull));
    assert_eq!(fixture.store().task(task_id(2)).await.unwrap(), None);
    // Mixed with refused commits in the same group.
    let mut attempts = Vec::new();
    for n in 0..20 {
        let batch = if n == 7 {
            Batch::reserved([revoking(1), revoked(1)])
        } else {
            Batch::new([agent(50 + n)])
        };
        let store = Arc::clone(fixture.store());
        attempts.push(async move { (n, store.commit(batch).await) });
    }
    for (n, outcome) in all_at_once(attempts).await {
        if n == 7 {
            assert!(outcome.is_ok(), "{outcome:?}");
        } else {
            assert_eq!(outcome, Err(CommitError::DiskFull));
        }
    }
    assert_ne!(fixture.everything(3).await, before);
    fixture.disk.set_free(None);
    fixture.all([started(new_task(2, 1))]).await;
    let after = fixture.everything(3).await;
    fixture.reopen().await;
    assert_eq!(fixture.everything(3).await, after);
}

#[tokio::test]
async fn a_failed_sync_takes_everything_back() {
    let fixture = Fixture::new().await;
    let before = fixture.everything(3).await;
    fixture.disk.fail_syncs(1);
    fixture.disk.fail_cuts(1);
    let lost = fixture
        .store()
        .commit(Batch::new([started(new_task(1, 1))]))
        .await;
    assert!(matches!(lost, Err(CommitError::Unavailable(_))), "{lost:?}");
    assert_eq!(fixture.everything(3).await, before);
}

#[tokio::test]
async fn closing_ends_commits_and_not_reads() {
    let fixture = Fixture::new().await;
    fixture
        .all([started(new_task(1, 1)), ending(1), ended(1)])
        .await;
    fixture.store().close().await.unwrap();
    let late = fixture.store().commit(Batch::new([agent(5)])).await;
    assert!(matches!(late, Err(CommitError::Unavailable(_))));
    assert!(fixture.store().task(task_id(1)).await.unwrap().is_some());
    assert!(matches!(
        fixture.store().seal().await,
        Err(StoreError::Closed)
    ));
}

#[tokio::test]
async fn sealing_signs_the_last_entry() {
    let fixture = Fixture::new().await;
    let mut changes = fixture.store().changes();
    assert_eq!(*changes.borrow_and_update(), 3);
    fixture.all([token(1, 1)]).await;
    assert!(changes.has_changed().unwrap());
    fixture.store().seal().await.unwrap();
    assert_eq!(fixture.ledger().checkpoint().size(), 4);
}

#[tokio::test]
async fn a_batch_that_is_too_large_is_refused() {
    let fixture = Fixture::new().await;
    let many = (0..5000).map(agent);
    let refused = fixture.store().commit(Batch::new(many)).await;
    assert!(matches!(refused, Err(CommitError::TooLarge(_))));
    let mut task = new_task(1, 1);
    task.deadline = NOW.plus(HOUR);
    let long = Event::IndexRebuilt {
        reason: "x".repeat(70_000),
    };
    let refused = fixture
        .store()
        .commit(Batch::new([started(task), long]))
        .await;
    assert!(matches!(refused, Err(CommitError::TooLarge(_))));
}
