//! The gRPC services, the only place that knows protobuf.
//!
//! Every handler begins with the caller, reads the message into a typed command, carries out one
//! use case and converts its result. The engine decides whether it is allowed.

mod agent;
mod convert;
mod credential;
mod identity;
mod ledger;
mod methods;
mod parse;
mod policy;
mod provider;
mod status;
mod task;

use std::{future::Future, sync::Arc};

use taskpass_engine::{Call, Engine};
use taskpass_proto::v1::{
    agent_service_server::AgentServiceServer, credential_service_server::CredentialServiceServer,
    identity_service_server::IdentityServiceServer, ledger_service_server::LedgerServiceServer,
    policy_service_server::PolicyServiceServer, provider_service_server::ProviderServiceServer,
    task_service_server::TaskServiceServer,
};
use tonic::{Extensions, Request, Response, Status, service::Routes};

pub(crate) use methods::methods;

use crate::{
    authn,
    transport::{Limits, Peer},
};

use ledger::Exports;
use status::Refusal;

/// The answer of a handler.
type Answer<M> = Result<Response<M>, Status>;

/// The state of every service.
#[derive(Debug, Clone)]
struct Api {
    engine: Arc<Engine>,
    exports: Exports,
}

impl Api {
    /// Answers a request of an authenticated caller within its rate. `handle` reads the message and
    /// carries it out.
    async fn answer<M, R, F>(
        &self,
        request: Request<M>,
        handle: impl FnOnce(Call, M) -> F + Send,
    ) -> Answer<R>
    where
        M: Send,
        F: Future<Output = Result<Response<R>, Refusal>> + Send,
    {
        let peer = Self::peer(request.extensions())?;
        let call = self.call(&peer).await?;
        Ok(handle(call, request.into_inner()).await?)
    }

    /// The same for a request that its use case counts itself.
    async fn answer_uncounted<M, R, F>(
        &self,
        request: Request<M>,
        handle: impl FnOnce(Call, M) -> F + Send,
    ) -> Answer<R>
    where
        M: Send,
        F: Future<Output = Result<Response<R>, Refusal>> + Send,
    {
        let peer = Self::peer(request.extensions())?;
        let call = authn::authenticate(&self.engine, &peer).await;
        let call = call.map_err(Refusal::from)?;
        Ok(handle(call, request.into_inner()).await?)
    }

    /// The caller, by the connection that the request came on.
    async fn call(&self, peer: &Peer) -> Result<Call, Refusal> {
        let call = authn::authenticate(&self.engine, peer).await?;
        self.engine.check_rate(&call)?;
        Ok(call)
    }

    fn peer(extensions: &Extensions) -> Result<Peer, Status> {
        // INVARIANT: the transport puts a `Peer` on every request.
        extensions
            .get::<Peer>()
            .cloned()
            .ok_or_else(|| Status::internal("the connection is not known"))
    }
}

/// All services of `taskpass.v1` with health, and reflection if it is wanted.
pub(crate) fn routes(
    engine: Arc<Engine>,
    limits: Limits,
    reflection: bool,
) -> Result<(Routes, tonic_health::server::HealthReporter), tonic_reflection::server::Error> {
    let message_bytes_max = limits.request_bytes;
    let api = Api {
        exports: Exports::new(limits, Arc::clone(engine.clock())),
        engine,
    };
    macro_rules! limited {
        ($server:ident) => {
            $server::new(api.clone()).max_decoding_message_size(message_bytes_max)
        };
    }
    let (reporter, health) = tonic_health::server::health_reporter();
    let mut routes = Routes::default()
        .add_service(health.max_decoding_message_size(message_bytes_max))
        .add_service(limited!(IdentityServiceServer))
        .add_service(limited!(AgentServiceServer))
        .add_service(limited!(TaskServiceServer))
        .add_service(limited!(CredentialServiceServer))
        .add_service(limited!(ProviderServiceServer))
        .add_service(limited!(PolicyServiceServer))
        .add_service(limited!(LedgerServiceServer));
    if reflection {
        let service = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(taskpass_proto::v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()?
            .max_decoding_message_size(message_bytes_max);
        routes = routes.add_service(service);
    }
    Ok((routes, reporter))
}
