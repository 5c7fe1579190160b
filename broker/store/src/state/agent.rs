//! Agents, with the tasks, credentials and join tokens of each.

use std::{collections::BTreeSet, sync::Arc};

use taskpass_core::{Agent, AgentName, AgentStep, JoinTokenId, Timestamp};

use super::{
    Change, Effects, State,
    refusal::{Refusal, exists},
    table::Table,
};
use crate::{
    Subject, Usage,
    index::{IndexError, LiveRows, Rows, Value, record},
};

/// Where the index keeps agents by name.
const AGENT: &str = "a/";

/// An agent's open tasks, live credentials and unused join tokens. A reader still has to leave out
/// tokens that have expired, since no event says so.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct AgentUse {
    pub(super) open_tasks: u32,
    pub(super) live_credentials: u32,
    pub(super) unused_tokens: BTreeSet<JoinTokenId>,
}

/// Agents by name.
pub(crate) enum Agents {}

impl Table for Agents {
    type Key = AgentName;
    type Record = Agent;

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

    fn load(rows: &LiveRows<'_>, state: &mut State) -> Result<(), IndexError> {
        rows.each_record(AGENT, |_, agent: Arc<Agent>| {
            state.set(&Change::Agent(agent.name.clone(), Some(agent)));
            Ok(())
        })
    }
}

impl State {
    pub(super) fn admit_agent(&self, step: &AgentStep<'_>) -> Result<(), Refusal> {
        match step {
            AgentStep::Registered { agent, .. } if self.knows_agent(&agent.name) => {
                Err(exists("agent", &agent.name))
            }
            AgentStep::Registered { .. } => Ok(()),
        }
    }

    pub(crate) fn agent(&self, name: &AgentName) -> Option<&Arc<Agent>> {
        self.agents.get(name)
    }

    /// Whether the agent is registered.
    pub(super) fn knows_agent(&self, name: &AgentName) -> bool {
        self.agents.contains_key(name)
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
            open_tasks: held.open_tasks,
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

pub(super) fn effects(step: &AgentStep<'_>, time: Timestamp) -> Effects {
    let AgentStep::Registered { agent, idempotency } = step;
    let name = &agent.name;
    let registered = Change::Agent(name.clone(), Some(Arc::new((*agent).clone())));
    let subject = Subject::Agent(name.clone());
    Effects::of([registered]).remember(*idempotency, None, time, subject)
}
