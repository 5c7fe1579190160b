//! How much of the broker a peer, an address or all of them may take, and for how long.

use std::time::Duration;

use taskpass_engine::rate::Rate;

/// The limits of one [`super::Transport`]. Every wait and every count in this module is bounded by one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Open connections, handshakes included; further ones are closed at once. 4,096.
    pub connections: usize,
    /// The same from one IPv4 address or one IPv6 /64 network. 256.
    pub connections_per_address: usize,
    /// Open connections of one agent with all its tasks, or of one operator. 64.
    pub connections_per_caller: usize,
    /// How often new connections may come from one IPv4 address or one IPv6 /64 network, since each costs a handshake;
    /// further ones are closed at once. 100 per second and 500 at once.
    pub arrivals: Rate,
    /// TLS handshakes that are computed at a time, since they cost the most CPU: what they leave is for requests.
    /// Further ones wait for their turn within `handshake_timeout`; one that waits for its peer takes no turn. 1.
    pub handshakes: usize,
    /// How long a peer may take from connecting to the end of the TLS handshake. 5 s.
    pub handshake_timeout: Duration,
    /// Requests in flight on one connection. 256.
    pub streams_per_connection: u32,
    /// Requests in flight over all connections; further ones get `UNAVAILABLE`. 4,096.
    pub requests: usize,
    /// Requests in flight of one agent with all its tasks, or of one operator; further ones get
    /// `RESOURCE_EXHAUSTED`. 512.
    pub requests_per_caller: usize,
    /// Requests in flight from one address without a client certificate. 16.
    pub unauthenticated_requests_per_address: usize,
    /// How long it may take until a response begins. 120 s.
    pub request_timeout: Duration,
    /// How long it may take until a request has arrived whole. 10 s.
    pub body_timeout: Duration,
    /// Bytes of all headers of one request. 16 KiB.
    pub header_bytes: u32,
    /// A connection without a request in flight for this long is closed. 5 min.
    pub idle_timeout: Duration,
    /// How often a silent peer is asked whether it is still there. 20 s.
    pub keepalive_interval: Duration,
    /// How long it may take to answer. 10 s.
    pub keepalive_timeout: Duration,
    /// A connection is closed after this long, give or take a tenth, so that its peer is verified again. 20 min.
    pub connection_age: Duration,
    /// The same for a peer without a certificate, who has nothing to do here but fetch one. 1 min.
    pub unauthenticated_connection_age: Duration,
    /// How long requests in flight may go on when their connection is to be closed. 30 s.
    pub connection_grace: Duration,
    /// The same when the broker shuts down. 20 s.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            connections_per_address: 256,
            connections_per_caller: 64,
            arrivals: Rate {
                per_second: 100,
                burst: 500,
            },
            handshakes: 1,
            handshake_timeout: Duration::from_secs(5),
            streams_per_connection: 256,
            requests: 4096,
            requests_per_caller: 512,
            unauthenticated_requests_per_address: 16,
            request_timeout: Duration::from_secs(120),
            body_timeout: Duration::from_secs(10),
            header_bytes: 16 * 1024,
            idle_timeout: Duration::from_secs(300),
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(10),
            connection_age: Duration::from_secs(20 * 60),
            unauthenticated_connection_age: Duration::from_secs(60),
            connection_grace: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(20),
        }
    }
}
