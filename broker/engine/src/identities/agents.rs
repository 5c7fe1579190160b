//! Agents: registering and reading them.

use serde::Serialize;
use taskpass_core::{Agent, AgentName, AgentState, Event, Labels, Owner};
use taskpass_policy::{Action, Resource};
use taskpass_store::{Guard, Listing, Page, Subject, Usage};

use crate::{Call, Engine, Error, RequestKey};

/// An agent to register.
#[derive(Debug, Clone, Serialize)]
pub struct RegisterAgent {
    /// The name, not used before.
    pub name: AgentName,
    /// The person who answers for it.
    pub owner: Owner,
    /// The owner's team.
    pub team: Option<AgentName>,
    /// The kind of agent.
    pub class: Option<AgentName>,
    /// Labels.
    pub labels: Labels,
}

/// An agent and the tasks and credentials that it holds.
#[derive(Debug, Clone)]
pub struct AgentView {
    /// The agent.
    pub agent: Agent,
    /// The tasks and credentials that it holds.
    pub usage: Usage,
}

impl Engine {
    /// Registers an agent. Its owner is mandatory: a person answers for every agent.
    pub async fn register_agent(
        &self,
        call: &Call,
        key: Option<&RequestKey>,
        request: &RegisterAgent,
    ) -> Result<Agent, Error> {
        let agent = Agent {
            name: request.name.clone(),
            owner: request.owner.clone(),
            team: request.team.clone(),
            class: request.class.clone(),
            labels: request.labels.clone(),
            registered_at: self.now(),
            registered_by: call.caller.id().clone(),
            state: AgentState::Active,
            changed: None,
            owner_departed: false,
        };
        if call.agent().is_some() {
            return Err(self
                .refuse_kind(
                    call,
                    Action::AgentRegister,
                    "only operators register agents",
                )
                .await);
        }
        let idempotency = Self::idempotency_key(call, key, request)?;
        if let Some(Subject::Agent(name)) = self.earlier(idempotency.as_ref()).await? {
            return self.existing_agent(&name).await;
        }
        let allowed = self
            .authorize(call, Action::AgentRegister, Resource::Agent(&agent), None)
            .await
            .granted()?;
        if self.context.store.agent(&agent.name).await?.is_some() {
            return Err(Error::AlreadyExists(format!(
                "agent `{}` is already registered",
                agent.name
            )));
        }
        let mut guards = vec![Guard::SvidLive(call.caller.serial().to_owned())];
        guards.extend(Self::share_of_keys(call, idempotency.as_ref(), None));
        let event = Event::AgentRegistered {
            agent: agent.clone(),
            idempotency,
        };
        self.commit(vec![allowed.into_event(), event], guards)
            .await?;
        Ok(agent)
    }

    /// One agent.
    pub async fn agent(&self, call: &Call, name: &AgentName) -> Result<AgentView, Error> {
        self.require_operator(call, Action::AgentRead).await?;
        let agent = self.existing_agent(name).await?;
        self.authorize_read(call, Action::AgentRead, Resource::Agent(&agent))
            .await?;
        self.agent_view(&agent).await
    }

    /// All agents, by name.
    pub async fn list_agents(&self, call: &Call, page: &Page) -> Result<Listing<AgentView>, Error> {
        self.require_operator(call, Action::AgentRead).await?;
        self.authorize_read(call, Action::AgentRead, Resource::Installation)
            .await?;
        let listing = self.context.store.list_agents(page).await?;
        let mut rows = Vec::with_capacity(listing.rows.len());
        for agent in &listing.rows {
            rows.push(self.agent_view(agent).await?);
        }
        Ok(Listing {
            rows,
            next: listing.next,
        })
    }

    pub(super) async fn agent_view(&self, agent: &Agent) -> Result<AgentView, Error> {
        Ok(AgentView {
            agent: agent.clone(),
            usage: self.context.store.usage_of_agent(&agent.name).await?,
        })
    }

    /// A registered agent by name.
    pub(crate) async fn existing_agent(&self, name: &AgentName) -> Result<Agent, Error> {
        let found = self.context.store.agent(name).await?;
        found
            .map(|agent| agent.as_ref().clone())
            .ok_or_else(|| Error::NotFound {
                what: format!("agent `{name}`"),
                advice: "see `taskpass agent list`, or register it with `taskpass agent register`",
            })
    }
}
