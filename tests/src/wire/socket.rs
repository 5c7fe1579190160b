//! Below HTTP/2: plain sockets from any address of this machine, and the first message of a
//! handshake.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::ClientConnection;
use rustls_pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream};

use super::client_config;

/// Connects to `address` from `source`; all of 127.0.0.0/8 is this machine.
pub async fn connect_from(source: Ipv4Addr, address: &str) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(source.into(), 0))?;
    let stream = socket.connect(address.parse().expect("an address")).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A ClientHello of a client without a certificate.
pub fn client_hello() -> Vec<u8> {
    let name = ServerName::try_from("broker").expect("a name");
    let mut client = ClientConnection::new(client_config(None), name).expect("a client");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("memory takes it");
    bytes
}

/// Raises this process's limit of open files to the hard limit and returns it. Clients with
/// thousands of connections need that many.
pub fn descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).expect("every process may go up to the hard limit");
    limit.maximum.unwrap_or(u64::MAX)
}
