//! Which connections are open, whose they are, and how to cut them.

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
    peer::{Caller, ConnectionId, Network},
};

/// How many connections and requests there are now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Open connections, handshakes included.
    pub connections: usize,
    /// Of these, connections whose peer is known.
    pub identified: usize,
    /// Callers with an open connection; tasks count with their agent.
    pub callers: usize,
}

/// The open connections. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Connections {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    next_id: AtomicU64,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_network: HashMap<Network, usize>,
    by_caller: HashMap<Caller, Entry>,
}

#[derive(Debug, Default)]
struct Entry {
    /// Shared by all connections of the caller.
    requests: Arc<AtomicUsize>,
    connections: HashMap<ConnectionId, Line>,
}

#[derive(Debug)]
struct Line {
    identity: Option<Identity>,
    cut: CancellationToken,
}

impl Connections {
    /// Closes every open connection that presented a certificate of an identity for which `of` is true, at once
    /// and with the requests on it. Returns how many. Connections made later are not affected: whoever shall stay
    /// out must be refused by then.
    pub fn cut(&self, of: impl Fn(&Identity) -> bool) -> usize {
        let open = self.shared.open.lock();
        let lines = open
            .by_caller
            .values()
            .flat_map(|it| it.connections.values());
        let mut count = 0;
        for line in lines.filter(|it| it.identity.as_ref().is_some_and(&of)) {
            line.cut.cancel();
            count += 1;
        }
        count
    }

    /// [`Self::cut`] for an agent and all its tasks.
    pub fn cut_agent(&self, name: &AgentName) -> usize {
        self.cut(|identity| identity.agent() == Some(name))
    }

    /// How many there are.
    pub fn counts(&self) -> Counts {
        let open = self.shared.open.lock();
        let known = open
            .by_caller
            .iter()
            .filter(|(caller, _)| !matches!(caller, Caller::Nobody(_)));
        let (mut identified, mut callers) = (0, 0);
        for (_, entry) in known {
            identified += entry.connections.len();
            callers += 1;
        }
        Counts {
            connections: open.total,
            identified,
            callers,
        }
    }

    /// Counts a new connection; `None` when there are too many already, in all or from its network.
    pub(super) fn admit(&self, remote: SocketAddr, limits: &Limits) -> Option<Admission> {
        let network = Network::of(remote);
        let mut open = self.shared.open.lock();
        let from_network = open.by_network.get(&network).copied().unwrap_or(0);
        if open.total >= limits.connections || from_network >= limits.connections_per_address {
            return None;
        }
        open.total += 1;
        open.by_network.insert(network, from_network + 1);
        Some(Admission {
            registry: self.clone(),
            network,
            id: ConnectionId(self.shared.next_id.fetch_add(1, Ordering::Relaxed) + 1),
        })
    }
}

/// A counted connection. Dropping it uncounts it.
#[derive(Debug)]
pub(super) struct Admission {
    registry: Connections,
    network: Network,
    pub(super) id: ConnectionId,
}

impl Admission {
    /// Enters the connection under its caller, so that it can be found and cut; `None` when the caller has too
    /// many.
    pub(super) fn register(
        &self,
        identity: Option<&Identity>,
        remote: SocketAddr,
        limits: &Limits,
    ) -> Option<Registration> {
        let caller = Caller::of(identity, remote);
        let mut open = self.registry.shared.open.lock();
        let entry = open.by_caller.entry(caller.clone()).or_default();
        // Nobody is limited by address and by age.
        if identity.is_some() && entry.connections.len() >= limits.connections_per_caller {
            return None;
        }
        let cut = CancellationToken::new();
        let line = Line {
            identity: identity.cloned(),
            cut: cut.clone(),
        };
        entry.connections.insert(self.id, line);
        Some(Registration {
            registry: self.registry.clone(),
            caller,
            id: self.id,
            cut,
            requests: Arc::clone(&entry.requests),
        })
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut open = self.registry.shared.open.lock();
        open.total = open.total.saturating_sub(1);
        if let Some(count) = open.by_network.get_mut(&self.network) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.by_network.remove(&self.network);
            }
        }
    }
}

/// A connection that can be cut. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Registration {
    registry: Connections,
    caller: Caller,
    id: ConnectionId,
    /// Cancelled when the connection must go at once.
    pub(super) cut: CancellationToken,
    /// The caller's requests in flight, over all its connections.
    pub(super) requests: Arc<AtomicUsize>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        // Whatever ended the connection, nothing of it goes on.
        self.cut.cancel();
        let mut open = self.registry.shared.open.lock();
        if let Some(entry) = open.by_caller.get_mut(&self.caller) {
            entry.connections.remove(&self.id);
            if entry.connections.is_empty() {
                open.by_caller.remove(&self.caller);
            }
        }
    }
}
