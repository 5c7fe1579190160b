//! The endpoints of Vault that this provider calls, and Vault's answers, as types.

use std::collections::BTreeMap;

use async_trait::async_trait;
use rustify::{
    endpoint::Endpoint,
    enums::{RequestMethod, RequestType, ResponseType},
    errors::ClientError,
};
use rustify_derive::Endpoint;
use serde::Serialize;
use serde_json::Value;
use taskpass_core::Secret;
use vaultrs::api::{AuthInfo, EndpointResult};

use crate::{
    consistency::Index,
    fault::Fault,
    transport::{Answer, Transport},
};

/// A stand-in: the transport replaces it by the configured address.
const ORIGIN: &str = "http://vault.invalid/";

/// A token to create.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct NewToken {
    pub(crate) display_name: String,
    pub(crate) meta: BTreeMap<&'static str, String>,
    pub(crate) policies: Vec<String>,
    pub(crate) no_default_policy: bool,
    /// With its unit, as the next one.
    pub(crate) ttl: String,
    pub(crate) explicit_max_ttl: String,
    pub(crate) renewable: bool,
    #[serde(rename = "type")]
    pub(crate) token_type: &'static str,
}

/// Creates a token: through a token role, which allows certain policies, or as an orphan with any
/// policies, which takes `sudo`. The typed requests of `vaultrs` are one for each path.
#[derive(Debug)]
pub(crate) struct CreateToken<'a> {
    pub(crate) role: Option<&'a str>,
    pub(crate) token: &'a NewToken,
}

#[async_trait]
impl Endpoint for CreateToken<'_> {
    type Response = Value;
    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        create_path(self.role)
    }

    fn method(&self) -> RequestMethod {
        RequestMethod::POST
    }

    fn body(&self) -> Result<Option<Vec<u8>>, ClientError> {
        rustify::http::build_body(self.token, Self::REQUEST_BODY_TYPE).map(Some)
    }
}

/// Where tokens are created.
pub(crate) fn create_path(token_role: Option<&str>) -> String {
    match token_role {
        Some(role) => format!("auth/token/create/{role}"),
        None => "auth/token/create-orphan".to_owned(),
    }
}

/// Reads the settings of a token role.
#[derive(Endpoint)]
#[endpoint(path = "auth/token/roles/{self.role}", method = "GET")]
pub(crate) struct TokenRole<'a> {
    #[endpoint(skip)]
    pub(crate) role: &'a str,
}

/// Looks a lease up. `vaultrs` has neither this endpoint nor the next two.
#[derive(Endpoint, Serialize)]
#[endpoint(path = "sys/leases/lookup", method = "PUT")]
pub(crate) struct LookupLease<'a> {
    pub(crate) lease_id: &'a str,
}

/// Revokes a lease. With `sync`, Vault answers once the engine has revoked the credential.
#[derive(Endpoint, Serialize)]
#[endpoint(path = "sys/leases/revoke", method = "PUT")]
pub(crate) struct RevokeLease<'a> {
    pub(crate) lease_id: &'a str,
    pub(crate) sync: bool,
}

/// Gives a lease a later end, or an earlier one.
#[derive(Endpoint, Serialize)]
#[endpoint(path = "sys/leases/renew", method = "PUT")]
pub(crate) struct RenewLease<'a> {
    pub(crate) lease_id: &'a str,
    pub(crate) increment: u32,
}

/// Lists the last parts of the lease ids below a path.
#[derive(Endpoint)]
#[endpoint(path = "sys/leases/lookup/{self.path}", method = "LIST")]
pub(crate) struct ListLeases<'a> {
    #[endpoint(skip)]
    pub(crate) path: &'a str,
}

/// Describes the engine that a path belongs to. Vault answers any token that may use a path below
/// its mount.
#[derive(Endpoint)]
#[endpoint(path = "sys/internal/ui/mounts/{self.path}", method = "GET")]
pub(crate) struct MountOf<'a> {
    #[endpoint(skip)]
    pub(crate) path: &'a str,
}

/// Describes all engines, with their paths as keys.
#[derive(Endpoint)]
#[endpoint(path = "sys/mounts", method = "GET")]
pub(crate) struct Mounts {}

/// Asks for the capabilities of the calling token.
#[derive(Endpoint, Serialize)]
#[endpoint(path = "sys/capabilities-self", method = "POST")]
pub(crate) struct CapabilitiesSelf<'a> {
    pub(crate) paths: &'a [String],
}

/// Asks for the capabilities of another token.
#[derive(Endpoint, Serialize)]
#[endpoint(path = "sys/capabilities-accessor", method = "POST")]
pub(crate) struct CapabilitiesOf<'a> {
    pub(crate) accessor: &'a str,
    pub(crate) paths: &'a [String],
}

/// Renews the calling token. The same endpoint of `vaultrs` has a tab in its path.
#[derive(Endpoint, Serialize)]
#[endpoint(path = "auth/token/renew-self", method = "POST")]
pub(crate) struct RenewSelf {
    pub(crate) increment: i64,
}

/// Reports whether the server is up, unsealed and active.
#[derive(Endpoint)]
#[endpoint(path = "sys/health", method = "GET")]
pub(crate) struct HealthCheck {}

/// Names the active server.
#[derive(Endpoint)]
#[endpoint(path = "sys/leader", method = "GET")]
pub(crate) struct Leader {}

/// A call to a secrets engine. The typed calls of `vaultrs` drop the lease from the answer.
#[derive(Debug, Clone)]
pub(crate) struct EngineCall {
    pub(crate) path: String,
    /// `Some` for a write.
    pub(crate) body: Option<Value>,
}

#[async_trait]
impl Endpoint for EngineCall {
    type Response = Value;
    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        self.path.clone()
    }

    fn method(&self) -> RequestMethod {
        match self.body {
            Some(_) => RequestMethod::POST,
            None => RequestMethod::GET,
        }
    }

    fn body(&self) -> Result<Option<Vec<u8>>, ClientError> {
        let Some(body) = &self.body else {
            return Ok(None);
        };
        rustify::http::build_body(body, Self::REQUEST_BODY_TYPE).map(Some)
    }
}

/// Vault's answer. It holds secrets and therefore has no `Debug`.
#[derive(Default)]
pub(crate) struct Reply {
    pub(crate) data: Option<Value>,
    pub(crate) auth: Option<AuthInfo>,
    pub(crate) lease_id: String,
    pub(crate) lease_seconds: u32,
    pub(crate) renewable: bool,
    /// How far the storage was.
    pub(crate) index: Option<Index>,
    /// Whether the server had something to say about the request, such as that it found nothing to
    /// revoke.
    pub(crate) has_warnings: bool,
}

impl Reply {
    /// Reads an answer of any status.
    pub(crate) fn read(answer: &Answer) -> Result<Self, Fault> {
        if !(200..=299).contains(&answer.status) {
            return Err(Fault::refused(
                answer.status,
                &answer.body,
                answer.retry_after,
            ));
        }
        if answer.body.is_empty() {
            return Ok(Self {
                index: answer.index.clone(),
                ..Self::default()
            });
        }
        // The parser's message may quote the answer, and with it a secret; the place is enough.
        let result: EndpointResult<Value> = serde_json::from_slice(&answer.body).map_err(|e| {
            Fault::Garbled(format!(
                "it is not what Vault answers (line {}, column {})",
                e.line(),
                e.column()
            ))
        })?;
        Ok(Self {
            data: result.data,
            auth: result.auth,
            lease_id: result.lease_id,
            lease_seconds: result.lease_duration,
            renewable: result.renewable,
            index: answer.index.clone(),
            has_warnings: result.warnings.is_some_and(|warnings| !warnings.is_empty()),
        })
    }

    /// A text in `data`.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.data.as_ref()?.get(name)?.as_str()
    }

    /// A number in `data`.
    pub(crate) fn number(&self, name: &str) -> Option<i64> {
        self.data.as_ref()?.get(name)?.as_i64()
    }
}

/// Makes one call. With `after`, only a place answers whose storage has come as far as this index.
pub(crate) async fn call<E: Endpoint>(
    transport: &Transport,
    endpoint: E,
    token: Option<&Secret>,
    after: Option<&Index>,
) -> Result<Reply, Fault> {
    let request = request(&endpoint)?;
    Reply::read(&transport.send(request, token, after).await?)
}

/// Asks which server is the active one, and whether there can be others.
pub(crate) async fn leader(transport: &Transport) -> Result<Value, Fault> {
    let answer = transport.send_to_root(request(&Leader {})?).await?;
    match answer.status {
        200 => serde_json::from_slice(&answer.body)
            .map_err(|e| Fault::Garbled(format!("it names no leader (line {})", e.line()))),
        status => Err(Fault::refused(status, &answer.body, answer.retry_after)),
    }
}

/// Asks for the server's health. The answer has a form of its own.
pub(crate) async fn health(transport: &Transport) -> Result<Value, Fault> {
    let answer = transport.send_to_root(request(&HealthCheck {})?).await?;
    match answer.status {
        // A standby answers 429 or 473 and has the same report.
        200 | 429 | 473 => serde_json::from_slice(&answer.body)
            .map_err(|e| Fault::Garbled(format!("it is not a health report (line {})", e.line()))),
        status => Err(Fault::refused(status, &answer.body, answer.retry_after)),
    }
}

fn request(endpoint: &impl Endpoint) -> Result<http::Request<Vec<u8>>, Fault> {
    endpoint
        .request(ORIGIN)
        .map_err(|e| Fault::Garbled(format!("the request cannot be built: {e}")))
}
