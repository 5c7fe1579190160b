//! Which identifiers were ever used, so that none is used twice.
//!
//! Identifiers sort by time, so nearly every new one is above all that have left memory, and nothing is looked up.
//! Only one that is not is searched: among those the index has not seen yet, and in the index.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    sync::Arc,
};

use taskpass_core::{AnchorId, CredentialId, TaskId};

use crate::{
    decider::Leavers,
    index::{Index, IndexError},
    state::{Change, History},
};

/// Identifiers that are kept for an index that does not follow. With one that does, the writer waits long before there
/// are so many.
const RECENT_MAX: usize = 262_144;

/// Identifiers of one kind that have left memory.
#[derive(Debug)]
struct Used<I> {
    newest: Option<I>,
    /// Those the index may not have, with the position at which it will.
    recent: HashMap<I, u64>,
    queue: VecDeque<(u64, I)>,
    /// Whether there are some that neither these nor the index have.
    has_gaps: bool,
}

impl<I: Copy + Ord + Hash> Used<I> {
    fn new(newest: Option<I>) -> Self {
        Self {
            newest,
            recent: HashMap::new(),
            queue: VecDeque::new(),
            has_gaps: false,
        }
    }

    fn saw(&mut self, id: I) {
        self.newest = self.newest.max(Some(id));
    }

    fn add(&mut self, id: I, position: u64) {
        self.saw(id);
        if self.recent.insert(id, position) == Some(position) {
            // It was decided before and not written, as on a full disk.
            return;
        }
        self.queue.push_back((position, id));
        if self.queue.len() > RECENT_MAX
            && let Some((_, oldest)) = self.queue.pop_front()
        {
            self.recent.remove(&oldest);
            self.has_gaps = true;
        }
    }

    fn forget_before(&mut self, position: u64) {
        while let Some((at, id)) = self.queue.pop_front_if(|(at, _)| *at <= position) {
            if self.recent.get(&id) == Some(&at) {
                self.recent.remove(&id);
            }
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
        if self.recent.contains_key(&id) {
            return Ok(true);
        }
        if self.has_gaps {
            return Err(
                "whether the id was used before is not known without the index of history"
                    .to_owned(),
            );
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

    /// The index does not have all that this saw.
    pub(crate) fn leave_gaps(&mut self) {
        self.tasks.has_gaps = true;
        self.credentials.has_gaps = true;
        self.anchors.has_gaps = true;
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

#[cfg(test)]
mod tests {
    use super::*;

    const fn no_search() -> Result<bool, IndexError> {
        panic!("there is nothing to look up")
    }

    #[test]
    fn what_is_decided_again_and_again_is_kept_once() {
        let mut used = Used::new(None);
        for _ in 0..1000 {
            used.add(1, 5);
        }
        assert_eq!(used.queue.len(), 1);
        // At last there was room for it, behind something else.
        used.add(1, 6);
        used.forget_before(5);
        assert_eq!(used.has(1, no_search), Ok(true));
        used.forget_before(6);
        assert_eq!(used.has(1, || Ok(true)), Ok(true));
        assert!(used.recent.is_empty() && used.queue.is_empty());
    }

    #[test]
    fn an_index_that_does_not_follow_costs_bounded_memory_and_no_certainty() {
        let mut used = Used::new(None);
        for id in 0..=RECENT_MAX {
            used.add(id, 1);
        }
        assert_eq!(used.queue.len(), RECENT_MAX);
        assert_eq!(used.recent.len(), RECENT_MAX);
        assert_eq!(used.has(RECENT_MAX, no_search), Ok(true));
        assert_eq!(used.has(RECENT_MAX + 1, no_search), Ok(false));
        assert!(used.has(0, no_search).is_err(), "it may have been used");
    }
}
