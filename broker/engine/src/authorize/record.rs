//! Recording decisions that change nothing: denials and readings. Repeats are folded, and an agent
//! pays for each entry from its budgets.

use std::{sync::Arc, time::Duration};

use taskpass_core::{AgentName, Event};
use taskpass_store::{Batch, Committed, Guard, Priority};

use super::Allowed;
use crate::{
    Budgets, Call, Engine, Error,
    budgets::{Price, Spending, Spent},
    credentials::IntentRecord,
    folds::{Decided, Folded, standing_for_all},
};

/// Who pays for an entry, and by which settings. Operators pay nothing.
pub(crate) type Account<'a> = Option<(&'a AgentName, &'a Budgets)>;

impl Call {
    /// The agent whose budgets the call uses up.
    pub(crate) fn account(&self) -> Account<'_> {
        let agent = self.agent()?;
        Some((&agent.name, &self.snapshot.settings().budgets))
    }
}

impl Engine {
    /// Records a permission of an action that changes nothing. An operator's may go into the part
    /// of the reserve that is kept for readers, so that people can look at the broker when the disk
    /// is full. A dashboard must not use up the room that is kept for revocations.
    pub(crate) async fn commit_allowed(&self, call: &Call, allowed: Allowed) -> Result<(), Error> {
        let Allowed(decided) = allowed;
        if self.repeats(&decided) {
            return Ok(());
        }
        let events = [decided.event()];
        let price = self.pay(call.account(), Spending::Reading, &events)?;
        self.commit_reading(call, decided, events, price).await
    }

    /// The same for ending or revoking a thing that had ended before. No budget refuses it, since
    /// its caller may have missed the first answer. An agent without budget could ask a thousand
    /// times for each of a thousand ended tasks, so its calls share one entry, which names no task.
    pub(crate) async fn commit_ended_before(
        &self,
        call: &Call,
        allowed: Allowed,
    ) -> Result<(), Error> {
        let Allowed(decided) = allowed;
        if self.repeats(&decided) {
            return Ok(());
        }
        let events = [decided.event()];
        if let Ok(price) = self.take(call.account(), Spending::Reading, &events) {
            return self.commit_reading(call, decided, events, price).await;
        }
        let record = standing_for_all(decided.record);
        let turn = self.ended_before.turn(&record);
        let _turn = turn.lock().await;
        let now = self.context.clock.monotonic();
        if self.ended_before.repeats(&record, self.now(), now) {
            self.context.metrics.events.repeated(&record);
            return Ok(());
        }
        let event = Event::Decided {
            decision: record.clone(),
            repeated: None,
        };
        self.ended_before.begin(record.clone(), now);
        let committed = self.commit(vec![event], Vec::new()).await;
        if committed.is_err() {
            self.ended_before.withdraw(&record);
        }
        committed.map(drop)
    }

    async fn commit_reading(
        &self,
        call: &Call,
        decided: Decided,
        events: [Event; 1],
        price: Option<Price>,
    ) -> Result<(), Error> {
        let priority = if call.agent().is_some() {
            Priority::Normal
        } else {
            Priority::Reading
        };
        let committed = self.commit_with(events.into(), Vec::new(), priority).await;
        self.paid(call.account(), price, committed)?;
        self.folds.begin(decided, self.context.clock.monotonic());
        Ok(())
    }

    /// Records a denial, unless an entry of the last minute stands for it. Denials do not use the
    /// disk reserve: a caller without rights must not use up the room for revocations.
    pub(crate) async fn commit_denial(
        &self,
        account: Account<'_>,
        decided: Decided,
    ) -> Result<(), Error> {
        if self.repeats(&decided) {
            return Ok(());
        }
        let events = [decided.event()];
        let price = self.pay(account, Spending::Denial, &events)?;
        let record = &decided.record;
        tracing::info!(
            principal = %record.principal, action = %record.action, resource = %record.resource,
            reason = %record.reason, "denied"
        );
        let committed = self.commit(events.into(), Vec::new()).await;
        self.paid(account, price, committed)?;
        self.folds.begin(decided, self.context.clock.monotonic());
        Ok(())
    }

    /// Commits what a caller asked for. An agent pays for it, and for what follows from it.
    pub(crate) async fn commit_for(
        &self,
        call: &Call,
        spending: Spending,
        events: Vec<Event>,
        guards: Vec<Guard>,
    ) -> Result<Committed, Error> {
        let price = self.pay(call.account(), spending, &events)?;
        let committed = self.commit(events, guards).await;
        self.paid(call.account(), price, committed)
    }

    /// The same for an intent, which the call to the provider follows once it is in order.
    pub(crate) async fn commit_for_ahead(
        self: &Arc<Self>,
        call: &Call,
        spending: Spending,
        batch: (Vec<Event>, Vec<Guard>),
        again: Batch,
    ) -> Result<IntentRecord, Error> {
        let price = self.pay(call.account(), spending, &batch.0)?;
        let in_order = self.commit_in_order(batch, again).await;
        self.paid(call.account(), price, in_order)
    }

    /// Refuses a call that its agent has no budget for, before policy is asked: a decision costs
    /// more than a refusal. `bytes` is the length of the record as far as it is known. The commit
    /// asks again, since other calls of the agent pay meanwhile.
    pub(crate) fn require_budget(
        &self,
        call: &Call,
        spending: Spending,
        bytes: u64,
    ) -> Result<(), Error> {
        let Some((agent, settings)) = call.account() else {
            return Ok(());
        };
        let checked = self.budgets.check(agent, &spending.least(settings, bytes));
        checked.map_err(|spent| self.over_budget(agent, settings, spent))
    }

    fn pay(
        &self,
        account: Account<'_>,
        spending: Spending,
        events: &[Event],
    ) -> Result<Option<Price>, Error> {
        let taken = self.take(account, spending, events);
        taken.map_err(|(agent, settings, spent)| self.over_budget(agent, settings, spent))
    }

    fn take<'a>(
        &self,
        account: Account<'a>,
        spending: Spending,
        events: &[Event],
    ) -> Result<Option<Price>, (&'a AgentName, &'a Budgets, Spent)> {
        let Some((agent, settings)) = account else {
            return Ok(None);
        };
        let price = spending.price(settings, events);
        match self.budgets.take(agent, &price) {
            Ok(()) => Ok(Some(price)),
            Err(spent) => Err((agent, settings, spent)),
        }
    }

    /// Gives back the price of a batch that the store refused.
    fn paid<T>(
        &self,
        account: Account<'_>,
        price: Option<Price>,
        committed: Result<T, Error>,
    ) -> Result<T, Error> {
        if committed.is_err()
            && let (Some((agent, _)), Some(price)) = (account, price)
        {
            self.budgets.give_back(agent, &price);
        }
        committed
    }

    fn over_budget(&self, agent: &AgentName, settings: &Budgets, spent: Spent) -> Error {
        let (budget, per_hour) = (spent.budget, settings.per_hour(spent.budget));
        self.context.metrics.events.over_budget(budget);
        let now = self.context.clock.monotonic();
        self.exceeded
            .count(agent, (budget, per_hour), self.now(), now);
        tracing::debug!(%agent, %budget, "a call was refused over budget");
        Error::over_budget(agent, settings, spent)
    }

    /// Counts a decision that an entry of the last minute stands for.
    fn repeats(&self, decided: &Decided) -> bool {
        let now = self.context.clock.monotonic();
        let repeats = self.folds.repeats(decided, self.now(), now);
        if repeats {
            self.context.metrics.events.repeated(&decided.record);
        }
        repeats
    }

    /// Writes the due entries that stand for repeats and for calls that were refused over a budget;
    /// at the end of the process, all of them. An entry that cannot be written is tried again.
    /// Returns how long until the next entries are due.
    pub(crate) async fn write_counted(&self, all: bool) -> Result<Duration, Error> {
        let now = self.context.clock.monotonic();
        let (rest, written) = self.write_folded(self.folds.due(now, all)).await;
        self.folds.put_back(rest);
        written?;
        let (rest, written) = self.write_folded(self.ended_before.due(now, all)).await;
        self.ended_before.put_back(rest);
        written?;
        let over = self.exceeded.due(now, all);
        if !over.is_empty() {
            let events = over.iter().map(crate::budgets::OverBudget::event).collect();
            if let Err(error) = self.commit(events, Vec::new()).await {
                self.exceeded.put_back(over, now);
                return Err(error);
            }
        }
        let next = [
            self.folds.next(now),
            self.ended_before.next(now),
            self.exceeded.next(now),
        ];
        let window = taskpass_core::limits::FOLD_WINDOW;
        Ok(next.into_iter().flatten().fold(window, std::cmp::min))
    }

    /// Writes the counted entries. Returns the entries that the store refused.
    async fn write_folded(&self, mut folded: Vec<Folded>) -> (Vec<Folded>, Result<(), Error>) {
        while !folded.is_empty() {
            let rest = folded.split_off(folded.len().min(ENTRIES_AT_ONCE));
            let events = folded.iter().map(Folded::event).collect();
            if let Err(error) = self.commit(events, Vec::new()).await {
                folded.extend(rest);
                return (folded, Err(error));
            }
            folded = rest;
        }
        (folded, Ok(()))
    }

    /// Writes the numbers of the last minute when the broker stops.
    pub async fn close_counts(&self) -> Result<(), Error> {
        self.write_counted(true).await.map(drop)
    }
}

/// Entries of one batch.
const ENTRIES_AT_ONCE: usize = 256;

impl Decided {
    fn event(&self) -> Event {
        Event::Decided {
            decision: self.record.clone(),
            repeated: None,
        }
    }
}
