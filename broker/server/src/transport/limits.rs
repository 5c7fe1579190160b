//! How much of the broker a peer, an address or all of them may take, and for how long.
//!
//! Every wait and every count in the transport is bounded by one of these. They are keys of
//! `[limits]`; this is the only place where their defaults and ranges stand.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use taskpass_engine::rate::Rate;

taskpass_config::section! {
    /// How much of the broker one caller, one address or all of them may take.
    #[derive(Copy, Eq)]
    pub struct Limits in "limits" {
        /// Open connections over all callers, handshakes included. The broker closes further ones
        /// at once.
        connections: usize = 4096, 1..=1_000_000;
        /// Open connections from one IPv4 address or one IPv6 /64 network.
        connections_per_address: usize = 256, 1..=1_000_000;
        /// Open connections of one agent with all its tasks, or of one operator.
        connections_per_caller: usize = 64, 1..=1_000_000;
        /// New connections per second from one IPv4 address or one IPv6 /64 network, in the long
        /// run, since each costs a handshake. The broker closes further ones at once.
        new_connections_per_second: u32 = 100, 1..=100_000;
        /// New connections from one IPv4 address or one IPv6 /64 network that may come at once.
        new_connections_burst: u32 = 500, 1..=1_000_000;
        /// TLS handshakes that are computed at the same time, since they cost the most CPU: the
        /// other processors are for requests. Further handshakes wait within `handshake_timeout`; a
        /// handshake that waits for its peer does not count.
        handshakes: usize = 1, 1..=65_536;
        /// How long a peer may take from connecting to the end of the TLS handshake.
        handshake_timeout: Duration = seconds(5), SHORT..=seconds(60);
        /// Requests in flight on one connection.
        streams_per_connection: u32 = 256, 1..=65_536;
        /// Requests in flight over all connections. Further ones are refused with `UNAVAILABLE`.
        requests: usize = 4096, 1..=1_000_000;
        /// Requests in flight of one agent with all its tasks, or of one operator. Further ones are
        /// refused with `RESOURCE_EXHAUSTED`.
        requests_per_caller: usize = 512, 1..=1_000_000;
        /// Requests in flight from one address without a client certificate.
        unauthenticated_requests_per_address: usize = 16, 1..=65_536;
        /// Requests per second without a client certificate (bundles, health, logins) from one IPv4
        /// address or one IPv6 /64 network, in the long run. Further ones are refused with
        /// `RESOURCE_EXHAUSTED`.
        unauthenticated_requests_per_second: u32 = 200, 1..=100_000;
        /// Such requests that may come at once.
        unauthenticated_requests_burst: u32 = 1000, 1..=1_000_000;
        /// How long it may take until a response begins, waits that the caller asked for included.
        request_timeout: Duration = seconds(120), seconds(1)..=HOUR;
        /// How long it may take until a request has arrived whole.
        body_timeout: Duration = seconds(10), SHORT..=seconds(600);
        /// Bytes of all headers of one request.
        header_bytes: u32 = 16 * 1024, 4096..=1024 * 1024;
        /// Bytes of one request message.
        request_bytes: usize = 256 * 1024, 16_384..=4 * 1024 * 1024;
        /// A connection without a request in flight for this long is closed.
        idle_timeout: Duration = seconds(300), seconds(1)..=DAY;
        /// How often the broker asks a silent peer whether it is still there.
        keepalive_interval: Duration = seconds(20), seconds(1)..=HOUR;
        /// How long the peer may take to answer.
        keepalive_timeout: Duration = seconds(10), SHORT..=seconds(600);
        /// A connection is closed after this long, give or take a tenth, so that its peer is
        /// verified again.
        connection_age: Duration = seconds(1200), seconds(1)..=DAY;
        /// The same for a peer without a client certificate, which connects only to get one.
        unauthenticated_connection_age: Duration = seconds(60), seconds(1)..=HOUR;
        /// How long requests in flight may go on when their connection is to be closed.
        connection_grace: Duration = seconds(30), Duration::ZERO..=HOUR;
        /// Exports of the ledger at the same time. Each holds a thread for as long as its reader
        /// takes, and other reads need threads, too. Set at the start.
        exports: usize = 16, 1..=1024;
        /// Exports of the ledger of one operator at the same time. Set at the start.
        exports_per_operator: usize = 4, 1..=1024;
        /// How long an export may wait for its reader to take anything. Then the broker ends it
        /// with `RESOURCE_EXHAUSTED`. Set at the start.
        export_stall: Duration = seconds(30), SHORT..=HOUR;
        /// Bytes per second that the reader of an export must take, counted over the time for which
        /// the export waits for it, from `export_stall` on. Set at the start.
        export_bytes_per_second: u32 = 16 * 1024, 1..=1024 * 1024 * 1024;
        /// How long requests in flight may go on after SIGTERM. Then their connections are cut.
        drain_timeout: Duration = seconds(20), Duration::ZERO..=seconds(600);
    }
}

/// The least that a peer on a slow network needs for one exchange.
const SHORT: Duration = Duration::from_millis(100);
const HOUR: Duration = seconds(3600);
const DAY: Duration = seconds(86_400);
/// Open files that the broker needs for itself: ledger, index, connections to providers.
const OWN_FILES: u64 = 256;

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

impl Limits {
    /// How often new connections may come from one address or network.
    pub(super) const fn arrivals(&self) -> Rate {
        Rate {
            per_second: self.new_connections_per_second,
            burst: self.new_connections_burst,
        }
    }

    /// How often requests without a client certificate may come from one address or network.
    pub(super) const fn unauthenticated(&self) -> Rate {
        Rate {
            per_second: self.unauthenticated_requests_per_second,
            burst: self.unauthenticated_requests_burst,
        }
    }

    /// As many connections as are allowed and as fit into `files` open files. Half of few files is
    /// for the broker itself: without a file for the ledger it could not revoke.
    pub fn connections_within(&self, files: u64) -> usize {
        let room = files.saturating_sub(OWN_FILES).max(files / 2);
        usize::try_from(room).map_or(self.connections, |room| room.min(self.connections))
    }
}

/// The limits that a transport goes by, which can be replaced while it serves.
#[derive(Debug, Clone)]
pub(crate) struct LimitsInForce(Arc<ArcSwap<Limits>>);

impl LimitsInForce {
    pub(super) fn new(limits: Limits) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(limits)))
    }

    /// The limits as of now. A connection takes them once, and keeps them to its end.
    pub(super) fn now(&self) -> Limits {
        **self.0.load()
    }

    /// Puts other limits in force for new connections. `handshakes` stays as it was.
    pub(crate) fn replace(&self, limits: Limits) {
        self.0.store(Arc::new(limits));
    }
}
