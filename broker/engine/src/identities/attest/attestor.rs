//! Attestors verify evidence and derive claims from it. A broker has one attestor for each kind of
//! evidence that it takes, and the composition root names them.

use std::{collections::BTreeMap, fmt, sync::Arc};

use async_trait::async_trait;
use taskpass_core::{AgentName, EvidenceKind, EvidenceRecord, JoinTokenId, Timestamp};

use super::Evidence;
use crate::{Error, Field};

/// The claims that an attestor derives from evidence after it has verified it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// The agent that the evidence is for. It may not be registered.
    pub agent: AgentName,
    /// The maker of the evidence.
    pub issuer: String,
    /// The issuer's name for the evidence or its holder.
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

    /// The answer to a caller when its evidence is not good, or when another caller has used the
    /// evidence up first. All causes have this one text, since a cause would help a caller that
    /// guesses.
    fn refusal(&self) -> &'static str;

    /// Derives claims. This uses nothing up: the ledger entry of the SVID uses up evidence that
    /// counts once, and there the store's rules decide races.
    async fn verify(&self, evidence: &Evidence, now: Timestamp) -> Result<Claims, Refusal>;
}

/// The attestors of a broker by the kind of evidence that they verify.
#[derive(Debug, Default)]
pub struct Attestors(BTreeMap<EvidenceKind, Arc<dyn Attestor>>);

impl Claims {
    /// The part of the claims that the ledger keeps.
    pub(super) fn into_record(self, kind: EvidenceKind) -> EvidenceRecord {
        EvidenceRecord {
            kind,
            issuer: self.issuer,
            subject: self.subject,
        }
    }
}

impl Attestors {
    /// The attestors of a broker. Of two for one kind the later one counts.
    pub fn new(attestors: Vec<Arc<dyn Attestor>>) -> Self {
        let by_kind = attestors.into_iter().map(|a| (a.kind(), a));
        Self(by_kind.collect())
    }

    /// The attestor for evidence of `kind`, if this broker takes such evidence.
    pub(super) fn of(&self, kind: EvidenceKind) -> Result<&dyn Attestor, Error> {
        self.0.get(&kind).map(Arc::as_ref).ok_or_else(|| {
            let refusal = format!("this broker takes no {kind} as evidence");
            let advice = "ask an operator how agents attest here";
            Error::invalid(Field::Evidence, format!("{refusal}; {advice}"))
        })
    }
}
