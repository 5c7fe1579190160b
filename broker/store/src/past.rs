//! Which identifiers were ever used, so that none is used twice.
//!
//! Identifiers sort by time, so nearly every new one is above all that have left memory, and nothing is looked up.
//! Only one that is not is searched: among those the index has not seen yet, and in the index.

use std::{
    collections::{HashSet, VecDeque},
    hash::Hash,
    sync::Arc,
};

use taskpass_core::{AnchorId, CredentialId, TaskId};

use crate::{
    decider::Leavers,
    index::{Index, IndexError},
    state::{Change, History},
};

/// Identifiers of one kind that have left memory.
#[derive(Debug)]
struct Used<I> {
    newest: Option<I>,
    /// Those the index may not have, with the position at which it will.
    recent: HashSet<I>,
    queue: VecDeque<(u64, I)>,
}

impl<I: Copy + Ord + Hash> Used<I> {
    fn new(newest: Option<I>) -> Self {
        Self {
            newest,
            recent: HashSet::new(),
            queue: VecDeque::new(),
        }
    }

    fn saw(&mut self, id: I) {
        self.newest = self.newest.max(Some(id));
    }

    fn add(&mut self, id: I, position: u64) {
        self.saw(id);
        self.recent.insert(id);
        self.queue.push_back((position, id));
    }

    fn forget_before(&mut self, position: u64) {
        while let Some((_, id)) = self.queue.pop_front_if(|(at, _)| *at <= position) {
            self.recent.remove(&id);
        }
    }

    fn has(
        &self,
        id: I,
        search: impl FnOnce() -> Result<bool, IndexError>,
    ) -> Result<bool, String> {
        if self.newest < Some(id) {
            return Ok(false);
        }
        if self.recent.contains(&id) {
            return Ok(true);
        }
        search().map_err(|e| format!("whether the id was used before cannot be looked up: {e}"))
    }
}

/// All identifiers that have left memory.
#[derive(Debug)]
pub(crate) struct Past {
    index: Arc<Index>,
    tasks: Used<TaskId>,
    credentials: Used<CredentialId>,
    anchors: Used<AnchorId>,
}

impl Past {
    /// What the index knows; one that could not be opened knows nothing.
    pub(crate) fn new(index: Arc<Index>) -> Result<Self, IndexError> {
        let tasks = Used::new(index.newest_task()?);
        let credentials = Used::new(index.newest_credential()?);
        let anchors = Used::new(index.newest_anchor()?);
        Ok(Self {
            index,
            tasks,
            credentials,
            anchors,
        })
    }

    /// Takes note of a change that is on its way into the index, or would be.
    pub(crate) fn saw(&mut self, change: &Change) {
        match change {
            Change::Task(id, None) => self.tasks.saw(*id),
            Change::Credential(id, None) => self.credentials.saw(*id),
            Change::Anchor(id, None) => self.anchors.saw(*id),
            _ => {}
        }
    }

    /// Forgets what the index has durably in its view since `position`.
    pub(crate) fn indexed(&mut self, position: u64) {
        self.tasks.forget_before(position);
        self.credentials.forget_before(position);
        self.anchors.forget_before(position);
    }
}

impl Leavers for Past {
    fn note(&mut self, change: &Change, position: u64) {
        match change {
            Change::Task(id, None) => self.tasks.add(*id, position),
            Change::Credential(id, None) => self.credentials.add(*id, position),
            Change::Anchor(id, None) => self.anchors.add(*id, position),
            _ => {}
        }
    }
}

impl History for Past {
    fn knew_task(&self, id: TaskId) -> Result<bool, String> {
        self.tasks.has(id, || Ok(self.index.task(id)?.is_some()))
    }

    fn knew_credential(&self, id: CredentialId) -> Result<bool, String> {
        self.credentials.has(id, || self.index.knew_credential(id))
    }

    fn knew_anchor(&self, id: AnchorId) -> Result<bool, String> {
        self.anchors.has(id, || self.index.knew_anchor(id))
    }
}
