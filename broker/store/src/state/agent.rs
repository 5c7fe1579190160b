//! Agents, with the tasks, credentials and join tokens of each.

mod admit;
mod effects;

use std::{collections::BTreeSet, sync::Arc};

use taskpass_core::{Agent, AgentName, AgentState, JoinTokenId, TaskId, Timestamp};

use super::{Change, State, table::Table};
use crate::{
    AgentCounts, GuardFailure, Usage,
    index::{IndexError, LiveRows, Rows, Value, record},
};

/// Where the index keeps agents by name.
const AGENT: &str = "a/";

/// An agent's open tasks, live credentials and unused join tokens. A reader still has to leave out
/// tokens that have expired, since no event says so.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct AgentUse {
    pub(super) open_tasks: BTreeSet<TaskId>,
    pub(super) live_credentials: u32,
    pub(super) unused_tokens: BTreeSet<JoinTokenId>,
}

/// Agents by name.
pub(crate) enum Agents {}

impl Table for Agents {
    type Key = AgentName;
    type Record = Agent;

    const ROWS: Option<&'static str> = Some(AGENT);

    fn set(state: &mut State, name: &AgentName, agent: Option<&Arc<Agent>>) -> Option<Arc<Agent>> {
        match agent {
            Some(agent) => state.agents.insert(name.clone(), Arc::clone(agent)),
            None => state.agents.remove(name),
        }
    }

    fn rows<'a>(name: &'a AgentName, agent: Option<&'a Agent>, rows: &mut Rows<'a>) {
        if let Some(agent) = agent {
            rows.put(record(AGENT, name), Value::Record(agent));
        }
    }

    fn all(state: &State) -> impl Iterator<Item = (AgentName, Arc<Agent>)> {
        let all = state.agents.iter();
        all.map(|(key, record)| (key.clone(), Arc::clone(record)))
    }

    fn load(rows: &LiveRows<'_>, state: &mut State) -> Result<(), IndexError> {
        rows.each_record(AGENT, |_, agent: Arc<Agent>| {
            state.set(&Change::Agent(agent.name.clone(), Some(agent)));
            Ok(())
        })
    }
}

impl State {
    pub(crate) fn agent(&self, name: &AgentName) -> Option<&Arc<Agent>> {
        self.agents.get(name)
    }

    /// Refuses to give anything to an agent that is not registered, or is frozen or retired.
    pub(super) fn agent_active(&self, name: &AgentName) -> Result<(), GuardFailure> {
        match self.agents.get(name).map(|agent| agent.state) {
            Some(AgentState::Active) => Ok(()),
            Some(state @ (AgentState::Frozen | AgentState::Retired)) => {
                Err(GuardFailure::AgentNotActive(name.clone(), state))
            }
            None => Err(GuardFailure::AgentUnknown(name.clone())),
        }
    }

    /// The agent's open tasks, oldest first.
    pub(crate) fn open_tasks_of(&self, name: &AgentName) -> Vec<TaskId> {
        let held = self.agent_use.get(name);
        held.into_iter()
            .flat_map(|held| held.open_tasks.iter().copied())
            .collect()
    }

    /// How many agents stand where.
    pub(crate) fn agent_counts(&self) -> AgentCounts {
        let mut counts = AgentCounts::default();
        for agent in self.agents.values() {
            *match agent.state {
                AgentState::Active => &mut counts.active,
                AgentState::Frozen => &mut counts.frozen,
                AgentState::Retired => &mut counts.retired,
            } += 1;
        }
        counts
    }

    /// Agents by name, after `after`.
    pub(crate) fn agents_after(
        &self,
        after: Option<&AgentName>,
    ) -> impl Iterator<Item = &Arc<Agent>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.agents.range((from, Unbounded)).map(|(_, agent)| agent)
    }

    pub(crate) fn usage(&self, agent: &AgentName, now: Timestamp) -> Usage {
        let Some(held) = self.agent_use.get(agent) else {
            return Usage::default();
        };
        let usable = held
            .unused_tokens
            .iter()
            .filter(|id| self.token_unused(**id, now).is_ok());
        Usage {
            open_tasks: u32::try_from(held.open_tasks.len()).unwrap_or(u32::MAX),
            live_credentials: held.live_credentials,
            join_tokens: u32::try_from(usable.count()).unwrap_or(u32::MAX),
        }
    }

    /// Changes an agent's counts; an agent that holds nothing takes no room.
    pub(super) fn with_agent(&mut self, name: &AgentName, change: impl FnOnce(&mut AgentUse)) {
        let held = self.agent_use.entry(name.clone()).or_default();
        change(held);
        if *held == AgentUse::default() {
            self.agent_use.remove(name);
        }
    }
}
