//! `IdentityService`: the two calls without a client certificate, and renewal.

use taskpass_core::SpiffeId;
use taskpass_engine::{Attest, Caller, Engine, Error, JoinTokenText};
use taskpass_proto::v1::{
    AttestRequest, AttestResponse, Bundle, GetBundleRequest, GetBundleResponse, RenewSvidRequest,
    RenewSvidResponse, WhoAmIRequest, WhoAmIResponse, identity_service_server::IdentityService,
};
use tonic::{Request, Response, Status};

use super::{Api, convert, status};

#[tonic::async_trait]
impl IdentityService for Api {
    async fn attest(
        &self,
        request: Request<AttestRequest>,
    ) -> Result<Response<AttestResponse>, Status> {
        let ip = Some(Self::peer(request.extensions())?.remote_addr.ip());
        let message = request.into_inner();
        let token = JoinTokenText::parse(&message.join_token).map_err(status::from)?;
        let in_place_of = match message.in_place_of.as_str() {
            "" => None,
            id => Some(
                id.parse::<SpiffeId>()
                    .map_err(|e| status::from(Error::invalid("in_place_of", e)))?,
            ),
        };
        let attest = Attest {
            token: token.id,
            secret: &token.secret,
            csr: &message.csr,
            in_place_of,
            ip,
        };
        let issued = self.engine.attest(&attest).await.map_err(status::from)?;
        Ok(Response::new(AttestResponse {
            svid: Some(convert::svid(&issued)),
            bundle: Some(bundle(&self.engine)),
        }))
    }

    async fn renew_svid(
        &self,
        request: Request<RenewSvidRequest>,
    ) -> Result<Response<RenewSvidResponse>, Status> {
        let call = self.call(request.extensions()).await?;
        let issued = self
            .engine
            .renew_svid(&call, &request.get_ref().csr)
            .await
            .map_err(status::from)?;
        Ok(Response::new(RenewSvidResponse {
            svid: Some(convert::svid(&issued)),
            bundle: Some(bundle(&self.engine)),
        }))
    }

    async fn get_bundle(
        &self,
        _: Request<GetBundleRequest>,
    ) -> Result<Response<GetBundleResponse>, Status> {
        Ok(Response::new(GetBundleResponse {
            bundle: Some(bundle(&self.engine)),
        }))
    }

    async fn who_am_i(
        &self,
        request: Request<WhoAmIRequest>,
    ) -> Result<Response<WhoAmIResponse>, Status> {
        let call = self.call(request.extensions()).await?;
        let peer = Self::peer(request.extensions())?;
        let kind = match &call.caller {
            Caller::Agent { bound_to: None, .. } => "agent",
            Caller::Agent {
                bound_to: Some(_), ..
            } => "agent_task",
            Caller::Operator { .. } => "operator",
        };
        Ok(Response::new(WhoAmIResponse {
            spiffe_id: call.caller.id().to_string(),
            kind: kind.to_owned(),
            serial: call.caller.serial().to_owned(),
            expires_at: peer
                .identity
                .map(|identity| convert::time(identity.not_after)),
            broker_version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }
}

fn bundle(engine: &Engine) -> Bundle {
    let bundle = engine.authority().bundle();
    Bundle {
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
