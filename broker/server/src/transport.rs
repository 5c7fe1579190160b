//! Sockets, TLS 1.3, the accept loop, the registry of connections, and the drain: bytes in,
//! requests with a [`Peer`] out.
//!
//! A [`Transport`] accepts connections from a listener and passes every request to one service,
//! with the [`Peer`] in the request's extensions. The transport checks the client's certificate, so
//! it knows the peer's identity; it does not know the rights of that identity. A client without a
//! certificate is served as unauthenticated, because clients ask for their first identity that way.
//! The transport knows no service, no method and no message.
//!
//! tonic's own accept loop is not used. This one replaces certificates without closing connections,
//! puts a deadline on every wait, limits the connections of each address and caller, and lets
//! [`Connections::cut_agent`] close open connections.

mod connection;
mod context;
mod delivery;
mod drain;
mod limits;
mod load;
mod peer;
mod registry;
mod server;
mod tls;

pub(crate) use delivery::OnDelivered;
pub use limits::Limits;
pub(crate) use limits::LimitsInForce;
pub use load::RequestService;
pub use peer::{ConnectionId, Peer};
pub use registry::{Connections, Counts};
pub use server::{Drained, Transport};
pub use tls::{ServerTls, TlsError};

#[cfg(test)]
mod tests;
