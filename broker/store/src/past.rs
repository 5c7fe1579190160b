//! Which ids were ever used, so that none is used twice.
//!
//! Ids sort by time, so nearly every new id is above all that have left memory, and nothing is
//! looked up. Any other id is searched: among the ids that the index has not seen yet, and in the
//! index.

use std::{
    collections::{HashSet, VecDeque},
    hash::Hash,
    sync::Arc,
};

use crate::{
    decider::Leavers,
    index::{Index, IndexError},
    state::{Change, UsedId, UsedIds},
};

/// Ids that are kept for an index that does not follow. While the index follows, commits wait long
/// before there are so many.
const RECENT_MAX: usize = 262_144;

/// Ids of one kind that have left memory.
#[derive(Debug)]
struct Used<I> {
    newest: Option<I>,
    /// Ids that the index may not have.
    recent: HashSet<I>,
    /// The same ids, in the order in which they left.
    queue: VecDeque<Left<I>>,
    /// Whether ids have left memory that neither `recent` nor the index has.
    has_gaps: bool,
}

/// An id as it left memory.
#[derive(Debug)]
struct Left<I> {
    id: I,
    /// Where the index has it.
    position: u64,
    /// The newest id before this one left.
    newest_before: Option<I>,
}

impl<I: Clone + Ord + Hash> Used<I> {
    fn new(newest: Option<I>) -> Self {
        Self {
            newest,
            recent: HashSet::new(),
            queue: VecDeque::new(),
            has_gaps: false,
        }
    }

    fn saw(&mut self, id: I) {
        if self.newest.as_ref() < Some(&id) {
            self.newest = Some(id);
        }
    }

    fn add(&mut self, id: I, position: u64) {
        let newest_before = self.newest.clone();
        self.saw(id.clone());
        self.recent.insert(id.clone());
        self.queue.push_back(Left {
            id,
            position,
            newest_before,
        });
        if self.queue.len() > RECENT_MAX
            && let Some(oldest) = self.queue.pop_front()
        {
            self.recent.remove(&oldest.id);
            self.has_gaps = true;
        }
    }

    /// Takes back the last [`Used::add`], which was of this id. A gap that it made stays: the id
    /// that was dropped for it is not known any more.
    fn undo(&mut self, id: &I) {
        if let Some(left) = self.queue.pop_back_if(|left| left.id == *id) {
            self.recent.remove(id);
            self.newest = left.newest_before;
        }
    }

    fn forget_before(&mut self, position: u64) {
        while let Some(left) = self.queue.pop_front_if(|left| left.position <= position) {
            self.recent.remove(&left.id);
        }
    }

    fn has(
        &self,
        id: &I,
        search: impl FnOnce() -> Result<bool, IndexError>,
    ) -> Result<bool, String> {
        if self.newest.as_ref() < Some(id) {
            return Ok(false);
        }
        if self.recent.contains(id) {
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

/// All ids that have left memory, by their kind.
#[derive(Debug)]
pub(crate) struct Past {
    index: Arc<Index>,
    kinds: Vec<(&'static str, Used<Arc<str>>)>,
}

impl Past {
    /// Begins with the ids that the index knows; an index that could not be opened knows none.
    pub(crate) fn new(index: Arc<Index>) -> Result<Self, IndexError> {
        let kinds = UsedId::kinds().map(|kind| Ok((kind, Used::new(index.last_id(kind)?))));
        let kinds = kinds.collect::<Result<_, IndexError>>()?;
        Ok(Self { index, kinds })
    }

    fn of_kind(&mut self, kind: &str) -> Option<&mut Used<Arc<str>>> {
        let mut kinds = self.kinds.iter_mut();
        kinds.find(|(name, _)| *name == kind).map(|(_, used)| used)
    }

    /// Takes note of a change that the index has, or would have if it followed.
    pub(crate) fn saw(&mut self, change: &Change) {
        if let Some(id) = change.leaves()
            && let Some(used) = self.of_kind(id.listed_under)
        {
            used.saw(id.id);
        }
    }

    /// The index does not have all that this saw.
    pub(crate) fn leave_gaps(&mut self) {
        for (_, used) in &mut self.kinds {
            used.has_gaps = true;
        }
    }

    /// Forgets the ids that the index shows since `position`.
    pub(crate) fn indexed(&mut self, position: u64) {
        for (_, used) in &mut self.kinds {
            used.forget_before(position);
        }
    }
}

impl Leavers for Past {
    fn note(&mut self, change: &Change, position: u64) {
        if let Some(id) = change.leaves()
            && let Some(used) = self.of_kind(id.listed_under)
        {
            used.add(id.id, position);
        }
    }

    fn undo(&mut self, change: &Change) {
        if let Some(id) = change.leaves()
            && let Some(used) = self.of_kind(id.listed_under)
        {
            used.undo(&id.id);
        }
    }
}

impl UsedIds for Past {
    fn knew(&self, id: &UsedId) -> Result<bool, String> {
        let mut kinds = self.kinds.iter();
        let of_kind = kinds.find(|(kind, _)| *kind == id.listed_under);
        // INVARIANT: `kinds` has the kind of every table that looks ids up.
        of_kind.map_or(Ok(false), |(_, used)| {
            used.has(&id.id, || self.index.lists(id.listed_under, &id.id))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn no_search() -> Result<bool, IndexError> {
        panic!("there is nothing to look up")
    }

    #[test]
    fn what_is_decided_and_not_written_leaves_nothing() {
        let mut used = Used::new(Some(0));
        for _ in 0..1000 {
            used.add(1, 5);
            used.add(2, 5);
            used.undo(&2);
            used.undo(&1);
        }
        assert!(used.recent.is_empty() && used.queue.is_empty());
        assert_eq!(used.has(&1, no_search), Ok(false));
        // At last there was room for it, behind another entry.
        used.add(1, 6);
        used.forget_before(5);
        assert_eq!(used.has(&1, no_search), Ok(true));
        used.forget_before(6);
        assert_eq!(used.has(&1, || Ok(true)), Ok(true));
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
        assert_eq!(used.has(&RECENT_MAX, no_search), Ok(true));
        assert_eq!(used.has(&(RECENT_MAX + 1), no_search), Ok(false));
        assert!(used.has(&0, no_search).is_err(), "it may have been used");
    }
}
