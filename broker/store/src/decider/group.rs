//! What is appended together: the entries, what they do, and how to take it back.

use std::sync::Arc;

use taskpass_core::{Task, TaskId};

use crate::{
    entry,
    state::{Change, Effects},
};

/// Entries and their effects, in order.
#[derive(Debug)]
pub(crate) struct Group {
    first: u64,
    bytes: Vec<u8>,
    /// Where each entry ends in `bytes`.
    ends: Vec<usize>,
    /// Inverse changes; the last is to be made first.
    pub(crate) undo: Vec<Change>,
    pub(crate) changes: Vec<Change>,
    pub(crate) ended: Vec<Arc<Task>>,
    pub(crate) about: Vec<(TaskId, u64)>,
}

/// How far a group was.
#[derive(Debug, Default)]
pub(crate) struct Mark {
    bytes: usize,
    ends: usize,
    pub(crate) undo: usize,
    changes: usize,
    ended: usize,
    about: usize,
}

impl Group {
    pub(crate) const fn new(first: u64) -> Self {
        Self {
            first,
            bytes: Vec::new(),
            ends: Vec::new(),
            undo: Vec::new(),
            changes: Vec::new(),
            ended: Vec::new(),
            about: Vec::new(),
        }
    }

    /// The ledger index of the first entry.
    pub(crate) const fn first(&self) -> u64 {
        self.first
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark {
            bytes: self.bytes.len(),
            ends: self.ends.len(),
            undo: self.undo.len(),
            changes: self.changes.len(),
            ended: self.ended.len(),
            about: self.about.len(),
        }
    }

    /// Goes back to a mark. The inverse changes are made by whoever has the state.
    pub(crate) fn cut(&mut self, to: &Mark) {
        self.bytes.truncate(to.bytes);
        self.ends.truncate(to.ends);
        self.undo.truncate(to.undo);
        self.changes.truncate(to.changes);
        self.ended.truncate(to.ended);
        self.about.truncate(to.about);
    }

    pub(crate) fn push(&mut self, index: u64, stamp: &str, json: &[u8], effects: Effects) {
        entry::frame(stamp, json, &mut self.bytes);
        self.ends.push(self.bytes.len());
        self.changes.extend(effects.changes);
        self.ended.extend(effects.ended);
        self.about
            .extend(effects.about.into_iter().map(|task| (task, index)));
    }

    pub(crate) fn entries(&self) -> Vec<&[u8]> {
        let mut from = 0;
        self.ends
            .iter()
            .map(|end| {
                // INVARIANT: ends rise and lie within the bytes.
                let entry = self.bytes.get(from..*end).unwrap_or_default();
                from = *end;
                entry
            })
            .collect()
    }

    pub(crate) fn last_entry(&self) -> Option<&[u8]> {
        let last = self.ends.last()?;
        let from = self.ends.iter().rev().nth(1).copied().unwrap_or(0);
        self.bytes.get(from..*last)
    }
}
