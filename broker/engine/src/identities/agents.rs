//! Agents: registering and reading them, and making join tokens for them.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Serialize;
use taskpass_core::{
    Agent, AgentName, Event, JoinToken, JoinTokenId, Labels, Owner, Secret, Ttl, limits,
};
use taskpass_policy::{Action, Resource};
use taskpass_store::{Guard, Listing, Page, Subject, Usage};
use zeroize::Zeroizing;

use crate::{Call, Caller, Engine, Error, Field, RequestKey};

/// The life of a join token when the caller does not say.
const JOIN_TOKEN_TTL_DEFAULT: Duration = Duration::from_secs(600);
/// Random bytes in a join token.
const JOIN_TOKEN_SECRET_BYTES: usize = 32;

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

/// A join token to make.
#[derive(Debug, Clone, Serialize)]
pub struct CreateJoinToken {
    /// For which agent.
    pub agent: AgentName,
    /// Its life; ten minutes when the caller does not say.
    pub ttl: Option<Ttl>,
}

/// An agent and the tasks and credentials that it holds.
#[derive(Debug, Clone)]
pub struct AgentView {
    /// The agent.
    pub agent: Agent,
    /// The tasks and credentials that it holds.
    pub usage: Usage,
}

/// A fresh join token. The text is shown once and kept nowhere.
#[derive(Debug)]
pub struct CreatedJoinToken {
    /// The token as the agent needs it.
    pub text: Secret,
    /// Its record.
    pub token: JoinToken,
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

    /// Makes a single-use join token. Its text carries the fingerprint of our root, so that the
    /// agent shows the token only to this installation.
    pub async fn create_join_token(
        &self,
        call: &Call,
        key: Option<&RequestKey>,
        request: &CreateJoinToken,
    ) -> Result<CreatedJoinToken, Error> {
        let name = &request.agent;
        let life = request.ttl.map_or(JOIN_TOKEN_TTL_DEFAULT, Ttl::duration);
        if life > limits::JOIN_TOKEN_TTL_MAX {
            return Err(Error::invalid(Field::Ttl, "a join token lives at most 24h"));
        }
        let Caller::Operator { id, .. } = &call.caller else {
            return Err(self
                .refuse_kind(call, Action::AgentToken, "only operators make join tokens")
                .await);
        };
        let agent = self.existing_agent(name).await?;
        let idempotency = Self::idempotency_key(call, key, request)?;
        if let Some(Subject::JoinToken(id)) = self.earlier(idempotency.as_ref()).await? {
            return Err(Error::join_token_made(id));
        }
        let allowed = self
            .authorize(call, Action::AgentToken, Resource::Agent(&agent), None)
            .await
            .granted()?;
        let mut secret = Zeroizing::new([0_u8; JOIN_TOKEN_SECRET_BYTES]);
        self.context.entropy.fill(secret.as_mut())?;
        let token = JoinToken {
            id: JoinTokenId::generate(self.context.clock.as_ref(), self.context.entropy.as_ref())?,
            agent: name.clone(),
            secret_sha256: JoinToken::digest_of(secret.as_ref()),
            expires_at: self.now().plus(life),
            created_by: id.clone(),
        };
        let most = u32::try_from(limits::JOIN_TOKENS_PER_AGENT_MAX).unwrap_or(u32::MAX);
        let mut guards = vec![
            Guard::SvidLive(call.caller.serial().to_owned()),
            Guard::JoinTokensBelow(name.clone(), most),
        ];
        guards.extend(Self::share_of_keys(call, idempotency.as_ref(), None));
        let event = Event::JoinTokenCreated {
            token: token.clone(),
            idempotency,
        };
        self.commit(vec![allowed.into_event(), event], guards)
            .await?;
        let pin = URL_SAFE_NO_PAD.encode(self.context.authority.root_digest().bytes());
        let shown = Zeroizing::new(URL_SAFE_NO_PAD.encode(secret.as_ref()));
        let text = Secret::new(format!("tp1.{}.{}.{pin}", token.id, shown.as_str()));
        Ok(CreatedJoinToken { text, token })
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

    async fn agent_view(&self, agent: &Agent) -> Result<AgentView, Error> {
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
