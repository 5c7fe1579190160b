//! A broker in this process: real TLS, real gRPC, and a script for its faults.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll},
};

use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use taskpass_client::{BrokerAddr, Client, ClientConfig, JoinToken};
use taskpass_core::{Clock, SystemClock};
use taskpass_proto::v1;
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tonic::{Status, transport::server::Connected};

use crate::{
    ledger::FakeLedger,
    pki::{Bearer, DOMAIN, Leaf, Pki},
};

pub const SECRET: &str = "c2VjcmV0";
pub const AGENT: &str = "/agent/builder";

/// The broker's knowledge, and the script of its behaviour.
pub struct State {
    pub pki: Pki,
    /// Errors to answer with, by call, before anything is done.
    pub refuse: HashMap<&'static str, VecDeque<Status>>,
    /// How often a call is carried out and its answer is lost, by call.
    pub lose: HashMap<&'static str, u32>,
    /// Calls in their order.
    pub calls: Vec<&'static str>,
    /// The SPIFFE IDs of callers in the order of their calls.
    pub callers: Vec<String>,
    /// How many tasks start without the identity that was asked for.
    pub keeps_bound_svids: u32,
    /// Idempotency keys of requests to issue and their credential.
    pub keys: Vec<(String, String)>,
    /// Idempotency keys of all requests to issue, refused ones included.
    pub tried_keys: Vec<String>,
    pub token_used: bool,
    /// Serials that were replaced by others that were used.
    pub dead_serials: HashSet<String>,
    /// A serial waits for its first use, and the one it then replaces.
    pub pending: HashMap<String, String>,
    pub svid_life: time::Duration,
    pub credential_life: time::Duration,
    pub task_life: time::Duration,
    pub renewable: bool,
    pub data: Vec<(&'static str, String)>,
    /// The variables that the role declares for fields; when empty, all have one.
    pub env: Vec<(&'static str, &'static str)>,
    pub issued: Vec<String>,
    pub revoked: Vec<String>,
    /// What a credential that is looked at says about its revocation.
    pub revocation: Option<v1::Revocation>,
    /// What receipts say of the identity that is left.
    pub identity_until: Option<prost_types::Timestamp>,
    pub tasks: Vec<v1::Task>,
    pub ledger: Option<FakeLedger>,
    /// Identities come without the ledger's head.
    pub shows_no_head: bool,
    /// The note that the bundle comes with. `None`: about the root that signs, by the ledger's key.
    pub signed_roots: Option<String>,
    /// The roots that the bundle names. `None`: the root that signs.
    pub bundle_roots: Option<Vec<CertificateDer<'static>>>,
}

#[derive(Clone)]
pub struct Shared {
    state: Arc<Mutex<State>>,
    /// Counts calls, so that tests wait for events and not for time.
    events: watch::Sender<usize>,
}

pub struct Fake {
    pub shared: Shared,
    pub addr: SocketAddr,
    pub dir: TempDir,
    _server: AbortOnDropHandle<()>,
}

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Notes a call; fails if the script says so.
    pub fn enter(&self, call: &'static str) -> Result<(), Status> {
        let mut state = self.lock();
        state.calls.push(call);
        let scripted = state.refuse.get_mut(call).and_then(VecDeque::pop_front);
        drop(state);
        self.events.send_modify(|n| *n += 1);
        scripted.map_or(Ok(()), Err)
    }

    /// Loses the answer if the script says so.
    pub fn leave<T>(&self, call: &'static str, reply: T) -> Result<tonic::Response<T>, Status> {
        let mut state = self.lock();
        match state.lose.get_mut(call) {
            Some(left) if *left > 0 => {
                *left -= 1;
                Err(Status::unavailable("connection lost"))
            }
            _ => Ok(tonic::Response::new(reply)),
        }
    }

    /// Waits until `done` holds after some call.
    pub async fn until(&self, done: impl Fn(&State) -> bool + Send + Sync) {
        let mut events = self.events.subscribe();
        let wait = async {
            while !done(&self.lock()) {
                events.changed().await.unwrap();
            }
        };
        let seconds = std::time::Duration::from_secs(20);
        tokio::time::timeout(seconds, wait)
            .await
            .expect("the event never came");
    }
}

impl Fake {
    /// A broker that proves itself as `/broker/one`.
    pub async fn start() -> Self {
        Self::start_as(&Leaf::named("/broker/one")).await
    }

    pub async fn start_as(leaf: &Leaf) -> Self {
        let pki = Pki::generate();
        let mut server = pki.bearer(leaf);
        server.chain.push(pki.root.clone());
        Self::start_with(pki, server).await
    }

    /// A broker that shows any certificate at all.
    pub async fn start_with(pki: Pki, server: Bearer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(server_config(&pki.root, server)));
        let dir = tempfile::tempdir().unwrap();
        let mut state = State::new(pki);
        state.ledger = Some(FakeLedger::create(dir.path()));
        let shared = Shared {
            state: Arc::new(Mutex::new(state)),
            events: watch::Sender::new(0),
        };
        let (connections, incoming) = mpsc::channel(16);
        let router = crate::services::router(&shared);
        let tracker = TaskTracker::new();
        let serving = tracker.spawn(async move {
            let accept = accept(listener, acceptor, connections);
            let serve = router.serve_with_incoming(ReceiverStream::new(incoming));
            let (_, served) = tokio::join!(accept, serve);
            served.unwrap();
        });
        Self {
            shared,
            addr,
            dir,
            _server: AbortOnDropHandle::new(serving),
        }
    }

    pub fn token_text(&self) -> String {
        use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
        let pin = URL_SAFE_NO_PAD.encode(self.shared.lock().pki.pin);
        format!("tp1.j0123456789abcdef.{SECRET}.{pin}")
    }

    pub fn token(&self) -> JoinToken {
        self.token_text().parse().unwrap()
    }

    pub fn identity(&self) -> std::path::PathBuf {
        self.dir.path().join("identity")
    }

    pub fn config(&self) -> ClientConfig {
        let addr: BrokerAddr = self.addr.to_string().parse().unwrap();
        let mut config = ClientConfig::new(addr, self.identity());
        config.renewal = taskpass_client::Renewal::OnDemand;
        config.overlap = std::time::Duration::ZERO;
        config
    }

    /// Logged in and connected.
    pub async fn client(&self) -> Client {
        Client::attest(self.config(), &self.token()).await.unwrap()
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }
}

impl State {
    fn new(pki: Pki) -> Self {
        Self {
            pki,
            refuse: HashMap::new(),
            lose: HashMap::new(),
            calls: Vec::new(),
            callers: Vec::new(),
            keeps_bound_svids: 0,
            keys: Vec::new(),
            tried_keys: Vec::new(),
            token_used: false,
            dead_serials: HashSet::new(),
            pending: HashMap::new(),
            svid_life: time::Duration::hours(1),
            credential_life: time::Duration::minutes(15),
            task_life: time::Duration::hours(2),
            renewable: false,
            revocation: None,
            identity_until: None,
            data: vec![
                ("username", "u".to_owned()),
                ("password", "hunter2".to_owned()),
            ],
            env: Vec::new(),
            issued: Vec::new(),
            revoked: Vec::new(),
            tasks: Vec::new(),
            ledger: None,
            shows_no_head: false,
            signed_roots: None,
            bundle_roots: None,
        }
    }

    pub fn count(&self, call: &str) -> usize {
        self.calls.iter().filter(|c| **c == call).count()
    }

    /// The ledger's head, for a client with the checkpoint of `older` entries.
    pub fn head(&self, older: u64) -> Option<v1::LedgerHead> {
        let ledger = self.ledger.as_ref().filter(|_| !self.shows_no_head);
        ledger.map(|ledger| ledger.head(older))
    }

    pub fn signed_roots(&self) -> String {
        let signed =
            |ledger: &FakeLedger| ledger.signed_roots(&self.pki.pin, SystemClock::new().now());
        let usual = || self.ledger.as_ref().map(signed).unwrap_or_default();
        self.signed_roots.clone().unwrap_or_else(usual)
    }

    pub fn bundle(&self) -> v1::Bundle {
        v1::Bundle {
            trust_domain: DOMAIN.to_owned(),
            x509_authorities: match &self.bundle_roots {
                Some(roots) => roots.iter().map(|root| root.to_vec()).collect(),
                None => vec![self.pki.root.to_vec()],
            },
            jwks: String::new(),
            ledger_vkey: self
                .ledger
                .as_ref()
                .map_or_else(|| "not-a-key".to_owned(), |l| l.vkey.clone()),
        }
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    connections: mpsc::Sender<Result<Connection, std::io::Error>>,
) {
    while let Ok((tcp, _)) = listener.accept().await {
        if let Ok(tls) = acceptor.accept(tcp).await
            && connections.send(Ok(Connection(tls))).await.is_err()
        {
            return;
        }
    }
}

fn server_config(root: &CertificateDer<'static>, server: Bearer) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(server.chain, PrivatePkcs8KeyDer::from(server.key).into())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// The URI and serial of the certificate that a connection came with.
#[derive(Clone, Default)]
pub struct PeerInfo {
    pub uri: String,
    pub serial: String,
}

struct Connection(TlsStream<TcpStream>);

impl Connected for Connection {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        use x509_parser::prelude::{FromDer, X509Certificate};
        let Some([leaf, ..]) = self.0.get_ref().1.peer_certificates() else {
            return PeerInfo::default();
        };
        let (_, certificate) = X509Certificate::from_der(leaf).unwrap();
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        let uri = names
            .value
            .general_names
            .iter()
            .find_map(|name| match name {
                x509_parser::extensions::GeneralName::URI(uri) => Some((*uri).to_owned()),
                _ => None,
            });
        PeerInfo {
            uri: uri.unwrap_or_default(),
            serial: certificate.raw_serial_as_string(),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
