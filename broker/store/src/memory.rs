//! A store that keeps everything in memory and forgets it on drop, for tests and simulations.
//!
//! It decides with the same code as [`EmbeddedStore`](crate::EmbeddedStore), and has no thread, file or index: a batch
//! is durable, and seen by readers, in the moment it is committed. Whoever wants a crash takes the entries and opens
//! another store on them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
    sync::Arc,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use taskpass_core::{
    Agent, AgentName, Anchor, AnchorId, Clock, Credential, CredentialId, JoinTokenId, ProviderName,
    SpiffeId, Task, TaskId, Timestamp,
};
use tokio::sync::watch;

use crate::{
    Batch, CommitError, Committed, CredentialFilter, Entry, IdempotencyRecord, JoinTokenRecord,
    Listing, OpenError, Page, ProviderUsage, Revocations, Store, StoreError, SvidRecord,
    TaskFilter, Usage, Work,
    decider::{Decider, Group, Leavers},
    embedded::{one_page, place},
    entry,
    state::{Change, Effects, History, State, key_hash},
};

/// A [`Store`] in memory.
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    inner: Mutex<Inner>,
}

struct Inner {
    decider: Decider<Left>,
    entries: Vec<Vec<u8>>,
    history: Records,
    listeners: Vec<watch::Sender<u64>>,
}

impl MemoryStore {
    /// The store that a ledger of these entries gives; an empty one when there are none.
    pub fn open(entries: Vec<Vec<u8>>, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let mut history = Records::default();
        let state = replay(&entries, &mut history)?;
        let past = Left::default();
        let inner = Inner {
            decider: Decider { state, past },
            entries,
            history,
            listeners: Vec::new(),
        };
        Ok(Self {
            clock,
            inner: Mutex::new(inner),
        })
    }

    /// The ledger entries from `from` on.
    pub fn entries_since(&self, from: usize) -> Vec<Vec<u8>> {
        let inner = self.inner.lock();
        inner.entries.get(from..).unwrap_or_default().to_vec()
    }

    /// Whether replaying the entries gives the state there is, save what has lost its meaning by now.
    pub fn matches_its_entries(&self) -> Result<bool, OpenError> {
        let inner = self.inner.lock();
        let mut replayed = replay(&inner.entries, &mut Records::default())?;
        let mut live = inner.decider.state.clone();
        let now = self.clock.now().max(live.last_time());
        for state in [&mut replayed, &mut live] {
            for change in state.stale(now) {
                state.set(&change);
            }
        }
        Ok(replayed == live)
    }

    fn with<T>(&self, read: impl FnOnce(&State, &Records) -> T) -> T {
        let inner = self.inner.lock();
        read(&inner.decider.state, &inner.history)
    }
}

impl Inner {
    fn commit(&mut self, batch: &Batch, now: Timestamp) -> Result<Committed, CommitError> {
        let json = batch
            .events
            .iter()
            .map(entry::encode)
            .collect::<Result<Vec<_>, _>>()?;
        let mut group = Group::new(self.decider.state.next());
        let committed = self.decider.decide(batch, &json, now, &mut group)?;
        self.entries
            .extend(group.entries().iter().map(|entry| entry.to_vec()));
        self.history.keep(&group.changes, &group.ended);
        self.history.about.extend(group.about.iter().copied());
        let size = self.decider.state.next();
        self.listeners.retain(|listener| !listener.is_closed());
        for listener in &self.listeners {
            listener.send_replace(size);
        }
        Ok(committed)
    }
}

fn replay(entries: &[Vec<u8>], history: &mut Records) -> Result<State, OpenError> {
    let mut state = State::new();
    for (index, bytes) in (0..).zip(entries) {
        let broken = |reason: String| OpenError::Entry { index, reason };
        let entry = Entry::parse(bytes).map_err(|e| broken(e.to_string()))?;
        let effects = state.effects(&entry.event, entry.time);
        let Effects {
            mut changes,
            ended,
            about,
        } = effects.map_err(|e| broken(e.to_string()))?;
        changes.push(Change::Position(index + 1, entry.time));
        for change in &changes {
            state.set(change);
        }
        history.keep(&changes, ended.as_slice());
        history.about.extend(about.into_iter().map(|t| (t, index)));
    }
    Ok(state)
}

/// Every task, credential and anchor there ever was, as it last stood.
#[derive(Default)]
struct Records {
    tasks: BTreeMap<TaskId, Arc<Task>>,
    credentials: BTreeMap<CredentialId, Arc<Credential>>,
    anchors: BTreeMap<AnchorId, Arc<Anchor>>,
    of_task: HashMap<TaskId, OfTask>,
    /// Which entries are about which task.
    about: Vec<(TaskId, u64)>,
}

/// What hangs on a task.
#[derive(Default)]
struct OfTask {
    credentials: BTreeSet<CredentialId>,
    anchors: BTreeSet<AnchorId>,
}

impl Records {
    fn keep(&mut self, changes: &[Change], ended: &[Arc<Task>]) {
        for change in changes {
            match change {
                Change::Task(id, Some(task)) => drop(self.tasks.insert(*id, Arc::clone(task))),
                Change::Credential(id, Some(credential)) => {
                    let of_task = self.of_task.entry(credential.task).or_default();
                    of_task.credentials.insert(*id);
                    self.credentials.insert(*id, Arc::clone(credential));
                }
                Change::Anchor(id, Some(anchor)) => {
                    let of_task = self.of_task.entry(anchor.task).or_default();
                    of_task.anchors.insert(*id);
                    self.anchors.insert(*id, Arc::clone(anchor));
                }
                _ => {}
            }
        }
        for task in ended {
            self.tasks.insert(task.id, Arc::clone(task));
        }
    }
}

/// Identifiers that have left the state.
#[derive(Debug, Default)]
struct Left {
    tasks: HashSet<TaskId>,
    credentials: HashSet<CredentialId>,
    anchors: HashSet<AnchorId>,
}

impl Leavers for Left {
    fn note(&mut self, change: &Change, _position: u64) {
        match change {
            Change::Task(id, None) => drop(self.tasks.insert(*id)),
            Change::Credential(id, None) => drop(self.credentials.insert(*id)),
            Change::Anchor(id, None) => drop(self.anchors.insert(*id)),
            _ => {}
        }
    }
}

impl History for Left {
    fn knew_task(&self, id: TaskId) -> Result<bool, String> {
        Ok(self.tasks.contains(&id))
    }

    fn knew_credential(&self, id: CredentialId) -> Result<bool, String> {
        Ok(self.credentials.contains(&id))
    }

    fn knew_anchor(&self, id: AnchorId) -> Result<bool, String> {
        Ok(self.anchors.contains(&id))
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        self.inner.lock().commit(&batch, self.clock.now())
    }

    async fn agent(&self, name: &AgentName) -> Result<Option<Arc<Agent>>, StoreError> {
        Ok(self.with(|state, _| state.agent(name).cloned()))
    }

    async fn join_token(
        &self,
        id: JoinTokenId,
    ) -> Result<Option<Arc<JoinTokenRecord>>, StoreError> {
        Ok(self.with(|state, _| state.token(id).cloned()))
    }

    async fn svid(&self, serial: &str) -> Result<Option<Arc<SvidRecord>>, StoreError> {
        let now = self.clock.now();
        Ok(self.with(|state, _| state.live_svid(serial, now).cloned()))
    }

    async fn task(&self, id: TaskId) -> Result<Option<Arc<Task>>, StoreError> {
        Ok(self.with(|_, history| history.tasks.get(&id).cloned()))
    }

    async fn credential(&self, id: CredentialId) -> Result<Option<Arc<Credential>>, StoreError> {
        Ok(self.with(|_, history| history.credentials.get(&id).cloned()))
    }

    async fn credentials_of_task(&self, task: TaskId) -> Result<Vec<Arc<Credential>>, StoreError> {
        Ok(self.with(|_, history| {
            let ids = history
                .of_task
                .get(&task)
                .map(|of_task| &of_task.credentials);
            let ids = ids.into_iter().flatten();
            ids.filter_map(|id| history.credentials.get(id).cloned())
                .collect()
        }))
    }

    async fn anchors_of_task(&self, task: TaskId) -> Result<Vec<Arc<Anchor>>, StoreError> {
        Ok(self.with(|_, history| {
            let ids = history.of_task.get(&task).map(|of_task| &of_task.anchors);
            let ids = ids.into_iter().flatten();
            ids.filter_map(|id| history.anchors.get(id).cloned())
                .collect()
        }))
    }

    async fn descendants(&self, task: TaskId) -> Result<Vec<TaskId>, StoreError> {
        Ok(self.with(|state, _| state.descendants(task)))
    }

    async fn idempotent(
        &self,
        caller: &SpiffeId,
        key: &str,
    ) -> Result<Option<IdempotencyRecord>, StoreError> {
        let (hash, now) = (key_hash(caller, key), self.clock.now());
        Ok(self.with(|state, _| state.remembered(&hash, now).map(|key| key.record())))
    }

    async fn usage_of_agent(&self, name: &AgentName) -> Result<Usage, StoreError> {
        let now = self.clock.now();
        Ok(self.with(|state, _| state.usage(name, now)))
    }

    async fn live_in_task(&self, id: TaskId) -> Result<u32, StoreError> {
        Ok(self.with(|state, _| state.node(id).map_or(0, |node| node.live_below)))
    }

    async fn usage_of_provider(&self, name: &ProviderName) -> Result<ProviderUsage, StoreError> {
        Ok(self.with(|state, _| state.usage_of_provider(name)))
    }

    async fn revocations(&self, now: Timestamp, limit: usize) -> Result<Revocations, StoreError> {
        Ok(self.with(|state, _| state.revocations(now, limit)))
    }

    async fn work(&self, now: Timestamp, limit: usize) -> Result<Work, StoreError> {
        Ok(self.with(|state, _| state.work(now, limit)))
    }

    async fn open_tasks(&self) -> Result<Vec<Arc<Task>>, StoreError> {
        Ok(self.with(|state, _| state.open_tasks()))
    }

    async fn list_agents(&self, page: &Page) -> Result<Listing<Arc<Agent>>, StoreError> {
        let after: Option<AgentName> = place(page)?;
        let rows: Vec<_> = self.with(|state, _| {
            let agents = state.agents_after(after.as_ref());
            agents.take(page.size() + 1).cloned().collect()
        });
        Ok(one_page(rows, page, |agent| agent.name.to_string()))
    }

    async fn list_tasks(
        &self,
        filter: &TaskFilter,
        page: &Page,
    ) -> Result<Listing<Arc<Task>>, StoreError> {
        let before: Option<TaskId> = place(page)?;
        let fits = |task: &&Arc<Task>| {
            before.is_none_or(|before| task.id < before)
                && filter.state.is_none_or(|state| task.state == state)
                && filter.agent.as_ref().is_none_or(|a| task.agent == *a)
        };
        let rows: Vec<_> = self.with(|_, history| {
            let newest_first = history.tasks.values().rev().filter(fits);
            newest_first.take(page.size() + 1).cloned().collect()
        });
        Ok(one_page(rows, page, |task| task.id.to_string()))
    }

    async fn list_credentials(
        &self,
        filter: &CredentialFilter,
        page: &Page,
    ) -> Result<Listing<Arc<Credential>>, StoreError> {
        let before: Option<CredentialId> = place(page)?;
        let fits = |c: &&Arc<Credential>| {
            before.is_none_or(|before| c.id < before)
                && filter.task.is_none_or(|task| c.task == task)
                && filter.agent.as_ref().is_none_or(|a| c.agent == *a)
                && !(filter.live && c.state.is_final())
        };
        let rows: Vec<_> = self.with(|_, history| {
            let newest_first = history.credentials.values().rev().filter(fits);
            newest_first.take(page.size() + 1).cloned().collect()
        });
        Ok(one_page(rows, page, |c| c.id.to_string()))
    }

    async fn entries_of_task(
        &self,
        task: TaskId,
        from: u64,
        limit: usize,
    ) -> Result<Vec<u64>, StoreError> {
        Ok(self.with(|_, history| {
            let about = history.about.iter();
            let indexes = about.filter(|(about, index)| *about == task && *index >= from);
            indexes.map(|(_, index)| *index).take(limit).collect()
        }))
    }

    async fn first_index_since(&self, time: Timestamp) -> Result<u64, StoreError> {
        let inner = self.inner.lock();
        let before = |bytes: &Vec<u8>| entry::time_of(bytes).is_ok_and(|at| at < time);
        let first = inner.entries.partition_point(before);
        Ok(u64::try_from(first).unwrap_or(u64::MAX))
    }

    /// There are no checkpoints to sign.
    async fn seal(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Each receiver has a channel of its own: they wake in the order in which they were made, which a shared channel
    /// leaves to chance.
    fn changes(&self) -> watch::Receiver<u64> {
        let mut inner = self.inner.lock();
        let listener = watch::Sender::new(inner.decider.state.next());
        let receiver = listener.subscribe();
        inner.listeners.push(listener);
        receiver
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("entries", &self.inner.lock().entries.len())
            .finish_non_exhaustive()
    }
}
