//! The API as bytes: calls of any method by its name, with any certificate or none. For what a well-behaved client
//! would never send.

use std::{path::Path, sync::Arc, time::Duration};

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
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime, pem::PemObject,
};
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

/// Longer than any call of a test takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A certificate chain with its key.
#[derive(Debug)]
pub struct Certificate {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

impl Certificate {
    /// Leaf first, and the key as PKCS#8.
    pub const fn new(chain: Vec<CertificateDer<'static>>, key: Vec<u8>) -> Self {
        Self { chain, key }
    }

    /// From an identity directory.
    pub fn load(directory: &Path) -> Self {
        let chain =
            CertificateDer::pem_file_iter(directory.join("svid.pem")).expect("svid.pem is there");
        let chain = chain
            .collect::<Result<_, _>>()
            .expect("svid.pem holds certificates");
        let key =
            PrivatePkcs8KeyDer::from_pem_file(directory.join("key.pem")).expect("key.pem is there");
        Self {
            chain,
            key: key.secret_pkcs8_der().to_vec(),
        }
    }

    /// For `spiffe_id`, by an authority of our own that nobody trusts.
    pub fn self_made(spiffe_id: &str) -> Self {
        let authority = rcgen::KeyPair::generate().expect("a key");
        let mut root = rcgen::CertificateParams::default();
        root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        root.key_usages = vec![
            rcgen::KeyUsagePurpose::KeyCertSign,
            rcgen::KeyUsagePurpose::CrlSign,
        ];
        let root_certificate = root.self_signed(&authority).expect("a root");
        let issuer = rcgen::Issuer::new(root, authority);
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut leaf = rcgen::CertificateParams::default();
        // rcgen's own are longer than ours may be; it must be the authority that is wrong, nothing else.
        leaf.serial_number = Some(rcgen::SerialNumber::from(0x7a5c_0001_u64));
        leaf.subject_alt_names = vec![rcgen::SanType::URI(
            spiffe_id.try_into().expect("an ASCII URI"),
        )];
        leaf.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![
            rcgen::ExtendedKeyUsagePurpose::ClientAuth,
            rcgen::ExtendedKeyUsagePurpose::ServerAuth,
        ];
        leaf.is_ca = rcgen::IsCa::ExplicitNoCa;
        let certificate = leaf.signed_by(&key, &issuer).expect("a leaf");
        let chain = vec![certificate.der().clone(), root_certificate.der().clone()];
        Self {
            chain,
            key: key.serialize_der(),
        }
    }

    /// The certificates of one with the key of another: stolen, but without what makes it worth something.
    pub fn with_key_of(&self, other: &Self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: other.key.clone(),
        }
    }
}

/// A fresh P-256 key and a certificate request for it.
#[derive(Debug)]
pub struct KeyAndCsr {
    /// PKCS#8.
    pub key: Vec<u8>,
    /// PKCS#10, DER.
    pub csr: Vec<u8>,
}

impl Default for KeyAndCsr {
    fn default() -> Self {
        Self::new()
    }
}

impl KeyAndCsr {
    /// Makes both.
    pub fn new() -> Self {
        let key = rcgen::KeyPair::generate().expect("a key");
        let csr = rcgen::CertificateParams::default()
            .serialize_request(&key)
            .expect("a request");
        Self {
            key: key.serialize_der(),
            csr: csr.der().to_vec(),
        }
    }
}

/// A connection that reconnects by itself.
#[derive(Debug, Clone)]
pub struct Wire {
    channel: Channel,
}

impl Wire {
    /// Talks to `address`, with a certificate or without. Whoever listens there is believed; nothing is sent before
    /// the first call.
    pub fn new(address: &str, certificate: Option<&Certificate>) -> Self {
        let config = client_config(certificate);
        let target = address.to_owned();
        let connector = tower::service_fn(move |_: http::Uri| {
            let (target, config) = (target.clone(), Arc::clone(&config));
            async move {
                handshake(&target, config)
                    .await
                    .map(hyper_util::rt::TokioIo::new)
            }
        });
        let _entered = runtime().enter();
        let endpoint = Endpoint::from_shared(format!("https://{address}"))
            .expect("an address")
            .timeout(PATIENCE);
        Self {
            channel: endpoint.connect_with_connector_lazy(connector),
        }
    }

    /// The channel, for generated clients.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Calls `method`, as in `/taskpass.v1.TaskService/GetTask`, and gathers all messages of the answer.
    pub fn call(&self, method: &str, message: Vec<u8>) -> Result<Vec<Bytes>, Status> {
        runtime().block_on(self.call_async(method, message))
    }

    /// [`Wire::call`] inside a runtime.
    pub async fn call_async(&self, method: &str, message: Vec<u8>) -> Result<Vec<Bytes>, Status> {
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

/// Connects, and waits for the first byte: `Ok` when the peer speaks HTTP/2 to us, otherwise how it turned us down.
pub fn knock(address: &str, certificate: Option<&Certificate>) -> Result<(), String> {
    runtime().block_on(async {
        let attempt = async {
            let mut stream = handshake(address, client_config(certificate)).await?;
            stream
                .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
                .await?;
            let mut first = [0_u8; 1];
            match stream.read(&mut first).await? {
                0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
                _ => Ok(()),
            }
        };
        let answered = tokio::time::timeout(PATIENCE, attempt)
            .await
            .expect("an answer in time");
        answered.map_err(|e: std::io::Error| e.to_string())
    })
}

/// The runtime of everything here.
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
    address: &str,
    config: Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let name = ServerName::try_from("broker").expect("a name");
    TlsConnector::from(config).connect(name, tcp).await
}

fn client_config(certificate: Option<&Certificate>) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)));
    let mut config = match certificate {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(own.key.clone()));
            let signer =
                rustls::crypto::ring::sign::any_supported_type(&key).expect("a usable key");
            // Not checked against the certificate: tests come with keys that do not belong to it.
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

/// Believes whoever answers: these tests look at what the broker accepts.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
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
