//! `[limits]`: how much of the broker one caller, one address or all of them may take.

use std::time::Duration;

use super::section::section;

section! {
    /// How much of the broker one caller, one address or all of them may take.
    Limits = "limits" {
        /// Open connections, over all callers, handshakes included; further ones are closed at once.
        connections: usize = 4096, 1..=1_000_000;
        /// Open connections from one IPv4 address or one IPv6 /64 network.
        connections_per_address: usize = 256, 1..=1_000_000;
        /// Open connections of one agent with all its tasks, or of one operator.
        connections_per_caller: usize = 64, 1..=1_000_000;
        /// How often new connections may come from one IPv4 address or one IPv6 /64 network, further ones are closed at once:
        /// per second in the long run.
        new_connections_per_second: u32 = 100, 1..=100_000;
        /// The same: connections at once.
        new_connections_burst: u32 = 500, 1..=1_000_000;
        /// TLS handshakes that are computed at a time; further ones wait for their turn. What they leave of the processors is
        /// for requests.
        handshakes: usize = 1, 1..=65_536;
        /// How long a peer may take from connecting to the end of the TLS handshake.
        handshake_timeout: Duration = Duration::from_secs(5), Duration::from_millis(100)..=Duration::from_secs(60);
        /// Requests in flight on one connection.
        streams_per_connection: u32 = 256, 1..=65_536;
        /// Requests in flight over all connections; further ones are refused with `UNAVAILABLE`.
        requests: usize = 4096, 1..=1_000_000;
        /// Requests in flight of one agent with all its tasks, or of one operator; further ones are refused with
        /// `RESOURCE_EXHAUSTED`.
        requests_per_caller: usize = 512, 1..=1_000_000;
        /// Requests in flight from one address without a client certificate.
        unauthenticated_requests_per_address: usize = 16, 1..=65_536;
        /// How long it may take until a response begins, waits that the caller asked for included.
        request_timeout: Duration = Duration::from_secs(120), Duration::from_secs(1)..=Duration::from_secs(3600);
        /// How long it may take until a request has arrived whole.
        body_timeout: Duration = Duration::from_secs(10), Duration::from_millis(100)..=Duration::from_secs(600);
        /// Bytes of all headers of one request.
        header_bytes: u32 = 16 * 1024, 4096..=1024 * 1024;
        /// A connection without a request in flight for this long is closed.
        idle_timeout: Duration = Duration::from_secs(300), Duration::from_secs(1)..=Duration::from_secs(86_400);
        /// How often a silent peer is asked whether it is still there.
        keepalive_interval: Duration = Duration::from_secs(20), Duration::from_secs(1)..=Duration::from_secs(3600);
        /// How long it may take to answer.
        keepalive_timeout: Duration = Duration::from_secs(10), Duration::from_millis(100)..=Duration::from_secs(600);
        /// A connection is closed after this long, give or take a tenth, so that its peer is verified again.
        connection_age: Duration = Duration::from_secs(1200), Duration::from_secs(1)..=Duration::from_secs(86_400);
        /// The same for a peer without a certificate.
        unauthenticated_connection_age: Duration = Duration::from_secs(60), Duration::from_secs(1)..=Duration::from_secs(3600);
        /// How long requests in flight may go on when their connection is to be closed.
        connection_grace: Duration = Duration::from_secs(30), Duration::ZERO..=Duration::from_secs(3600);
        /// How long requests in flight may go on after SIGTERM; then their connections are cut.
        drain_timeout: Duration = Duration::from_secs(20), Duration::ZERO..=Duration::from_secs(600);
        /// Bytes of one request message.
        request_bytes: usize = 256 * 1024, 16_384..=4 * 1024 * 1024;
        /// How often one agent, or one operator, may ask for anything at all, heartbeats included: requests per second in
        /// the long run.
        agent_requests_per_second: u32 = 100, 1..=100_000;
        /// The same: requests at once.
        agent_requests_burst: u32 = 500, 1..=1_000_000;
        /// How often credentials may be issued or renewed within one task: per second in the long run.
        task_requests_per_second: u32 = 10, 1..=100_000;
        /// The same: credentials at once.
        task_requests_burst: u32 = 50, 1..=1_000_000;
        /// Idempotency keys of one agent with all its tasks, or of one operator, that are remembered at a time, each in
        /// about 300 bytes of memory. Those of requests to a task are remembered until the task has ended, all for 24
        /// hours at most. One task may hold as many as its agent has left, so that it never takes all from the others; a
        /// request with one more is refused with `RESOURCE_EXHAUSTED`. The default is more than one request a second, day
        /// and night, of which one task may make half.
        idempotency_keys_per_caller: u32 = 100_000, 1..=100_000_000;
        /// Refused attempts to attest, over all callers, since nobody is known before it succeeds: per second in
        /// the long run. A good token is never held up by them.
        attestations_per_second: u32 = 50, 1..=100_000;
        /// The same: attempts at once.
        attestations_burst: u32 = 200, 1..=1_000_000;
    }
}

/// Open files that the broker needs for itself: ledger, index, connections to providers.
const OWN_FILES: u64 = 256;

impl Limits {
    /// As many connections as are allowed and as fit into `files` open files. Half of few files is for the broker itself:
    /// without a file for the ledger nothing could be revoked.
    pub fn connections_within(&self, files: u64) -> usize {
        let room = files.saturating_sub(OWN_FILES).max(files / 2);
        usize::try_from(room).map_or(self.connections, |room| room.min(self.connections))
    }
}
