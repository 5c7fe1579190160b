//! The changes by a task's steps, and the events that its end brings along.

use std::sync::Arc;

use taskpass_core::{
    Actor, AgentName, CredentialState, EndCause, Event, Identity, RevokeCause, TaskId, TaskState,
    TaskStep, Timestamp,
};

use super::Node;
use crate::{
    Conflict, Subject,
    state::{Change, Effects, State, refusal::missing},
};

impl State {
    pub(in crate::state) fn task_effects(
        &self,
        id: TaskId,
        step: &TaskStep<'_>,
        time: Timestamp,
    ) -> Result<Effects, Conflict> {
        match step {
            TaskStep::Started { task, idempotency } => {
                let started = Change::Task(id, Some(Arc::new((*task).clone())));
                Ok(Effects::of([started])
                    .about([id])
                    .remember(*idempotency, task.parent, time, Subject::Task(id))
                    .about(task.parent))
            }
            TaskStep::Ending { cause, .. } => {
                let task = &self.started(id)?.task;
                let mut ending = task.as_ref().clone();
                ending.state = TaskState::Ending;
                ending.end_cause = Some(*cause);
                ending.ending_at = Some(time);
                let identity = Identity::AgentTask(task.agent.clone(), id);
                // These SVIDs are refused since their task has ended, and their use tells of no
                // thief: `taskpass run` goes on using its own after a new login of its owner.
                let mut changes = self.other_svids(&identity, "");
                changes.extend(self.forgotten_superseded(&identity));
                changes.push(Change::Task(id, Some(Arc::new(ending))));
                Ok(Effects::of(changes).about([id]))
            }
            TaskStep::Ended => {
                let node = self.started(id)?;
                let mut ended = node.task.as_ref().clone();
                ended.state = TaskState::Ended;
                ended.ended_at = Some(time);
                let credentials = node.credentials.iter();
                let credentials = credentials.map(|c| Change::Credential(*c, None));
                let anchors = node.anchors.iter().map(|a| Change::Anchor(*a, None));
                let keys = node.keys.iter().map(|(_, hash)| Change::Key(*hash, None));
                let mut changes: Vec<Change> = credentials.chain(anchors).chain(keys).collect();
                changes.push(Change::Task(id, None));
                Ok(Effects {
                    ended: Some(Change::Task(id, Some(Arc::new(ended)))),
                    ..Effects::of(changes).about([id])
                })
            }
        }
    }

    fn started(&self, id: TaskId) -> Result<&Node, Conflict> {
        self.tasks.get(&id).ok_or_else(|| missing("task", &id))
    }

    /// The end of every open task of an agent, each with the events that it brings along.
    pub(in crate::state) fn tasks_ending(
        &self,
        agent: &AgentName,
        cause: EndCause,
        by: &Actor,
    ) -> Vec<Event> {
        let is_ended_too = |id: TaskId| {
            let task = self.tasks.get(&id).map(|node| &node.task);
            task.is_some_and(|task| task.state == TaskState::Open && task.agent == *agent)
        };
        let mut events = Vec::new();
        for task in self.open_tasks_of(agent) {
            // The end of a task above it brings its own end along.
            if self.ancestors(task).skip(1).any(is_ended_too) {
                continue;
            }
            events.push(Event::TaskEnding {
                task,
                cause,
                by: by.clone(),
            });
            events.extend(self.task_cascade(task, cause, by));
        }
        events
    }

    /// The events that the end of a task brings along: the end of all tasks below, and the revoking
    /// of everything that is alive in any of them. They follow the first [`Event::TaskEnding`] in
    /// the same batch.
    pub(in crate::state) fn task_cascade(
        &self,
        task: TaskId,
        cause: EndCause,
        by: &Actor,
    ) -> Vec<Event> {
        let mut events = Vec::new();
        let agent_of = |id: TaskId| self.tasks.get(&id).map(|node| &node.task.agent);
        let agent = agent_of(task);
        for id in std::iter::once(task).chain(self.descendants(task)) {
            let Some(node) = self
                .tasks
                .get(&id)
                .filter(|n| n.task.state == TaskState::Open)
            else {
                continue;
            };
            let cause = if id == task {
                cause
            } else {
                let cause = cause_below(cause, agent_of(id) == agent);
                events.push(Event::TaskEnding {
                    task: id,
                    cause,
                    by: by.clone(),
                });
                cause
            };
            let alive = node.credentials.iter().filter(|c| {
                self.credentials.get(c).is_some_and(|c| {
                    matches!(c.state, CredentialState::Intended | CredentialState::Active)
                })
            });
            events.extend(alive.map(|credential| Event::CredentialRevoking {
                credential: *credential,
                cause: RevokeCause::TaskEnded(cause),
                by: by.clone(),
            }));
        }
        events
    }
}

/// Why a task below a task ends that ends for `cause`. All tasks of an agent end for the same cause
/// if the agent itself is the cause.
const fn cause_below(cause: EndCause, is_same_agents: bool) -> EndCause {
    match cause {
        EndCause::Frozen | EndCause::IdentityReplaced if is_same_agents => cause,
        EndCause::Frozen
        | EndCause::IdentityReplaced
        | EndCause::Completed
        | EndCause::Cancelled
        | EndCause::Deadline
        | EndCause::HeartbeatLost
        | EndCause::ParentEnded => EndCause::ParentEnded,
    }
}
