//! A real `bao server -dev` for one test, and a proxy in front of it that loses connections on
//! demand.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU16, AtomicUsize, Ordering},
    },
};

use serde_json::Value;
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::Notify};

/// The root token; long enough to search texts for it.
pub(crate) const ROOT_TOKEN: &str = "root-canary-7c1d9f0ab2e34";
/// The longest that the server works on one request, and so the longest that a lost call is in
/// doubt.
pub(crate) const REQUEST_MAX: &str = "5s";
const STARTS_MAX: u32 = 5;

/// A server with its own memory, killed when dropped.
pub(crate) struct Bao {
    child: Child,
    pub(crate) port: u16,
    /// `http` or `https`.
    pub(crate) scheme: &'static str,
    /// The root token.
    pub(crate) token: String,
    client: reqwest::Client,
}

impl Drop for Bao {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Bao {
    /// Starts a server on a free port.
    pub(crate) fn start() -> Self {
        Self::launch(None)
    }

    /// Starts a server that speaks TLS; it writes its authority's certificate to `vault-ca.pem` in
    /// `dir`.
    pub(crate) fn start_with_tls(dir: &Path) -> Self {
        Self::launch(Some(dir))
    }

    /// Tries again when another process took the port meanwhile.
    fn launch(tls: Option<&Path>) -> Self {
        // This fails if another test of this process was first.
        drop(rustls::crypto::ring::default_provider().install_default());
        for _ in 0..STARTS_MAX {
            let Some((child, port)) = start_once(tls) else {
                continue;
            };
            let client = reqwest::Client::builder().no_proxy();
            let client = match tls {
                Some(dir) => client.tls_certs_only([authority(dir)]),
                None => client,
            };
            return Self {
                child,
                port,
                scheme: if tls.is_some() { "https" } else { "http" },
                token: ROOT_TOKEN.to_owned(),
                client: client.build().unwrap(),
            };
        }
        panic!("bao did not start in {STARTS_MAX} tries");
    }

    /// A server that was launched and may not answer yet.
    pub(crate) fn running(child: Child, port: u16) -> Self {
        Self {
            child,
            port,
            scheme: "http",
            token: String::new(),
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
        }
    }

    /// A call with the root token; the status and the answer.
    pub(crate) async fn admin(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.call_as(&self.token, method, path, body).await
    }

    /// A call with any token.
    pub(crate) async fn call_as(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Value,
    ) -> (u16, Value) {
        self.send(token, method, path, body).await.unwrap()
    }

    /// A call with the root token to a server that may not answer.
    pub(crate) async fn try_admin(
        &self,
        method: &str,
        path: &str,
        body: Value,
    ) -> Option<(u16, Value)> {
        self.send(&self.token, method, path, body).await.ok()
    }

    async fn send(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Value,
    ) -> reqwest::Result<(u16, Value)> {
        let url = format!("{}://127.0.0.1:{}/v1/{path}", self.scheme, self.port);
        let mut request = self
            .client
            .request(reqwest::Method::from_bytes(method.as_bytes()).unwrap(), url)
            .header("X-Vault-Token", token);
        if !body.is_null() {
            request = request.json(&body);
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        let text = response.text().await?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::Null)))
    }

    /// The server stands still.
    pub(crate) fn freeze(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    }

    /// A call that must succeed.
    pub(crate) async fn must(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.admin(method, path, body).await;
        assert!(
            (200..300).contains(&status),
            "{method} {path}: {status} {answer}"
        );
        answer
    }
}

fn authority(dir: &Path) -> reqwest::Certificate {
    let pem = std::fs::read(dir.join("vault-ca.pem")).unwrap();
    reqwest::Certificate::from_pem(&pem).unwrap()
}

/// The server's program, which `make tools` puts below the workspace.
pub(crate) fn program() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut places = package.ancestors().map(|d| d.join("target/tools/bin/bao"));
    let found = places.find(|program| program.exists());
    found.unwrap_or_else(|| panic!("`target/tools/bin/bao` is missing: run `make tools`"))
}

fn start_once(tls: Option<&Path>) -> Option<(Child, u16)> {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut config = tempfile::NamedTempFile::with_suffix(".hcl").unwrap();
    writeln!(config, "default_max_request_duration = \"{REQUEST_MAX}\"").unwrap();
    let mut command = Command::new(program());
    command.args(["server", "-dev", "-dev-no-store-token", "-log-level=error"]);
    if let Some(dir) = tls {
        let dir = format!("-dev-tls-cert-dir={}", dir.display());
        command.args(["-dev-tls", &dir]);
    }
    let mut child = command
        .arg(format!("-config={}", config.path().display()))
        .arg(format!("-dev-root-token-id={ROOT_TOKEN}"))
        .arg(format!("-dev-listen-address=127.0.0.1:{port}"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // The banner appears once the server is unsealed and listens.
    let ready = lines
        .by_ref()
        .map_while(Result::ok)
        .any(|line| line.contains("Root Token"));
    if !ready {
        drop(child.kill());
        drop(child.wait());
        return None;
    }
    // Unless the pipe is read to its end, the server blocks on it.
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
    Some((child, port))
}

/// How the proxy treats connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Weather {
    /// Everything passes.
    Fair = 0,
    /// Connections are closed.
    Down = 1,
    /// Requests pass, answers do not: the connection is closed instead.
    AnswersLost = 2,
}

/// A TCP proxy to the server.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    target: AtomicU16,
    weather: AtomicU8,
    changed: Notify,
    silenced: Notify,
    connections: AtomicUsize,
}

impl Proxy {
    pub(crate) async fn start(target: u16) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            target: AtomicU16::new(target),
            weather: AtomicU8::new(0),
            changed: Notify::new(),
            silenced: Notify::new(),
            connections: AtomicUsize::new(0),
        });
        let accepting = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((inbound, _)) = listener.accept().await {
                accepting.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(pass(inbound, Arc::clone(&accepting)));
            }
        });
        Self { port, shared }
    }

    /// Leads to another server; open connections are cut.
    pub(crate) fn lead_to(&self, target: u16) {
        self.shared.target.store(target, Ordering::SeqCst);
        self.shared.changed.notify_waiters();
    }

    /// Changes the weather; open connections are cut.
    pub(crate) fn set(&self, weather: Weather) {
        self.shared.weather.store(weather as u8, Ordering::SeqCst);
        self.shared.changed.notify_waiters();
    }

    /// Open connections stay open and carry nothing any more, as if the machine had vanished; new
    /// ones work.
    pub(crate) fn silence(&self) {
        self.shared.silenced.notify_waiters();
    }

    /// How many connections were made.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

async fn pass(mut inbound: TcpStream, shared: Arc<Shared>) {
    let (cut, silence) = (shared.changed.notified(), shared.silenced.notified());
    tokio::pin!(cut, silence);
    cut.as_mut().enable();
    silence.as_mut().enable();
    let weather = shared.weather.load(Ordering::SeqCst);
    let target = shared.target.load(Ordering::SeqCst);
    if weather == Weather::Down as u8 {
        return;
    }
    let Ok(mut outbound) = TcpStream::connect(("127.0.0.1", target)).await else {
        return;
    };
    if weather == Weather::AnswersLost as u8 {
        let (mut from, _) = inbound.split();
        let (mut answers, mut to) = outbound.split();
        let mut first = [0_u8; 1];
        tokio::select! {
            _ = tokio::io::copy(&mut from, &mut to) => {}
            // The server has carried out the request when the first byte of the answer arrives.
            _ = tokio::io::AsyncReadExt::read(&mut answers, &mut first) => {}
            () = cut => {}
        }
        drop(inbound.shutdown().await);
        return;
    }
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut inbound, &mut outbound) => {}
        () = cut => {}
        () = silence => std::future::pending().await,
    }
}
