//! Reading tasks. Agents see their own; policy decides what operators see.

use std::sync::Arc;

use taskpass_core::{Anchor, AnchorState, Task, TaskId, TaskState};
use taskpass_policy::{Action, Resource};
use taskpass_store::{Listing, Page, TaskFilter};

use crate::{Call, Engine, Error, Receipt, credentials::Reader};

/// A task and the receipts of its credentials.
#[derive(Debug, Clone)]
pub struct TaskView {
    /// The task.
    pub task: Arc<Task>,
    /// The receipts so far.
    pub receipts: Vec<Receipt>,
    /// Anchors at providers that are all an ending task waits for.
    pub anchors: Vec<Arc<Anchor>>,
}

impl Engine {
    /// A task by its id.
    pub(crate) async fn existing_task(&self, id: TaskId) -> Result<Arc<Task>, Error> {
        let found = self.context.store.task(id).await?;
        found.ok_or_else(|| Error::no_task(id))
    }

    /// One task with its receipts so far.
    pub async fn task(&self, call: &Call, id: TaskId) -> Result<TaskView, Error> {
        let task = self.reachable_task(call, Action::TaskRead, id).await?;
        self.authorize_read(call, Action::TaskRead, Resource::Task(&task))
            .await?;
        let now = self.now();
        let credentials = self.context.store.credentials_of_task(id).await?;
        let receipts = credentials
            .iter()
            .filter(|c| c.revocation.is_some() || c.state.is_final())
            .map(|c| Receipt::of(c, now, Reader::of(call)))
            .collect();
        let mut anchors = Vec::new();
        // While credentials are alive, the task waits for them and their receipts say so. After the
        // last one it waits for its anchors only.
        if task.state == TaskState::Ending && credentials.iter().all(|c| c.state.is_final()) {
            anchors = self.context.store.anchors_of_task(id).await?;
            anchors.retain(|anchor| anchor.state == AnchorState::Live);
        }
        Ok(TaskView {
            task,
            receipts,
            anchors,
        })
    }

    /// Tasks, newest first. An agent sees its own; through an identity bound to a task just that
    /// one.
    pub async fn list_tasks(
        &self,
        call: &Call,
        mut filter: TaskFilter,
        page: &Page,
    ) -> Result<Listing<Arc<Task>>, Error> {
        if let Some(bound) = call.bound_to() {
            let task = self.task(call, bound.id).await?.task;
            return Ok(Listing {
                rows: vec![task],
                next: None,
            });
        }
        self.narrow_to_caller(call, Action::TaskRead, &mut filter.agent)
            .await?;
        Ok(self.context.store.list_tasks(&filter, page).await?)
    }
}
