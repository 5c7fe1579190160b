//! The broker's store: the real rules in memory, and a disk that fills up, breaks, and loses
//! batches that were not acknowledged.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use parking_lot::Mutex;
use taskpass_core::{
    Agent, AgentName, Anchor, Credential, CredentialId, Identity, JoinTokenId, ProviderName,
    RecordedRoot, RootNumber, SpiffeId, Task, TaskId, Timestamp,
};
use taskpass_store::{
    Batch, CommitError, Committed, CredentialFilter, Guard, IdempotencyRecord, InOrder,
    JoinTokenRecord, Listing, LogStore, MemoryLog, Page, Priority, ProviderUsage, Revocations,
    RootUse, Store, StoreError, SupersededSvid, SvidRecord, TaskFilter, Usage, Work,
};
use tokio::sync::{oneshot, watch};

use super::{
    fate::Fate,
    oracle::Oracle,
    time::{SimTime, SimTimer},
};
use crate::Timer as _;

/// Places that a sync passes at most while the broker goes on.
const SYNC_PLACES: u64 = 12;

/// How much room the disk has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Room {
    #[default]
    Enough,
    /// Only commits from the reserve, for revocations and refusals, still fit.
    Reserve,
    None,
}

#[derive(Debug, Default)]
struct Disk {
    room: Room,
    /// The next sync fails; the value says whether the batch reaches the disk all the same.
    fails_next: Option<bool>,
    /// After a failed sync the disk takes no batch any more.
    broken: bool,
    /// The entries on the disk after a failed sync, if they are more than were acknowledged.
    unacknowledged: Option<Vec<Vec<u8>>>,
}

/// A store that one broker process has open.
#[derive(Debug)]
pub(super) struct SimStore {
    memory: LogStore,
    log: MemoryLog,
    time: Arc<SimTime>,
    fate: Arc<Fate>,
    oracle: Arc<Oracle>,
    disk: Mutex<Disk>,
    /// Held while batches reach the disk: those after them wait to be decided.
    syncing: Arc<tokio::sync::Mutex<()>>,
    me: Weak<Self>,
}

impl SimStore {
    pub(super) fn open(
        entries: Vec<Vec<u8>>,
        time: &Arc<SimTime>,
        fate: &Arc<Fate>,
        oracle: &Arc<Oracle>,
    ) -> Arc<Self> {
        let clock = Arc::<SimTime>::clone(time);
        let log = MemoryLog::new(entries);
        Arc::new_cyclic(|me| Self {
            memory: LogStore::in_memory(&log, clock).unwrap(),
            log,
            time: Arc::clone(time),
            fate: Arc::clone(fate),
            oracle: Arc::clone(oracle),
            disk: Mutex::default(),
            syncing: Arc::default(),
            me: Weak::clone(me),
        })
    }

    /// Shows the oracle the ledger that the starting broker finds.
    pub(super) fn show_ledger(&self) {
        self.oracle.read_ledger(&self.log);
    }

    /// The ledger that the next broker process finds.
    pub(super) fn left_behind(&self) -> Vec<Vec<u8>> {
        let unacknowledged = self.disk.lock().unacknowledged.take();
        unacknowledged.unwrap_or_else(|| self.log.since(0))
    }

    pub(super) fn set_room(&self, room: Room) {
        self.disk.lock().room = room;
    }

    pub(super) fn fail_next_sync(&self, is_written: bool) {
        self.disk.lock().fails_next = Some(is_written);
    }

    pub(super) fn is_broken(&self) -> bool {
        self.disk.lock().broken
    }

    pub(super) fn mend(&self) {
        let mut disk = self.disk.lock();
        disk.room = Room::Enough;
        disk.fails_next = None;
    }

    /// Whether replaying the ledger gives the present state.
    pub(super) fn replays(&self) -> bool {
        self.memory.matches(&self.log).unwrap()
    }

    fn refusal(&self, batch: &Batch) -> Option<CommitError> {
        let mut disk = self.disk.lock();
        if disk.broken {
            return Some(broken());
        }
        if batch.events.is_empty() {
            return None;
        }
        let fits = match disk.room {
            Room::Enough => true,
            Room::Reserve => batch.priority != Priority::Normal,
            Room::None => false,
        };
        if !fits {
            return Some(CommitError::DiskFull);
        }
        let is_written = disk.fails_next.take()?;
        disk.broken = true;
        if is_written {
            disk.unacknowledged = Some(self.shadow(batch).1);
        }
        Some(broken())
    }

    /// What would become of the batch, and of the entries.
    fn shadow(&self, batch: &Batch) -> (Result<Committed, CommitError>, Vec<Vec<u8>>) {
        let clock = Arc::<SimTime>::clone(&self.time);
        let log = MemoryLog::new(self.log.since(0));
        let shadow = LogStore::in_memory(&log, clock).unwrap();
        let committed = shadow.commit(batch.clone()).now_or_never();
        (committed.unwrap_or_else(|| Err(broken())), log.since(0))
    }

    /// Writes a batch that is in order, while the broker goes on. A kill loses it.
    async fn sync(&self, batch: Batch) -> Result<Committed, CommitError> {
        if self.fate.wrong(250) {
            self.fate.kill_at(self.fate.below(3 * SYNC_PLACES));
        }
        for _ in 0..self.fate.below(SYNC_PLACES) {
            self.fate.place().await;
        }
        if self.fate.percent(20) {
            let slow = Duration::from_millis(self.fate.between(1, 200));
            SimTimer(Arc::clone(&self.time)).sleep(slow).await;
            self.fate.place().await;
        }
        if let Some(refusal) = self.refusal(&batch) {
            return Err(refusal);
        }
        let committed = self.memory.commit(batch).await;
        self.oracle.read_ledger(&self.log);
        committed
    }
}

fn broken() -> CommitError {
    CommitError::Unavailable("a sync failed".to_owned())
}

#[async_trait]
impl Store for SimStore {
    async fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        self.fate.place().await;
        let syncing = self.syncing.lock().await;
        if let Some(refusal) = self.refusal(&batch) {
            return Err(refusal);
        }
        let committed = self.memory.commit(batch).await;
        self.oracle.read_ledger(&self.log);
        drop(syncing);
        self.fate.place().await;
        committed
    }

    async fn commit_in_order(&self, batch: Batch) -> Result<InOrder, CommitError> {
        self.fate.place().await;
        let syncing = Arc::clone(&self.syncing).lock_owned().await;
        if self.is_broken() {
            return Err(broken());
        }
        self.shadow(&batch).0?;
        self.oracle.in_order(&batch);
        let (done, outcome) = oneshot::channel();
        if let Some(store) = self.me.upgrade() {
            tokio::spawn(async move {
                let synced = store.sync(batch).await;
                drop(syncing);
                drop(done.send(synced));
            });
        }
        self.fate.place().await;
        let durable = async { outcome.await.unwrap_or_else(|_| Err(broken())) };
        Ok(InOrder::new(durable))
    }

    async fn holds(&self, guards: &[Guard]) -> Result<bool, StoreError> {
        self.fate.others_first().await;
        self.memory.holds(guards).await
    }

    async fn agent(&self, name: &AgentName) -> Result<Option<Arc<Agent>>, StoreError> {
        self.fate.others_first().await;
        self.memory.agent(name).await
    }

    async fn join_token(
        &self,
        id: JoinTokenId,
    ) -> Result<Option<Arc<JoinTokenRecord>>, StoreError> {
        self.memory.join_token(id).await
    }

    async fn svid(&self, serial: &str) -> Result<Option<Arc<SvidRecord>>, StoreError> {
        self.fate.others_first().await;
        self.memory.svid(serial).await
    }

    async fn superseded_svid(
        &self,
        serial: &str,
    ) -> Result<Option<Arc<SupersededSvid>>, StoreError> {
        self.memory.superseded_svid(serial).await
    }

    async fn root_use(&self, root: RootNumber) -> Result<RootUse, StoreError> {
        self.fate.others_first().await;
        self.memory.root_use(root).await
    }

    async fn recorded_roots(&self) -> Result<BTreeMap<RootNumber, RecordedRoot>, StoreError> {
        self.fate.others_first().await;
        self.memory.recorded_roots().await
    }

    async fn svids_of(&self, holder: &Identity) -> Result<usize, StoreError> {
        self.fate.others_first().await;
        self.memory.svids_of(holder).await
    }

    async fn task(&self, id: TaskId) -> Result<Option<Arc<Task>>, StoreError> {
        self.fate.others_first().await;
        self.memory.task(id).await
    }

    async fn credential(&self, id: CredentialId) -> Result<Option<Arc<Credential>>, StoreError> {
        self.fate.others_first().await;
        self.memory.credential(id).await
    }

    async fn credentials_of_task(&self, task: TaskId) -> Result<Vec<Arc<Credential>>, StoreError> {
        self.fate.others_first().await;
        self.memory.credentials_of_task(task).await
    }

    async fn anchors_of_task(&self, task: TaskId) -> Result<Vec<Arc<Anchor>>, StoreError> {
        self.fate.others_first().await;
        self.memory.anchors_of_task(task).await
    }

    async fn descendants(&self, task: TaskId) -> Result<Vec<TaskId>, StoreError> {
        self.fate.others_first().await;
        self.memory.descendants(task).await
    }

    async fn idempotent(
        &self,
        caller: &SpiffeId,
        key: &str,
    ) -> Result<Option<IdempotencyRecord>, StoreError> {
        self.memory.idempotent(caller, key).await
    }

    async fn usage_of_agent(&self, name: &AgentName) -> Result<Usage, StoreError> {
        self.memory.usage_of_agent(name).await
    }

    async fn open_tasks_of_agent(&self, name: &AgentName) -> Result<Vec<TaskId>, StoreError> {
        self.memory.open_tasks_of_agent(name).await
    }

    async fn live_in_task(&self, id: TaskId) -> Result<u32, StoreError> {
        self.memory.live_in_task(id).await
    }

    async fn usage_of_provider(&self, name: &ProviderName) -> Result<ProviderUsage, StoreError> {
        self.memory.usage_of_provider(name).await
    }

    async fn revocations(&self, now: Timestamp, limit: usize) -> Result<Revocations, StoreError> {
        self.fate.others_first().await;
        self.memory.revocations(now, limit).await
    }

    async fn work(&self, now: Timestamp, limit: usize) -> Result<Work, StoreError> {
        self.fate.others_first().await;
        self.memory.work(now, limit).await
    }

    async fn open_tasks(&self) -> Result<Vec<Arc<Task>>, StoreError> {
        self.memory.open_tasks().await
    }

    async fn list_agents(&self, page: &Page) -> Result<Listing<Arc<Agent>>, StoreError> {
        self.memory.list_agents(page).await
    }

    async fn list_join_tokens(
        &self,
        agent: Option<&AgentName>,
        page: &Page,
    ) -> Result<Listing<Arc<JoinTokenRecord>>, StoreError> {
        self.memory.list_join_tokens(agent, page).await
    }

    async fn list_tasks(
        &self,
        filter: &TaskFilter,
        page: &Page,
    ) -> Result<Listing<Arc<Task>>, StoreError> {
        self.memory.list_tasks(filter, page).await
    }

    async fn list_credentials(
        &self,
        filter: &CredentialFilter,
        page: &Page,
    ) -> Result<Listing<Arc<Credential>>, StoreError> {
        self.memory.list_credentials(filter, page).await
    }

    async fn entries_of_task(
        &self,
        task: TaskId,
        from: u64,
        limit: usize,
    ) -> Result<Vec<u64>, StoreError> {
        self.memory.entries_of_task(task, from, limit).await
    }

    async fn first_index_since(&self, time: Timestamp) -> Result<u64, StoreError> {
        self.memory.first_index_since(time).await
    }

    async fn seal(&self) -> Result<(), StoreError> {
        self.memory.seal().await
    }

    fn last_time(&self) -> Timestamp {
        self.memory.last_time()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.memory.changes()
    }
}
