//! Attestation: an agent shows evidence, an attestor derives claims from it, and the agent in the
//! claims gets its first SVID.

mod attestor;
mod evidence;
mod join_token;
mod refusals;

use std::{fmt, net::IpAddr, sync::Arc};

use taskpass_ca::{IssueOptions, PublicKey};
use taskpass_core::{
    Agent, AgentState, Event, Identity, SpiffeId, Svid, SvidOrigin, SvidState, Timestamp, excerpt,
};
use taskpass_policy::Action;

use crate::{
    Engine, Error, Field, Snapshot, failpoint,
    folds::{Asked, Decided},
};

use self::refusals::Line;
pub(crate) use self::refusals::RefusalLog;
pub use self::{
    attestor::{Attestor, Attestors, Claims, Refusal},
    evidence::Evidence,
    join_token::{JoinTokenAttestor, JoinTokenText},
};

/// A request of an agent for its first SVID.
pub struct Attest<'a> {
    /// The evidence with which the agent proves its identity.
    pub evidence: Evidence,
    /// PKCS#10, PEM or DER. It is read only after the evidence is verified, so that a caller
    /// without good evidence costs no computation.
    pub csr: &'a [u8],
    /// The identity that the client would overwrite. Evidence for another agent is refused, and is
    /// not used up.
    pub in_place_of: Option<SpiffeId>,
    /// Where the request came from.
    pub ip: Option<IpAddr>,
}

impl fmt::Debug for Attest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attest")
            .field("evidence", &self.evidence)
            .field("ip", &self.ip)
            .finish_non_exhaustive()
    }
}

/// A signed and recorded SVID.
#[derive(Debug)]
pub struct IssuedSvid {
    /// The identity in it.
    pub id: SpiffeId,
    /// The certificate, then the issuing authority.
    pub signed: taskpass_ca::Issued,
}

impl Engine {
    /// Verifies the evidence, uses it up if it counts once, and signs the agent's key. Of any
    /// number of attempts with one join token, one wins.
    pub async fn attest(&self, request: &Attest<'_>) -> Result<IssuedSvid, Error> {
        let now = self.require_sound()?;
        let snapshot = self.snapshot();
        let kind = request.evidence.kind();
        let attestor = self.context.attestors.of(kind)?;
        let refused = || Error::Unauthenticated(attestor.refusal().to_owned());
        let Some((claims, agent)) = self.claims(attestor, &request.evidence, now).await? else {
            // All unauthenticated callers share this limit. Only refusals count against it, so a
            // caller that guesses keeps out no agent with good evidence.
            self.rates.check_attestation(snapshot.settings())?;
            if self.refusals.note(self.context.clock.monotonic()) == Line::Whole {
                let ip = request.ip.map(tracing::field::display);
                tracing::warn!(evidence = %request.evidence, ip, "evidence was refused");
            }
            return Err(refused());
        };
        self.rates.check_agent(snapshot.settings(), &agent.name)?;
        if agent.state != AgentState::Active {
            return Err(Error::AgentNotActive {
                agent: agent.name.clone(),
                state: agent.state,
            });
        }
        let identity = Identity::Agent(agent.name.clone());
        let key = PublicKey::from_csr(request.csr).map_err(|e| Error::invalid(Field::Csr, e))?;
        let allowed = self
            .authorize_attesting(&snapshot, &agent, request.ip)
            .await
            .granted()?;
        self.check_in_place_of(&snapshot, (&claims, &agent), &identity, request)
            .await?;
        let (issued, svid) = self.sign(&identity, &key, &IssueOptions::default())?;
        let events = vec![
            allowed.into_event(),
            Event::SvidIssued {
                svid,
                join_token: claims.uses_up,
                origin: Some(SvidOrigin::Login),
                evidence: Some(claims.into_record(kind)),
                renews: None,
            },
        ];
        failpoint::reached("attest.signed");
        // The store uses the token up with the SVID, in ledger order, so that one of many wins.
        let recorded = self.commit(events, Vec::new()).await;
        failpoint::reached("attest.recorded");
        match recorded {
            Err(Error::Unauthenticated(_)) => Err(refused()),
            other => other.map(|_| issued),
        }
    }

    /// Says in the log how many refusals it does not show, once their minute is over.
    pub(crate) fn report_refusals(&self) {
        self.refusals.report(self.context.clock.monotonic());
    }

    /// The claims of good evidence and the registered agent that they are for; `None` when the
    /// evidence is not good or its agent is unknown.
    async fn claims(
        &self,
        attestor: &dyn Attestor,
        evidence: &Evidence,
        now: Timestamp,
    ) -> Result<Option<(Claims, Arc<Agent>)>, Error> {
        let claims = match attestor.verify(evidence, now).await {
            Ok(claims) => claims,
            Err(Refusal::NotGood) => return Ok(None),
            Err(Refusal::Failed(error)) => return Err(error),
        };
        let agent = self.context.store.agent(&claims.agent).await?;
        Ok(agent.map(|agent| (claims, agent)))
    }

    /// Refuses the login if the agent is not `in_place_of`, the identity that the client would
    /// overwrite. The refusal reveals the agent of the evidence, which a thief could use; the
    /// denial is therefore written to the ledger before it is answered.
    async fn check_in_place_of(
        &self,
        snapshot: &Snapshot,
        (claims, agent): (&Claims, &Agent),
        identity: &Identity,
        request: &Attest<'_>,
    ) -> Result<(), Error> {
        let Some(holder) = &request.in_place_of else {
            return Ok(());
        };
        let id = identity
            .spiffe_id(&self.context.trust_domain)
            .map_err(Error::authority)?;
        if id == *holder {
            return Ok(());
        }
        let (evidence, claimed) = (&request.evidence, excerpt(holder.as_str()));
        tracing::warn!(%evidence, %id, %holder, "evidence was shown in place of another identity");
        let reason = format!("{evidence} was shown in place of `{claimed}`, as was claimed");
        let resource = format!("agent {}", agent.name);
        let record = self.denial_by_rule(snapshot, &id, Action::SvidAttest, &resource, &reason);
        let asked = Asked::new(request.ip, None);
        // Nothing is answered that is not on record.
        let account = Some((&agent.name, &snapshot.settings().budgets));
        self.commit_denial(account, Decided { record, asked })
            .await?;
        let kind = evidence.kind();
        // Evidence that counts more than once is not used up by a login that succeeds either.
        let unused = match claims.uses_up {
            Some(_) => format!("; the {kind} still counts"),
            None => String::new(),
        };
        Err(Error::Precondition(format!(
            "the {kind} is for `{id}`, which is not to take the place of `{holder}`{unused}"
        )))
    }

    /// Signs an SVID for an agent or a task, and prepares its record. Nothing may leave before that
    /// is committed.
    pub(crate) fn sign(
        &self,
        identity: &Identity,
        key: &PublicKey,
        options: &IssueOptions,
    ) -> Result<(IssuedSvid, Svid), Error> {
        let (agent, task) = match identity {
            Identity::Agent(name) => (name.clone(), None),
            Identity::AgentTask(name, task) => (name.clone(), Some(*task)),
            Identity::Operator(_) | Identity::Broker(_) => {
                return Err(Error::authority("only agents are given SVIDs on request"));
            }
        };
        let signed = self
            .context
            .authority
            .issue(identity, key, options)
            .map_err(Error::authority)?;
        let id = identity
            .spiffe_id(&self.context.trust_domain)
            .map_err(Error::authority)?;
        let svid = Svid {
            serial: signed.serial.clone(),
            agent,
            task,
            key_sha256: signed.key_sha256.clone(),
            not_before: signed.not_before,
            not_after: signed.not_after,
            state: SvidState::Pending,
            root: signed.root,
        };
        Ok((IssuedSvid { id, signed }, svid))
    }
}

#[cfg(test)]
mod tests;
