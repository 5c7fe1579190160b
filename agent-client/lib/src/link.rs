//! The connection to the broker: one link with the present identity, swapped when the identity is
//! renewed.
//!
//! [`Connection::call`] is the only place that decides about the time and the repetitions of a
//! call.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use rustls_pki_types::CertificateDer;
use taskpass_core::Timestamp;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Response, Status, transport::Channel};

use crate::{
    ClientConfig, Error, channel,
    directory::StoredIdentity,
    keeper::Keeper,
    retry::Attempts,
    svid::Svid,
    tls::{self, Behind, Trust},
};

/// The state that the clones of a client share with its background work.
pub(crate) struct Connection {
    pub(crate) config: ClientConfig,
    pub(crate) keeper: Keeper,
    /// The end of the task to which the identity is bound, if it is bound to one.
    pub(crate) task_end: Option<Timestamp>,
    pub(crate) link: ArcSwap<Link>,
    /// One renewal at a time in this process.
    pub(crate) renewing: tokio::sync::Mutex<()>,
    pub(crate) tracker: TaskTracker,
    /// Cancelled when the last client is dropped.
    pub(crate) stop: CancellationToken,
}

/// One identity and the channel that was made with it.
pub(crate) struct Link {
    pub(crate) svid: Svid,
    /// The roots by which it knows the broker.
    pub(crate) roots: Vec<CertificateDer<'static>>,
    pub(crate) channel: Channel,
    behind: Arc<Behind>,
}

impl Connection {
    /// Connects with the stored identity, and holds its directory open.
    pub(crate) async fn open(mut config: ClientConfig) -> Result<Self, Error> {
        let directory = config.directory.clone();
        let (held, identity) = blocking(move || {
            let held = directory.hold()?;
            let identity = held.load()?;
            Ok((held, identity))
        })
        .await?;
        config.directory = held;
        let link = Link::open(&config, identity).await?;
        Ok(Self {
            keeper: Keeper::Directory(config.directory.clone()),
            task_end: None,
            link: ArcSwap::from_pointee(link),
            renewing: tokio::sync::Mutex::new(()),
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
            config,
        })
    }

    /// A connection with an identity that is bound to a task, which ends at `task_end`. It stops
    /// with this one, and the same tracker waits for its work.
    pub(crate) async fn of_task(
        &self,
        identity: StoredIdentity,
        task_end: Timestamp,
    ) -> Result<Self, Error> {
        let link = Link::open(&self.config, identity).await?;
        Ok(Self {
            keeper: Keeper::memory(),
            task_end: Some(task_end),
            link: ArcSwap::from_pointee(link),
            renewing: tokio::sync::Mutex::new(()),
            tracker: self.tracker.clone(),
            stop: self.stop.child_token(),
            config: self.config.clone(),
        })
    }

    pub(crate) async fn call<T, F, Fut>(&self, limit: Duration, attempt: F) -> Result<T, Error>
    where
        F: Fn(Channel) -> Fut + Send + Sync,
        Fut: Future<Output = Result<Response<T>, Status>> + Send,
        T: Send,
    {
        let mut attempts = Attempts::default();
        let mut may_reload = true;
        loop {
            let link = self.link.load_full();
            let mut error = match self.attempt(limit, attempt(link.channel.clone())).await {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            // Another process that shares the directory may have renewed the identity: then the
            // broker no longer counts the certificate of this link.
            if error.is_unknown_identity() && may_reload {
                match self.adopt_stored(&link).await {
                    Ok(true) => {
                        may_reload = false;
                        continue;
                    }
                    // A newer identity may exist, but the broker could not be asked about it yet.
                    Err(adopting) if adopting.is_unavailable() => error = adopting,
                    Ok(false) | Err(_) => may_reload = false,
                }
            }
            match attempts.pause_after(&error, &*self.config.entropy)? {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(error),
            }
        }
    }

    /// One attempt of one call.
    pub(crate) async fn attempt<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<Response<T>, Status>> + Send,
    ) -> Result<T, Error> {
        attempt(self.config.addr.as_str(), limit, call).await
    }

    /// Switches to the identity that is kept if it differs from the identity of `link` and was made
    /// no earlier. Its end may be earlier: an operator's life was a year once.
    pub(crate) async fn adopt_stored(&self, link: &Link) -> Result<bool, Error> {
        let Some(stored) = self.keeper.newest().await? else {
            return Ok(false);
        };
        let (ours, theirs) = (&link.svid.leaf, &stored.svid.leaf);
        if theirs.serial == ours.serial
            || theirs.not_before < ours.not_before
            || theirs.spiffe_id != ours.spiffe_id
        {
            return Ok(false);
        }
        self.link
            .store(Arc::new(Link::open(&self.config, stored).await?));
        Ok(true)
    }
}

impl Link {
    /// Connects with `identity`, unless it has expired.
    pub(crate) async fn open(
        config: &ClientConfig,
        identity: StoredIdentity,
    ) -> Result<Self, Error> {
        let leaf = &identity.svid.leaf;
        if leaf.not_after <= config.clock.now() {
            return Err(Error::IdentityExpired {
                spiffe_id: leaf.spiffe_id.to_string(),
                expired_at: leaf.not_after,
            });
        }
        let trust = Trust::Bundle {
            domain: leaf.trust_domain.clone(),
            roots: identity.bundle.clone(),
        };
        let tls = tls::client_config(trust, Some(&identity.svid), config.clock.clone())?;
        Ok(Self {
            channel: channel::connect(&config.addr, tls.config).await?,
            svid: identity.svid,
            roots: identity.bundle,
            behind: tls.behind,
        })
    }

    /// Notes that the broker, as it shows itself now, confirmed the renewed identity.
    pub(crate) fn renewed(&self) {
        self.behind.renewed();
    }

    /// Whether a renewal would bring another bundle, or an identity under another root.
    pub(crate) fn is_behind(&self) -> bool {
        self.behind.get()
    }
}

/// One attempt of one call to the broker at `addr`.
pub(crate) async fn attempt<T>(
    addr: &str,
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>> + Send,
) -> Result<T, Error> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => Err(Error::from_status(addr, status)),
        Err(_elapsed) => Err(Error::Timeout {
            addr: addr.to_owned(),
            seconds: limit.as_secs(),
        }),
    }
}

/// Runs file work where it may wait for the disk.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::Crypto(format!("the work on the identity directory broke off: {e}")))?
}
