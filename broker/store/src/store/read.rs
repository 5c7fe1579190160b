//! Reading: live records come from memory, history from the index once that has seen every entry
//! that was durable when the question came.

use std::{collections::BTreeMap, ops::Range, str::FromStr, sync::Arc};

use async_trait::async_trait;
use taskpass_core::{
    Agent, AgentName, Anchor, Credential, CredentialId, Identity, InvalidValue, JoinTokenId,
    ProviderName, RecordedRoot, RootNumber, SpiffeId, Task, TaskId, TaskState, Timestamp,
};
use tokio::sync::watch;

use super::{Commits, LogStore};
use crate::{
    Batch, CommitError, Committed, CredentialFilter, Guard, IdempotencyRecord, InOrder,
    JoinTokenRecord, Listing, Page, ProviderUsage, Revocations, RootUse, Store, StoreError,
    SupersededSvid, SvidRecord, TaskFilter, Usage, Work,
    applier::ToIndex,
    entry,
    index::{Index, IndexError},
    log::{Entries, LogError},
    state::{Owner, State, key_hash},
};

impl LogStore {
    /// Reads live records.
    fn alive<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.shared.state.read())
    }

    /// Asks the index once it has seen everything that is durable now.
    pub(super) async fn history<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Index) -> Result<T, IndexError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let durable = self.alive(State::next);
        let mut progress = self.progress.clone();
        if progress.borrow().applied < durable
            && let Commits::Queued(queue) = &self.commits
        {
            // Where the thread is gone, `progress` says so.
            drop(queue.index.send(ToIndex::Wanted(durable)));
        }
        let failed = match &self.commits {
            Commits::Here(_) => progress.borrow().failed.clone(),
            Commits::Queued(_) => progress
                .wait_for(|p| p.applied >= durable || p.failed.is_some())
                .await
                .map(|progress| progress.failed.clone())
                .map_err(|_closed| StoreError::Closed)?,
        };
        if let Some(reason) = failed {
            return Err(StoreError::Index(reason.to_string()));
        }
        let index = Arc::clone(&self.index);
        let read = move || {
            let answer = read(&index);
            // Dropped before the answer is out, since the files may be opened again as soon as the
            // store is closed.
            drop(index);
            answer
        };
        let answer = self
            .off_the_runtime(read)
            .await
            .map_err(StoreError::Index)?;
        answer.map_err(|error| StoreError::Index(error.0))
    }

    /// Runs a read that may wait for a disk off the async threads. A read in memory stays on the
    /// caller's thread, since a simulation has only one.
    async fn off_the_runtime<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        if !self.entries.blocks() {
            return Ok(read());
        }
        let read = tokio::task::spawn_blocking(read).await;
        read.map_err(|panicked| panicked.to_string())
    }
}

#[async_trait]
impl Store for LogStore {
    async fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        self.submit(batch).await
    }

    async fn commit_in_order(&self, batch: Batch) -> Result<InOrder, CommitError> {
        self.submit_in_order(batch).await
    }

    async fn holds(&self, guards: &[Guard]) -> Result<bool, StoreError> {
        let now = self.clock.now();
        let hold = |state: &State| guards.iter().all(|guard| state.check(guard, now).is_ok());
        Ok(self.alive(hold))
    }

    async fn agent(&self, name: &AgentName) -> Result<Option<Arc<Agent>>, StoreError> {
        Ok(self.alive(|state| state.agent(name).cloned()))
    }

    async fn join_token(
        &self,
        id: JoinTokenId,
    ) -> Result<Option<Arc<JoinTokenRecord>>, StoreError> {
        Ok(self.alive(|state| state.token(id).cloned()))
    }

    async fn svid(&self, serial: &str) -> Result<Option<Arc<SvidRecord>>, StoreError> {
        let now = self.clock.now();
        Ok(self.alive(|state| state.live_svid(serial, now).cloned()))
    }

    async fn superseded_svid(
        &self,
        serial: &str,
    ) -> Result<Option<Arc<SupersededSvid>>, StoreError> {
        let now = self.clock.now();
        Ok(self.alive(|state| state.superseded(serial, now).cloned()))
    }

    async fn root_use(&self, root: RootNumber) -> Result<RootUse, StoreError> {
        let now = self.clock.now();
        Ok(self.alive(|state| state.root_use(root, now)))
    }

    async fn recorded_roots(&self) -> Result<BTreeMap<RootNumber, RecordedRoot>, StoreError> {
        Ok(self.alive(State::recorded_roots))
    }

    async fn svids_of(&self, holder: &Identity) -> Result<usize, StoreError> {
        let now = self.clock.now();
        Ok(self.alive(|state| state.live_svids_of(holder, now)))
    }

    async fn task(&self, id: TaskId) -> Result<Option<Arc<Task>>, StoreError> {
        let live = self.alive(|state| state.node(id).map(|node| Arc::clone(&node.task)));
        match live {
            Some(task) => Ok(Some(task)),
            None => self.history(move |index| index.task(id)).await,
        }
    }

    async fn credential(&self, id: CredentialId) -> Result<Option<Arc<Credential>>, StoreError> {
        let live = self.alive(|state| state.credential(id).cloned());
        match live {
            Some(credential) => Ok(Some(credential)),
            None => self.history(move |index| index.credential(id)).await,
        }
    }

    async fn credentials_of_task(&self, task: TaskId) -> Result<Vec<Arc<Credential>>, StoreError> {
        let live = self.alive(|state| state.node(task).map(|node| state.credentials_of(node)));
        match live {
            Some(credentials) => Ok(credentials),
            None => self.history(move |index| index.credentials_of(task)).await,
        }
    }

    async fn anchors_of_task(&self, task: TaskId) -> Result<Vec<Arc<Anchor>>, StoreError> {
        let live = self.alive(|state| state.node(task).map(|node| state.anchors_of(node)));
        match live {
            Some(anchors) => Ok(anchors),
            None => self.history(move |index| index.anchors_of(task)).await,
        }
    }

    async fn descendants(&self, task: TaskId) -> Result<Vec<TaskId>, StoreError> {
        Ok(self.alive(|state| state.descendants(task)))
    }

    async fn idempotent(
        &self,
        caller: &SpiffeId,
        key: &str,
    ) -> Result<Option<IdempotencyRecord>, StoreError> {
        let hash = key_hash(caller, key);
        let now = self.clock.now();
        Ok(self.alive(|state| state.remembered(&hash, now).map(|key| key.record())))
    }

    async fn usage_of_agent(&self, name: &AgentName) -> Result<Usage, StoreError> {
        let now = self.clock.now();
        Ok(self.alive(|state| state.usage(name, now)))
    }

    async fn open_tasks_of_agent(&self, name: &AgentName) -> Result<Vec<TaskId>, StoreError> {
        Ok(self.alive(|state| state.open_tasks_of(name)))
    }

    async fn live_in_task(&self, id: TaskId) -> Result<u32, StoreError> {
        Ok(self.alive(|state| state.node(id).map_or(0, |node| node.live_below)))
    }

    async fn usage_of_provider(&self, name: &ProviderName) -> Result<ProviderUsage, StoreError> {
        Ok(self.alive(|state| state.usage_of_provider(name)))
    }

    async fn revocations(&self, now: Timestamp, limit: usize) -> Result<Revocations, StoreError> {
        Ok(self.alive(|state| state.revocations(now, limit)))
    }

    async fn work(&self, now: Timestamp, limit: usize) -> Result<Work, StoreError> {
        Ok(self.alive(|state| state.work(now, limit)))
    }

    async fn open_tasks(&self) -> Result<Vec<Arc<Task>>, StoreError> {
        Ok(self.alive(|state| state.open_tasks()))
    }

    async fn list_agents(&self, page: &Page) -> Result<Listing<Arc<Agent>>, StoreError> {
        let after: Option<AgentName> = place(page)?;
        let state = self.shared.state.read();
        let agents = state.agents_after(after.as_ref()).cloned();
        let rows: Vec<_> = agents.take(page.size().saturating_add(1)).collect();
        Ok(one_page(rows, page, |agent| agent.name.to_string()))
    }

    async fn list_join_tokens(
        &self,
        agent: Option<&AgentName>,
        page: &Page,
    ) -> Result<Listing<Arc<JoinTokenRecord>>, StoreError> {
        let before: Option<JoinTokenId> = place(page)?;
        let rows = self.alive(|state| {
            let tokens = state.tokens_before(before);
            tokens
                .filter(|record| agent.is_none_or(|agent| *agent == record.token.agent))
                .take(page.size().saturating_add(1))
                .cloned()
                .collect()
        });
        Ok(one_page(rows, page, |record: &Arc<JoinTokenRecord>| {
            record.token.id.to_string()
        }))
    }

    async fn list_tasks(
        &self,
        filter: &TaskFilter,
        page: &Page,
    ) -> Result<Listing<Arc<Task>>, StoreError> {
        let before: Option<TaskId> = place(page)?;
        let TaskFilter { agent, state } = filter.clone();
        let size = page.size();
        if matches!(state, Some(TaskState::Open | TaskState::Ending)) {
            let live = self.shared.state.read();
            let rows = live
                .tasks_before(before)
                .filter(|task| Some(task.state) == state)
                .filter(|task| agent.as_ref().is_none_or(|agent| *agent == task.agent))
                .take(size.saturating_add(1))
                .cloned()
                .collect();
            return Ok(one_page(rows, page, |task| task.id.to_string()));
        }
        let rows = self.history(move |index| {
            index.tasks(agent.as_ref(), before, size, |task| {
                state.is_none_or(|state| state == task.state)
            })
        });
        let (rows, more) = rows.await?;
        Ok(listing(rows, more, |task| task.id.to_string()))
    }

    async fn list_credentials(
        &self,
        filter: &CredentialFilter,
        page: &Page,
    ) -> Result<Listing<Arc<Credential>>, StoreError> {
        let before: Option<CredentialId> = place(page)?;
        let CredentialFilter { task, agent, live } = filter.clone();
        let size = page.size();
        if live {
            let state = self.shared.state.read();
            let rows = state
                .credentials_before(before)
                .filter(|c| !c.state.is_final())
                .filter(|c| task.is_none_or(|task| task == c.task))
                .filter(|c| agent.as_ref().is_none_or(|agent| *agent == c.agent))
                .take(size.saturating_add(1))
                .cloned()
                .collect();
            return Ok(one_page(rows, page, |c| c.id.to_string()));
        }
        let rows = self.history(move |index| {
            let owner = match (task, &agent) {
                (Some(task), _) => Some(Owner::Task(task)),
                (None, Some(agent)) => Some(Owner::Agent(agent)),
                (None, None) => None,
            };
            index.credentials(owner, before, size, |c| {
                agent.as_ref().is_none_or(|agent| *agent == c.agent)
            })
        });
        let (rows, more) = rows.await?;
        Ok(listing(rows, more, |c| c.id.to_string()))
    }

    async fn entries_of_task(
        &self,
        task: TaskId,
        from: u64,
        limit: usize,
    ) -> Result<Vec<u64>, StoreError> {
        self.history(move |index| index.entries_of(task, from, limit))
            .await
    }

    async fn first_index_since(&self, time: Timestamp) -> Result<u64, StoreError> {
        let entries = Arc::clone(&self.entries);
        let rebases = self.alive(State::rebases);
        let search = move || {
            let (first, end) = (entries.first(), entries.size());
            let mut begin = first;
            // Between two entries that moved the ledger's time, its times are in order.
            for stop in rebases.into_iter().chain([end]) {
                let found = first_since(entries.as_ref(), begin..stop.min(end), time)?;
                if found == first && first > 0 {
                    // Archived entries may be as young, and only the archive can tell.
                    return Ok(first - 1);
                }
                if found < stop {
                    return Ok(found);
                }
                begin = begin.max(stop);
            }
            Ok::<u64, LogError>(end)
        };
        let found = self.off_the_runtime(search).await;
        let found = found.map_err(StoreError::Ledger)?;
        found.map_err(|error| StoreError::Ledger(error.to_string()))
    }

    async fn seal(&self) -> Result<(), StoreError> {
        self.sign().await
    }

    fn last_time(&self) -> Timestamp {
        self.alive(State::last_time)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.shared.listen()
    }
}

/// The first entry of a range in order that is not before `time`, or the range's end.
fn first_since(entries: &dyn Entries, range: Range<u64>, time: Timestamp) -> Result<u64, LogError> {
    let (mut low, mut high) = (range.start, range.end);
    while low < high {
        let middle = low.midpoint(high);
        let entry = entries.entry(middle)?;
        // An entry that cannot be read is left to the reader of the range.
        if entry::time_of(&entry).is_ok_and(|at| at < time) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

/// Where a listing goes on: behind the last row of the page before.
fn place<I: FromStr<Err = InvalidValue>>(page: &Page) -> Result<Option<I>, StoreError> {
    page.token()
        .map(str::parse)
        .transpose()
        .map_err(StoreError::PageToken)
}

/// Makes a page. `rows` has one row more than fits if there is another page.
fn one_page<T>(mut rows: Vec<T>, page: &Page, name: impl Fn(&T) -> String) -> Listing<T> {
    let more = rows.len() > page.size();
    rows.truncate(page.size());
    listing(rows, more, name)
}

fn listing<T>(rows: Vec<T>, more: bool, name: impl Fn(&T) -> String) -> Listing<T> {
    let next = rows.last().filter(|_| more).map(name);
    Listing { rows, next }
}
