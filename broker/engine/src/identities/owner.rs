//! The owner of an agent: the person who answers for it changes, or leaves.

use std::sync::Arc;

use serde::Serialize;
use taskpass_core::{Actor, Agent, AgentName, AgentState, Event, Owner, Text};
use taskpass_policy::{Action, Resource};
use taskpass_store::{Guard, Page};

use super::{AgentView, stop::retired};
use crate::{Call, Engine, Error, authorize::Allowed};

/// An agent that gets another owner.
#[derive(Debug, Clone, Serialize)]
pub struct ChangeOwner {
    /// Which.
    pub agent: AgentName,
    /// The person who answers for it from now on.
    pub owner: Owner,
}

/// A person who left.
#[derive(Debug, Clone)]
pub struct OwnerDeparted {
    /// Who.
    pub owner: Owner,
    /// Why the agents are frozen.
    pub reason: Text,
}

impl Engine {
    /// Makes another person answer for an agent. A frozen agent stays frozen.
    pub async fn change_agent_owner(
        &self,
        call: &Call,
        request: &ChangeOwner,
    ) -> Result<AgentView, Error> {
        const ACTION: Action = Action::AgentOwner;
        let name = &request.agent;
        self.require_operator(call, ACTION).await?;
        let agent = self.existing_agent(name).await?;
        let allowed = self
            .authorize(call, ACTION, Resource::Agent(&agent), None)
            .await
            .granted()?;
        if agent.state == AgentState::Retired {
            return Err(retired(name));
        }
        if agent.owner == request.owner && !agent.owner_departed {
            self.commit_allowed(call, allowed).await?;
            return self.agent_view(&agent).await;
        }
        let changed = Event::AgentOwnerChanged {
            agent: name.clone(),
            owner: request.owner.clone(),
            previous: agent.owner.clone(),
            by: Actor::Caller(call.caller.id().clone()),
        };
        let guard = Guard::SvidLive(call.caller.serial().to_owned());
        self.commit(vec![allowed.into_event(), changed], vec![guard])
            .await?;
        let agent = self.existing_agent(name).await?;
        self.agent_view(&agent).await
    }

    /// Freezes every agent that a person answers for, because the person left. None of them is
    /// released before another person answers for it. Returns these agents; doing it twice changes
    /// nothing. Policy decides about each agent before the first is frozen. An agent that cannot be
    /// frozen does not keep the others from it.
    pub async fn depart_owner(
        &self,
        call: &Call,
        request: &OwnerDeparted,
    ) -> Result<Vec<AgentView>, Error> {
        let decided = self.decide_departure(call, &request.owner).await?;
        self.freeze_decided(call, request, decided).await
    }

    /// The agents of a person who left, each with the decision that it may be frozen.
    pub(super) async fn decide_departure(
        &self,
        call: &Call,
        owner: &Owner,
    ) -> Result<Vec<(Arc<Agent>, Allowed)>, Error> {
        const ACTION: Action = Action::AgentFreeze;
        self.require_operator(call, ACTION).await?;
        let agents = self.agents_of(owner).await?;
        if agents.is_empty() {
            return Err(Error::NotFound {
                what: format!("an agent of `{owner}`"),
                advice: "see `taskpass agent list`",
            });
        }
        let mut decided = Vec::with_capacity(agents.len());
        for agent in agents {
            let resource = Resource::Agent(&agent);
            let verdict = self.authorize(call, ACTION, resource, None).await;
            decided.push((agent, verdict.granted()?));
        }
        Ok(decided)
    }

    pub(super) async fn freeze_decided(
        &self,
        call: &Call,
        request: &OwnerDeparted,
        decided: Vec<(Arc<Agent>, Allowed)>,
    ) -> Result<Vec<AgentView>, Error> {
        let mut views = Vec::with_capacity(decided.len());
        let mut failed = Vec::new();
        for (agent, allowed) in decided {
            match self.owner_departed(call, request, &agent, allowed).await {
                Ok(view) => views.push(view),
                Err(error) => failed.push((agent, error)),
            }
        }
        not_frozen(&request.owner, views.len(), failed).map_or(Ok(views), Err)
    }

    async fn owner_departed(
        &self,
        call: &Call,
        request: &OwnerDeparted,
        agent: &Agent,
        allowed: Allowed,
    ) -> Result<AgentView, Error> {
        if agent.owner_departed {
            self.commit_allowed(call, allowed).await?;
        } else {
            let departed = Event::AgentOwnerDeparted {
                agent: agent.name.clone(),
                owner: request.owner.clone(),
                reason: request.reason.clone(),
                by: Actor::Caller(call.caller.id().clone()),
            };
            let events = vec![allowed.into_event(), departed];
            let guard = Guard::SvidLive(call.caller.serial().to_owned());
            self.commit_stop(&agent.name, events, vec![guard]).await?;
        }
        let agent = self.existing_agent(&agent.name).await?;
        self.agent_view(&agent).await
    }

    /// The agents that a person answers for, without retired ones.
    async fn agents_of(&self, owner: &Owner) -> Result<Vec<Arc<Agent>>, Error> {
        let mut agents = Vec::new();
        let mut page = Page::first();
        loop {
            let listing = self.context.store.list_agents(&page).await?;
            let theirs = listing.rows.into_iter();
            agents.extend(theirs.filter(|a| a.owner == *owner && a.state != AgentState::Retired));
            match listing.next {
                None => return Ok(agents),
                Some(token) => {
                    page = Page::new(0, &token).map_err(|e| Error::Store(e.into()))?;
                }
            }
        }
    }
}

/// The error about agents that were not frozen, if there are any. Another owner may have taken some
/// of them meanwhile, so the same request finds out which are left.
fn not_frozen(owner: &Owner, frozen: usize, mut failed: Vec<(Arc<Agent>, Error)>) -> Option<Error> {
    if frozen == 0 && failed.len() == 1 {
        return failed.pop().map(|(_, error)| error);
    }
    let reasons: Vec<String> = failed
        .iter()
        .map(|(agent, error)| format!("`{}`: {}", agent.name, error.message()))
        .collect();
    (!reasons.is_empty()).then(|| {
        Error::Precondition(format!(
            "{frozen} agents of `{owner}` are frozen, and {} are not ({}); run `taskpass agent owner --departed {owner} --reason TEXT` again",
            reasons.len(),
            reasons.join("; ")
        ))
    })
}
