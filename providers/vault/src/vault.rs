//! One Vault or OpenBao: the calls that the broker makes with its own token, and the proofs in the
//! answers.
//!
//! Sessions, proofs and orders are built on a `&Vault`; it knows none of them.

use std::{sync::Arc, time::Duration};

use rustify::endpoint::Endpoint;
use serde_json::Value;
use taskpass_core::{Clock, ProviderName, Secret};
use taskpass_provider::ProviderError;
use vaultrs::api::{
    AuthInfo,
    token::requests::{
        LookupTokenAccessorRequest, RenewTokenAccessorRequest, RevokeTokenAccessorRequest,
    },
};

use crate::{
    api::{self, ListLeases, LookupLease, RenewLease, Reply, RevokeLease},
    broker_token::BrokerToken,
    fault::Fault,
    transport::Transport,
};

/// Concurrent calls for one order. More would only queue inside Vault, ahead of other clients.
pub(crate) const CONCURRENT_CALLS_MAX: usize = 16;

/// A server, and the broker's access to it.
#[derive(Debug)]
pub(crate) struct Vault {
    /// The provider's name, for logs.
    pub(crate) name: ProviderName,
    pub(crate) transport: Transport,
    pub(crate) token: BrokerToken,
    pub(crate) clock: Arc<dyn Clock>,
    /// Without slashes around it; `None` is the root namespace.
    pub(crate) namespace: Option<String>,
    /// The longest that Vault works on one request.
    pub(crate) request_max: Duration,
}

impl Vault {
    /// Calls with the broker's own token.
    pub(crate) async fn call<E, F>(&self, endpoint: F) -> Result<Reply, Fault>
    where
        E: Endpoint,
        F: Fn() -> E + Send + Sync,
    {
        self.token.call(&self.transport, endpoint).await
    }

    /// Calls with `token`.
    pub(crate) async fn call_with(
        &self,
        token: &Secret,
        endpoint: impl Endpoint,
    ) -> Result<Reply, Fault> {
        api::call(&self.transport, endpoint, Some(token)).await
    }

    /// The server's report on its health, which it gives without a token.
    pub(crate) async fn health(&self) -> Result<Value, ProviderError> {
        api::health(&self.transport)
            .await
            .map_err(|e| e.while_doing("tell its health"))
    }

    /// The id of the server's cluster. The server keeps it in its storage, so a new address does
    /// not change it and another storage does.
    pub(crate) async fn cluster(&self) -> Result<Option<String>, ProviderError> {
        let health = self.health().await?;
        let cluster = health.get("cluster_id").and_then(Value::as_str);
        Ok(cluster.filter(|id| !id.is_empty()).map(str::to_owned))
    }

    /// Creates a token; `doing` names the purpose.
    pub(crate) async fn create_token<E: Endpoint>(
        &self,
        request: impl Fn() -> E + Send + Sync,
        doing: &str,
    ) -> Result<AuthInfo, ProviderError> {
        let created = self.call(request).await;
        let reply = created.map_err(|e| e.while_doing(doing))?;
        reply.auth.ok_or_else(|| {
            ProviderError::retryable(format!("Vault's answer to {doing} has no token"))
        })
    }

    /// Gives a token `seconds` to live from now; returns how many Vault granted.
    pub(crate) async fn renew_token(&self, accessor: &str, seconds: u64) -> Result<u64, Fault> {
        let request = || RenewTokenAccessorRequest {
            accessor: accessor.to_owned(),
            increment: Some(format!("{seconds}s")),
        };
        let reply = self.call(request).await?;
        Ok(reply.auth.map_or(0, |auth| auth.lease_duration))
    }

    /// Whether a token exists.
    pub(crate) async fn token_exists(&self, accessor: &str) -> Result<bool, Fault> {
        let request = || LookupTokenAccessorRequest {
            accessor: accessor.to_owned(),
        };
        unless_gone(self.call(request).await)
    }

    /// Revokes a token and proves by a lookup that it is gone.
    pub(crate) async fn revoke_token(&self, accessor: &str) -> Result<(), ProviderError> {
        let request = || RevokeTokenAccessorRequest {
            accessor: accessor.to_owned(),
        };
        unless_gone(self.call(request).await).map_err(|e| e.while_doing("revoke a token"))?;
        must_be_gone(self.token_exists(accessor).await, "token")
    }

    /// Revokes a token that was never used. If that fails, Vault ends the token after its short
    /// life. Returns whether the token is proven gone.
    pub(crate) async fn discard_token(&self, accessor: &str) -> bool {
        match self.revoke_token(accessor).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(provider = %self.name, %error, "an unused token could not be revoked and is left to expire");
                false
            }
        }
    }

    /// Renews with the broker's token: a session has the policies of its roles and no others.
    pub(crate) async fn renew_lease(&self, lease_id: &str, seconds: u32) -> Result<Reply, Fault> {
        self.call(|| RenewLease {
            lease_id,
            increment: seconds,
        })
        .await
    }

    /// Whether a lease exists. A lease that Vault has failed to revoke so far exists.
    pub(crate) async fn lease_exists(&self, lease_id: &str) -> Result<bool, Fault> {
        unless_gone(self.call(|| LookupLease { lease_id }).await)
    }

    /// Revokes one lease and proves by a lookup that it is gone.
    pub(crate) async fn revoke_lease(&self, lease_id: &str) -> Result<(), ProviderError> {
        let request = || RevokeLease {
            lease_id,
            sync: true,
        };
        match unless_gone(self.call(request).await) {
            Ok(_) => {}
            // Vault reports a failure of the engine as a 400 too. The database or cloud behind the
            // engine must come back; the order is right.
            Err(fault @ Fault::Refused { status: 400, .. }) => {
                return Err(ProviderError::retryable(
                    fault.while_doing("revoke a lease").to_string(),
                ));
            }
            Err(fault) => return Err(fault.while_doing("revoke a lease")),
        }
        must_be_gone(self.lease_exists(lease_id).await, "lease")
    }

    /// The ids of the leases directly below a path.
    pub(crate) async fn list_leases(&self, path: &str) -> Result<Vec<String>, Fault> {
        let listed = match self.call(|| ListLeases { path }).await {
            Ok(listed) => listed,
            Err(fault) if fault.says_empty() => return Ok(Vec::new()),
            Err(fault) => return Err(fault),
        };
        let keys = listed
            .data
            .as_ref()
            .and_then(|data| data.get("keys"))
            .and_then(Value::as_array);
        let ids = keys.and_then(|keys| {
            let id = |key: &Value| Some(format!("{path}/{}", key.as_str()?));
            keys.iter().map(id).collect()
        });
        // Skipping a key that cannot be read would let its lease pass for gone.
        ids.ok_or_else(|| Fault::Garbled("it has no list of lease ids".to_owned()))
    }
}

/// Whether the call found the thing; `false` only where Vault itself says that there is no such
/// thing.
fn unless_gone(answer: Result<Reply, Fault>) -> Result<bool, Fault> {
    match answer {
        Ok(_) => Ok(true),
        Err(fault) if fault.says_gone() => Ok(false),
        Err(fault) => Err(fault),
    }
}

/// Reads the lookup after a revocation.
fn must_be_gone(exists: Result<bool, Fault>, what: &str) -> Result<(), ProviderError> {
    match exists {
        Ok(false) => Ok(()),
        Ok(true) => Err(ProviderError::retryable(format!(
            "Vault accepted to revoke a {what} and still finds it"
        ))),
        Err(fault) => Err(fault.while_doing(&format!("look up a revoked {what}"))),
    }
}
