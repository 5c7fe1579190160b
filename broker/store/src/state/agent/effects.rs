//! The changes by an agent's steps, and the events that its end brings along.

use std::sync::Arc;

use taskpass_core::{
    Actor, Agent, AgentChange, AgentName, AgentState, AgentStep, EndCause, Event, Identity, Text,
    Timestamp,
};

use crate::{
    Conflict, Subject,
    state::{Change, Effects, State, refusal::missing},
};

impl State {
    pub(in crate::state) fn agent_effects(
        &self,
        step: &AgentStep<'_>,
        time: Timestamp,
    ) -> Result<Effects, Conflict> {
        match step {
            AgentStep::Registered { agent, idempotency } => {
                let subject = Subject::Agent(agent.name.clone());
                let registered = set((*agent).clone());
                Ok(Effects::of([registered]).remember(*idempotency, None, time, subject))
            }
            AgentStep::Frozen { agent, reason, by } => {
                self.agent_stopped(agent, AgentState::Frozen, change(time, by, reason))
            }
            AgentStep::Retired { agent, reason, by } => {
                self.agent_stopped(agent, AgentState::Retired, change(time, by, reason))
            }
            AgentStep::Released { agent, reason, by } => {
                let mut released = self.registered(agent)?.clone();
                released.state = AgentState::Active;
                released.changed = Some(change(time, by, reason));
                Ok(Effects::of([set(released)]))
            }
            AgentStep::OwnerChanged { agent, owner, .. } => {
                let mut owned = self.registered(agent)?.clone();
                owned.owner = (*owner).clone();
                owned.owner_departed = false;
                Ok(Effects::of([set(owned)]))
            }
            AgentStep::OwnerDeparted { agent, .. } => {
                let mut left = self.registered(agent)?.clone();
                left.owner_departed = true;
                Ok(Effects::of([set(left)]))
            }
            AgentStep::BudgetExceeded { .. } => Ok(Effects::default()),
        }
    }

    /// The agent's SVIDs stop counting for good: after a release the agent attests anew, since a
    /// thief may hold any of them.
    fn agent_stopped(
        &self,
        name: &AgentName,
        state: AgentState,
        changed: AgentChange,
    ) -> Result<Effects, Conflict> {
        let mut stopped = self.registered(name)?.clone();
        stopped.state = state;
        stopped.changed = Some(changed);
        let mut changes = self.other_svids(&Identity::Agent(name.clone()), "");
        changes.push(set(stopped));
        Ok(Effects::of(changes))
    }

    fn registered(&self, name: &AgentName) -> Result<&Agent, Conflict> {
        let agent = self.agents.get(name).map(Arc::as_ref);
        agent.ok_or_else(|| missing("agent", name))
    }

    /// The events that a step of an agent brings along, in the same batch: the end of everything
    /// that it has.
    pub(in crate::state) fn agent_cascade(
        &self,
        step: &AgentStep<'_>,
        time: Timestamp,
    ) -> Vec<Event> {
        match step {
            AgentStep::Frozen { agent, by, .. } | AgentStep::Retired { agent, by, .. } => {
                let mut events = self.tokens_withdrawn(agent, by);
                events.extend(self.tasks_ending(agent, EndCause::Frozen, by));
                events
            }
            AgentStep::OwnerDeparted {
                agent, reason, by, ..
            } => {
                if self.agent_active(agent).is_err() {
                    return Vec::new();
                }
                let frozen = Event::AgentFrozen {
                    agent: (*agent).clone(),
                    reason: (*reason).clone(),
                    by: (*by).clone(),
                };
                let follow = self.cascade(&frozen, time);
                std::iter::once(frozen).chain(follow).collect()
            }
            AgentStep::Registered { .. }
            | AgentStep::Released { .. }
            | AgentStep::OwnerChanged { .. }
            | AgentStep::BudgetExceeded { .. } => Vec::new(),
        }
    }
}

fn set(agent: Agent) -> Change {
    Change::Agent(agent.name.clone(), Some(Arc::new(agent)))
}

fn change(at: Timestamp, by: &Actor, reason: &Text) -> AgentChange {
    AgentChange {
        at,
        by: by.clone(),
        reason: reason.clone(),
    }
}
