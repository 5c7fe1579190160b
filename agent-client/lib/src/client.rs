//! The connection to the broker: one channel with the present identity, swapped when the identity is renewed.
//!
//! What a call may cost in time and repetitions is decided here, once, for all calls ([`Client::call`]).

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use taskpass_core::{Clock, Entropy, SystemClock, SystemEntropy, TaskId, Timestamp};
use taskpass_proto::v1::{
    EndTaskRequest, WhoAmIRequest, WhoAmIResponse, identity_service_client::IdentityServiceClient,
    task_service_client::TaskServiceClient,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tonic::{Response, Status, transport::Channel};

use crate::{
    BrokerAddr, EndMode, EndedTask, Error, IdentityDirectory, JoinToken, Leaf,
    attest::{self, Predecessor},
    channel,
    directory::Identity,
    renewal,
    retry::Attempts,
    svid::Svid,
    tls::{self, Trust},
    wire,
};

/// How long an ordinary call may take, per attempt.
pub const RPC_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a call may take that waits for providers to revoke, per attempt.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(120);
/// How long [`Client::shutdown`] waits for work in the background.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an old credential stays usable beside the one that replaces it.
const OVERLAP_DEFAULT: Duration = Duration::from_secs(10);

/// Who renews the SVID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// The client, at two thirds of its life, as long as a [`Client`] exists.
    Background,
    /// The caller, with [`Client::renew_svid`].
    OnDemand,
}

/// How to reach the broker, and as whom.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Where the broker listens.
    pub addr: BrokerAddr,
    /// Where the identity is kept.
    pub directory: IdentityDirectory,
    /// Judges certificates and expiries.
    pub clock: Arc<dyn Clock>,
    /// Idempotency keys and jitter. Private keys never depend on it.
    pub entropy: Arc<dyn Entropy>,
    /// Who renews the SVID.
    pub renewal: Renewal,
    /// How long a replaced credential is left alone before it is revoked, for requests already using it.
    pub overlap: Duration,
}

impl ClientConfig {
    /// The broker at `addr`, the identity in `directory`, the machine's clock and randomness, renewal in the
    /// background.
    pub fn new(addr: BrokerAddr, directory: impl Into<PathBuf>) -> Self {
        Self {
            addr,
            directory: IdentityDirectory::new(directory),
            clock: Arc::new(SystemClock::new()),
            entropy: Arc::new(SystemEntropy::new()),
            renewal: Renewal::Background,
            overlap: OVERLAP_DEFAULT,
        }
    }
}

/// Whom the broker takes us for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WhoAmI {
    /// The SPIFFE ID.
    pub spiffe_id: String,
    /// `agent`, `agent_task` or `operator`.
    pub kind: String,
    /// The certificate's serial number.
    pub serial: String,
    /// When the certificate ends.
    pub expires_at: Option<Timestamp>,
    /// What the broker runs.
    pub broker_version: String,
}

/// A connection to the broker. Cheap to clone; the background work stops with the last clone.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    _running: Arc<DropGuard>,
}

/// What the clones of a client and its background work have in common.
pub(crate) struct Shared {
    pub(crate) config: ClientConfig,
    pub(crate) link: ArcSwap<Link>,
    /// One renewal at a time.
    pub(crate) renewing: tokio::sync::Mutex<()>,
    pub(crate) tracker: TaskTracker,
    /// Cancelled when the last client is dropped.
    pub(crate) stop: CancellationToken,
}

/// One identity and the channel that was made with it.
pub(crate) struct Link {
    pub(crate) svid: Svid,
    channel: Channel,
}

impl Client {
    /// Connects with the stored identity.
    pub async fn connect(config: ClientConfig) -> Result<Self, Error> {
        let directory = config.directory.clone();
        let identity = blocking(move || directory.load()).await?;
        let link = Link::open(&config, identity).await?;
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            link: ArcSwap::from_pointee(link),
            renewing: tokio::sync::Mutex::new(()),
            tracker: TaskTracker::new(),
            stop: stop.clone(),
            config,
        });
        if shared.config.renewal == Renewal::Background {
            shared.tracker.spawn(renewal::run(Arc::clone(&shared)));
        }
        Ok(Self {
            shared,
            _running: Arc::new(stop.drop_guard()),
        })
    }

    /// Logs in with a join token as [`Client::login`] does, and connects with the identity.
    pub async fn attest(config: ClientConfig, token: &JoinToken) -> Result<Self, Error> {
        Self::login(&config, token).await?;
        Self::connect(config).await
    }

    /// Logs in with a join token and stores the identity, without a second connection. Refused while the directory holds
    /// an identity of another SPIFFE ID that has not expired; the token is not used up then.
    pub async fn login(config: &ClientConfig, token: &JoinToken) -> Result<Leaf, Error> {
        attest::attest(config, token, Predecessor::Same).await
    }

    /// The same, in place of whatever identity the directory holds: that one is lost.
    pub async fn login_replacing(config: &ClientConfig, token: &JoinToken) -> Result<Leaf, Error> {
        attest::attest(config, token, Predecessor::Anyone).await
    }

    /// The certificate that new connections are made with.
    pub fn svid(&self) -> Leaf {
        self.shared.link.load().svid.leaf.clone()
    }

    /// How this client was configured.
    pub fn config(&self) -> &ClientConfig {
        &self.shared.config
    }

    /// Asks the broker whom it takes us for.
    pub async fn whoami(&self) -> Result<WhoAmI, Error> {
        self.call(RPC_TIMEOUT, |channel| async move {
            IdentityServiceClient::new(channel)
                .who_am_i(WhoAmIRequest {})
                .await
        })
        .await
        .map(WhoAmI::from_wire)
    }

    /// Replaces the SVID now, whatever its age, and returns the new one.
    pub async fn renew_svid(&self) -> Result<Leaf, Error> {
        self.shared.renew(renewal::When::Always).await
    }

    /// Replaces the SVID if two thirds of its life are over, and returns the one in use.
    pub async fn renew_svid_if_due(&self) -> Result<Leaf, Error> {
        self.shared.renew(renewal::When::Due).await
    }

    /// Ends a task and everything below it, and waits for revocation: `wait`, or as long as the broker's
    /// configuration says.
    pub async fn end_task(
        &self,
        task: TaskId,
        mode: EndMode,
        wait: Option<Duration>,
    ) -> Result<EndedTask, Error> {
        let request = EndTaskRequest {
            task_id: task.to_string(),
            cancel: mode == EndMode::Cancelled,
            wait_ms: wait.map_or(0, |w| {
                u32::try_from(w.as_millis()).unwrap_or(u32::MAX).max(1)
            }),
        };
        let limit = wait.map_or(WAIT_TIMEOUT, |w| w + RPC_TIMEOUT);
        let reply = self
            .call(limit, |channel| {
                let request = request.clone();
                async move { TaskServiceClient::new(channel).end_task(request).await }
            })
            .await?;
        EndedTask::from_wire(&reply)
    }

    /// Makes a call for which this library has no method of its own, with the same patience: each attempt may take
    /// `limit`; what may pass (no connection, a broker that asks for patience) is repeated a few times. `attempt`
    /// must therefore be safe to repeat: mutating requests carry one idempotency key for all attempts.
    pub async fn call<T, F, Fut>(&self, limit: Duration, attempt: F) -> Result<T, Error>
    where
        F: Fn(Channel) -> Fut + Send + Sync,
        Fut: Future<Output = Result<Response<T>, Status>> + Send,
        T: Send,
    {
        self.shared.call(limit, attempt).await
    }

    /// The gRPC channel with the present identity, for streams. It does not follow renewals.
    pub fn channel(&self) -> Channel {
        self.shared.link.load().channel.clone()
    }

    /// A fresh idempotency key.
    pub fn new_idempotency_key(&self) -> Result<String, Error> {
        let mut bytes = [0_u8; 16];
        self.shared.config.entropy.fill(&mut bytes)?;
        Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
    }

    /// Stops renewing and waits, up to 10 s, for what runs in the background, such as tasks being ended.
    pub async fn shutdown(self) {
        self.shared.stop.cancel();
        self.shared.tracker.close();
        let finished = tokio::time::timeout(SHUTDOWN_TIMEOUT, self.shared.tracker.wait()).await;
        if finished.is_err() {
            tracing::warn!("background work did not finish in time; the broker ends what is left");
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Shared {
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
            // Another process that shares the directory may have renewed: then ours is the old certificate.
            if error.is_unknown_identity() && may_reload {
                match self.adopt_stored(&link).await {
                    Ok(true) => {
                        may_reload = false;
                        continue;
                    }
                    // Whether there is a newer one that counts is not known yet.
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
        let addr = self.config.addr.as_str();
        match tokio::time::timeout(limit, call).await {
            Ok(Ok(reply)) => Ok(reply.into_inner()),
            Ok(Err(status)) => Err(Error::from_status(addr, status)),
            Err(_elapsed) => Err(Error::Timeout {
                addr: addr.to_owned(),
                seconds: limit.as_secs(),
            }),
        }
    }

    /// Switches to the identity on disk when it is another one than that of `link` and does not end before it.
    pub(crate) async fn adopt_stored(&self, link: &Link) -> Result<bool, Error> {
        let directory = self.config.directory.clone();
        let stored = blocking(move || directory.load()).await?;
        let (ours, theirs) = (&link.svid.leaf, &stored.svid.leaf);
        if theirs.serial == ours.serial
            || theirs.not_after < ours.not_after
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
    /// Connects with `identity`, unless it is over.
    pub(crate) async fn open(config: &ClientConfig, identity: Identity) -> Result<Self, Error> {
        let leaf = &identity.svid.leaf;
        if leaf.not_after <= config.clock.now() {
            return Err(Error::IdentityExpired {
                spiffe_id: leaf.spiffe_id.to_string(),
                expired_at: leaf.not_after,
            });
        }
        let trust = Trust::Bundle {
            domain: leaf.trust_domain.clone(),
            roots: identity.bundle,
        };
        let tls = tls::client_config(trust, Some(&identity.svid), config.clock.clone())?;
        Ok(Self {
            channel: channel::connect(&config.addr, tls).await?,
            svid: identity.svid,
        })
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }
}

impl WhoAmI {
    pub(crate) fn from_wire(reply: WhoAmIResponse) -> Self {
        Self {
            expires_at: reply.expires_at.as_ref().map(wire::timestamp),
            spiffe_id: reply.spiffe_id,
            kind: reply.kind,
            serial: reply.serial,
            broker_version: reply.broker_version,
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("addr", &self.shared.config.addr)
            .field("spiffe_id", &self.svid().spiffe_id)
            .finish_non_exhaustive()
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
