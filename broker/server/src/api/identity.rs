//! `IdentityService`: the two calls without a client certificate, and renewal.

use taskpass_engine::{Attest, Caller, Engine, Error};
use taskpass_proto::v1 as pb;
use tonic::{Request, Response};

use super::{Answer, Api, convert, parse, status::Refusal};

#[tonic::async_trait]
impl pb::identity_service_server::IdentityService for Api {
    async fn attest(&self, request: Request<pb::AttestRequest>) -> Answer<pb::AttestResponse> {
        let ip = Some(Self::peer(request.extensions())?.remote_addr.ip());
        let message = request.into_inner();
        let attest = Attest {
            evidence: parse::evidence(message.evidence)?,
            csr: &message.csr,
            in_place_of: parse::optional("in_place_of", &message.in_place_of)?,
            ip,
        };
        let issued = self.engine.attest(&attest).await.map_err(Refusal::from)?;
        let ledger = ledger_head(&self.engine, message.consistent_with).await;
        Ok(Response::new(pb::AttestResponse {
            svid: Some(convert::svid(&issued)),
            bundle: Some(bundle(&self.engine)),
            ledger: Some(ledger.map_err(Refusal::from)?),
        }))
    }

    async fn renew_svid(
        &self,
        request: Request<pb::RenewSvidRequest>,
    ) -> Answer<pb::RenewSvidResponse> {
        self.answer(request, |call, message| async move {
            let key = parse::csr(&message.csr)?;
            let issued = self.engine.renew_svid(&call, &key).await?;
            let ledger = ledger_head(&self.engine, message.consistent_with).await?;
            Ok(Response::new(pb::RenewSvidResponse {
                svid: Some(convert::svid(&issued)),
                bundle: Some(bundle(&self.engine)),
                ledger: Some(ledger),
            }))
        })
        .await
    }

    async fn get_bundle(&self, _: Request<pb::GetBundleRequest>) -> Answer<pb::GetBundleResponse> {
        Ok(Response::new(pb::GetBundleResponse {
            bundle: Some(bundle(&self.engine)),
            signed_roots: self.engine.signed_roots(),
        }))
    }

    async fn who_am_i(&self, request: Request<pb::WhoAmIRequest>) -> Answer<pb::WhoAmIResponse> {
        let not_after = Self::peer(request.extensions())?
            .identity
            .map(|identity| identity.not_after);
        self.answer(request, |call, _| async move {
            let kind = match &call.caller {
                Caller::Agent { bound_to: None, .. } => pb::CallerKind::Agent,
                Caller::Agent {
                    bound_to: Some(_), ..
                } => pb::CallerKind::AgentTask,
                Caller::Operator { .. } => pb::CallerKind::Operator,
            };
            Ok(Response::new(pb::WhoAmIResponse {
                spiffe_id: call.caller.id().to_string(),
                kind: kind.into(),
                serial: call.caller.serial().to_owned(),
                expires_at: not_after.map(convert::time),
                broker_version: env!("CARGO_PKG_VERSION").to_owned(),
            }))
        })
        .await
    }
}

/// The ledger's head for a client that keeps the checkpoint of `consistent_with` entries.
async fn ledger_head(engine: &Engine, consistent_with: u64) -> Result<pb::LedgerHead, Error> {
    let older = (consistent_with != 0).then_some(consistent_with);
    let head = engine.ledger_head(older).await?;
    Ok(pb::LedgerHead {
        checkpoint: head.checkpoint.note().to_owned(),
        consistency: head.proof.iter().map(|hash| hash.to_vec()).collect(),
    })
}

fn bundle(engine: &Engine) -> pb::Bundle {
    let bundle = engine.authority().bundle();
    pb::Bundle {
        trust_domain: engine.trust_domain().to_string(),
        x509_authorities: bundle
            .roots_der
            .iter()
            .map(|der| der.as_ref().to_vec())
            .collect(),
        jwks: bundle.jwks.clone(),
        ledger_vkey: engine.ledger_key().to_string(),
    }
}
