//! The API as bytes: calls of any method by name, with any certificate or none. It sends requests
//! that a well-behaved client never would.

mod certificate;
mod http2;
mod socket;

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use prost::{
    Message,
    bytes::{Buf, BufMut, Bytes},
};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Runtime,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    Code, Request, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::{Channel, Endpoint},
};

pub use certificate::{Certificate, Forger, KeyAndCsr, uri};
pub use http2::{Answer, End, Frames, Sending, block, frame, send};
pub use socket::{client_hello, connect_from, descriptors};

/// Longer than any call of a test takes.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The address of clients for which a test names none.
const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// The connection preface of RFC 9113 with empty SETTINGS.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A connection that reconnects by itself.
#[derive(Debug, Clone)]
pub struct Wire {
    channel: Channel,
}

impl Wire {
    /// Talks to `address`, with a certificate or without. It trusts every server, and sends nothing
    /// before the first call.
    pub fn new(address: &str, certificate: Option<&Certificate>) -> Self {
        Self::from(HERE, address, certificate)
    }

    /// [`Wire::new`] from another address of this machine.
    pub fn from(source: Ipv4Addr, address: &str, certificate: Option<&Certificate>) -> Self {
        let config = client_config(certificate);
        let target = address.to_owned();
        let connector = tower::service_fn(move |_: http::Uri| {
            let (target, config) = (target.clone(), Arc::clone(&config));
            async move {
                handshake(source, &target, config)
                    .await
                    .map(hyper_util::rt::TokioIo::new)
            }
        });
        let _entered = runtime().enter();
        let endpoint = Endpoint::from_shared(format!("https://{address}"))
            .expect("an address")
            .timeout(TIMEOUT);
        Self {
            channel: endpoint.connect_with_connector_lazy(connector),
        }
    }

    /// The channel, for generated clients.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Calls `method`, such as `/taskpass.v1.TaskService/GetTask`, and collects all messages of the
    /// answer.
    pub fn call(&self, method: &str, message: Vec<u8>) -> Result<Vec<Bytes>, Status> {
        runtime().block_on(self.call_async(method, message))
    }

    /// [`Wire::call`] inside a runtime.
    pub async fn call_async(&self, method: &str, message: Vec<u8>) -> Result<Vec<Bytes>, Status> {
        // The endpoint's own timeout starts once there is a connection, so it does not end a
        // handshake that never finishes.
        tokio::time::timeout(TIMEOUT, self.gather(method, message))
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))
    }

    async fn gather(&self, method: &str, message: Vec<u8>) -> Result<Vec<Bytes>, Status> {
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        client
            .ready()
            .await
            .map_err(|e| Status::from_error(Box::new(e)))?;
        let path = method.parse().expect("a path");
        let answer = client
            .server_streaming(Request::new(message), path, BytesCodec)
            .await?;
        let mut stream = answer.into_inner();
        let mut messages = Vec::new();
        while let Some(message) = stream.message().await? {
            messages.push(message);
        }
        Ok(messages)
    }

    /// Calls a method that has one message and one answer.
    pub fn ask<Q: Message, A: Message + Default>(
        &self,
        method: &str,
        message: &Q,
    ) -> Result<A, Status> {
        let answer = self.call(method, message.encode_to_vec())?;
        let bytes = answer
            .into_iter()
            .next()
            .ok_or_else(|| Status::new(Code::Internal, "an empty answer"))?;
        Ok(A::decode(bytes).expect("the answer has its type"))
    }
}

/// Connects and waits for the first byte. `Ok` when the peer speaks HTTP/2 with us; `Err` says how
/// it refused.
pub fn try_connect(address: &str, certificate: Option<&Certificate>) -> Result<(), String> {
    runtime().block_on(async {
        let attempt = async {
            let mut stream = handshake(HERE, address, client_config(certificate)).await?;
            stream.write_all(PREFACE).await?;
            let mut first = [0_u8; 1];
            match stream.read(&mut first).await? {
                0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
                _ => Ok(()),
            }
        };
        let answered = tokio::time::timeout(TIMEOUT, attempt)
            .await
            .expect("an answer in time");
        answered.map_err(|e: std::io::Error| e.to_string())
    })
}

/// Connects twice as a client that would resume its session and send early data. Returns whether
/// the broker issued a ticket, took early data, or skipped the full handshake.
pub fn resumes(address: &str, certificate: &Certificate) -> bool {
    let mut config = Arc::unwrap_or_clone(client_config(Some(certificate)));
    config.resumption = Resumption::default();
    config.enable_early_data = true;
    let config = Arc::new(config);
    runtime().block_on(async {
        let mut resumed = false;
        for _ in 0..2 {
            let mut stream = handshake(HERE, address, Arc::clone(&config))
                .await
                .expect("a connection");
            stream.write_all(PREFACE).await.expect("it is read");
            let mut first = [0_u8; 9];
            // A ticket would come before the first frame.
            stream.read_exact(&mut first).await.expect("SETTINGS");
            let session = stream.get_ref().1;
            resumed |= session.handshake_kind() != Some(rustls::HandshakeKind::Full)
                || session.tls13_tickets_received() > 0
                || session.is_early_data_accepted();
        }
        resumed
    })
}

/// The runtime of this module.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: std::sync::OnceLock<Runtime> = std::sync::OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime")
    })
}

async fn handshake(
    source: Ipv4Addr,
    address: &str,
    config: Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = connect_from(source, address).await?;
    let name = ServerName::try_from("broker").expect("a name");
    TlsConnector::from(config).connect(name, tcp).await
}

fn client_config(certificate: Option<&Certificate>) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider)));
    let mut config = match certificate {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(own.key.clone()));
            let signer =
                rustls::crypto::ring::sign::any_supported_type(&key).expect("a usable key");
            // Not checked against the certificate, because some tests use a key that does not
            // belong to it.
            let resolver = rustls::sign::SingleCertAndKey::from(rustls::sign::CertifiedKey::new(
                own.chain.clone(),
                signer,
            ));
            builder.with_client_cert_resolver(Arc::new(resolver))
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Arc::new(config)
}

/// Trusts every server, because these tests are about the certificates that the broker accepts.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Messages as they are on the wire.
#[derive(Debug, Clone, Copy)]
struct BytesCodec;

impl Codec for BytesCodec {
    type Encode = Vec<u8>;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for BytesCodec {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(&message);
        Ok(())
    }
}

impl Decoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = message.remaining();
        Ok(Some(message.copy_to_bytes(length)))
    }
}
