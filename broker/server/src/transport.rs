//! Sockets, TLS 1.3, the accept loop, the registry of connections, and the drain: bytes in, requests with a
//! [`Peer`] out.
//!
//! A [`Transport`] accepts connections from a listener and hands every request to one service, with the [`Peer`] in
//! the request's extensions. It knows who is at the other end (the client's certificate was checked) but not what
//! they may do; a client without a certificate is let in as nobody, because that is how identities are first
//! asked for. It knows no service, no method and no message.
//!
//! There is an accept loop here, instead of the one that comes with tonic, so that certificates change without
//! closing connections, every wait has an end, nobody can take all connections, and [`Connections::cut`] reaches
//! what is open.

mod connection;
mod drain;
mod limits;
mod load;
mod peer;
mod registry;
mod server;
mod taken;
mod tls;

pub use limits::Limits;
pub use load::RequestService;
pub use peer::{ConnectionId, Peer};
pub use registry::{Connections, Counts};
pub use server::{Drained, Transport};
pub(crate) use taken::WhenTaken;
pub use tls::{ServerTls, TlsError};

#[cfg(test)]
mod tests;
