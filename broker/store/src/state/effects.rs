//! The effects of an event on the state. No rule is checked here: history is applied as it was
//! recorded.

use std::sync::Arc;

use taskpass_core::{IdempotencyKey, TaskId, Timestamp};

use super::{Change, idempotency::Remembered};
use crate::Subject;

/// The effects of an event.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// The records it sets, in this order.
    pub(crate) changes: Vec<Change>,
    /// A record in its final form, which leaves the state and stands in the index alone from now
    /// on.
    pub(crate) ended: Option<Change>,
    /// The tasks it is about.
    pub(crate) about: Vec<TaskId>,
}

impl Effects {
    pub(super) fn of(changes: impl Into<Vec<Change>>) -> Self {
        Self {
            changes: changes.into(),
            ..Self::default()
        }
    }

    pub(super) fn about(mut self, task: impl IntoIterator<Item = TaskId>) -> Self {
        self.about.extend(task);
        self
    }

    /// Remembers the product of the request with this key. `task` is the task that the request
    /// named.
    pub(super) fn remember(
        mut self,
        key: Option<&IdempotencyKey>,
        task: Option<TaskId>,
        time: Timestamp,
        subject: Subject,
    ) -> Self {
        if let Some(key) = key {
            let (hash, remembered) = Remembered::new(key, task, time, subject);
            self.changes
                .push(Change::Key(hash, Some(Arc::new(remembered))));
        }
        self
    }
}
