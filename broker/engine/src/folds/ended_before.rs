//! Ends and revocations of things that had ended before, by agents without a budget for an entry
//! each. One entry a minute stands for them, for each agent and action, whatever they name.
//!
//! No budget refuses these calls, so the number of their entries must depend on nothing that an
//! agent can use up. An agent with all its tasks has one place for each action here, beside the
//! table of folds and its limits: it could fill its folds by reading.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use taskpass_core::{DecisionRecord, Repeated, Timestamp, limits};
use tokio::sync::Mutex as Turn;

use super::{Folded, add, caller, one};

/// The resource in the entry.
const RESOURCE: &str = "things that had ended before";

/// One place for each agent and action. Operators register agents, so agents make no places.
#[derive(Debug, Default)]
pub(crate) struct EndedBefore(Mutex<BTreeMap<Place, Slot>>);

/// The agent and the action.
type Place = (Box<str>, Box<str>);

#[derive(Debug, Default)]
struct Slot {
    /// Held over the commit of an entry: calls that come together would have an entry each
    /// otherwise. An agent waits for its own calls only.
    turn: Arc<Turn<()>>,
    /// The newest entry.
    record: Option<DecisionRecord>,
    /// When it was recorded, on the monotonic clock.
    since: Option<Duration>,
    repeated: Option<Repeated>,
}

/// The record without the thing and the task, so that it stands for all of an agent.
pub(crate) fn standing_for_all(mut record: DecisionRecord) -> DecisionRecord {
    record.principal = caller(&record).to_owned();
    RESOURCE.clone_into(&mut record.resource);
    record
}

impl EndedBefore {
    /// What a call of this agent holds while it counts, or writes an entry.
    pub(crate) fn turn(&self, record: &DecisionRecord) -> Arc<Turn<()>> {
        let mut slots = self.0.lock();
        Arc::clone(&slots.entry(place(record)).or_default().turn)
    }

    /// Counts a call that an entry of the last minute stands for. `false`: it needs an entry.
    pub(crate) fn repeats(&self, record: &DecisionRecord, at: Timestamp, now: Duration) -> bool {
        let mut slots = self.0.lock();
        let slot = slots.entry(place(record)).or_default();
        let repeats = slot.is_current(now);
        if repeats {
            add(&mut slot.repeated, one(at));
        }
        repeats
    }

    /// Begins to count, before the entry is written: the entry of a caller that hangs up may be
    /// written all the same, and hanging up each time would make an entry each time. The caller
    /// holds the turn, so no other call is counted before the entry is there. A number that is not
    /// written yet goes with the next one.
    pub(crate) fn begin(&self, record: DecisionRecord, now: Duration) {
        let mut slots = self.0.lock();
        let slot = slots.entry(place(&record)).or_default();
        slot.record = Some(record);
        slot.since = Some(now);
    }

    /// The entry was not written.
    pub(crate) fn withdraw(&self, record: &DecisionRecord) {
        if let Some(slot) = self.0.lock().get_mut(&place(record)) {
            slot.since = None;
        }
    }

    /// Takes out the entries whose minute is over, to be written; at the end of the process, all
    /// entries.
    pub(crate) fn due(&self, now: Duration, all: bool) -> Vec<Folded> {
        let mut due = Vec::new();
        self.0.lock().retain(|_, slot| {
            if slot.is_current(now) && !all {
                return true;
            }
            slot.since = None;
            if let (Some(record), Some(repeated)) = (slot.record.take(), slot.repeated.take()) {
                due.push(Folded { record, repeated });
            }
            // A call that holds the turn is about to use the slot.
            Arc::strong_count(&slot.turn) > 1
        });
        due
    }

    /// Takes back entries that could not be written.
    pub(crate) fn put_back(&self, unwritten: Vec<Folded>) {
        let mut slots = self.0.lock();
        for Folded { record, repeated } in unwritten {
            let slot = slots.entry(place(&record)).or_default();
            add(&mut slot.repeated, repeated);
            slot.record.get_or_insert(record);
        }
    }

    /// How long until the next minute is over.
    pub(crate) fn next(&self, now: Duration) -> Option<Duration> {
        let slots = self.0.lock();
        let ends = slots.values().filter_map(|slot| slot.since);
        ends.map(|since| (since + limits::FOLD_WINDOW).saturating_sub(now))
            .min()
    }
}

impl Slot {
    fn is_current(&self, now: Duration) -> bool {
        self.since
            .is_some_and(|since| now.saturating_sub(since) < limits::FOLD_WINDOW)
    }
}

fn place(record: &DecisionRecord) -> Place {
    (caller(record).into(), record.action.as_str().into())
}

#[cfg(test)]
mod tests;
