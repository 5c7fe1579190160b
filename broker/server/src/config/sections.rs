//! The sections that belong to no other part of the broker.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use taskpass_core::{AgentName, Ttl, limits};

use super::{
    ledger::{Archive, Keep},
    listen::MetricsListen,
};

/// The default of `data_dir`.
pub(super) const DATA_DIR: &str = "data";

taskpass_config::section! {
    /// Where callers reach the broker.
    pub struct Listen in "listen" {
        /// The address and port for agents and operators: gRPC over mutual TLS 1.3. Port 0 takes
        /// any free one, which the line `ready addr=…` names.
        grpc: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7443);
        /// Whether callers may list services and messages through gRPC server reflection.
        reflection: bool = false;
        /// Where Prometheus reads the broker's metrics, with `GET /metrics` over plain HTTP:
        /// `"off"`, a port like `"9464"`, or an address and port like `"10.0.0.5:9464"`. A port
        /// alone is one of 127.0.0.1. The endpoint has no authentication and no TLS: name another
        /// address only where a firewall decides which machines reach it.
        metrics: MetricsListen = MetricsListen::Off;
    }
}

taskpass_config::section! {
    /// How long certificates live.
    pub struct Identity in "identity" {
        /// How long an agent's certificate lives; at most a sixth of `ca_ttl`. Clients renew it
        /// after two thirds of its life.
        svid_ttl: Ttl = lifetime(3600), lifetime(60)..=lifetime(7 * 86_400);
        /// How long a signing CA lives. The broker rotates it ahead of its end, and trusts it until
        /// the last certificate that it signed has ended.
        ca_ttl: Ttl = lifetime(86_400), lifetime(3600)..=lifetime(90 * 86_400);
        /// How long an operator's certificate lives. `taskpass` renews it when it is used after two
        /// thirds of this life. An operator who was away for longer gets another one from
        /// `taskpassd operator issue`.
        operator_svid_ttl: Ttl = lifetime(limits::OPERATOR_SVID_SECONDS_DEFAULT),
            lifetime(3600)..=lifetime(limits::OPERATOR_SVID_SECONDS_MAX);
        /// The broker's own name, the last part of `spiffe://<trust domain>/broker/<node>`.
        node: AgentName = node_name();
    }
}

taskpass_config::section! {
    /// How much of the ledger stays on this machine.
    pub struct Ledger in "ledger" {
        /// The directory with the ledger's old segments, which `taskpassd ledger archive` writes,
        /// or `"off"`. The broker reads old entries there for exports and proofs, and to build a
        /// lost index again.
        archive: Archive = Archive::Off;
        /// How long entries stay on this machine, at least `"1d"`, or `"off"`: for ever. Once a
        /// day, the broker moves whole segments of older entries to `archive`.
        keep: Keep = Keep::Off;
        /// The size in bytes at which a segment of the ledger is full. Only whole segments can go
        /// to an archive.
        segment_bytes: u32 = 64 * 1024 * 1024, 64 * 1024..=1024 * 1024 * 1024;
    }
}

impl Ledger {
    /// How long entries stay, and where older ones go.
    pub(crate) fn kept(&self) -> (Option<std::time::Duration>, Option<PathBuf>) {
        (self.keep.duration(), self.archive.directory())
    }
}

taskpass_config::section! {
    /// Where the policies are.
    pub struct Policy in "policy" {
        /// The directory with the `.cedar` files.
        dir: PathBuf = PathBuf::from("policy");
    }
}

/// INVARIANT: only called with numbers between one second and 366 days.
fn lifetime(seconds: u64) -> Ttl {
    Ttl::from_seconds(seconds).unwrap_or(Ttl::MAX)
}

fn node_name() -> AgentName {
    #[expect(clippy::expect_used, reason = "a constant that a test reads")]
    "broker".parse().expect("a short name")
}
