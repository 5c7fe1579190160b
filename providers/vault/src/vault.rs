//! One Vault or OpenBao: the calls that the broker makes with its own token, and the proofs in the
//! answers.
//!
//! Sessions, proofs and orders are built on a `&Vault`; it knows none of them.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
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
    api::{self, CreateToken, ListLeases, LookupLease, NewToken, RenewLease, Reply, RevokeLease},
    broker_token::BrokerToken,
    consistency::{Death, Index, may_lag},
    engine::KnownMounts,
    fault::Fault,
    transport::Transport,
};

/// Concurrent calls for one order. More would only queue inside Vault, ahead of other clients.
pub(crate) const CONCURRENT_CALLS_MAX: usize = 16;

/// How long the broker remembers whether the server is one of a cluster: this changes only when
/// servers start.
const LAG_KNOWN_FOR: Duration = Duration::from_secs(60);

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
    /// The token role through which tokens are created, if there is one.
    pub(crate) token_role: Option<String>,
    /// The longest that Vault works on one request.
    pub(crate) request_max: Duration,
    /// Whether a place may lag behind, and when that was learnt (monotonic).
    pub(crate) lag: Mutex<Option<(Duration, bool)>>,
    /// The types of engines that were asked about.
    pub(crate) mounts: KnownMounts,
}

impl Vault {
    /// Calls with the broker's own token.
    pub(crate) async fn call<E, F>(&self, endpoint: F) -> Result<Reply, Fault>
    where
        E: Endpoint,
        F: Fn() -> E + Send + Sync,
    {
        self.token.call(&self.transport, endpoint, None).await
    }

    /// The same, answered only by a place that has seen what `after` stands for.
    pub(crate) async fn call_after<E, F>(
        &self,
        after: Option<&Index>,
        endpoint: F,
    ) -> Result<Reply, Fault>
    where
        E: Endpoint,
        F: Fn() -> E + Send + Sync,
    {
        self.token.call(&self.transport, endpoint, after).await
    }

    /// Calls with `token`, which was minted at `minted`. A place that is not as far would refuse
    /// the token as unknown.
    pub(crate) async fn call_with(
        &self,
        token: &Secret,
        minted: Option<&Index>,
        endpoint: impl Endpoint,
    ) -> Result<Reply, Fault> {
        api::call(&self.transport, endpoint, Some(token), minted).await
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

    /// Whether "there is no such thing" may come from a place that lags behind. A server that does
    /// not say may be one.
    pub(crate) async fn may_lag(&self) -> bool {
        let now = self.clock.monotonic();
        let known = self.lag.lock().filter(|(at, _)| now < *at + LAG_KNOWN_FOR);
        if let Some((_, lags)) = known {
            return lags;
        }
        let Ok(leader) = api::leader(&self.transport).await else {
            return true;
        };
        let health = self.health().await.unwrap_or_default();
        let lags = may_lag(&health, &leader);
        *self.lag.lock() = Some((now, lags));
        lags
    }

    /// Creates a token, an orphan. Returns also how far the storage was then.
    pub(crate) async fn create_token(
        &self,
        token: &NewToken,
    ) -> Result<(AuthInfo, Option<Index>), Fault> {
        let role = self.token_role.as_deref();
        let reply = self.call(|| CreateToken { role, token }).await?;
        let auth = reply
            .auth
            .ok_or_else(|| Fault::Garbled("it has no token".to_owned()))?;
        Ok((auth, reply.index))
    }

    /// Gives a token that was minted at `minted` `seconds` to live from now; returns how many Vault
    /// granted.
    pub(crate) async fn renew_token(
        &self,
        accessor: &str,
        minted: Option<&Index>,
        seconds: u64,
    ) -> Result<u64, Fault> {
        let request = || RenewTokenAccessorRequest {
            accessor: accessor.to_owned(),
            increment: Some(format!("{seconds}s")),
        };
        let reply = self.call_after(minted, request).await?;
        let auth = reply.auth.filter(|auth| auth.accessor == accessor);
        let auth = auth.ok_or_else(|| Fault::Garbled("it is about another token".to_owned()))?;
        Ok(auth.lease_duration)
    }

    /// Whether a token exists, by a place that has seen what `after` stands for.
    pub(crate) async fn token_exists(
        &self,
        accessor: &str,
        after: Option<&Index>,
    ) -> Result<bool, Fault> {
        let request = || LookupTokenAccessorRequest {
            accessor: accessor.to_owned(),
        };
        Ok(unless_gone(self.call_after(after, request).await)?.is_some())
    }

    /// Revokes a token that was minted at `minted`, and looks whether it is gone.
    pub(crate) async fn revoke_token(
        &self,
        accessor: &str,
        minted: Option<&Index>,
    ) -> Result<RevokedToken, ProviderError> {
        let request = || RevokeTokenAccessorRequest {
            accessor: accessor.to_owned(),
        };
        let revoked = unless_gone(self.call_after(minted, request).await);
        let revoked = revoked.map_err(|e| e.while_doing("revoke a token"))?;
        // A place that does not find the token says so in a warning, and writes nothing.
        let wrote = revoked.filter(|reply| !reply.has_warnings);
        let after = wrote.as_ref().and_then(|reply| reply.index.as_ref());
        let exists = self.token_exists(accessor, after.or(minted)).await;
        must_be_gone(exists, "token")?;
        let death = match (&wrote, minted) {
            (None, None) => self.believed().await,
            _ => Death::Proven,
        };
        Ok(RevokedToken {
            death,
            was_alive: wrote.is_some(),
            revoked_at: wrote.and_then(|reply| reply.index),
        })
    }

    /// The meaning of "there is no such thing" from a place that may not have seen the minting.
    pub(crate) async fn believed(&self) -> Death {
        if self.may_lag().await {
            Death::Unknown
        } else {
            Death::Proven
        }
    }

    /// Revokes a token that was never used. If that fails, Vault ends the token after its short
    /// life. Returns whether the token is proven gone.
    pub(crate) async fn discard_token(&self, accessor: &str, minted: Option<&Index>) -> bool {
        match self.revoke_token(accessor, minted).await {
            Ok(revoked) => revoked.death == Death::Proven,
            Err(error) => {
                tracing::warn!(provider = %self.name, %error, "an unused token could not be revoked and is left to expire");
                false
            }
        }
    }

    /// Renews a lease that was minted at `minted`, with the broker's token: a session has the
    /// policies of its roles and no others.
    pub(crate) async fn renew_lease(
        &self,
        lease_id: &str,
        minted: Option<&Index>,
        seconds: u32,
    ) -> Result<Reply, Fault> {
        let request = || RenewLease {
            lease_id,
            increment: seconds,
        };
        let reply = self.call_after(minted, request).await?;
        if reply.lease_id != lease_id {
            return Err(Fault::Garbled("it is about another lease".to_owned()));
        }
        Ok(reply)
    }

    /// Whether a lease exists, by a place that has seen what `after` stands for. A lease that Vault
    /// has failed to revoke so far exists.
    pub(crate) async fn lease_exists(
        &self,
        lease_id: &str,
        after: Option<&Index>,
    ) -> Result<bool, Fault> {
        Ok(self.find_lease(lease_id, after).await?.is_some())
    }

    async fn find_lease(
        &self,
        lease_id: &str,
        after: Option<&Index>,
    ) -> Result<Option<Reply>, Fault> {
        unless_gone(self.call_after(after, || LookupLease { lease_id }).await)
    }

    /// Revokes one lease that was minted at `minted`, and looks whether it is gone.
    ///
    /// Vault accepts to revoke a lease that it does not know, so accepting proves nothing. Without
    /// an index on record, the lease is looked up first: the place that finds it says how far it
    /// is.
    pub(crate) async fn revoke_lease(
        &self,
        lease_id: &str,
        minted: Option<&Index>,
    ) -> Result<Death, ProviderError> {
        let seen = match minted {
            Some(index) => Some(index.clone()),
            None if self.may_lag().await => {
                let found = self.find_lease(lease_id, None).await;
                let found = found.map_err(|e| e.while_doing("look up a lease"))?;
                found.and_then(|reply| reply.index)
            }
            None => None,
        };
        let request = || RevokeLease {
            lease_id,
            sync: true,
        };
        match unless_gone(self.call_after(seen.as_ref(), request).await) {
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
        must_be_gone(self.lease_exists(lease_id, seen.as_ref()).await, "lease")?;
        Ok(match seen {
            Some(_) => Death::Proven,
            None => self.believed().await,
        })
    }

    /// The ids of the leases directly below a path.
    pub(crate) async fn list_leases(
        &self,
        path: &str,
        after: Option<&Index>,
    ) -> Result<Vec<String>, Fault> {
        let listed = match self.call_after(after, || ListLeases { path }).await {
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

/// A token that no place asked knows any more.
#[derive(Debug)]
pub(crate) struct RevokedToken {
    pub(crate) death: Death,
    /// Whether this call ended it: Vault's active node wrote the end, which it does of a living
    /// token only.
    pub(crate) was_alive: bool,
    /// How far the storage was with the revocation. A place that is as far has seen everything that
    /// was minted with the token.
    pub(crate) revoked_at: Option<Index>,
}

/// The answer about a thing; `None` only where Vault itself says that there is no such thing.
fn unless_gone(answer: Result<Reply, Fault>) -> Result<Option<Reply>, Fault> {
    match answer {
        Ok(reply) => Ok(Some(reply)),
        Err(fault) if fault.says_gone() => Ok(None),
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
