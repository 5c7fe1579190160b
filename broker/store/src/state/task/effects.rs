//! The changes by a task's steps, and the events that its end brings along.

use std::sync::Arc;

use taskpass_core::{
    CredentialState, EndCause, Event, Identity, RevokeCause, TaskId, TaskState, TaskStep,
    Timestamp, Topic,
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
                let mut changes = self.other_svids(&identity, "");
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

    /// The events that the end of a task brings along: the end of all tasks below, and the revoking
    /// of everything that is alive in any of them. They follow the first [`Event::TaskEnding`] in
    /// the same batch.
    pub(crate) fn cascade(&self, event: &Event) -> Vec<Event> {
        let Topic::Task(task, TaskStep::Ending { cause, by }) = event.topic() else {
            return Vec::new();
        };
        let mut events = Vec::new();
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
                events.push(Event::TaskEnding {
                    task: id,
                    cause: EndCause::ParentEnded,
                    by: by.clone(),
                });
                EndCause::ParentEnded
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
