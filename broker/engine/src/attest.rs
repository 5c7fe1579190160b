//! Attestation: a join token becomes the first SVID of an agent.

use std::{fmt, net::IpAddr, sync::Arc};

use taskpass_ca::{IssueOptions, PublicKey};
use taskpass_core::{
    Agent, Digest, Event, Identity, JoinTokenId, SpiffeId, Svid, SvidState, Timestamp, excerpt,
    same_in_constant_time,
};
use taskpass_policy::Action;

use crate::failpoint;

use super::{Engine, Error, Field, Snapshot};

/// What an agent shows to get in.
pub struct Attest<'a> {
    /// Names the token.
    pub token: JoinTokenId,
    /// The token's secret part.
    pub secret: &'a [u8],
    /// PKCS#10, PEM or DER. It is read once the token is known to be good: nothing is computed for others.
    pub csr: &'a [u8],
    /// Whose identity the caller has to lose by it, if any: a token that is for another one is then not used up.
    pub in_place_of: Option<SpiffeId>,
    /// Where the request came from.
    pub ip: Option<IpAddr>,
}

impl fmt::Debug for Attest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attest")
            .field("token", &self.token)
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

/// All the ways a token can be wrong read the same: which one it was helps only those who guess.
fn bad_token() -> Error {
    Error::Unauthenticated(
        "the join token is unknown, used or expired; ask for a new one with `taskpass agent token`"
            .to_owned(),
    )
}

impl Engine {
    /// Checks and uses up a join token, and signs the agent's key. Of any number of attempts with one token, one wins.
    pub async fn attest(&self, request: &Attest<'_>) -> Result<IssuedSvid, Error> {
        let now = self.require_sane_clock()?;
        let snapshot = self.snapshot();
        let Some(agent) = self.agent_of_token(request, now).await? else {
            // Only what is refused counts against the limit that all strangers share: whoever guesses keeps out
            // nobody with a good token.
            self.rates.check_attestation(snapshot.settings())?;
            tracing::warn!(token = %request.token, ip = request.ip.map(tracing::field::display), "a join token was refused");
            return Err(bad_token());
        };
        self.rates.check_agent(snapshot.settings(), &agent.name)?;
        let identity = Identity::Agent(agent.name.clone());
        let key = PublicKey::from_csr(request.csr).map_err(|e| Error::invalid(Field::Csr, e))?;
        let allowed = self
            .authorize_attesting(&snapshot, &agent, request.ip)
            .await?;
        self.check_in_place_of(&snapshot, &agent, &identity, request)
            .await?;
        let (issued, svid) = self.sign(&identity, &key, &IssueOptions::default())?;
        let events = vec![
            allowed.into_event(),
            Event::SvidIssued {
                svid,
                join_token: Some(request.token),
                renews: None,
            },
        ];
        failpoint::reached("attest.signed");
        // The token is used up with the SVID, in ledger order: of many, one wins.
        let recorded = self.commit(events, Vec::new()).await;
        failpoint::reached("attest.recorded");
        match recorded {
            Err(Error::Unauthenticated(_)) => Err(bad_token()),
            other => other.map(|_| issued),
        }
    }

    /// Refuses the login if the token's agent is not `in_place_of`, the identity that the client would overwrite.
    /// The refusal reveals the agent of the token, which a thief could use; the denial is therefore written to the
    /// ledger before it is answered.
    async fn check_in_place_of(
        &self,
        snapshot: &Snapshot,
        agent: &Agent,
        identity: &Identity,
        request: &Attest<'_>,
    ) -> Result<(), Error> {
        let Some(holder) = &request.in_place_of else {
            return Ok(());
        };
        let id = identity
            .spiffe_id(&self.context.trust_domain)
            .map_err(|e| Error::Authority(e.to_string()))?;
        if id == *holder {
            return Ok(());
        }
        tracing::warn!(token = %request.token, %id, %holder, "a join token was shown in place of another identity");
        let (token, claimed) = (request.token, excerpt(holder.as_str()));
        let reason =
            format!("join token `{token}` was shown in place of `{claimed}`, as was claimed");
        let resource = format!("agent {}", agent.name);
        let decision = self.denial_by_rule(snapshot, &id, Action::SvidAttest, &resource, &reason);
        // Nothing is answered that is not on record.
        self.commit(vec![Event::Decided { decision }], Vec::new())
            .await?;
        Err(Error::Precondition(format!(
            "the join token is for `{id}`, which is not to take the place of `{holder}`; the token still counts"
        )))
    }

    /// The agent whose token this is; `None` when the token is not good.
    async fn agent_of_token(
        &self,
        request: &Attest<'_>,
        now: Timestamp,
    ) -> Result<Option<Arc<Agent>>, Error> {
        let Some(record) = self.context.store.join_token(request.token).await? else {
            return Ok(None);
        };
        let shown = Digest::of(request.secret).to_string();
        let same = same_in_constant_time(shown.as_bytes(), record.token.secret_sha256.as_bytes());
        if !same || record.used || record.token.expires_at <= now {
            return Ok(None);
        }
        Ok(self.context.store.agent(&record.token.agent).await?)
    }

    /// Signs an SVID for an agent or a task, and prepares its record. Nothing may leave before that is committed.
    pub(super) fn sign(
        &self,
        identity: &Identity,
        key: &PublicKey,
        options: &IssueOptions,
    ) -> Result<(IssuedSvid, Svid), Error> {
        let (agent, task) = match identity {
            Identity::Agent(name) => (name.clone(), None),
            Identity::AgentTask(name, task) => (name.clone(), Some(*task)),
            Identity::Operator(_) | Identity::Broker(_) => {
                return Err(Error::Authority(
                    "only agents are given SVIDs on request".to_owned(),
                ));
            }
        };
        let signed = self
            .context
            .authority
            .issue(identity, key, options)
            .map_err(|e| Error::Authority(e.to_string()))?;
        let id = identity
            .spiffe_id(&self.context.trust_domain)
            .map_err(|e| Error::Authority(e.to_string()))?;
        let svid = Svid {
            serial: signed.serial.clone(),
            agent,
            task,
            key_sha256: signed.key_sha256.clone(),
            not_before: signed.not_before,
            not_after: signed.not_after,
            state: SvidState::Pending,
        };
        Ok((IssuedSvid { id, signed }, svid))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{CreateJoinToken, Settings, testing::Bench};
    use super::*;
    use taskpass_core::Ttl;

    use crate::JoinTokenText;

    /// Whose token it is may only be learnt by leaving a trace.
    #[tokio::test]
    async fn what_cannot_be_recorded_is_not_answered() {
        let bench = Bench::new(&["a"], Settings::default()).await;
        let request = CreateJoinToken {
            agent: "builder".parse().unwrap(),
            ttl: Some(Ttl::from_seconds(60).unwrap()),
        };
        let made = bench
            .engine
            .create_join_token(&bench.operator, None, &request);
        let made = made.await.unwrap();
        let text = JoinTokenText::parse(made.text.expose()).unwrap();
        let attest = Attest {
            token: made.token.id,
            secret: text.secret.as_ref(),
            csr: &taskpass_ca::NewKey::generate().unwrap().csr_der().unwrap(),
            in_place_of: Some("spiffe://acme.test/agent/tester".parse().unwrap()),
            ip: None,
        };
        let whose = async || bench.engine.attest(&attest).await.unwrap_err().to_string();
        let told = whose().await;
        assert!(told.contains("agent/builder"), "{told}");
        bench.store.close().await.unwrap();
        let told = whose().await;
        assert!(!told.contains("builder"), "{told}");
    }
}
