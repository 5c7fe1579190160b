//! Real sockets, real TLS, a real authority; the clock stands still unless a test moves it.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, atomic::AtomicUsize, atomic::Ordering},
    time::Duration,
};

use http::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, UnixTime},
    time_provider::TimeProvider,
};
use taskpass_ca::{Authority, Config, IssueOptions, Issued, NewKey};
use taskpass_core::{Clock, Identity, ManualClock, SeededEntropy, Timestamp};
use taskpass_metrics::{Metrics, Sample};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Notify,
    task::JoinHandle,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    transport::{Channel, Endpoint},
};
use tower::{Service, ServiceExt};

use super::*;
use crate::observe::request::Observer;

mod ends;
mod handshake;
mod load;

const START: Timestamp = Timestamp::from_millis(1_760_000_000_123);
/// A test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Answers `/hello` with the peer, and lets `/hang` wait until it is released.
#[derive(Clone, Default)]
struct Handler {
    begun: Arc<Notify>,
    release: Arc<Notify>,
    /// Requests to `/hang` that ended, one way or the other.
    gone: Arc<AtomicUsize>,
}

struct Gone(Arc<AtomicUsize>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Service<Request<Body>> for Handler {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let peer = request.extensions().get::<Peer>().unwrap().clone();
            let name = peer.identity.map_or_else(
                || "unauthenticated".to_owned(),
                |it| it.spiffe_id.to_string(),
            );
            if request.uri().path() == "/hang" {
                let _gone = Gone(Arc::clone(&this.gone));
                this.begun.notify_one();
                this.release.notified().await;
            }
            let response = Response::builder()
                .header("grpc-status", "0")
                .header("x-peer", name)
                .header("x-connection", peer.connection_id.to_string());
            Ok(response.body(Body::empty()).unwrap())
        })
    }
}

struct Server {
    _temporary: tempfile::TempDir,
    authority: Arc<Authority>,
    clock: Arc<ManualClock>,
    tls: Arc<ServerTls>,
    handler: Handler,
    transport: Arc<Transport<Handler>>,
    metrics: Arc<Metrics>,
    addr: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<Drained>,
}

/// Limits under which no connection ends by itself.
fn patient() -> Limits {
    let long = Duration::from_secs(24 * 3600);
    Limits {
        connection_age: long,
        unauthenticated_connection_age: long,
        idle_timeout: long,
        keepalive_interval: long,
        drain_timeout: PATIENCE,
        ..Limits::default()
    }
}

fn authority(domain: &str, clock: &Arc<ManualClock>) -> (tempfile::TempDir, Arc<Authority>) {
    let temporary = tempfile::tempdir().unwrap();
    let authority = Authority::create(
        &temporary.path().join("ca"),
        taskpass_ca::Deps {
            trust_domain: domain.parse().unwrap(),
            config: Config::default(),
            clock: clock.clone(),
            entropy: Arc::new(SeededEntropy::new(3)),
            keys: taskpass_ca::KeyFiles::plain(),
        },
    )
    .unwrap();
    authority.rotate().unwrap();
    (temporary, Arc::new(authority))
}

fn broker_certificate(authority: &Authority) -> (Issued, NewKey) {
    let key = NewKey::generate().unwrap();
    let options = IssueOptions {
        ttl: None,
        server_names: vec![ServerName::try_from("localhost").unwrap()],
    };
    let node = Identity::Broker("node-1".parse().unwrap());
    (
        authority.issue(&node, key.public_key(), &options).unwrap(),
        key,
    )
}

impl Server {
    async fn start(limits: Limits) -> Self {
        let clock = Arc::new(ManualClock::new(START));
        let (temporary, authority) = authority("acme.test", &clock);
        let (issued, key) = broker_certificate(&authority);
        let tls = ServerTls::new(
            issued.chain_der,
            key.private_key_der(),
            Arc::clone(&authority),
            clock.clone(),
        );
        let tls = Arc::new(tls.unwrap());
        let handler = Handler::default();
        let metrics = Arc::new(Metrics::default());
        let observer = Observer::new(Arc::clone(&metrics), clock.clone(), &SeededEntropy::new(5));
        let observer = Arc::new(observer.unwrap());
        let transport = Transport::new(
            handler.clone(),
            Arc::clone(&tls),
            limits,
            observer,
            Connections::default(),
        );
        let transport = Arc::new(transport);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let serving = (Arc::clone(&transport), shutdown.clone());
        let task = spawn(async move { serving.0.serve(listener, serving.1).await });
        Self {
            _temporary: temporary,
            authority,
            clock,
            tls,
            handler,
            transport,
            metrics,
            addr,
            shutdown,
            task,
        }
    }

    fn identity(&self, uri: &str) -> ClientIdentity {
        identity(&self.authority, uri)
    }

    /// A client of this server.
    fn client(&self, identity: Option<&ClientIdentity>) -> Client {
        Client::new(
            self.addr,
            client_config(&self.authority, &self.clock, identity),
        )
    }

    fn agent(&self, name: &str) -> Client {
        self.client(Some(
            &self.identity(&format!("spiffe://acme.test/agent/{name}")),
        ))
    }

    /// Sends `/hang` with `client` and returns when the handler has it.
    async fn hang(
        &self,
        client: &Client,
    ) -> JoinHandle<Result<Response<Body>, tonic::transport::Error>> {
        let mut client = client.clone();
        let task = spawn(async move { client.send("/hang").await });
        within(self.handler.begun.notified()).await;
        task
    }

    /// Returns when so many requests have ended with that code.
    async fn counted(&self, code: &str, count: usize) {
        let line = format!("taskpass_requests_total{{method=\"other\",code=\"{code}\"}} {count}\n");
        eventually(|| self.metrics.encode(&Sample::default()).contains(&line)).await;
    }

    async fn stop(self) -> Drained {
        self.shutdown.cancel();
        within(self.task).await.unwrap()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the test awaits the handle itself"
)]
fn spawn<F: Future<Output: Send> + Send + 'static>(future: F) -> JoinHandle<F::Output> {
    tokio::task::spawn(future)
}

/// Fails instead of waiting for ever.
async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("in time")
}

/// Returns when `condition` holds.
async fn eventually(condition: impl Fn() -> bool + Send + Sync) {
    within(async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

struct ClientIdentity {
    issued: Issued,
    key: NewKey,
}

fn identity(authority: &Authority, uri: &str) -> ClientIdentity {
    let identity = Identity::parse(uri, authority.trust_domain()).unwrap();
    let key = NewKey::generate().unwrap();
    let issued = authority.issue(&identity, key.public_key(), &IssueOptions::default());
    ClientIdentity {
        issued: issued.unwrap(),
        key,
    }
}

#[derive(Debug)]
struct ClockTime(Arc<ManualClock>);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now().seconds()).unwrap();
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

/// TLS as an ordinary client has it: the bundle's root, a host name, perhaps a certificate of its
/// own.
fn client_config(
    trusted: &Authority,
    clock: &Arc<ManualClock>,
    identity: Option<&ClientIdentity>,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.bundle().roots_der[0].clone()).unwrap();
    let time = Arc::new(ClockTime(clock.clone()));
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_details(provider, time)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(it) => builder
            .with_client_auth_cert(it.issued.chain_der.clone(), it.key.private_key_der())
            .unwrap(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

async fn tls_connect(
    addr: SocketAddr,
    config: Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(addr).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(config).connect(name, socket).await
}

#[derive(Clone)]
struct Client {
    channel: Channel,
}

impl Client {
    fn new(addr: SocketAddr, config: ClientConfig) -> Self {
        let config = Arc::new(config);
        let connector = tower::service_fn(move |_| {
            let config = Arc::clone(&config);
            async move { tls_connect(addr, config).await.map(TokioIo::new) }
        });
        let channel =
            Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
        Self { channel }
    }

    async fn send(&mut self, path: &str) -> Result<Response<Body>, tonic::transport::Error> {
        let uri = format!("http://localhost{path}");
        let request = Request::post(uri).header("content-type", "application/grpc");
        let request = request.body(Body::empty()).unwrap();
        within(async { self.channel.ready().await?.call(request).await }).await
    }

    /// Sends `/hello` and returns the identity that the server saw, and the connection.
    async fn hello(&mut self) -> Result<(String, String), tonic::transport::Error> {
        let response = self.send("/hello").await?;
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        Ok((header("x-peer"), header("x-connection")))
    }
}

/// The gRPC status of a response without a body.
fn status(response: &Response<Body>) -> Option<tonic::Code> {
    tonic::Status::from_header_map(response.headers()).map(|status| status.code())
}
