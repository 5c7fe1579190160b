//! The changes of some consecutive entries, on their way from the state to the index.

use std::collections::BTreeMap;

use taskpass_core::{Digest, TaskId, Timestamp};

use crate::{
    entry::Entry,
    index::{Head, Index, IndexError, Rows},
    log::{LogError, Sealed},
    state::{Change, State},
};

/// The changes of some consecutive entries.
#[derive(Debug)]
pub(crate) struct Portion {
    /// How far the index is with them.
    pub(crate) head: Head,
    pub(crate) changes: Vec<Change>,
    /// Records in their final form.
    pub(crate) ended: Vec<Change>,
    /// Which entries are about which tasks.
    pub(crate) about: Vec<(TaskId, u64)>,
}

/// Writes consecutive portions into the index, in one atomic batch.
pub(crate) fn write(portions: &[Portion], index: &Index) -> Result<(), IndexError> {
    let Some(last) = portions.last() else {
        return Ok(());
    };
    let mut rows = Rows::default();
    let mut about: BTreeMap<TaskId, Vec<u64>> = BTreeMap::new();
    for portion in portions {
        for change in portion.changes.iter().chain(&portion.ended) {
            change.rows(&mut rows);
        }
        for (task, index) in &portion.about {
            about.entry(*task).or_default().push(*index);
        }
    }
    index.write(rows, &about, &last.head)
}

/// Applies entries of the log to a state, and returns the changes that they made. Nothing is pruned
/// that still has a meaning at `accepted`, the earliest time that a person accepted after these
/// entries: the ledger goes on from there.
pub(crate) fn replayed(
    state: &mut State,
    news: &Sealed,
    accepted: Timestamp,
) -> Result<Portion, LogError> {
    let mut portion = Portion {
        head: Head {
            position: news.end().0,
            last: Digest::of(news.last().unwrap_or_default()),
            time: state.last_time(),
            trust_domain: None,
        },
        changes: Vec::new(),
        ended: Vec::new(),
        about: Vec::new(),
    };
    for (index, bytes) in news.iter() {
        let unreadable = |reason: String| LogError::Unreadable { index, reason };
        let entry = Entry::parse(bytes).map_err(|e| unreadable(e.to_string()))?;
        let effects = state.effects(&entry.event, entry.time);
        let mut effects = effects.map_err(|e| unreadable(e.to_string()))?;
        effects
            .changes
            .push(Change::Position(index + 1, entry.time));
        for change in &effects.changes {
            state.set(change);
        }
        portion.head.time = entry.time;
        portion.changes.extend(effects.changes);
        portion.ended.extend(effects.ended);
        let about = effects.about.into_iter().map(|task| (task, index));
        portion.about.extend(about);
    }
    // A long replay would otherwise hold every SVID there ever was.
    for change in state.stale(portion.head.time.min(accepted)) {
        state.set(&change);
        portion.changes.push(change);
    }
    portion.head.trust_domain = state.trust_domain().cloned();
    Ok(portion)
}
