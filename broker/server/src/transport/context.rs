//! The state that all connections of one transport share.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use taskpass_engine::rate::Limiter;
use tokio::sync::Semaphore;

use super::{Connections, Limits, LimitsInForce, ServerTls, peer::Network};
use crate::observe::request::Observer;

/// The service, and the counters and limits over all connections.
#[derive(Debug)]
pub(super) struct Context<S> {
    pub(super) service: S,
    pub(super) tls: Arc<ServerTls>,
    pub(super) limits: LimitsInForce,
    /// Permits to compute one step of a TLS handshake.
    pub(super) handshakes: Semaphore,
    /// How often new connections come from each network.
    pub(super) arrivals: Limiter<Network>,
    /// How often requests without a client certificate come from each network.
    pub(super) unauthenticated: Arc<Limiter<Network>>,
    pub(super) connections: Connections,
    pub(super) observer: Arc<Observer>,
    cut: AtomicUsize,
}

impl<S> Context<S> {
    pub(super) fn new(
        service: S,
        tls: Arc<ServerTls>,
        limits: Limits,
        observer: Arc<Observer>,
        connections: Connections,
    ) -> Self {
        Self {
            service,
            tls,
            limits: LimitsInForce::new(limits),
            handshakes: Semaphore::new(limits.handshakes),
            arrivals: Limiter::default(),
            unauthenticated: Arc::default(),
            connections,
            observer,
            cut: AtomicUsize::new(0),
        }
    }

    /// Counts a connection that the broker closed while its peer still used it.
    pub(super) fn count_cut(&self, why: &'static str) {
        self.cut.fetch_add(1, Ordering::AcqRel);
        tracing::debug!(why, "the connection was closed");
    }

    /// Connections that were cut since the start.
    pub(super) fn cut(&self) -> usize {
        self.cut.load(Ordering::Acquire)
    }
}
