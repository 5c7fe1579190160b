//! The client that programs hold. Connections, renewal and the first login have files of their own;
//! the calls about tasks and credentials are in [`crate::task`] and [`crate::issue`].

use std::{fmt, sync::Arc, time::Duration};

use taskpass_core::{Timestamp, hex};
use taskpass_proto::v1::{
    GetBundleRequest, WhoAmIRequest, WhoAmIResponse, identity_service_client::IdentityServiceClient,
};
use tokio_util::sync::DropGuard;
use tonic::{Response, Status, transport::Channel};

use crate::{
    CallerKind, ClientConfig, Error, JoinToken, Leaf, RPC_TIMEOUT, Renewal,
    attest::{self, Login, Predecessor},
    link::{Connection, blocking},
    renewal, wire,
};

/// How long [`Client::shutdown`] waits for work in the background.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// The caller, as the broker sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WhoAmI {
    /// The SPIFFE ID.
    pub spiffe_id: String,
    /// The kind of caller that the certificate is for.
    pub kind: CallerKind,
    /// The certificate's serial number.
    pub serial: String,
    /// When the certificate expires.
    pub expires_at: Option<Timestamp>,
    /// The version of the broker.
    pub broker_version: String,
}

/// A connection to the broker. Cheap to clone; the background work stops with the last clone.
#[derive(Clone)]
pub struct Client {
    connection: Arc<Connection>,
    _running: Arc<DropGuard>,
}

impl Client {
    /// Connects with the stored identity.
    pub async fn connect(config: ClientConfig) -> Result<Self, Error> {
        let connection = Arc::new(Connection::open(config).await?);
        Ok(match connection.config.renewal {
            Renewal::Background => Self::renewing(connection),
            Renewal::OnDemand => Self::over(connection),
        })
    }

    /// Over a connection with an identity that is renewed in the background.
    pub(crate) fn renewing(connection: Arc<Connection>) -> Self {
        let renewing = renewal::run(Arc::clone(&connection));
        connection.tracker.spawn(renewing);
        Self::over(connection)
    }

    fn over(connection: Arc<Connection>) -> Self {
        let running = connection.stop.clone().drop_guard();
        Self {
            connection,
            _running: Arc::new(running),
        }
    }

    /// Logs in with a join token as [`Client::login`] does, and connects with the identity.
    pub async fn attest(config: ClientConfig, token: &JoinToken) -> Result<Self, Error> {
        Self::login(&config, token).await?;
        Self::connect(config).await
    }

    /// Exchanges a join token for an identity and stores it, without connecting again.
    ///
    /// Refused while the directory holds an identity of another SPIFFE ID that has not expired, or
    /// one of another installation, or while the broker shows another ledger key than the
    /// directory has pinned. The token still counts then.
    pub async fn login(config: &ClientConfig, token: &JoinToken) -> Result<Leaf, Error> {
        Self::login_with(config, token, &Login::default()).await
    }

    /// As [`Client::login`], but overwrites any identity that the directory holds.
    pub async fn login_replacing(config: &ClientConfig, token: &JoinToken) -> Result<Leaf, Error> {
        let login = Login {
            predecessor: Predecessor::Any,
            ..Login::default()
        };
        Self::login_with(config, token, &login).await
    }

    /// As [`Client::login`], with the decisions that a person made beforehand.
    pub async fn login_with(
        config: &ClientConfig,
        token: &JoinToken,
        login: &Login,
    ) -> Result<Leaf, Error> {
        attest::attest(config, token, login).await
    }

    /// The certificate that new connections are made with.
    pub fn svid(&self) -> Leaf {
        self.connection.link.load().svid.leaf.clone()
    }

    /// How this client was configured.
    pub fn config(&self) -> &ClientConfig {
        &self.connection.config
    }

    /// Asks the broker for the identity of this client.
    pub async fn whoami(&self) -> Result<WhoAmI, Error> {
        self.call(RPC_TIMEOUT, |channel| async move {
            IdentityServiceClient::new(channel)
                .who_am_i(WhoAmIRequest {})
                .await
        })
        .await
        .map(WhoAmI::from_wire)
    }

    /// Replaces the SVID now, at any age, and returns the new one.
    pub async fn renew_svid(&self) -> Result<Leaf, Error> {
        self.connection.renew(renewal::When::Always).await
    }

    /// Replaces the SVID if two thirds of its life are over, and returns the one in use.
    pub async fn renew_svid_if_due(&self) -> Result<Leaf, Error> {
        self.connection.renew(renewal::When::Due).await
    }

    /// Asks for the ledger's key and compares it with the pinned one. A renewal compares the
    /// history, too, but an SVID that is not due is not renewed.
    pub async fn check_ledger_key(&self) -> Result<(), Error> {
        let directory = self.config().directory.clone();
        let pinned = blocking(move || directory.pinned()).await?;
        let reply = self
            .call(RPC_TIMEOUT, |channel| async move {
                IdentityServiceClient::new(channel)
                    .get_bundle(GetBundleRequest {})
                    .await
            })
            .await?;
        let bundle = wire::required(reply.bundle, "bundle")?;
        pinned
            .check_key(&bundle, &self.config().directory)
            .map(drop)
    }

    /// Makes a call for which this library has no method of its own.
    ///
    /// Each attempt may take `limit`. A failure that may pass (no connection, a broker that asks
    /// for patience) is followed by a few more attempts. `attempt` must therefore be safe to
    /// repeat: mutating requests carry one idempotency key for all attempts.
    pub async fn call<T, F, Fut>(&self, limit: Duration, attempt: F) -> Result<T, Error>
    where
        F: Fn(Channel) -> Fut + Send + Sync,
        Fut: Future<Output = Result<Response<T>, Status>> + Send,
        T: Send,
    {
        self.connection.call(limit, attempt).await
    }

    /// Sends `request` as [`Client::call`] does; each attempt gets a copy.
    pub async fn send<Q, T, F, Fut>(
        &self,
        limit: Duration,
        request: Q,
        attempt: F,
    ) -> Result<T, Error>
    where
        Q: Clone + Send + Sync,
        F: Fn(Channel, Q) -> Fut + Send + Sync,
        Fut: Future<Output = Result<Response<T>, Status>> + Send,
        T: Send,
    {
        self.call(limit, |channel| attempt(channel, request.clone()))
            .await
    }

    /// The gRPC channel with the present identity, for streams. It does not follow renewals.
    pub fn channel(&self) -> Channel {
        self.connection.link.load().channel.clone()
    }

    /// A fresh idempotency key.
    pub fn new_idempotency_key(&self) -> Result<String, Error> {
        let mut bytes = [0_u8; 16];
        self.connection.config.entropy.fill(&mut bytes)?;
        Ok(hex(&bytes))
    }

    /// Stops renewing and waits, up to 10 s, for background work such as the end of a task.
    pub async fn shutdown(self) {
        self.connection.stop.cancel();
        self.connection.tracker.close();
        let finished = tokio::time::timeout(SHUTDOWN_TIMEOUT, self.connection.tracker.wait()).await;
        if finished.is_err() {
            tracing::warn!("background work did not finish in time; the broker ends what is left");
        }
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }
}

impl WhoAmI {
    fn from_wire(reply: WhoAmIResponse) -> Self {
        Self {
            expires_at: reply.expires_at.as_ref().map(wire::timestamp),
            spiffe_id: reply.spiffe_id,
            kind: reply.kind.into(),
            serial: reply.serial,
            broker_version: reply.broker_version,
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("addr", &self.connection.config.addr)
            .field("spiffe_id", &self.svid().spiffe_id)
            .finish_non_exhaustive()
    }
}
