//! Who used up which budget. One entry of the ledger says so for each agent, budget and hour, and a
//! second one how many calls were refused: an entry for each refused call would fill the disk that
//! the budget protects.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    time::Duration,
};

use parking_lot::Mutex;
use taskpass_core::{AgentName, Budget, Event, Repeated, Timestamp};
use tokio::sync::Notify;

use super::HOUR;
use crate::folds::{add, one};

/// Refused calls of one agent for one budget.
#[derive(Debug)]
struct Tally {
    /// When the first call of this hour was refused, on the monotonic clock.
    since: Duration,
    per_hour: u32,
    /// The refused calls that no entry counts.
    refused: Option<Repeated>,
    /// Whether an entry of this hour says that the budget was used up.
    is_reported: bool,
}

/// The refused calls of all agents; as many tallies as agents used up budgets within the hour.
#[derive(Debug, Default)]
pub(crate) struct Exceeded {
    tallies: Mutex<BTreeMap<(AgentName, Budget), Tally>>,
    /// Wakes the reconciler that writes the entries.
    began: Notify,
}

/// The entry that is to be written about a budget.
#[derive(Debug)]
pub(crate) struct OverBudget {
    agent: AgentName,
    budget: Budget,
    per_hour: u32,
    pub(super) refused: Repeated,
}

impl OverBudget {
    pub(crate) fn event(&self) -> Event {
        Event::BudgetExceeded {
            agent: self.agent.clone(),
            budget: self.budget,
            per_hour: u64::from(self.per_hour),
            refused: self.refused,
        }
    }
}

impl Exceeded {
    /// Counts a refused call.
    pub(crate) fn count(
        &self,
        agent: &AgentName,
        (budget, per_hour): (Budget, u32),
        at: Timestamp,
        now: Duration,
    ) {
        let mut tallies = self.tallies.lock();
        match tallies.entry((agent.clone(), budget)) {
            Entry::Occupied(mut tally) => {
                let tally = tally.get_mut();
                tally.per_hour = per_hour;
                add(&mut tally.refused, one(at));
            }
            Entry::Vacant(place) => {
                place.insert(Tally {
                    since: now,
                    per_hour,
                    refused: Some(one(at)),
                    is_reported: false,
                });
                self.began.notify_one();
            }
        }
    }

    /// Ends when an agent begins to be refused.
    pub(crate) async fn began(&self) {
        self.began.notified().await;
    }

    /// Takes out the tallies to be written: the tallies that no entry speaks of, the tallies whose
    /// hour is over, and at the end of the process all tallies.
    pub(crate) fn due(&self, now: Duration, all: bool) -> Vec<OverBudget> {
        let mut due = Vec::new();
        self.tallies.lock().retain(|(agent, budget), tally| {
            let is_over = now.saturating_sub(tally.since) >= HOUR;
            if (all || is_over || !tally.is_reported)
                && let Some(refused) = tally.refused.take()
            {
                tally.is_reported = true;
                due.push(OverBudget {
                    agent: agent.clone(),
                    budget: *budget,
                    per_hour: tally.per_hour,
                    refused,
                });
            }
            !is_over
        });
        due
    }

    /// Takes back entries that could not be written.
    pub(crate) fn put_back(&self, unwritten: Vec<OverBudget>, now: Duration) {
        let mut tallies = self.tallies.lock();
        for over in unwritten {
            let tally = tallies
                .entry((over.agent, over.budget))
                .or_insert_with(|| Tally {
                    since: now,
                    per_hour: over.per_hour,
                    refused: None,
                    is_reported: false,
                });
            tally.is_reported = false;
            add(&mut tally.refused, over.refused);
        }
    }

    /// How long until the next hour is over.
    pub(crate) fn next(&self, now: Duration) -> Option<Duration> {
        let tallies = self.tallies.lock();
        let ends = tallies
            .values()
            .map(|tally| (tally.since + HOUR).saturating_sub(now));
        ends.min()
    }
}
