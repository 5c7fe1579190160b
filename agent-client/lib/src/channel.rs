//! gRPC channels: TCP, TLS 1.3, HTTP/2, each step with a deadline.
//!
//! A channel reconnects by itself with the identity it was made with. Another identity needs
//! another channel.

use std::{sync::Arc, time::Duration};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use taskpass_core::InvalidValue;
use tokio::{
    net::TcpStream,
    time::{error::Elapsed, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::{Error, tls};

/// The deadline of the TCP connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The deadline of the TLS handshake after it.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// A peer that is silent for so long gets a ping,
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// and has this long to answer.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the broker listens: `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerAddr(String);

impl BrokerAddr {
    /// The address as given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for BrokerAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for BrokerAddr {
    type Err = InvalidValue;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let port_is_good = s
            .rsplit_once(':')
            .and_then(|(host, port)| port.parse::<u16>().ok().filter(|_| !host.is_empty()))
            .is_some_and(|port| port != 0);
        let bare = s.parse::<http::uri::Authority>().is_ok() && !s.contains('@');
        if port_is_good && bare {
            Ok(Self(s.to_owned()))
        } else {
            let shown: String = s
                .chars()
                .filter(|c| !taskpass_core::is_hidden(*c))
                .take(80)
                .collect();
            Err(InvalidValue::new(format!(
                "`{shown}` is not an address: write HOST:PORT, like 127.0.0.1:7443"
            )))
        }
    }
}

/// Connects and proves both sides to each other.
pub(crate) async fn connect(
    addr: &BrokerAddr,
    config: Arc<rustls::ClientConfig>,
) -> Result<Channel, Error> {
    let endpoint = Endpoint::from_shared(format!("https://{addr}"))
        .and_then(|endpoint| endpoint.user_agent(concat!("taskpass/", env!("CARGO_PKG_VERSION"))))
        .map_err(|e| Error::from_connect(addr.as_str(), e))?
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true);
    let target = addr.clone();
    let connector = service_fn(move |_: Uri| {
        let (addr, config) = (target.clone(), Arc::clone(&config));
        async move { handshake(&addr, config).await.map(TokioIo::new) }
    });
    endpoint
        .connect_with_connector(connector)
        .await
        .map_err(|e| Error::from_connect(addr.as_str(), e))
}

async fn handshake(
    addr: &BrokerAddr,
    config: Arc<rustls::ClientConfig>,
) -> Result<TlsStream<TcpStream>, Error> {
    let unreachable = |source: std::io::Error| Error::Unreachable {
        addr: addr.to_string(),
        source: source.into(),
    };
    let late = |limit: Duration| {
        let seconds = limit.as_secs();
        move |_: Elapsed| Error::Timeout {
            addr: addr.to_string(),
            seconds,
        }
    };
    let tcp = timeout(CONNECT_TIMEOUT, TcpStream::connect(addr.as_str()))
        .await
        .map_err(late(CONNECT_TIMEOUT))?
        .map_err(unreachable)?;
    tcp.set_nodelay(true).map_err(unreachable)?;
    // rustls asks for a name. It is never sent (no SNI) and never compared.
    let name = ServerName::try_from("broker").map_err(|e| Error::Crypto(e.to_string()))?;
    let stream = timeout(
        HANDSHAKE_TIMEOUT,
        TlsConnector::from(config).connect(name, tcp),
    )
    .await
    .map_err(late(HANDSHAKE_TIMEOUT))?
    .map_err(|e| match tls::rejection(&e) {
        Some(why) => Error::Untrusted {
            addr: addr.to_string(),
            why,
        },
        None => unreachable(e),
    })?;
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(Error::Untrusted {
            addr: addr.to_string(),
            why: "it does not speak HTTP/2".to_owned(),
        });
    }
    Ok(stream)
}
