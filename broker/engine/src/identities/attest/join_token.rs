//! Attestation by join token: the store has the token's digest, its agent and its end.

mod text;

use std::sync::Arc;

use async_trait::async_trait;
use taskpass_core::{Digest, EvidenceKind, Timestamp, same_in_constant_time};
use taskpass_store::{JoinTokenState, Store};

use super::{
    Evidence,
    attestor::{Attestor, Claims, Refusal},
};
use crate::Error;

pub use text::JoinTokenText;

/// Verifies join tokens against their records.
#[derive(Debug)]
pub struct JoinTokenAttestor {
    store: Arc<dyn Store>,
}

impl JoinTokenAttestor {
    /// An attestor for the tokens on record in `store`.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }
}

#[async_trait]
impl Attestor for JoinTokenAttestor {
    fn kind(&self) -> EvidenceKind {
        EvidenceKind::JoinToken
    }

    fn refusal(&self) -> &'static str {
        "the join token is unknown, used, withdrawn or expired; ask for a new one with `taskpass agent token`"
    }

    async fn verify(&self, evidence: &Evidence, now: Timestamp) -> Result<Claims, Refusal> {
        let Evidence::JoinToken(shown) = evidence;
        let found = self.store.join_token(shown.id).await.map_err(Error::from)?;
        let record = found.ok_or(Refusal::NotGood)?;
        let token = &record.token;
        // A comparison that stops at the first difference would tell a caller by its duration how
        // much of the digest is right.
        let digest = Digest::of(&shown.secret).to_string();
        let same = same_in_constant_time(digest.as_bytes(), token.secret_sha256.as_bytes());
        if !same || record.state(now) != JoinTokenState::Unused {
            return Err(Refusal::NotGood);
        }
        Ok(Claims {
            agent: token.agent.clone(),
            issuer: token.created_by.to_string(),
            subject: token.id.to_string(),
            uses_up: Some(token.id),
        })
    }
}
