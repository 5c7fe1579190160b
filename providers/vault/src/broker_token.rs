//! The broker's own token: read from a file that may change, or obtained by AppRole; never written.

use std::{path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use rustify::endpoint::Endpoint;
use taskpass_core::{Clock, Secret, with_sources};
use taskpass_provider::ProviderError;
use tokio::sync::Mutex;
use vaultrs::api::{
    auth::approle::requests::LoginWithApproleRequest, token::requests::LookupTokenSelfRequest,
};

use crate::{
    api::{self, RenewSelf, Reply},
    config::AppRoleConfig,
    consistency::Index,
    fault::Fault,
    secret_file::{self, SecretFileError, Stamp},
    transport::Transport,
};

/// The least time between two runs of [`BrokerToken::maintain`], which is called after every
/// revocation.
const MAINTAIN_INTERVAL_MIN: Duration = Duration::from_secs(30);
/// The least time between two logins that refusals cause.
const LOGIN_INTERVAL_MIN: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) enum TokenSource {
    File(PathBuf),
    AppRole(AppRoleConfig),
}

/// The token, and where to get another one.
#[derive(Debug)]
pub(crate) struct BrokerToken {
    source: TokenSource,
    clock: Arc<dyn Clock>,
    current: ArcSwapOption<Current>,
    obtaining: Mutex<()>,
    maintained_at: Mutex<Option<Duration>>,
}

#[derive(Debug)]
struct Current {
    token: Secret,
    stamp: Option<Stamp>,
    obtained_at: Duration,
}

impl BrokerToken {
    pub(crate) fn new(source: TokenSource, clock: Arc<dyn Clock>) -> Self {
        Self {
            source,
            clock,
            current: ArcSwapOption::empty(),
            obtaining: Mutex::new(()),
            maintained_at: Mutex::new(None),
        }
    }

    /// Calls with the broker's token. If Vault refuses it and the source has another, calls once
    /// more with that. With `after`, only a place that has seen what the index stands for answers.
    pub(crate) async fn call<E, F>(
        &self,
        transport: &Transport,
        endpoint: F,
        after: Option<&Index>,
    ) -> Result<Reply, Fault>
    where
        E: Endpoint,
        F: Fn() -> E + Send + Sync,
    {
        let current = self.current(transport).await?;
        let refused = match api::call(transport, endpoint(), Some(&current.token), after).await {
            Err(fault) if fault.status() == Some(403) && !fault.says_gone() => fault,
            outcome => return outcome,
        };
        match self.replacement(transport, &current).await? {
            Some(fresh) => api::call(transport, endpoint(), Some(&fresh.token), after).await,
            None => Err(refused),
        }
    }

    /// Renews the token in the second half of its life. Where Vault does not renew it, logs in
    /// again.
    pub(crate) async fn maintain(&self, transport: &Transport) -> Result<(), ProviderError> {
        let mut maintained_at = self.maintained_at.lock().await;
        let now = self.clock.monotonic();
        if maintained_at.is_some_and(|last| now.saturating_sub(last) < MAINTAIN_INTERVAL_MIN) {
            return Ok(());
        }
        let looked_up = self
            .call(transport, LookupTokenSelfRequest::default, None)
            .await;
        let reply = looked_up.map_err(|e| e.while_doing("look up the broker's own token"))?;
        let ttl = reply.number("ttl").unwrap_or(0);
        let whole = reply.number("creation_ttl").unwrap_or(0);
        // A token with a ttl of 0 has no end.
        if ttl > 0 && ttl.saturating_mul(2) < whole {
            let renewed = self
                .call(transport, || RenewSelf { increment: whole }, None)
                .await;
            let granted = renewed
                .as_ref()
                .ok()
                .and_then(|r| r.auth.as_ref())
                .map_or(0, |a| a.lease_duration);
            let short = i64::try_from(granted).unwrap_or(i64::MAX).saturating_mul(2) < whole;
            match (&self.source, renewed) {
                (TokenSource::AppRole(_), Err(_)) => self.log_in_again(transport).await?,
                (TokenSource::AppRole(_), Ok(_)) if short => self.log_in_again(transport).await?,
                (TokenSource::File(_), Err(fault)) => {
                    return Err(fault.while_doing("renew the broker's own token"));
                }
                (_, Ok(_)) => {}
            }
        }
        *maintained_at = Some(now);
        Ok(())
    }

    async fn log_in_again(&self, transport: &Transport) -> Result<(), ProviderError> {
        let _one_at_a_time = self.obtaining.lock().await;
        let fresh = self
            .obtain(transport)
            .await
            .map_err(|e| e.while_doing("log in"))?;
        self.current.store(Some(Arc::new(fresh)));
        Ok(())
    }

    async fn current(&self, transport: &Transport) -> Result<Arc<Current>, Fault> {
        if let Some(current) = self.current.load_full()
            && self.is_fresh(&current)?
        {
            return Ok(current);
        }
        let _one_at_a_time = self.obtaining.lock().await;
        if let Some(current) = self.current.load_full()
            && self.is_fresh(&current)?
        {
            return Ok(current);
        }
        let fresh = Arc::new(self.obtain(transport).await?);
        self.current.store(Some(Arc::clone(&fresh)));
        Ok(fresh)
    }

    fn is_fresh(&self, current: &Current) -> Result<bool, Fault> {
        match &self.source {
            TokenSource::File(path) => {
                let stamp = secret_file::stamp(path).map_err(|e| unusable(&e))?;
                Ok(current.stamp == Some(stamp))
            }
            TokenSource::AppRole(_) => Ok(true),
        }
    }

    /// Another token than `refused`, if the source has one.
    async fn replacement(
        &self,
        transport: &Transport,
        refused: &Arc<Current>,
    ) -> Result<Option<Arc<Current>>, Fault> {
        let _one_at_a_time = self.obtaining.lock().await;
        if let Some(current) = self.current.load_full()
            && !Arc::ptr_eq(&current, refused)
        {
            return Ok(Some(current));
        }
        let age = self.clock.monotonic().saturating_sub(refused.obtained_at);
        if matches!(self.source, TokenSource::AppRole(_)) && age < LOGIN_INTERVAL_MIN {
            return Ok(None);
        }
        let fresh = Arc::new(self.obtain(transport).await?);
        let same = fresh.token.expose() == refused.token.expose();
        self.current.store(Some(Arc::clone(&fresh)));
        Ok((!same).then_some(fresh))
    }

    async fn obtain(&self, transport: &Transport) -> Result<Current, Fault> {
        let obtained_at = self.clock.monotonic();
        match &self.source {
            TokenSource::File(path) => {
                let (token, stamp) = secret_file::read(path).map_err(|e| unusable(&e))?;
                Ok(Current {
                    token,
                    stamp: Some(stamp),
                    obtained_at,
                })
            }
            TokenSource::AppRole(approle) => {
                let (secret_id, _stamp) =
                    secret_file::read(approle.secret_id_file.as_ref()).map_err(|e| unusable(&e))?;
                let login = LoginWithApproleRequest {
                    mount: approle.mount.clone(),
                    role_id: approle.role_id.clone(),
                    secret_id: secret_id.expose().to_owned(),
                };
                let reply = api::call(transport, login, None, None)
                    .await
                    .map_err(|e| Fault::Token(e.while_doing("log in with AppRole")))?;
                let auth = reply.auth.ok_or_else(|| {
                    Fault::Garbled("logging in with AppRole yields no token".to_owned())
                })?;
                Ok(Current {
                    token: Secret::new(auth.client_token),
                    stamp: None,
                    obtained_at,
                })
            }
        }
    }
}

fn unusable(error: &SecretFileError) -> Fault {
    Fault::Token(ProviderError::Misconfigured(with_sources(error)))
}
