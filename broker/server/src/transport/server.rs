//! The accept loop.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use taskpass_engine::rate::Limiter;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Connections, Limits, RequestService, ServerTls,
    connection::{self, Accepted},
    peer::Network,
};

/// The pause after the system refused to accept, mostly because there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared<S> {
    pub(super) service: S,
    pub(super) tls: Arc<ServerTls>,
    pub(super) limits: Limits,
    /// Who may compute a handshake.
    pub(super) handshakes: Semaphore,
    arrivals: Limiter<Network>,
    /// Requests in flight.
    pub(super) requests: Arc<AtomicUsize>,
    connections: Connections,
    cut: AtomicUsize,
}

impl<S> Shared<S> {
    /// Notes that a connection was closed although its peer would have gone on.
    pub(super) fn was_cut(&self, why: &'static str) {
        self.cut.fetch_add(1, Ordering::AcqRel);
        tracing::debug!(why, "the connection was closed");
    }
}

/// How a shutdown went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were open when it began.
    pub open: usize,
    /// Connections that had to be cut because they did not end in time.
    pub cut: usize,
}

/// Accepts connections and serves them.
#[derive(Debug)]
pub struct Transport<S> {
    shared: Arc<Shared<S>>,
}

impl<S: RequestService> Transport<S> {
    /// Serves `service` with the certificate in `tls`.
    pub fn new(service: S, tls: Arc<ServerTls>, limits: Limits) -> Self {
        Self {
            shared: Arc::new(Shared {
                service,
                tls,
                limits,
                handshakes: Semaphore::new(limits.handshakes),
                arrivals: Limiter::new(limits.arrivals),
                requests: Arc::default(),
                connections: Connections::default(),
                cut: AtomicUsize::new(0),
            }),
        }
    }

    /// The open connections, for cutting them and for counting.
    pub fn connections(&self) -> Connections {
        self.shared.connections.clone()
    }

    /// Requests in flight now.
    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::Acquire)
    }

    /// Accepts from `listener` until `shutdown` is cancelled. Then takes no more connections and no more requests,
    /// lets those in flight finish for up to [`Limits::drain_timeout`], cuts the rest and returns.
    pub async fn serve(&self, listener: TcpListener, shutdown: CancellationToken) -> Drained {
        let tracker = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((socket, remote)) => self.admit(socket, remote, &tracker, &shutdown),
                Err(e) => {
                    tracing::warn!(error = %e, "cannot accept connections; trying again");
                    shutdown
                        .run_until_cancelled(tokio::time::sleep(ACCEPT_PAUSE))
                        .await;
                }
            }
        }
        drop(listener);
        let open = self.shared.connections.counts().connections;
        let cut_before = self.shared.cut.load(Ordering::Acquire);
        tracker.close();
        tracker.wait().await;
        let cut = self.shared.cut.load(Ordering::Acquire) - cut_before;
        Drained { open, cut }
    }

    fn admit(
        &self,
        socket: TcpStream,
        remote: std::net::SocketAddr,
        tracker: &TaskTracker,
        shutdown: &CancellationToken,
    ) {
        let Shared {
            limits,
            connections,
            arrivals,
            tls,
            ..
        } = self.shared.as_ref();
        let now = tls.clock().monotonic();
        // Dropping the socket closes it; a TLS alert would cost what the limits are to save.
        if arrivals.admit(Network::of(remote), now).is_err() {
            tracing::debug!(%remote, "a connection was refused: they come too fast from there");
            return;
        }
        let Some(admission) = connections.admit(remote, limits) else {
            tracing::debug!(%remote, "a connection was refused: there are too many");
            return;
        };
        // Requests and responses are small and waited for.
        if let Err(e) = socket.set_nodelay(true) {
            tracing::debug!(%remote, error = %e, "a connection was gone before it began");
            return;
        }
        let accepted = Accepted {
            socket,
            remote,
            admission,
        };
        tracker.spawn(connection::serve(
            Arc::clone(&self.shared),
            accepted,
            tracker.clone(),
            shutdown.clone(),
        ));
    }
}
