//! Attestors verify evidence and derive claims from it. There is one for each kind of evidence that a
//! broker takes, and the composition root names them.

use std::{collections::BTreeMap, fmt, sync::Arc};

use async_trait::async_trait;
use taskpass_core::{AgentName, EvidenceKind, EvidenceRecord, JoinTokenId, Timestamp};

use super::Evidence;
use crate::{Error, Field};

/// What an attestor derives from evidence that it has verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// The agent that the evidence is for. It may not be registered.
    pub agent: AgentName,
    /// Who made the evidence.
    pub issuer: String,
    /// What the issuer calls the evidence or its holder.
    pub subject: String,
    /// The join token that the SVID uses up.
    pub uses_up: Option<JoinTokenId>,
}

/// Why an attestor derives no claims.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The evidence does not prove anything now.
    #[error("the evidence is not good")]
    NotGood,
    /// The attestor cannot tell, because a part that it needs has failed.
    #[error("the evidence could not be verified")]
    Failed(#[from] Error),
}

/// Verifies one kind of evidence.
#[async_trait]
pub trait Attestor: fmt::Debug + Send + Sync {
    /// The kind of evidence.
    fn kind(&self) -> EvidenceKind;

    /// What a caller is told whose evidence is not good, or is used up by another caller at the same
    /// time. It is one text for all causes, since a cause would help a caller that guesses.
    fn refusal(&self) -> &'static str;

    /// Derives claims. This uses nothing up: evidence that counts once is used up by the entry of the
    /// SVID, where the store's guards decide races.
    async fn verify(&self, evidence: &Evidence, now: Timestamp) -> Result<Claims, Refusal>;
}

/// The attestors of a broker by the kind of evidence that they verify.
#[derive(Debug, Default)]
pub struct Attestors(BTreeMap<EvidenceKind, Arc<dyn Attestor>>);

impl Claims {
    /// What the ledger keeps of them.
    pub(super) fn into_record(self, kind: EvidenceKind) -> EvidenceRecord {
        EvidenceRecord {
            kind,
            issuer: self.issuer,
            subject: self.subject,
        }
    }
}

impl Attestors {
    /// Of two attestors for one kind the later one counts.
    pub fn new(attestors: Vec<Arc<dyn Attestor>>) -> Self {
        let by_kind = attestors.into_iter().map(|a| (a.kind(), a));
        Self(by_kind.collect())
    }

    /// The attestor for evidence of `kind`, if this broker takes such evidence.
    pub(super) fn of(&self, kind: EvidenceKind) -> Result<&dyn Attestor, Error> {
        self.0.get(&kind).map(Arc::as_ref).ok_or_else(|| {
            let message = format!(
                "this broker does not take a {kind} as evidence; ask an operator how agents attest here"
            );
            Error::invalid(Field::Evidence, message)
        })
    }
}
