//! The accept loop.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Connections, Limits, LimitsInForce, RequestService, ServerTls,
    connection::{self, Accepted},
    context::Context,
    peer::Network,
};
use crate::observe::request::Observer;

/// The pause after the system refused to accept, mostly because there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
    context: Arc<Context<S>>,
}

impl<S: RequestService> Transport<S> {
    /// Serves `service` with the certificate in `tls`, has `observer` count the requests, and keeps
    /// its open connections in `connections`.
    pub fn new(
        service: S,
        tls: Arc<ServerTls>,
        limits: Limits,
        observer: Arc<Observer>,
        connections: Connections,
    ) -> Self {
        Self {
            context: Arc::new(Context::new(service, tls, limits, observer, connections)),
        }
    }

    /// The open connections.
    pub fn connections(&self) -> Connections {
        self.context.connections.clone()
    }

    /// The limits, to be replaced.
    pub(crate) fn limits(&self) -> LimitsInForce {
        self.context.limits.clone()
    }

    /// Accepts from `listener` until `shutdown` is cancelled. Then takes no more connections and no
    /// more requests, lets requests in flight finish for up to [`Limits::drain_timeout`], cuts the
    /// rest and returns.
    pub async fn serve(&self, listener: TcpListener, shutdown: CancellationToken) -> Drained {
        let tracker = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((socket, remote)) => self.accept(socket, remote, &tracker, &shutdown),
                Err(e) => {
                    tracing::warn!(error = %e, "cannot accept connections; trying again");
                    shutdown
                        .run_until_cancelled(tokio::time::sleep(ACCEPT_PAUSE))
                        .await;
                }
            }
        }
        drop(listener);
        let open = self.context.connections.counts().connections;
        let cut_before = self.context.cut();
        tracker.close();
        tracker.wait().await;
        let cut = self.context.cut() - cut_before;
        Drained { open, cut }
    }

    /// Serves a new connection, or closes it when a limit is reached.
    fn accept(
        &self,
        socket: TcpStream,
        remote: SocketAddr,
        tracker: &TaskTracker,
        shutdown: &CancellationToken,
    ) {
        let Context {
            limits,
            connections,
            arrivals,
            tls,
            ..
        } = self.context.as_ref();
        let (limits, now) = (limits.now(), tls.clock().monotonic());
        // A refused socket is closed without a TLS alert, since an alert would cost a handshake's
        // work.
        if arrivals
            .check_rate(limits.arrivals(), Network::of(remote), now)
            .is_err()
        {
            tracing::debug!(%remote, "a connection was refused: they come too fast from there");
            return;
        }
        let Some(permit) = connections.acquire(remote, &limits) else {
            tracing::debug!(%remote, "a connection was refused: there are too many");
            return;
        };
        // Requests and responses are small, and callers wait for them: Nagle's algorithm would
        // delay them.
        if let Err(e) = socket.set_nodelay(true) {
            tracing::debug!(%remote, error = %e, "a connection was gone before it began");
            return;
        }
        let accepted = Accepted {
            socket,
            remote,
            permit,
            limits,
        };
        tracker.spawn(connection::serve(
            Arc::clone(&self.context),
            accepted,
            tracker.clone(),
            shutdown.clone(),
        ));
    }
}
