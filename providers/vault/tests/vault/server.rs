//! A real `bao server -dev` for one test, and a proxy in front of it that can be cut.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use serde_json::Value;
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::Notify};

/// The root token; long enough to be searched for in texts.
pub(crate) const ROOT_TOKEN: &str = "root-canary-7c1d9f0ab2e34";
/// The longest that the server works on one request: a lost call is in doubt for as long.
pub(crate) const REQUEST_MAX: &str = "5s";
const STARTS_MAX: u32 = 5;

/// A server with its own memory, killed when dropped.
pub(crate) struct Bao {
    child: Child,
    pub(crate) port: u16,
    client: reqwest::Client,
}

impl Drop for Bao {
    fn drop(&mut self) {
        // It may have died already; there is nothing to be done about it here.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Bao {
    /// Starts a server on a free port; tries again when another process took the port meanwhile.
    pub(crate) fn start() -> Self {
        // Fails when another test of this process was first.
        drop(rustls::crypto::ring::default_provider().install_default());
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        for _ in 0..STARTS_MAX {
            if let Some((child, port)) = start_once() {
                return Self {
                    child,
                    port,
                    client,
                };
            }
        }
        panic!("bao did not start in {STARTS_MAX} tries");
    }

    /// A call with the root token; the status and the answer.
    pub(crate) async fn admin(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.call_as(ROOT_TOKEN, method, path, body).await
    }

    /// A call with any token.
    pub(crate) async fn call_as(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Value,
    ) -> (u16, Value) {
        let url = format!("http://127.0.0.1:{}/v1/{path}", self.port);
        let mut request = self
            .client
            .request(reqwest::Method::from_bytes(method.as_bytes()).unwrap(), url)
            .header("X-Vault-Token", token);
        if !body.is_null() {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
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

fn start_once() -> Option<(Child, u16)> {
    let bao = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/bin/bao");
    assert!(
        bao.exists(),
        "`{}` is missing: run `make tools`",
        bao.display()
    );
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut config = tempfile::NamedTempFile::with_suffix(".hcl").unwrap();
    writeln!(config, "default_max_request_duration = \"{REQUEST_MAX}\"").unwrap();
    let mut child = Command::new(bao)
        .args(["server", "-dev", "-dev-no-store-token", "-log-level=error"])
        .arg(format!("-config={}", config.path().display()))
        .arg(format!("-dev-root-token-id={ROOT_TOKEN}"))
        .arg(format!("-dev-listen-address=127.0.0.1:{port}"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // The banner comes when the server is unsealed and listens.
    let ready = lines
        .by_ref()
        .map_while(Result::ok)
        .any(|line| line.contains("Root Token"));
    if !ready {
        drop(child.kill());
        drop(child.wait());
        return None;
    }
    // The pipe is read to its end, or the server would block on it.
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
    Some((child, port))
}

/// How the proxy treats what passes.
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
    weather: Arc<AtomicU8>,
    changed: Arc<Notify>,
}

impl Proxy {
    pub(crate) async fn start(target: u16) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (weather, changed) = (Arc::new(AtomicU8::new(0)), Arc::new(Notify::new()));
        let (shared, notify) = (Arc::clone(&weather), Arc::clone(&changed));
        tokio::spawn(async move {
            while let Ok((inbound, _)) = listener.accept().await {
                tokio::spawn(pass(
                    inbound,
                    target,
                    Arc::clone(&shared),
                    Arc::clone(&notify),
                ));
            }
        });
        Self {
            port,
            weather,
            changed,
        }
    }

    /// Changes the weather; open connections are cut.
    pub(crate) fn set(&self, weather: Weather) {
        self.weather.store(weather as u8, Ordering::SeqCst);
        self.changed.notify_waiters();
    }
}

async fn pass(mut inbound: TcpStream, target: u16, weather: Arc<AtomicU8>, changed: Arc<Notify>) {
    let cut = changed.notified();
    tokio::pin!(cut);
    cut.as_mut().enable();
    let weather = weather.load(Ordering::SeqCst);
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
            // The server has done its work when the first byte comes back.
            _ = tokio::io::AsyncReadExt::read(&mut answers, &mut first) => {}
            () = cut => {}
        }
        drop(inbound.shutdown().await);
        return;
    }
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut inbound, &mut outbound) => {}
        () = cut => {}
    }
}
