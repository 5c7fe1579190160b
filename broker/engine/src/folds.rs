//! Repeats of one denial, or of one reading, as one entry a minute that says how many there were.
//!
//! The first of them has an entry of its own before it is answered. Its repeats within a minute are
//! counted here, in memory, and an entry with their number follows when the minute is over or the
//! broker stops. So a crash loses the number of the last minute, and never the first.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

use parking_lot::Mutex;
use taskpass_core::{DecisionRecord, Event, Repeated, Timestamp, limits};

/// The decisions whose repeats are counted. It reads no clock.
#[derive(Debug, Default)]
pub(crate) struct Folds {
    /// Seeded by chance, so no caller can choose decisions that get into each other's way.
    hasher: RandomState,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// By hash. A decision that meets another one at its place is recorded each time.
    open: HashMap<u64, Fold>,
    /// How many of them each caller has.
    of_caller: HashMap<Box<str>, usize>,
    /// Entries that are to be written.
    closed: Vec<Folded>,
}

/// A decision on record, and how often it was repeated since.
#[derive(Debug)]
struct Fold {
    record: DecisionRecord,
    /// When it was recorded, on the monotonic clock.
    since: Duration,
    repeated: Option<Repeated>,
}

/// An entry that stands for repeats.
#[derive(Debug)]
pub(crate) struct Folded {
    record: DecisionRecord,
    repeated: Repeated,
}

impl Folded {
    pub(crate) fn event(&self) -> Event {
        Event::Decided {
            decision: self.record.clone(),
            repeated: Some(self.repeated),
        }
    }
}

/// Two decisions with the same parts are one for an auditor: the caller, what was asked, and why it
/// was decided so.
#[derive(Hash, PartialEq, Eq)]
struct Parts<'a>(
    [&'a str; 5],
    &'a [String],
    &'a [String],
    std::mem::Discriminant<taskpass_core::Outcome>,
);

fn parts(record: &DecisionRecord) -> Parts<'_> {
    let DecisionRecord {
        principal,
        action,
        resource,
        outcome,
        reason,
        policy_set,
        policies,
        errors,
        // The facts of the first one stand for all, as its time does.
        input_sha256: _,
        duration_us: _,
    } = record;
    Parts(
        [principal, action, resource, reason, policy_set],
        policies,
        errors,
        std::mem::discriminant(outcome),
    )
}

/// An agent with all its tasks, or an operator.
fn caller(record: &DecisionRecord) -> &str {
    let principal = record.principal.as_str();
    principal
        .rsplit_once("/task/")
        .map_or(principal, |(agent, _)| agent)
}

impl Folds {
    fn place(&self, record: &DecisionRecord) -> u64 {
        self.hasher.hash_one(parts(record))
    }

    /// Counts a decision that an entry of the last minute stands for. `false`: it needs an entry.
    pub(crate) fn repeats(&self, record: &DecisionRecord, at: Timestamp, now: Duration) -> bool {
        let place = self.place(record);
        let mut table = self.table.lock();
        let Some(fold) = table.open.get_mut(&place) else {
            return false;
        };
        if parts(&fold.record) != parts(record) {
            return false;
        }
        if fold.is_over(now) {
            table.close(place);
            return false;
        }
        let repeated = fold.repeated.get_or_insert(Repeated {
            times: 0,
            first: at,
            last: at,
        });
        repeated.times = repeated.times.saturating_add(1);
        repeated.last = repeated.last.max(at);
        true
    }

    /// Begins to count the repeats of a decision that is on record, if there is room.
    pub(crate) fn begin(&self, record: DecisionRecord, now: Duration) {
        let place = self.place(&record);
        let mut table = self.table.lock();
        let total = table.open.len() + table.closed.len();
        let own = table.of_caller.get(caller(&record)).copied();
        let is_full = total >= limits::FOLDS_MAX
            || own.is_some_and(|own| own >= limits::FOLDS_PER_CALLER_MAX);
        if is_full || table.open.contains_key(&place) {
            return;
        }
        match table.of_caller.get_mut(caller(&record)) {
            Some(own) => *own += 1,
            None => drop(table.of_caller.insert(caller(&record).into(), 1)),
        }
        let fold = Fold {
            record,
            since: now,
            repeated: None,
        };
        table.open.insert(place, fold);
    }

    /// Takes out the entries that are to be written: those whose minute is over, at the end of the
    /// process all.
    pub(crate) fn due(&self, now: Duration, all: bool) -> Vec<Folded> {
        let mut table = self.table.lock();
        let over = table
            .open
            .iter()
            .filter(|(_, fold)| all || fold.is_over(now));
        let over: Vec<u64> = over.map(|(place, _)| *place).collect();
        for place in over {
            table.close(place);
        }
        std::mem::take(&mut table.closed)
    }

    /// Takes back entries that could not be written.
    pub(crate) fn put_back(&self, unwritten: Vec<Folded>) {
        self.table.lock().closed.extend(unwritten);
    }

    /// How long until the next minute is over.
    pub(crate) fn next(&self, now: Duration) -> Option<Duration> {
        let table = self.table.lock();
        let ends = table.open.values();
        ends.map(|fold| (fold.since + limits::FOLD_WINDOW).saturating_sub(now))
            .min()
    }
}

impl Fold {
    fn is_over(&self, now: Duration) -> bool {
        now.saturating_sub(self.since) >= limits::FOLD_WINDOW
    }
}

impl Table {
    fn close(&mut self, place: u64) {
        let Some(fold) = self.open.remove(&place) else {
            return;
        };
        if let Some(own) = self.of_caller.get_mut(caller(&fold.record)) {
            *own -= 1;
            if *own == 0 {
                self.of_caller.remove(caller(&fold.record));
            }
        }
        if let Some(repeated) = fold.repeated {
            self.closed.push(Folded {
                record: fold.record,
                repeated,
            });
        }
    }
}

#[cfg(test)]
mod tests;
