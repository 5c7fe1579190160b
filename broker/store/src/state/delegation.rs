//! What a new task needs, and that a child is never wider than its parent.

use taskpass_core::{Requester, Task, TaskId, TaskState, Timestamp, limits};

use super::State;
use crate::{Conflict, Wider};

impl State {
    /// Checks a new task: by itself, and against the one above it.
    pub(super) fn admit_task(&self, task: &Task, now: Timestamp) -> Result<(), Conflict> {
        if !self.knows_agent(&task.agent) {
            return Err(super::apply::missing("agent", &task.agent));
        }
        let new = task.state == TaskState::Open
            && task.end_cause.is_none()
            && task.ending_at.is_none()
            && task.ended_at.is_none();
        if !new {
            return refuse("a new task is open");
        }
        if task.deadline <= now {
            return refuse("its deadline has passed");
        }
        if task.roles.len() > limits::TASK_ROLES_MAX {
            return refuse("it draws on too many roles");
        }
        match (&task.requester, task.parent) {
            (Requester::SelfDeclared { .. }, None) if task.depth == 0 => Ok(()),
            (Requester::SelfDeclared { .. }, None) => refuse("a task without parent is at depth 0"),
            (Requester::Delegated { parent }, Some(above)) if *parent == above => {
                self.within_parent(task, above, now)
            }
            _ => refuse("its requester and its parent are not the same"),
        }
    }

    fn within_parent(&self, task: &Task, parent: TaskId, now: Timestamp) -> Result<(), Conflict> {
        let Some(above) = self.tasks.get(&parent).map(|node| &node.task) else {
            return Err(super::apply::missing("task", &parent));
        };
        if above.state != TaskState::Open || above.deadline <= now {
            return Err(Conflict::WrongState {
                what: format!("parent task `{parent}`"),
                state: if above.state == TaskState::Open {
                    "past its deadline"
                } else {
                    above.state.as_str()
                },
                event: "task_started",
            });
        }
        match self.wider(task, above) {
            None => Ok(()),
            Some(wider) => Err(Conflict::WiderThanParent { parent, wider }),
        }
    }

    /// In what `task` would be wider than `above`.
    fn wider(&self, task: &Task, above: &Task) -> Option<Wider> {
        for (role, pins) in &task.roles {
            match above.roles.get(role) {
                None => return Some(Wider::Role(role.clone())),
                Some(fixed) if !pins.is_within(fixed) => return Some(Wider::Scope(role.clone())),
                Some(_) => {}
            }
        }
        if task.deadline > above.deadline {
            return Some(Wider::Deadline);
        }
        if task.max_credentials > above.max_credentials {
            return Some(Wider::MaxCredentials);
        }
        if above.depth.checked_add(1) != Some(task.depth) || task.depth > limits::TASK_DEPTH_MAX {
            return Some(Wider::Depth);
        }
        // No task has more below it than the topmost one, so that one's count is enough.
        let top = self.ancestors(above.id).last().unwrap_or(above.id);
        (self.descendants(top).len() >= limits::TASK_DESCENDANTS_MAX).then_some(Wider::Descendants)
    }

    /// The task and all tasks above it, upwards.
    pub(crate) fn ancestors(&self, task: TaskId) -> impl Iterator<Item = TaskId> {
        std::iter::successors(Some(task), |id| self.tasks.get(id)?.task.parent)
    }

    /// All tasks below this one that have not ended; parents before children.
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

fn refuse(reason: &str) -> Result<(), Conflict> {
    Err(Conflict::Invalid {
        event: "task_started",
        reason: reason.to_owned(),
    })
}
