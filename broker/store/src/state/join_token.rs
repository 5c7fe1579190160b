//! Join tokens: each gives one SVID. The state keeps used, withdrawn and expired ones for a day, to
//! say which of the three they are.

use std::sync::Arc;

use taskpass_core::{Actor, AgentName, Event, JoinTokenId, JoinTokenStep, Timestamp, limits};

use super::{
    Change, Effects, State,
    count::Count,
    refusal::{Refusal, exists, missing},
    table::Table,
};
use crate::{
    Conflict, GuardFailure, JoinTokenRecord, Subject,
    index::{IndexError, LiveRows, Rows, Value, record},
};

/// Where the index keeps join tokens by id, until they are forgotten.
const TOKEN: &str = "j/";

/// Join tokens by id.
pub(crate) enum JoinTokens {}

impl Table for JoinTokens {
    type Key = JoinTokenId;
    type Record = JoinTokenRecord;

    const ROWS: Option<&'static str> = Some(TOKEN);

    fn set(
        state: &mut State,
        id: &JoinTokenId,
        token: Option<&Arc<JoinTokenRecord>>,
    ) -> Option<Arc<JoinTokenRecord>> {
        let before = match token {
            Some(token) => state.tokens.insert(*id, Arc::clone(token)),
            None => state.tokens.remove(id),
        };
        for (record, count) in [(before.as_ref(), Count::Down), (token, Count::Up)] {
            let Some(record) = record else { continue };
            count.member(&mut state.tokens_by_end, (record.token.expires_at, *id));
            if !record.used && !record.withdrawn {
                state.with_agent(&record.token.agent, |held| {
                    count.member(&mut held.unused_tokens, *id);
                });
            }
        }
        before
    }

    fn rows<'a>(id: &'a JoinTokenId, token: Option<&'a JoinTokenRecord>, rows: &mut Rows<'a>) {
        rows.put(record(TOKEN, id), Value::of(token));
    }

    fn all(state: &State) -> impl Iterator<Item = (JoinTokenId, Arc<JoinTokenRecord>)> {
        let all = state.tokens.iter();
        all.map(|(key, record)| (*key, Arc::clone(record)))
    }

    fn load(rows: &LiveRows<'_>, state: &mut State) -> Result<(), IndexError> {
        rows.each_record(TOKEN, |_, token: Arc<JoinTokenRecord>| {
            state.set(&Change::Token(token.token.id, Some(token)));
            Ok(())
        })
    }
}

impl State {
    pub(super) fn admit_token(
        &self,
        step: &JoinTokenStep<'_>,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        match step {
            JoinTokenStep::Created { token, .. } => {
                self.agent_active(&token.agent)?;
                self.root_not_retired(token.root)?;
                if self.tokens.contains_key(&token.id) {
                    return Err(exists("join token", &token.id));
                }
                Ok(())
            }
            // The withdrawal of a token that expires in this moment must not stop a freeze.
            JoinTokenStep::Withdrawn { token } => match self.token_unused(*token, now) {
                Ok(()) | Err(GuardFailure::JoinTokenExpired(_)) => Ok(()),
                Err(failure) => Err(failure.into()),
            },
        }
    }

    pub(super) fn token_effects(
        &self,
        step: &JoinTokenStep<'_>,
        time: Timestamp,
    ) -> Result<Effects, Conflict> {
        match step {
            JoinTokenStep::Created { token, idempotency } => {
                let created = JoinTokenRecord {
                    token: (*token).clone(),
                    used: false,
                    withdrawn: false,
                };
                let change = Change::Token(token.id, Some(Arc::new(created)));
                let subject = Subject::JoinToken(token.id);
                Ok(Effects::of([change]).remember(*idempotency, None, time, subject))
            }
            JoinTokenStep::Withdrawn { token: id } => {
                let record = self.tokens.get(id);
                let record = record.ok_or_else(|| missing("join token", id))?;
                let mut withdrawn = record.as_ref().clone();
                withdrawn.withdrawn = true;
                Ok(Effects::of([Change::Token(*id, Some(Arc::new(withdrawn)))]))
            }
        }
    }

    /// The withdrawal of every join token of an agent that is not used.
    pub(super) fn tokens_withdrawn(&self, agent: &AgentName, by: &Actor) -> Vec<Event> {
        let held = self.agent_use.get(agent);
        let unused = held.into_iter().flat_map(|held| &held.unused_tokens);
        // An expired token gives nothing.
        let usable = unused.filter(|id| self.token_unused(**id, self.last_time).is_ok());
        usable
            .map(|id| Event::JoinTokenWithdrawn {
                token: *id,
                by: by.clone(),
            })
            .collect()
    }

    /// Join tokens that are remembered, from below `before`, newest first.
    pub(crate) fn tokens_before(
        &self,
        before: Option<JoinTokenId>,
    ) -> impl Iterator<Item = &Arc<JoinTokenRecord>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let to = before.map_or(Unbounded, Excluded);
        let range = self.tokens.range((Unbounded, to));
        range.rev().map(|(_, token)| token)
    }

    pub(crate) fn token(&self, id: JoinTokenId) -> Option<&Arc<JoinTokenRecord>> {
        self.tokens.get(&id)
    }

    pub(super) fn token_unused(&self, id: JoinTokenId, now: Timestamp) -> Result<(), GuardFailure> {
        match self.tokens.get(&id) {
            None => Err(GuardFailure::JoinTokenUnknown(id)),
            Some(record) if record.used => Err(GuardFailure::JoinTokenUsed(id)),
            Some(record) if record.withdrawn => Err(GuardFailure::JoinTokenWithdrawn(id)),
            Some(record) if record.token.expires_at <= now => {
                Err(GuardFailure::JoinTokenExpired(id))
            }
            Some(_) => Ok(()),
        }
    }

    /// Marks the token as used, where an SVID was issued for one.
    pub(super) fn token_used(&self, id: Option<JoinTokenId>) -> Result<Vec<Change>, Conflict> {
        let Some(id) = id else { return Ok(Vec::new()) };
        let token = self.tokens.get(&id);
        let token = token.ok_or_else(|| missing("join token", &id))?;
        let mut used = token.as_ref().clone();
        used.used = true;
        Ok(vec![Change::Token(id, Some(Arc::new(used)))])
    }

    /// Tokens that ended so long ago that they are forgotten.
    pub(super) fn forgotten_tokens(&self, now: Timestamp) -> impl Iterator<Item = Change> {
        self.tokens_by_end
            .iter()
            .take_while(move |(end, _)| end.plus(limits::IDEMPOTENCY_KEPT) <= now)
            .map(|(_, id)| Change::Token(*id, None))
    }
}
