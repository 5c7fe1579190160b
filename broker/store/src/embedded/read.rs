//! Reading: what is alive from memory, history from the index once it has seen what was durable when the question came.

use std::{str::FromStr, sync::Arc};

use async_trait::async_trait;
use taskpass_core::{
    Agent, AgentName, Anchor, Credential, CredentialId, InvalidValue, JoinTokenId, ProviderName,
    SpiffeId, Task, TaskId, TaskState, Timestamp,
};
use tokio::sync::{oneshot, watch};

use super::EmbeddedStore;
use crate::{
    Batch, CommitError, Committed, CredentialFilter, IdempotencyRecord, JoinTokenRecord, Listing,
    Page, ProviderUsage, Revocations, Store, StoreError, SvidRecord, TaskFilter, Usage, Work,
    entry,
    index::{Index, IndexError, Owner},
    state::key_hash,
    writer::Message,
};

impl EmbeddedStore {
    /// Asks the index, off the async threads.
    async fn history<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Index) -> Result<T, IndexError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let durable = self.shared.state.read().next();
        let mut progress = self.progress.clone();
        if progress.borrow().applied < durable {
            self.wanted.ask(durable);
        }
        let failed = progress
            .wait_for(|p| p.applied >= durable || p.failed.is_some())
            .await
            .map(|progress| progress.failed.clone())
            .map_err(|_closed| StoreError::Closed)?;
        if let Some(reason) = failed {
            return Err(StoreError::Index(reason.to_string()));
        }
        let index = Arc::clone(&self.index);
        let asked = tokio::task::spawn_blocking(move || {
            let answer = read(&index);
            // Before the answer is out: whoever closes the store next may open its files again at once.
            drop(index);
            answer
        });
        asked
            .await
            .map_err(|e| StoreError::Index(e.to_string()))?
            .map_err(|e| StoreError::Index(e.0))
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        self.submit(batch).await
    }

    async fn agent(&self, name: &AgentName) -> Result<Option<Arc<Agent>>, StoreError> {
        Ok(self.shared.state.read().agent(name).cloned())
    }

    async fn join_token(
        &self,
        id: JoinTokenId,
    ) -> Result<Option<Arc<JoinTokenRecord>>, StoreError> {
        Ok(self.shared.state.read().token(id).cloned())
    }

    async fn svid(&self, serial: &str) -> Result<Option<Arc<SvidRecord>>, StoreError> {
        let now = self.clock.now();
        Ok(self.shared.state.read().live_svid(serial, now).cloned())
    }

    async fn task(&self, id: TaskId) -> Result<Option<Arc<Task>>, StoreError> {
        let live = self
            .shared
            .state
            .read()
            .node(id)
            .map(|n| Arc::clone(&n.task));
        match live {
            Some(task) => Ok(Some(task)),
            None => self.history(move |index| index.task(id)).await,
        }
    }

    async fn credential(&self, id: CredentialId) -> Result<Option<Arc<Credential>>, StoreError> {
        let live = self.shared.state.read().credential(id).cloned();
        match live {
            Some(credential) => Ok(Some(credential)),
            None => self.history(move |index| index.credential(id)).await,
        }
    }

    async fn credentials_of_task(&self, task: TaskId) -> Result<Vec<Arc<Credential>>, StoreError> {
        let live = {
            let state = self.shared.state.read();
            state.node(task).map(|node| state.credentials_of(node))
        };
        match live {
            Some(credentials) => Ok(credentials),
            None => self.history(move |index| index.credentials_of(task)).await,
        }
    }

    async fn anchors_of_task(&self, task: TaskId) -> Result<Vec<Arc<Anchor>>, StoreError> {
        let live = {
            let state = self.shared.state.read();
            state.node(task).map(|node| state.anchors_of(node))
        };
        match live {
            Some(anchors) => Ok(anchors),
            None => self.history(move |index| index.anchors_of(task)).await,
        }
    }

    async fn descendants(&self, task: TaskId) -> Result<Vec<TaskId>, StoreError> {
        Ok(self.shared.state.read().descendants(task))
    }

    async fn idempotent(
        &self,
        caller: &SpiffeId,
        key: &str,
    ) -> Result<Option<IdempotencyRecord>, StoreError> {
        let hash = key_hash(caller, key);
        let now = self.clock.now();
        let state = self.shared.state.read();
        Ok(state.remembered(&hash, now).map(|key| key.record()))
    }

    async fn usage_of_agent(&self, name: &AgentName) -> Result<Usage, StoreError> {
        let now = self.clock.now();
        Ok(self.shared.state.read().usage(name, now))
    }

    async fn live_in_task(&self, id: TaskId) -> Result<u32, StoreError> {
        let state = self.shared.state.read();
        Ok(state.node(id).map_or(0, |node| node.live_below))
    }

    async fn usage_of_provider(&self, name: &ProviderName) -> Result<ProviderUsage, StoreError> {
        Ok(self.shared.state.read().usage_of_provider(name))
    }

    async fn revocations(&self, now: Timestamp, limit: usize) -> Result<Revocations, StoreError> {
        Ok(self.shared.state.read().revocations(now, limit))
    }

    async fn work(&self, now: Timestamp, limit: usize) -> Result<Work, StoreError> {
        Ok(self.shared.state.read().work(now, limit))
    }

    async fn open_tasks(&self) -> Result<Vec<Arc<Task>>, StoreError> {
        Ok(self.shared.state.read().open_tasks())
    }

    async fn list_agents(&self, page: &Page) -> Result<Listing<Arc<Agent>>, StoreError> {
        let after: Option<AgentName> = place(page)?;
        let state = self.shared.state.read();
        let agents = state.agents_after(after.as_ref()).cloned();
        let rows: Vec<_> = agents.take(page.size().saturating_add(1)).collect();
        Ok(one_page(rows, page, |agent| agent.name.to_string()))
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
        let reader = self.reader.clone();
        let search = move || {
            let (mut low, mut high) = (0, reader.size());
            while low < high {
                let middle = low.midpoint(high);
                let entry = reader.entry(middle)?;
                // An entry that cannot be read is left to the reader of the range.
                if entry::time_of(&entry).is_ok_and(|at| at < time) {
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
            Ok::<u64, taskpass_ledger::Error>(low)
        };
        let found = tokio::task::spawn_blocking(search).await;
        let found = found.map_err(|e| StoreError::Ledger(e.to_string()))?;
        found.map_err(|e| StoreError::Ledger(e.to_string()))
    }

    async fn seal(&self) -> Result<(), StoreError> {
        let (reply, outcome) = oneshot::channel();
        let sent = self.inbox.send(Message::Seal(reply));
        sent.map_err(|_closed| StoreError::Closed)?;
        match outcome.await {
            Ok(sealed) => sealed.map_err(StoreError::Seal),
            Err(_) => Err(StoreError::Closed),
        }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.shared.size.subscribe()
    }
}

/// Where a listing goes on: behind the last row of the page before.
pub(crate) fn place<I: FromStr<Err = InvalidValue>>(page: &Page) -> Result<Option<I>, StoreError> {
    page.token()
        .map(str::parse)
        .transpose()
        .map_err(StoreError::PageToken)
}

/// A page from rows of which there is one more than fits, if there are more.
pub(crate) fn one_page<T>(
    mut rows: Vec<T>,
    page: &Page,
    name: impl Fn(&T) -> String,
) -> Listing<T> {
    let more = rows.len() > page.size();
    rows.truncate(page.size());
    listing(rows, more, name)
}

fn listing<T>(rows: Vec<T>, more: bool, name: impl Fn(&T) -> String) -> Listing<T> {
    let next = rows.last().filter(|_| more).map(name);
    Listing { rows, next }
}
