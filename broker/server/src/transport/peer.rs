//! The other end of a connection.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use taskpass_ca::PeerIdentity;
use taskpass_core::{AgentName, Identity, OperatorName};

/// Names one connection in logs; never used twice while the process lives.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub(super) u64);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{}", self.0)
    }
}

/// The other end of a connection. The transport puts it into the extensions of every request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The identity in the peer's certificate; `None` for a peer that presented none. The transport
    /// does not check whether this identity may do anything now.
    pub identity: Option<PeerIdentity>,
    /// The address that the connection comes from.
    pub remote_addr: SocketAddr,
    /// The connection's name in logs.
    pub connection_id: ConnectionId,
}

/// The key under which connections share one allowance. An agent shares it with all its tasks: with
/// an allowance for each task, an agent could get more by opening tasks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum PeerKey {
    Agent(AgentName),
    Operator(OperatorName),
    Broker(AgentName),
    /// Peers without a certificate share the allowance of their network.
    Unauthenticated(Network),
}

impl PeerKey {
    pub(super) fn of(identity: Option<&Identity>, remote: SocketAddr) -> Self {
        match identity {
            Some(Identity::Agent(name) | Identity::AgentTask(name, _)) => Self::Agent(name.clone()),
            Some(Identity::Operator(name)) => Self::Operator(name.clone()),
            Some(Identity::Broker(node)) => Self::Broker(node.clone()),
            None => Self::Unauthenticated(Network::of(remote)),
        }
    }
}

/// An IPv4 address or an IPv6 /64 network: one subscriber usually controls that much (RFC 6177).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Network(IpAddr);

impl Network {
    pub(super) fn of(remote: SocketAddr) -> Self {
        // A dual-stack listener shows an IPv4 peer as an IPv4-mapped IPv6 address; it is the same
        // peer.
        match remote.ip().to_canonical() {
            IpAddr::V6(v6) => {
                let prefix = v6.to_bits() >> 64 << 64;
                Self(Ipv6Addr::from_bits(prefix).into())
            }
            v4 => Self(v4),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_network_count_as_one() {
        let of = |text: &str| Network::of(text.parse().unwrap());
        assert_eq!(of("[2001:db8::1]:1"), of("[2001:db8::ffff:0:0:2]:2"));
        assert_ne!(of("[2001:db8::1]:1"), of("[2001:db8:0:1::1]:1"));
        assert_eq!(of("[::ffff:192.0.2.1]:1"), of("192.0.2.1:9"));
        assert_ne!(of("192.0.2.1:1"), of("192.0.2.2:1"));
    }
}
