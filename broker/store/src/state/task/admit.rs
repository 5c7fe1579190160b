//! The rules of a new task, that a child is never wider than its parent, and when a task may end.

use taskpass_core::{Requester, Task, TaskId, TaskState, TaskStep, Timestamp, limits};

use super::TASK;
use crate::{
    Conflict, GuardFailure, Wider,
    state::{
        State,
        refusal::{Refusal, invalid, missing, unused, wrong},
        table::{UsedId, UsedIds},
    },
};

impl State {
    pub(in crate::state) fn admit_task(
        &self,
        id: TaskId,
        step: &TaskStep<'_>,
        now: Timestamp,
        used: &dyn UsedIds,
    ) -> Result<(), Refusal> {
        match step {
            TaskStep::Started { task, .. } => {
                let is_alive = self.tasks.contains_key(&id);
                unused("task", &UsedId::new(TASK, &id), is_alive, used)?;
                self.admit_start(task, now)
            }
            TaskStep::Ending { .. } => self.in_state(id, TaskState::Open),
            TaskStep::Ended => {
                self.in_state(id, TaskState::Ending)?;
                if self.finished.contains(&id) {
                    return Ok(());
                }
                wrong(format!("task `{id}`"), "still holding something alive")
            }
        }
    }

    fn in_state(&self, task: TaskId, state: TaskState) -> Result<(), Refusal> {
        let node = self.tasks.get(&task);
        let is = node.ok_or_else(|| missing("task", &task))?.task.state;
        if is == state {
            return Ok(());
        }
        wrong(format!("task `{task}`"), is.as_str())
    }

    /// Refuses a task that is not open. From its deadline on a task gets nothing more, also before
    /// the broker has ended it.
    pub(in crate::state) fn task_open(
        &self,
        id: TaskId,
        now: Timestamp,
    ) -> Result<(), GuardFailure> {
        let node = self.tasks.get(&id).ok_or(GuardFailure::TaskGone(id))?;
        match node.task.state {
            TaskState::Open if node.task.deadline > now => Ok(()),
            TaskState::Open => Err(GuardFailure::TaskOverdue(id)),
            state @ (TaskState::Ending | TaskState::Ended) => {
                Err(GuardFailure::TaskNotOpen(id, state))
            }
        }
    }

    /// Checks a new task: by itself, and against the one above it.
    fn admit_start(&self, task: &Task, now: Timestamp) -> Result<(), Refusal> {
        self.agent_active(&task.agent)?;
        let new = task.state == TaskState::Open
            && task.end_cause.is_none()
            && task.ending_at.is_none()
            && task.ended_at.is_none();
        if !new {
            return invalid("a new task is open");
        }
        if task.deadline <= now {
            return invalid("its deadline has passed");
        }
        if task.roles.len() > limits::TASK_ROLES_MAX {
            return invalid("it draws on too many roles");
        }
        match (&task.requester, task.parent) {
            (Requester::SelfDeclared { .. }, None) if task.depth == 0 => Ok(()),
            (Requester::SelfDeclared { .. }, None) => {
                invalid("a task without parent is at depth 0")
            }
            (Requester::Delegated { parent }, Some(above)) if *parent == above => {
                self.within_parent(task, above, now)
            }
            (Requester::SelfDeclared { .. } | Requester::Delegated { .. }, _) => {
                invalid("its requester and its parent are not the same")
            }
        }
    }

    fn within_parent(&self, task: &Task, parent: TaskId, now: Timestamp) -> Result<(), Refusal> {
        let Some(above) = self.tasks.get(&parent).map(|node| &node.task) else {
            return Err(missing("task", &parent).into());
        };
        if above.state != TaskState::Open || above.deadline <= now {
            let state = if above.state == TaskState::Open {
                "past its deadline"
            } else {
                above.state.as_str()
            };
            return wrong(format!("parent task `{parent}`"), state);
        }
        match self.wider(task, above) {
            None => Ok(()),
            Some(wider) => Err(Conflict::WiderThanParent { parent, wider }.into()),
        }
    }

    /// The respect in which `task` would be wider than `above`.
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
        // No task has more tasks below it than the topmost task, so checking the topmost task is
        // enough.
        let top = self.ancestors(above.id).last().unwrap_or(above.id);
        (self.descendants(top).len() >= limits::TASK_DESCENDANTS_MAX).then_some(Wider::Descendants)
    }

    /// Refuses one more live credential where the task, or one above it, holds as many as it may.
    pub(in crate::state) fn credentials_within(&self, task: TaskId) -> Result<(), GuardFailure> {
        if !self.tasks.contains_key(&task) {
            return Err(GuardFailure::TaskGone(task));
        }
        for node in self.ancestors(task).filter_map(|id| self.tasks.get(&id)) {
            crate::state::guard::below(node.live_below, node.task.max_credentials, |limit| {
                GuardFailure::TaskCredentials {
                    task: node.task.id,
                    limit,
                }
            })?;
        }
        Ok(())
    }
}
