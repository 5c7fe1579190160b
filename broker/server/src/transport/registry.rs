//! The registry of open connections: it limits them, finds them by peer, and cuts them.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use taskpass_core::{AgentName, Identity};
use tokio_util::sync::CancellationToken;

use super::{
    Limits,
    peer::{ConnectionId, Network, PeerKey},
};

/// How many connections are open, and how many requests are in flight.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Open connections, handshakes included.
    pub connections: usize,
    /// The part of them with a client certificate.
    pub authenticated: usize,
    /// Agents and operators with an open connection; tasks count with their agent.
    pub callers: usize,
    /// Requests in flight.
    pub requests: usize,
}

/// The open connections. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Connections {
    registry: Arc<Registry>,
}

#[derive(Debug, Default)]
struct Registry {
    next_id: AtomicU64,
    /// Requests in flight over all connections.
    requests: Arc<AtomicUsize>,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_network: HashMap<Network, usize>,
    by_peer: HashMap<PeerKey, PeerConnections>,
}

/// The connections of one peer key.
#[derive(Debug, Default)]
struct PeerConnections {
    /// Requests in flight over all these connections.
    requests: Arc<AtomicUsize>,
    connections: HashMap<ConnectionId, Connection>,
}

#[derive(Debug)]
struct Connection {
    identity: Option<Identity>,
    cut: CancellationToken,
}

impl taskpass_engine::Connections for Connections {
    fn cut_agent(&self, name: &AgentName) -> usize {
        Self::cut_agent(self, name)
    }
}

impl Connections {
    /// Closes every open connection of an agent and its tasks at once, together with the requests
    /// on it, and returns how many there were. Later connections are not affected: the engine must
    /// refuse the agent before the call.
    pub fn cut_agent(&self, name: &AgentName) -> usize {
        let open = self.registry.open.lock();
        let connections = open
            .by_peer
            .values()
            .flat_map(|peer| peer.connections.values());
        let mut count = 0;
        for connection in connections {
            if connection.identity.as_ref().and_then(Identity::agent) == Some(name) {
                connection.cut.cancel();
                count += 1;
            }
        }
        count
    }

    /// How many there are now.
    pub fn counts(&self) -> Counts {
        let open = self.registry.open.lock();
        let authenticated = open
            .by_peer
            .iter()
            .filter(|(key, _)| !matches!(key, PeerKey::Unauthenticated(_)));
        let mut counts = Counts {
            connections: open.total,
            requests: self.registry.requests.load(Ordering::Acquire),
            ..Counts::default()
        };
        for (_, peer) in authenticated {
            counts.authenticated += peer.connections.len();
            counts.callers += 1;
        }
        counts
    }

    /// The counter of requests in flight over all connections.
    pub(super) fn requests(&self) -> &Arc<AtomicUsize> {
        &self.registry.requests
    }

    /// Acquires the permit of a new connection; `None` when all permits, or all of its network, are
    /// taken.
    pub(super) fn acquire(&self, remote: SocketAddr, limits: &Limits) -> Option<ConnectionPermit> {
        let network = Network::of(remote);
        let mut open = self.registry.open.lock();
        let from_network = open.by_network.get(&network).copied().unwrap_or(0);
        if open.total >= limits.connections || from_network >= limits.connections_per_address {
            return None;
        }
        open.total += 1;
        open.by_network.insert(network, from_network + 1);
        Some(ConnectionPermit {
            connections: self.clone(),
            network,
            id: ConnectionId(self.registry.next_id.fetch_add(1, Ordering::Relaxed) + 1),
        })
    }
}

/// The place of one connection. Dropping it frees the place.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    connections: Connections,
    network: Network,
    pub(super) id: ConnectionId,
}

impl ConnectionPermit {
    /// Enters the connection under its peer, so that it can be found and cut; `None` when the peer
    /// has too many.
    pub(super) fn register(
        &self,
        identity: Option<&Identity>,
        remote: SocketAddr,
        limits: &Limits,
    ) -> Option<Registration> {
        let key = PeerKey::of(identity, remote);
        let mut open = self.connections.registry.open.lock();
        let peer = open.by_peer.entry(key.clone()).or_default();
        // Connections without a certificate are limited by `connections_per_address` and by their
        // age.
        if identity.is_some() && peer.connections.len() >= limits.connections_per_caller {
            return None;
        }
        let cut = CancellationToken::new();
        let connection = Connection {
            identity: identity.cloned(),
            cut: cut.clone(),
        };
        peer.connections.insert(self.id, connection);
        Some(Registration {
            connections: self.connections.clone(),
            key,
            id: self.id,
            cut,
            requests: Arc::clone(&peer.requests),
        })
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut open = self.connections.registry.open.lock();
        open.total = open.total.saturating_sub(1);
        if let Some(count) = open.by_network.get_mut(&self.network) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.by_network.remove(&self.network);
            }
        }
    }
}

/// The entry of a connection that can be cut. Dropping it removes the entry.
#[derive(Debug)]
pub(super) struct Registration {
    connections: Connections,
    key: PeerKey,
    id: ConnectionId,
    /// Cancelled when the connection must be closed at once.
    pub(super) cut: CancellationToken,
    /// The peer's requests in flight, over all its connections.
    pub(super) requests: Arc<AtomicUsize>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        // However the connection ended, its requests end with it.
        self.cut.cancel();
        let mut open = self.connections.registry.open.lock();
        if let Some(peer) = open.by_peer.get_mut(&self.key) {
            peer.connections.remove(&self.id);
            if peer.connections.is_empty() {
                open.by_peer.remove(&self.key);
            }
        }
    }
}
