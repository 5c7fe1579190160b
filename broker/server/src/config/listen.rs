//! `[listen]`: where callers reach the broker.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::section::section;

section! {
    /// Where callers reach the broker.
    Listen = "listen" {
        /// The address and port for agents and operators: gRPC over mutual TLS 1.3. Port 0 takes any free one,
        /// which the line `ready addr=…` names.
        grpc: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7443);
        /// Whether callers may list services and messages through gRPC server reflection.
        reflection: bool = false;
    }
}
