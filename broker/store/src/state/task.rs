//! Tasks that have not ended, each with its children, credentials and anchors.

mod admit;
mod effects;
mod query;

use std::{collections::BTreeSet, sync::Arc};

use taskpass_core::{AgentName, AnchorId, CredentialId, Task, TaskId, TaskState, Timestamp};

use super::{
    Change, State,
    count::Count,
    idempotency::KeyHash,
    table::{Table, UsedId},
};
use crate::index::{Index, IndexError, Listed, LiveRows, Rows, Value, parsed, record};

/// Where the index keeps tasks by id, ended ones too.
const TASK: &str = "t/";
/// Where the index lists the tasks that have not ended.
const LIVE: &str = "l/";

/// Where the index lists the tasks of an agent.
fn of_agent(agent: &AgentName) -> String {
    format!("ta/{agent}/")
}

/// A task that has not ended, with its children, credentials and anchors.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) task: Arc<Task>,
    /// Direct children that have not ended.
    pub(super) children: BTreeSet<TaskId>,
    /// Its own credentials, in any state.
    pub(super) credentials: BTreeSet<CredentialId>,
    /// Its anchors, in any state.
    pub(super) anchors: BTreeSet<AnchorId>,
    /// The idempotency keys of requests that named it, oldest first.
    pub(super) keys: BTreeSet<(Timestamp, KeyHash)>,
    /// Its own live credentials.
    pub(super) live: u32,
    /// Live credentials of it and of everything below it.
    pub(crate) live_below: u32,
    pub(super) live_anchors: u32,
}

impl Node {
    const fn of(task: Arc<Task>) -> Self {
        Self {
            task,
            children: BTreeSet::new(),
            credentials: BTreeSet::new(),
            anchors: BTreeSet::new(),
            keys: BTreeSet::new(),
            live: 0,
            live_below: 0,
            live_anchors: 0,
        }
    }
}

/// Tasks by id.
pub(crate) enum Tasks {}

/// The tasks that have not ended, as the index lists them.
pub(crate) fn live_in(index: &Index) -> Result<Vec<TaskId>, IndexError> {
    index.ids(LIVE)
}

/// Where the record of a task stands.
pub(super) fn row_of(id: TaskId) -> Vec<u8> {
    record(TASK, &id)
}

impl Table for Tasks {
    type Key = TaskId;
    type Record = Task;

    const IDS: Option<&'static str> = Some(TASK);
    const ROWS: Option<&'static str> = None;

    fn set(state: &mut State, id: &TaskId, task: Option<&Arc<Task>>) -> Option<Arc<Task>> {
        let before = state.tasks.get(id).map(|node| Arc::clone(&node.task));
        for (record, count) in [(before.as_ref(), Count::Down), (task, Count::Up)] {
            let Some(record) = record else { continue };
            if record.state == TaskState::Open {
                count.member(&mut state.deadlines, (record.deadline, *id));
                state.with_agent(&record.agent, |held| {
                    count.member(&mut held.open_tasks, *id)
                });
            }
            if let Some(parent) = record.parent {
                if let Some(node) = state.tasks.get_mut(&parent) {
                    count.member(&mut node.children, *id);
                }
                state.recheck(parent);
            }
        }
        match (task, state.tasks.get_mut(id)) {
            (Some(task), Some(node)) => node.task = Arc::clone(task),
            (Some(task), None) => {
                state.tasks.insert(*id, Node::of(Arc::clone(task)));
            }
            (None, Some(_) | None) => {
                state.tasks.remove(id);
            }
        }
        state.recheck(*id);
        before
    }

    fn rows<'a>(id: &'a TaskId, task: Option<&'a Task>, rows: &mut Rows<'a>) {
        let Some(task) = task else { return };
        rows.put(record(TASK, id), Value::OfTask(*id, task));
        match task.state {
            TaskState::Open => {
                rows.put(record(LIVE, id), Value::Mark);
                rows.put(record(&of_agent(&task.agent), id), Value::Mark);
            }
            TaskState::Ending => {}
            TaskState::Ended => rows.put(record(LIVE, id), Value::Ended(*id)),
        }
    }

    fn all(state: &State) -> impl Iterator<Item = (TaskId, Arc<Task>)> {
        let mut tasks: Vec<_> = state.tasks.values().map(|node| &node.task).collect();
        // Parents first.
        tasks.sort_by_key(|task| task.depth);
        tasks.into_iter().map(|task| (task.id, Arc::clone(task)))
    }

    fn load(rows: &LiveRows<'_>, state: &mut State) -> Result<(), IndexError> {
        let ids: Vec<TaskId> = rows.ids(LIVE)?;
        let mut tasks: Vec<Arc<Task>> = Vec::with_capacity(ids.len());
        for id in ids {
            let task: Option<Arc<Task>> = rows.record(TASK, &id)?;
            tasks.push(task.ok_or_else(|| IndexError(format!("task `{id}` is missing")))?);
        }
        // Parents first. The order of ids does not tell: the clock may have gone back between the
        // two.
        tasks.sort_by_key(|task| task.depth);
        for task in tasks {
            state.set(&Change::Task(task.id, Some(task)));
        }
        Ok(())
    }

    fn used(id: &TaskId) -> Option<UsedId> {
        Some(UsedId::new(TASK, id))
    }
}

impl Index {
    pub(crate) fn task(&self, id: TaskId) -> Result<Option<Arc<Task>>, IndexError> {
        self.record(&record(TASK, &id))
    }

    /// Tasks that pass `keep`, newest first, from below `before`.
    pub(crate) fn tasks(
        &self,
        agent: Option<&AgentName>,
        before: Option<TaskId>,
        size: usize,
        keep: impl Fn(&Task) -> bool,
    ) -> Result<Listed<Task>, IndexError> {
        match agent {
            None => self.newest(TASK, before, size, |_, task| parsed(task), keep),
            Some(agent) => {
                let prefix = of_agent(agent);
                self.newest(&prefix, before, size, |id, _| self.task(id), keep)
            }
        }
    }
}

impl State {
    /// Keeps a task in the list of tasks that can be ended, and in the list of tasks with anchors
    /// to revoke, exactly while it belongs there.
    pub(super) fn recheck(&mut self, id: TaskId) {
        let (finished, anchored) = self.tasks.get(&id).map_or((false, false), |node| {
            let quiet = node.task.state == TaskState::Ending && node.live == 0;
            (
                quiet && node.live_anchors == 0 && node.children.is_empty(),
                quiet && node.live_anchors > 0,
            )
        });
        for (holds, set) in [
            (finished, &mut self.finished),
            (anchored, &mut self.anchored),
        ] {
            if holds {
                set.insert(id);
            } else {
                set.remove(&id);
            }
        }
    }
}
