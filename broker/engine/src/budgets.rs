//! Budgets per agent and hour: ledger bytes, task starts, denials.
//!
//! A meter in memory counts them, and no guard of the store does. Quotas are guards because they
//! count records, which other commits change while a request is decided; a budget counts only what
//! its own agent uses up, and [`Meters::take`] checks and counts in one step under one lock. Of two
//! calls that race for the last of a budget, one gets it. The number is taken before the commit and
//! given back only when the store refuses the batch: a batch whose caller hangs up may still be
//! committed, so hanging up gives nothing back.
//!
//! A restart forgets the meters, so an agent then has a whole budget again. An agent cannot bring a
//! restart about, and a guard would cost every commit another row in the index. The monotonic clock
//! measures the hour, so a jump of the wall clock gives nothing and takes nothing. An agent has at
//! most one meter, of some hundred bytes, and only while it is not whole again; operators register
//! agents, so no agent can make meters.

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use parking_lot::Mutex;
use taskpass_core::{AgentName, Budget, Clock, Event};

use crate::{Budgets, Error};

mod exceeded;
#[cfg(test)]
mod tests;

pub(crate) use exceeded::{Exceeded, OverBudget};

/// The span of a budget.
const HOUR: Duration = Duration::from_secs(3600);
/// The part of a further hour's ledger bytes that only renewals of SVIDs may use. A program that
/// uses up the budget of its agent must not cost the agent its identity.
const RENEWALS: Duration = Duration::from_secs(3600 / 16);
/// Bytes that an entry takes beside its event: the time, the frame, the checksum, the hashes.
const ENTRY_BYTES: u64 = 96;
/// Bytes of a short decision with its entry.
const DECISION_BYTES: u64 = 512;
/// Meters that are kept before whole ones are dropped.
const METERS_KEPT: usize = 1024;

/// What a call uses up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spending {
    /// A task starts.
    TaskStart,
    /// A credential is issued.
    Issue,
    /// A credential is renewed.
    Renewal,
    /// An SVID is renewed.
    SvidRenewal,
    /// A denial is recorded.
    Denial,
    /// A reading is recorded.
    Reading,
}

impl Spending {
    /// Bytes of the entries that follow from it without another check. They are paid for in
    /// advance, so no budget refuses them, and an end costs its agent nothing.
    const fn follows(self) -> u64 {
        match self {
            // The decision to end it, its end, and the first use of its SVID.
            Self::TaskStart => 2048,
            // Its anchor, a second decision where the provider found a weaker class of revocation,
            // its outcome, and its revocation.
            Self::Issue => 2048 + DECISION_BYTES,
            Self::Renewal => 512,
            // The first use.
            Self::SvidRenewal => 256,
            // The entry that counts repeats is as large as the first one.
            Self::Denial | Self::Reading => 512,
        }
    }

    /// The budget that it counts in, besides its bytes.
    const fn counts_in(self) -> Option<Budget> {
        match self {
            Self::TaskStart => Some(Budget::TaskStarts),
            Self::Denial => Some(Budget::Denials),
            Self::Issue | Self::Renewal | Self::SvidRenewal | Self::Reading => None,
        }
    }

    /// How far ahead of time the agent may be: the whole budget at once.
    const fn ahead_max(self) -> Duration {
        match self {
            Self::SvidRenewal => HOUR.saturating_add(RENEWALS),
            Self::TaskStart | Self::Issue | Self::Renewal | Self::Denial | Self::Reading => HOUR,
        }
    }

    /// The price of a call that writes these events.
    pub(crate) fn price(self, settings: &Budgets, events: &[Event]) -> Price {
        self.price_of_bytes(settings, ledger_bytes(events))
    }

    /// The least that such a call costs, where `bytes` of the request go into the ledger.
    pub(crate) fn least(self, settings: &Budgets, bytes: u64) -> Price {
        self.price_of_bytes(settings, bytes + DECISION_BYTES)
    }

    fn price_of_bytes(self, settings: &Budgets, bytes: u64) -> Price {
        let mut times = [Duration::ZERO; Budget::ALL.len()];
        let bytes = (Budget::LedgerBytes, bytes + self.follows());
        let one = self.counts_in().map(|budget| (budget, 1));
        for (budget, amount) in [Some(bytes), one].into_iter().flatten() {
            if let Some(time) = times.get_mut(budget as usize) {
                *time = time_for(amount, settings.per_hour(budget));
            }
        }
        Price {
            times,
            ahead_max: self.ahead_max(),
        }
    }
}

impl Budgets {
    /// How much of it an agent has in an hour.
    pub(crate) const fn per_hour(&self, budget: Budget) -> u32 {
        match budget {
            Budget::LedgerBytes => self.agent_ledger_bytes_per_hour,
            Budget::TaskStarts => self.agent_task_starts_per_hour,
            Budget::Denials => self.agent_denials_per_hour,
        }
    }
}

/// The price of a call: for each budget the time in which so much of it comes back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Price {
    times: [Duration; Budget::ALL.len()],
    ahead_max: Duration,
}

/// A budget that a call does not fit into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spent {
    pub(crate) budget: Budget,
    /// When it would fit.
    pub(crate) retry_after: Duration,
}

/// For each budget of an agent, when it is whole again (the generic cell rate algorithm).
type Meter = [Duration; Budget::ALL.len()];

/// How much of its budgets each agent has used up.
#[derive(Debug)]
pub(crate) struct Meters {
    clock: Arc<dyn Clock>,
    of: Mutex<OfAgents>,
}

#[derive(Debug)]
struct OfAgents {
    meters: HashMap<AgentName, Meter>,
    /// At so many meters the next new agent's call drops the whole ones. The number becomes twice
    /// the number of meters that stay, so that a call rarely pays for the sweep.
    sweep_at: usize,
}

impl Meters {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            of: Mutex::new(OfAgents {
                meters: HashMap::new(),
                sweep_at: METERS_KEPT,
            }),
        }
    }

    /// Whether the agent has room for such a call, without taking any.
    pub(crate) fn check(&self, agent: &AgentName, price: &Price) -> Result<(), Spent> {
        let now = self.clock.monotonic();
        let of = self.of.lock();
        of.meters
            .get(agent)
            .map_or(Ok(()), |meter| after(meter, price, now).map(drop))
    }

    /// Takes the price of a call from all budgets that it counts in, or from none.
    pub(crate) fn take(&self, agent: &AgentName, price: &Price) -> Result<(), Spent> {
        let now = self.clock.monotonic();
        let mut of = self.of.lock();
        if let Some(meter) = of.meters.get_mut(agent) {
            *meter = after(meter, price, now)?;
            return Ok(());
        }
        let meter = after(&Meter::default(), price, now)?;
        if of.meters.len() >= of.sweep_at {
            of.meters
                .retain(|_, meter| meter.iter().any(|whole_at| *whole_at > now));
            of.sweep_at = METERS_KEPT.max(of.meters.len() * 2);
        }
        of.meters.insert(agent.clone(), meter);
        Ok(())
    }

    /// Gives back what was taken for a call that the store refused.
    pub(crate) fn give_back(&self, agent: &AgentName, price: &Price) {
        if let Some(meter) = self.of.lock().meters.get_mut(agent) {
            for (whole_at, time) in meter.iter_mut().zip(price.times) {
                *whole_at = whole_at.saturating_sub(time);
            }
        }
    }
}

/// The meter after a call at `now`.
fn after(meter: &Meter, price: &Price, now: Duration) -> Result<Meter, Spent> {
    let mut next = *meter;
    for ((whole_at, time), budget) in next.iter_mut().zip(price.times).zip(Budget::ALL) {
        if time.is_zero() {
            continue;
        }
        let used = whole_at.saturating_sub(now);
        let ahead = used.saturating_add(time);
        // A call that is larger than the whole budget waits until nothing of it is used.
        if ahead > price.ahead_max && !used.is_zero() {
            return Err(Spent {
                budget,
                retry_after: (ahead - price.ahead_max).min(used),
            });
        }
        *whole_at = now.saturating_add(ahead);
    }
    Ok(next)
}

/// The time in which so much of a budget comes back.
fn time_for(amount: u64, per_hour: u32) -> Duration {
    let nanos = u128::from(amount) * HOUR.as_nanos() / u128::from(per_hour.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Bytes that the events take in the ledger. Counting them allocates nothing.
fn ledger_bytes(events: &[Event]) -> u64 {
    let mut count = Count(0);
    for event in events {
        // An event that cannot be written is refused by the store.
        let _written = serde_json::to_writer(&mut count, event);
        count.0 += ENTRY_BYTES;
    }
    count.0
}

struct Count(u64);

impl io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Error {
    /// The refusal of a call for which an agent has no budget left.
    pub(crate) fn over_budget(agent: &AgentName, settings: &Budgets, spent: Spent) -> Self {
        Self::BudgetExceeded {
            agent: agent.clone(),
            budget: spent.budget,
            per_hour: settings.per_hour(spent.budget),
            retry_after: spent.retry_after,
        }
    }
}
