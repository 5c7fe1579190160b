//! Join tokens: each gives one SVID. The state keeps used and expired ones for a day, to say which
//! of the two they are.

use std::sync::Arc;

use taskpass_core::{JoinTokenId, JoinTokenStep, Timestamp, limits};

use super::{
    Change, Effects, State,
    count::{Count, put},
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

    fn set(
        state: &mut State,
        id: &JoinTokenId,
        token: Option<&Arc<JoinTokenRecord>>,
    ) -> Option<Arc<JoinTokenRecord>> {
        let before = put(&mut state.tokens, *id, token.cloned());
        for (record, count) in [(before.as_ref(), Count::Down), (token, Count::Up)] {
            let Some(record) = record else { continue };
            count.member(&mut state.tokens_by_end, (record.token.expires_at, *id));
            if !record.used {
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

    fn load(rows: &LiveRows<'_>, state: &mut State) -> Result<(), IndexError> {
        rows.each_record(TOKEN, |_, token: Arc<JoinTokenRecord>| {
            state.set(&Change::Token(token.token.id, Some(token)));
            Ok(())
        })
    }
}

impl State {
    pub(super) fn admit_token(&self, step: &JoinTokenStep<'_>) -> Result<(), Refusal> {
        let JoinTokenStep::Created { token, .. } = step;
        if !self.knows_agent(&token.agent) {
            return Err(missing("agent", &token.agent).into());
        }
        if self.tokens.contains_key(&token.id) {
            return Err(exists("join token", &token.id));
        }
        Ok(())
    }

    pub(crate) fn token(&self, id: JoinTokenId) -> Option<&Arc<JoinTokenRecord>> {
        self.tokens.get(&id)
    }

    pub(super) fn token_unused(&self, id: JoinTokenId, now: Timestamp) -> Result<(), GuardFailure> {
        match self.tokens.get(&id) {
            None => Err(GuardFailure::JoinTokenUnknown(id)),
            Some(record) if record.used => Err(GuardFailure::JoinTokenUsed(id)),
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
        let used = JoinTokenRecord {
            token: token.token.clone(),
            used: true,
        };
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

pub(super) fn effects(step: &JoinTokenStep<'_>, time: Timestamp) -> Effects {
    let JoinTokenStep::Created { token, idempotency } = step;
    let created = JoinTokenRecord {
        token: (*token).clone(),
        used: false,
    };
    let change = Change::Token(token.id, Some(Arc::new(created)));
    Effects::of([change]).remember(*idempotency, None, time, Subject::JoinToken(token.id))
}
