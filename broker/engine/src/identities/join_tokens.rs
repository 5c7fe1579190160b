//! Join tokens: making, listing and withdrawing them.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Serialize;
use taskpass_core::{
    Actor, AgentName, AgentState, Event, JoinToken, JoinTokenId, Secret, Ttl, limits,
};
use taskpass_policy::{Action, Resource};
use taskpass_store::{Guard, JoinTokenRecord, JoinTokenState, Listing, Page, Subject};
use zeroize::Zeroizing;

use crate::{Call, Caller, Engine, Error, Field, RequestKey};

/// The life of a join token when the caller does not say.
const JOIN_TOKEN_TTL_DEFAULT: Duration = Duration::from_secs(600);
/// Random bytes in a join token.
const JOIN_TOKEN_SECRET_BYTES: usize = 32;

/// A join token to make.
#[derive(Debug, Clone, Serialize)]
pub struct CreateJoinToken {
    /// For which agent.
    pub agent: AgentName,
    /// Its life; ten minutes when the caller does not say.
    pub ttl: Option<Ttl>,
}

/// A fresh join token. The text is shown once and kept nowhere.
#[derive(Debug)]
pub struct CreatedJoinToken {
    /// The token as the agent needs it.
    pub text: Secret,
    /// Its record.
    pub token: JoinToken,
}

/// A join token as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinTokenView {
    /// Its record.
    pub token: JoinToken,
    /// Where it stands now.
    pub state: JoinTokenState,
}

impl Engine {
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
        if agent.state != AgentState::Active {
            return Err(Error::Precondition(format!(
                "agent `{name}` is {}, and gets no join token; see `taskpass agent show {name}`",
                agent.state.as_str()
            )));
        }
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
        let (pin, root) = self.context.authority.pinned_root();
        let token = JoinToken {
            id: JoinTokenId::generate(self.context.clock.as_ref(), self.context.entropy.as_ref())?,
            agent: name.clone(),
            secret_sha256: JoinToken::digest_of(secret.as_ref()),
            expires_at: self.now().plus(life),
            created_by: id.clone(),
            root,
        };
        let most = u32::try_from(limits::JOIN_TOKENS_PER_AGENT_MAX).unwrap_or(u32::MAX);
        let mut guards = vec![
            Guard::AgentActive(name.clone()),
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
        let pin = URL_SAFE_NO_PAD.encode(pin.bytes());
        let shown = Zeroizing::new(URL_SAFE_NO_PAD.encode(secret.as_ref()));
        let text = Secret::new(format!("tp1.{}.{}.{pin}", token.id, shown.as_str()));
        Ok(CreatedJoinToken { text, token })
    }

    /// The join tokens that the broker remembers, newest first: of one agent, or of all. A token is
    /// remembered until a day after its end.
    pub async fn list_join_tokens(
        &self,
        call: &Call,
        agent: Option<&AgentName>,
        page: &Page,
    ) -> Result<Listing<JoinTokenView>, Error> {
        self.require_operator(call, Action::AgentRead).await?;
        match agent {
            Some(name) => {
                let agent = self.existing_agent(name).await?;
                self.authorize_read(call, Action::AgentRead, Resource::Agent(&agent))
                    .await?;
            }
            None => {
                self.authorize_read(call, Action::AgentRead, Resource::Installation)
                    .await?;
            }
        }
        let listing = self.context.store.list_join_tokens(agent, page).await?;
        let rows = listing.rows.iter().map(|record| self.token_view(record));
        Ok(Listing {
            rows: rows.collect(),
            next: listing.next,
        })
    }

    /// Withdraws a join token, so that it gives no SVID. Withdrawing it twice, or after its end, is
    /// no error.
    pub async fn withdraw_join_token(
        &self,
        call: &Call,
        id: JoinTokenId,
    ) -> Result<JoinTokenView, Error> {
        const ACTION: Action = Action::AgentWithdrawToken;
        self.require_operator(call, ACTION).await?;
        let token = self.known_token(id).await?;
        let agent = self.existing_agent(&token.token.agent).await?;
        let allowed = self
            .authorize(call, ACTION, Resource::Agent(&agent), None)
            .await
            .granted()?;
        match token.state {
            JoinTokenState::Used => {
                let agent = &agent.name;
                return Err(Error::Precondition(format!(
                    "join token `{id}` was used already; if that was not agent `{agent}`, `taskpass agent freeze {agent}` ends everything that it gave"
                )));
            }
            JoinTokenState::Withdrawn | JoinTokenState::Expired => {
                self.commit_allowed(call, allowed).await?;
            }
            JoinTokenState::Unused => {
                let withdrawn = Event::JoinTokenWithdrawn {
                    token: id,
                    by: Actor::Caller(call.caller.id().clone()),
                };
                let guard = Guard::SvidLive(call.caller.serial().to_owned());
                self.commit_reserved(vec![allowed.into_event(), withdrawn], vec![guard])
                    .await?;
            }
        }
        self.known_token(id).await
    }

    async fn known_token(&self, id: JoinTokenId) -> Result<JoinTokenView, Error> {
        let record = self.context.store.join_token(id).await?;
        let view = record.map(|record| self.token_view(&record));
        view.ok_or_else(|| Error::NotFound {
            what: format!("join token `{id}`"),
            advice: "see `taskpass join-token list`",
        })
    }

    fn token_view(&self, record: &JoinTokenRecord) -> JoinTokenView {
        JoinTokenView {
            token: record.token.clone(),
            state: record.state(self.now()),
        }
    }
}
