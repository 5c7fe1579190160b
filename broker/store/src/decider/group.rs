//! A group of entries that is appended together, their changes, and how to undo these.

use taskpass_core::TaskId;

use crate::{
    log::Sealed,
    state::{Change, Effects},
};

/// Entries and their effects, in order.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) entries: Sealed,
    /// Inverse changes; the last is to be made first.
    pub(crate) undo: Vec<Change>,
    pub(crate) changes: Vec<Change>,
    /// Records in their final form.
    pub(crate) ended: Vec<Change>,
    pub(crate) about: Vec<(TaskId, u64)>,
}

/// How far a group was.
#[derive(Debug, Default)]
pub(crate) struct Mark {
    entries: usize,
    pub(crate) undo: usize,
    changes: usize,
    ended: usize,
    about: usize,
}

impl Group {
    /// Nothing yet, to be appended at `first`.
    pub(crate) const fn new(first: u64) -> Self {
        Self {
            entries: Sealed::new(first),
            undo: Vec::new(),
            changes: Vec::new(),
            ended: Vec::new(),
            about: Vec::new(),
        }
    }

    pub(crate) const fn mark(&self) -> Mark {
        Mark {
            entries: self.entries.len(),
            undo: self.undo.len(),
            changes: self.changes.len(),
            ended: self.ended.len(),
            about: self.about.len(),
        }
    }

    /// Goes back to a mark. The decider makes the inverse changes.
    pub(crate) fn cut(&mut self, to: &Mark) {
        self.entries.truncate(to.entries);
        self.undo.truncate(to.undo);
        self.changes.truncate(to.changes);
        self.ended.truncate(to.ended);
        self.about.truncate(to.about);
    }

    pub(crate) fn push(&mut self, index: u64, stamp: &str, json: &[u8], effects: Effects) {
        self.entries.push(stamp, json);
        self.changes.extend(effects.changes);
        self.ended.extend(effects.ended);
        self.about
            .extend(effects.about.into_iter().map(|task| (task, index)));
    }
}
