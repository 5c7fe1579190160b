//! Credentials that stay fresh until their task ends.
//!
//! At two thirds of its life a credential is renewed, or replaced by a new one and then revoked.
//! All callers share one refresh at a time. A secret that has expired is never returned: without a
//! fresh one, [`Credential::current`] fails.

use std::{fmt, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use taskpass_core::{CredentialId, RoleName, Scope, Timestamp, Ttl};

use crate::{Error, IssuedCredential, Receipt, live_task::LiveTask, retry::jitter};

/// How often the loop reads the wall clock, which may jump while the machine sleeps.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);
/// The pause between two attempts to refresh.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(2);

/// A request for a credential of an open task.
#[derive(Debug)]
#[must_use = "nothing is issued before `issue` is called"]
pub struct CredentialRequest {
    live: Arc<LiveTask>,
    role: RoleName,
    scope: Vec<(String, String)>,
    ttl: Option<Ttl>,
}

impl CredentialRequest {
    pub(crate) const fn new(live: Arc<LiveTask>, role: RoleName) -> Self {
        Self {
            live,
            role,
            scope: Vec::new(),
            ttl: None,
        }
    }

    /// Narrows the role by a parameter.
    pub fn scope(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.scope.push((name.into(), value.into()));
        self
    }

    /// Asks for secrets that live so long; as long as the role and the task allow when not given.
    pub const fn ttl(mut self, ttl: Ttl) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Gets the credential once, for a place where a secret cannot be replaced later, such as an
    /// environment.
    pub async fn issue_once(self) -> Result<IssuedCredential, Error> {
        let scope = Scope::from_pairs(self.scope)?;
        issue(&self.live, &self.role, &scope, self.ttl).await
    }

    /// Gets the credential and keeps it fresh from then on.
    pub async fn issue(self) -> Result<Credential, Error> {
        let scope = Scope::from_pairs(self.scope)?;
        let first = issue(&self.live, &self.role, &scope, self.ttl).await?;
        let fresh = Arc::new(Fresh {
            current: ArcSwap::from_pointee(first),
            refreshing: tokio::sync::Mutex::new(()),
            role: self.role,
            scope,
            ttl: self.ttl,
            live: self.live,
        });
        let keeper = Arc::clone(&fresh);
        let tracker = fresh.live.client.connection().tracker.clone();
        tracker.spawn(async move { keeper.keep().await });
        Ok(Credential { fresh })
    }
}

/// A credential of an open task. Clones share the secret and its refreshing.
#[derive(Clone)]
pub struct Credential {
    fresh: Arc<Fresh>,
}

struct Fresh {
    current: ArcSwap<IssuedCredential>,
    /// One refresh at a time.
    refreshing: tokio::sync::Mutex<()>,
    role: RoleName,
    scope: Scope,
    ttl: Option<Ttl>,
    live: Arc<LiveTask>,
}

impl Credential {
    /// Its role.
    pub fn role(&self) -> &RoleName {
        &self.fresh.role
    }

    /// The name of the present secret; it changes when the secret is replaced.
    pub fn id(&self) -> CredentialId {
        self.fresh.current.load().id
    }

    /// When the present secret expires unless it is refreshed.
    pub fn expires_at(&self) -> Timestamp {
        self.fresh.current.load().expires_at
    }

    /// The present secret. Call this for each use and do not keep the result: a later call may
    /// return another secret.
    ///
    /// Fails when the task is over, and when the secret has expired and the broker issues no other.
    pub async fn current(&self) -> Result<Arc<IssuedCredential>, Error> {
        let fresh = &self.fresh;
        fresh.live.check_open()?;
        let present = fresh.current.load_full();
        if fresh.is_alive(&present) {
            return Ok(present);
        }
        let failure = fresh.refresh().await.err().map(Box::new);
        let present = fresh.current.load_full();
        fresh.live.check_open()?;
        if fresh.is_alive(&present) {
            return Ok(present);
        }
        Err(Error::CredentialExpired {
            id: present.id,
            source: failure,
        })
    }

    /// Refreshes the secret now, if it is due.
    pub async fn refresh(&self) -> Result<(), Error> {
        self.fresh.refresh().await
    }

    /// Revokes the present secret before the task ends. Other clones of this handle fail once it
    /// expires.
    pub async fn revoke(self) -> Result<Receipt, Error> {
        let id = self.id();
        self.fresh.live.client.revoke_credential(id, None).await
    }
}

impl Fresh {
    /// Refreshes in time until the task is over.
    async fn keep(&self) {
        loop {
            let wait = self.until_due(&self.current.load());
            tokio::select! {
                () = self.live.stop.cancelled() => return,
                () = self.live.client.connection().stop.cancelled() => return,
                () = tokio::time::sleep(wait.min(LOOK_INTERVAL)) => {}
            }
            if wait > LOOK_INTERVAL || !self.until_due(&self.current.load()).is_zero() {
                continue;
            }
            if let Err(error) = self.refresh().await {
                tracing::warn!(role = %self.role, %error, "a credential could not be refreshed; trying again");
                let entropy = &*self.live.client.config().entropy;
                let pause = jitter(PAUSE_AFTER_FAILURE, entropy).unwrap_or(PAUSE_AFTER_FAILURE);
                tokio::select! {
                    () = self.live.stop.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        }
    }

    async fn refresh(&self) -> Result<(), Error> {
        let _lock = self.refreshing.lock().await;
        let present = self.current.load_full();
        if !self.until_due(&present).is_zero() {
            return Ok(());
        }
        self.live.check_open()?;
        if present.renewable && self.is_alive(&present) && self.renew(&present).await? {
            return Ok(());
        }
        self.replace(&present).await
    }

    /// Renews the present secret; `false` when only a new one helps.
    async fn renew(&self, present: &IssuedCredential) -> Result<bool, Error> {
        let client = &self.live.client;
        match client.renew_credential(present.id, self.ttl).await {
            Ok(expires_at) if expires_at > present.expires_at => {
                let now = client.config().clock.now();
                self.current
                    .store(Arc::new(present.renewed(now, expires_at)));
                Ok(true)
            }
            Ok(_) => Ok(false),
            Err(error) if error.is_unavailable() => Err(error),
            Err(error) => {
                tracing::debug!(credential = %present.id, %error, "the credential cannot be renewed; replacing it");
                Ok(false)
            }
        }
    }

    async fn replace(&self, old: &IssuedCredential) -> Result<(), Error> {
        let client = self.live.client.clone();
        let new = client
            .issue_credential(self.live.id, &self.role, &self.scope, self.ttl)
            .await?;
        self.current.store(Arc::new(new));
        let (id, overlap, stop) = (old.id, client.config().overlap, self.live.stop.clone());
        let tracker = client.connection().tracker.clone();
        tracker.spawn(async move {
            // Requests under way may still carry the old secret. If the task ends before the
            // overlap is over, its end revokes this credential too.
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(overlap) => {}
            }
            if let Err(error) = client.revoke_credential(id, None).await {
                tracing::warn!(credential = %id, %error, "a replaced credential could not be revoked; the end of the task revokes it");
            }
        });
        Ok(())
    }

    fn is_alive(&self, issued: &IssuedCredential) -> bool {
        self.live.client.config().clock.now() < issued.expires_at
    }

    /// How long until the secret is refreshed; zero when it is due. A secret that lives until the
    /// task's deadline cannot live longer, so it is never refreshed.
    fn until_due(&self, issued: &IssuedCredential) -> Duration {
        if issued.expires_at >= self.live.deadline {
            return Duration::MAX;
        }
        let life = issued.expires_at.since(issued.received_at);
        issued
            .received_at
            .plus(life.mul_f64(2.0 / 3.0))
            .since(self.live.client.config().clock.now())
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("role", &self.fresh.role)
            .field("current", &**self.fresh.current.load())
            .finish_non_exhaustive()
    }
}

/// Asks for a credential unless the task is over.
async fn issue(
    live: &LiveTask,
    role: &RoleName,
    scope: &Scope,
    ttl: Option<Ttl>,
) -> Result<IssuedCredential, Error> {
    live.check_open()?;
    live.client
        .issue_credential(live.id, role, scope, ttl)
        .await
}
