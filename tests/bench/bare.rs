//! The bare limit: the speed of tonic, rustls, ring and `fdatasync` without a broker around them.
//! The server takes a request for an SVID, checks it, signs, appends a record of the usual size to
//! a file, makes the file durable once for all waiting requests, and answers. It has no identity,
//! no policy and no state.
//!
//! It runs in a process of its own, as the broker does.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::Path,
    sync::{Arc, mpsc},
    time::{Duration, SystemTime},
};

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use rcgen::{CertificateParams, Issuer, KeyPair, SanType};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use taskpass_ca::PublicKey;
use taskpass_proto::v1::{
    AttestRequest, AttestResponse, GetBundleRequest, GetBundleResponse, RenewSvidRequest,
    RenewSvidResponse, WhoAmIRequest, WhoAmIResponse, X509Svid,
    identity_service_server::{IdentityService, IdentityServiceServer},
};
use taskpass_tests::{Server, wire::Certificate};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status, service::Routes};

/// The argument that starts this program as the server.
pub(crate) const ARGUMENT: &str = "serve-bare-limit";
/// The bytes in the ledger of a decision and an issued SVID.
const RECORD: [u8; 640] = [b'x'; 640];

/// The server in its process, and a client's certificate for it.
#[derive(Debug)]
pub(crate) struct Bare {
    server: Server,
    pub(crate) address: String,
    pub(crate) client: Certificate,
    _directory: tempfile::TempDir,
}

impl Bare {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let own = std::env::current_exe().expect("a program knows where it is");
        let path = directory.path().to_str().expect("a path in UTF-8");
        let mut server = Server::start(&own, &[ARGUMENT, path], &[], directory.path());
        let address = server.wait_for("the bare limit serves", |s| {
            s.log()
                .lines()
                .find_map(|line| line.strip_prefix("ready ").map(str::to_owned))
        });
        let client = Certificate::load(directory.path());
        Self {
            server,
            address,
            client,
            _directory: directory,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.server.pid()
    }
}

/// An authority with its signing key.
struct Pki {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

impl Pki {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).expect("a root").der().clone();
        Self {
            issuer: Issuer::new(params, key),
            root,
        }
    }

    /// A leaf certificate with its key pair.
    fn leaf(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        let certificate = params(name).signed_by(&key, &self.issuer).expect("a leaf");
        (certificate, key)
    }

    fn tls(&self) -> ServerConfig {
        let (certificate, key) = self.leaf("spiffe://bare.test/server");
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_client_cert_verifier(verifier.build().expect("a verifier"))
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .expect("a certificate");
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(name.try_into().expect("an ASCII URI"))];
    params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        rcgen::ExtendedKeyUsagePurpose::ClientAuth,
        rcgen::ExtendedKeyUsagePurpose::ServerAuth,
    ];
    let now = SystemTime::now();
    params.not_before = (now - Duration::from_secs(10)).into();
    params.not_after = (now + Duration::from_secs(3600)).into();
    params
}

/// Runs the server, and never returns.
pub(crate) fn serve(directory: &Path) {
    let pki = Pki::new();
    let (certificate, key) = pki.leaf("spiffe://bare.test/client");
    fs::write(directory.join("svid.pem"), certificate.pem()).expect("a file");
    fs::write(directory.join("key.pem"), key.serialize_pem()).expect("a file");
    let tls = tokio_rustls::TlsAcceptor::from(Arc::new(pki.tls()));
    let log = append_to(&directory.join("records"));
    let service = Routes::new(IdentityServiceServer::new(Signer { pki, log })).prepare();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async move {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a free port");
        println!("ready {}", listener.local_addr().expect("an address"));
        loop {
            let (socket, _) = listener.accept().await.expect("a connection");
            socket.set_nodelay(true).expect("an option");
            let (tls, service) = (tls.clone(), service.clone());
            tokio::spawn(async move {
                let Ok(stream) = tls.accept(socket).await else {
                    return;
                };
                let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ended = http
                    .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
                    .await;
            });
        }
    });
}

/// A thread that writes all waiting records, makes them durable once, and then answers all waiting
/// callers.
fn append_to(path: &Path) -> mpsc::Sender<oneshot::Sender<()>> {
    let mut file: File = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .expect("a file");
    let (sender, receiver) = mpsc::channel::<oneshot::Sender<()>>();
    std::thread::spawn(move || {
        while let Ok(first) = receiver.recv() {
            let waiting: Vec<_> = std::iter::once(first).chain(receiver.try_iter()).collect();
            file.write_all(&RECORD.repeat(waiting.len()))
                .expect("the record can be written");
            file.sync_data().expect("it can be made durable");
            for one in waiting {
                let _gone = one.send(());
            }
        }
    });
    sender
}

struct Signer {
    pki: Pki,
    log: mpsc::Sender<oneshot::Sender<()>>,
}

#[tonic::async_trait]
impl IdentityService for Signer {
    async fn renew_svid(
        &self,
        request: Request<RenewSvidRequest>,
    ) -> Result<Response<RenewSvidResponse>, Status> {
        let key = PublicKey::from_csr(&request.get_ref().csr)
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        let signed = params("spiffe://bare.test/agent/a").signed_by(&key, &self.pki.issuer);
        let leaf = signed.map_err(|e| Status::internal(e.to_string()))?;
        let (done, durable) = oneshot::channel();
        self.log
            .send(done)
            .map_err(|e| Status::internal(e.to_string()))?;
        durable.await.map_err(|e| Status::internal(e.to_string()))?;
        let chain = vec![leaf.der().to_vec(), self.pki.root.to_vec()];
        let svid = X509Svid {
            chain,
            ..Default::default()
        };
        Ok(Response::new(RenewSvidResponse {
            svid: Some(svid),
            bundle: None,
            ledger: None,
        }))
    }

    async fn attest(&self, _: Request<AttestRequest>) -> Result<Response<AttestResponse>, Status> {
        Err(Status::unimplemented("renewal only"))
    }

    async fn get_bundle(
        &self,
        _: Request<GetBundleRequest>,
    ) -> Result<Response<GetBundleResponse>, Status> {
        Err(Status::unimplemented("renewal only"))
    }

    async fn who_am_i(
        &self,
        _: Request<WhoAmIRequest>,
    ) -> Result<Response<WhoAmIResponse>, Status> {
        Err(Status::unimplemented("renewal only"))
    }
}
