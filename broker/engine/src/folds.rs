//! Repeats of one denial, or of one reading, as one entry a minute that says how many there were.
//!
//! The first of them has an entry of its own before it is answered. Its repeats within a minute are
//! counted here, in memory, and an entry with their number follows when the minute is over or the
//! broker stops. So a crash loses the number of the last minute, and never the first.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    time::Duration,
};

use parking_lot::Mutex;
use taskpass_core::{DecisionRecord, Digest, Event, Repeated, Scope, Timestamp, limits};

mod ended_before;

pub(crate) use ended_before::{EndedBefore, standing_for_all};

/// A decision, with what tells it from others that read the same in the ledger.
#[derive(Debug, Clone)]
pub(crate) struct Decided {
    pub(crate) record: DecisionRecord,
    pub(crate) asked: Asked,
}

/// The address of the caller and the parameters that it asked for. A thief beside the owner comes
/// from another address, and a denial for one repository is none for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Asked {
    ip: Option<IpAddr>,
    /// A digest, since a scope takes kilobytes.
    scope: Option<Digest>,
}

impl Asked {
    pub(crate) fn new(ip: Option<IpAddr>, scope: Option<&Scope>) -> Self {
        let digest = |scope| Digest::of(&serde_json::to_vec(scope).unwrap_or_default());
        Self {
            ip,
            scope: scope.map(digest),
        }
    }
}

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
    decided: Decided,
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

/// Two decisions with the same parts are one for an auditor: the caller and its address, what was
/// asked for, and why it was decided so.
#[derive(Hash, PartialEq, Eq)]
struct Parts<'a>(
    [&'a str; 5],
    &'a [String],
    &'a [String],
    std::mem::Discriminant<taskpass_core::Outcome>,
    Asked,
);

fn parts(decided: &Decided) -> Parts<'_> {
    let Decided { record, asked } = decided;
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
        *asked,
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
    fn place(&self, decided: &Decided) -> u64 {
        self.hasher.hash_one(parts(decided))
    }

    /// Counts a decision that an entry of the last minute stands for. `false`: it needs an entry.
    pub(crate) fn repeats(&self, decided: &Decided, at: Timestamp, now: Duration) -> bool {
        let place = self.place(decided);
        let mut table = self.table.lock();
        let Some(fold) = table.open.get_mut(&place) else {
            return false;
        };
        if parts(&fold.decided) != parts(decided) {
            return false;
        }
        if fold.is_over(now) {
            table.close(place);
            return false;
        }
        add(&mut fold.repeated, one(at));
        true
    }

    /// Begins to count the repeats of a decision that is on record, if there is room.
    pub(crate) fn begin(&self, decided: Decided, now: Duration) {
        let place = self.place(&decided);
        let record = &decided.record;
        let mut table = self.table.lock();
        let total = table.open.len() + table.closed.len();
        let own = table.of_caller.get(caller(record)).copied();
        let is_full = total >= limits::FOLDS_MAX
            || own.is_some_and(|own| own >= limits::FOLDS_PER_CALLER_MAX);
        if is_full || table.open.contains_key(&place) {
            return;
        }
        match table.of_caller.get_mut(caller(record)) {
            Some(own) => *own += 1,
            None => drop(table.of_caller.insert(caller(record).into(), 1)),
        }
        let fold = Fold {
            decided,
            since: now,
            repeated: None,
        };
        table.open.insert(place, fold);
    }

    /// Takes out the entries whose minute is over, to be written; at the end of the process, all
    /// entries.
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

/// One decision.
pub(crate) const fn one(at: Timestamp) -> Repeated {
    Repeated {
        times: 1,
        first: at,
        last: at,
    }
}

/// Adds up what two entries would have said.
pub(crate) fn add(sum: &mut Option<Repeated>, more: Repeated) {
    *sum = Some(sum.map_or(more, |sum| Repeated {
        times: sum.times.saturating_add(more.times),
        first: sum.first.min(more.first),
        last: sum.last.max(more.last),
    }));
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
        if let Some(own) = self.of_caller.get_mut(caller(&fold.decided.record)) {
            *own -= 1;
            if *own == 0 {
                self.of_caller.remove(caller(&fold.decided.record));
            }
        }
        if let Some(repeated) = fold.repeated {
            self.closed.push(Folded {
                record: fold.decided.record,
                repeated,
            });
        }
    }
}

#[cfg(test)]
mod tests;
