//! Deciding in ledger order: guards, the rules of each event, and the events that follow from one.
//!
//! The state runs ahead of the log, and is undone when a batch is refused or cannot be appended. No
//! file, thread or clock is known here.

mod group;

use taskpass_core::{Event, Timestamp};

pub(crate) use self::group::{Group, Mark};
use crate::{
    Batch, CommitError, Committed, entry,
    state::{Change, State, UsedIds},
};

/// The ids of records that left the state. It is told of each that leaves.
pub(crate) trait Leavers: UsedIds {
    /// Notes the id that a change at `position` takes out of the state.
    fn note(&mut self, change: &Change, position: u64);

    /// Takes back the note of a change that is undone. Of several, the last is undone first.
    fn undo(&mut self, change: &Change);
}

/// The state after everything decided so far.
#[derive(Debug)]
pub(crate) struct Decider<H> {
    pub(crate) state: State,
    pub(crate) past: H,
}

/// The time that a person confirmed, where the batch is about nothing else.
fn accepted(batch: &Batch) -> Option<Timestamp> {
    match batch.events.as_slice() {
        [Event::ClockAccepted { accepted, .. }] => Some(*accepted),
        _ => None,
    }
}

impl<H: Leavers> Decider<H> {
    /// Decides on one batch at `now`. On refusal the state and the group are as before. `json` are
    /// the batch's events as JSON.
    pub(crate) fn decide(
        &mut self,
        batch: &Batch,
        json: &[Vec<u8>],
        now: Timestamp,
        group: &mut Group,
    ) -> Result<Committed, CommitError> {
        // The wall clock may go back; the ledger's time does not, unless a person says so.
        let time = accepted(batch).unwrap_or_else(|| now.max(self.state.last_time()));
        let committed = Committed {
            first_index: self.state.next(),
            time,
        };
        let mark = group.mark();
        match self.admit(batch, json, time, group) {
            Ok(()) => Ok(committed),
            Err(error) => {
                self.undo(group, &mark);
                Err(error)
            }
        }
    }

    /// Undoes the decisions after a mark.
    pub(crate) fn undo(&mut self, group: &mut Group, to: &Mark) {
        while group.undo.len() > to.undo {
            if let Some(inverse) = group.undo.pop() {
                let undone = self.state.set(&inverse);
                self.past.undo(&undone);
            }
        }
        group.cut(to);
    }

    fn admit(
        &mut self,
        batch: &Batch,
        json: &[Vec<u8>],
        time: Timestamp,
        group: &mut Group,
    ) -> Result<(), CommitError> {
        for event in &batch.events {
            self.state.unused_key(event.new_key(), time)?;
        }
        for guard in &batch.guards {
            self.state.check(guard, time).map_err(CommitError::Guard)?;
        }
        let stamp = time.to_string();
        for (event, json) in batch.events.iter().zip(json) {
            let follow = self.state.cascade(event, time);
            self.take(event, json, (time, &stamp), group)?;
            for event in &follow {
                self.take(event, &entry::encode(event)?, (time, &stamp), group)?;
            }
        }
        Ok(())
    }

    /// Admits one event and moves the state on.
    fn take(
        &mut self,
        event: &Event,
        json: &[u8],
        (time, stamp): (Timestamp, &str),
        group: &mut Group,
    ) -> Result<(), CommitError> {
        self.state.admit(event, time, &self.past)?;
        let index = self.state.next();
        let mut effects = self
            .state
            .effects(event, time)
            .map_err(CommitError::Conflict)?;
        effects.changes.push(Change::Position(index + 1, time));
        for change in &effects.changes {
            self.past.note(change, index + 1);
            group.undo.push(self.state.set(change));
        }
        group.push(index, stamp, json, effects);
        Ok(())
    }
}
