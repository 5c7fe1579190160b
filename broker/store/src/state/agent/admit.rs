//! Which steps may follow where an agent stands.

use taskpass_core::{Agent, AgentName, AgentState, AgentStep};

use crate::state::{
    State,
    refusal::{Refusal, exists, invalid, missing, wrong},
};

impl State {
    pub(in crate::state) fn admit_agent(&self, step: &AgentStep<'_>) -> Result<(), Refusal> {
        match step {
            AgentStep::Registered { agent, .. } => {
                if self.agents.contains_key(&agent.name) {
                    return Err(exists("agent", &agent.name));
                }
                let is_new = agent.state == AgentState::Active
                    && agent.changed.is_none()
                    && !agent.owner_departed;
                if is_new {
                    return Ok(());
                }
                invalid("a new agent is active and has an owner")
            }
            AgentStep::Frozen { agent, .. } => {
                self.agent_in(agent, &[AgentState::Active]).map(drop)
            }
            AgentStep::Released { agent, .. } => {
                if self.agent_in(agent, &[AgentState::Frozen])?.owner_departed {
                    return wrong(format!("agent `{agent}`"), "without an owner");
                }
                Ok(())
            }
            AgentStep::Retired { agent, .. } => self.not_retired(agent).map(drop),
            AgentStep::OwnerChanged {
                agent, previous, ..
            } => {
                if self.not_retired(agent)?.owner != **previous {
                    return invalid("another person owns the agent by now");
                }
                Ok(())
            }
            AgentStep::OwnerDeparted { agent, owner, .. } => {
                let record = self.not_retired(agent)?;
                if record.owner != **owner {
                    return invalid("another person owns the agent by now");
                }
                if record.owner_departed {
                    return wrong(format!("agent `{agent}`"), "without an owner");
                }
                Ok(())
            }
            // An agent that was frozen or retired meanwhile has used it up all the same.
            AgentStep::BudgetExceeded { agent } => {
                let known = self.agents.get(*agent).map(drop);
                known.ok_or_else(|| missing("agent", agent).into())
            }
        }
    }

    fn not_retired(&self, name: &AgentName) -> Result<&Agent, Refusal> {
        self.agent_in(name, &[AgentState::Active, AgentState::Frozen])
    }

    fn agent_in(&self, name: &AgentName, states: &[AgentState]) -> Result<&Agent, Refusal> {
        let agent = self.agents.get(name);
        let agent = agent.ok_or_else(|| missing("agent", name))?;
        if states.contains(&agent.state) {
            return Ok(agent);
        }
        wrong(format!("agent `{name}`"), agent.state.as_str())
    }
}
