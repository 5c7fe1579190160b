//! Questions to the tasks that have not ended.

use std::sync::Arc;

use taskpass_core::{Task, TaskId, TaskState};

use super::Node;
use crate::state::State;

impl State {
    /// A task that has not ended, with its children, credentials and anchors.
    pub(crate) fn node(&self, id: TaskId) -> Option<&Node> {
        self.tasks.get(&id)
    }

    pub(crate) fn open_task_count(&self) -> usize {
        // Each open task has a deadline, and no other task has.
        self.deadlines.len()
    }

    pub(crate) fn open_tasks(&self) -> Vec<Arc<Task>> {
        self.tasks
            .values()
            .filter(|node| node.task.state == TaskState::Open)
            .map(|node| Arc::clone(&node.task))
            .collect()
    }

    /// All tasks that have not ended and were made before `before`, newest first.
    pub(crate) fn tasks_before(&self, before: Option<TaskId>) -> impl Iterator<Item = &Arc<Task>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let to = before.map_or(Unbounded, Excluded);
        let range = self.tasks.range((Unbounded, to));
        range.rev().map(|(_, node)| &node.task)
    }

    /// The task and all tasks above it, upwards.
    pub(crate) fn ancestors(&self, task: TaskId) -> impl Iterator<Item = TaskId> {
        std::iter::successors(Some(task), |id| self.tasks.get(id)?.task.parent)
    }

    /// All tasks below this task that have not ended; parents before children.
    pub(crate) fn descendants(&self, task: TaskId) -> Vec<TaskId> {
        let mut found = Vec::new();
        let mut level = vec![task];
        while !level.is_empty() {
            level = level
                .iter()
                .filter_map(|id| self.tasks.get(id))
                .flat_map(|node| node.children.iter().copied())
                .collect();
            found.extend_from_slice(&level);
        }
        found
    }
}
