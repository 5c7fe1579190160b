//! The address from which Prometheus reads the metrics: `GET /metrics` over plain HTTP, and nothing
//! else.
//!
//! There is no authentication and no TLS, so every host that reaches the address can read the
//! numbers and can try to exhaust the broker through it. The configuration leaves it off, and puts
//! it on the loopback address unless it names another one. Each connection serves one request, has
//! a deadline, and takes one of a few permits; connections beyond them are closed at once. The text
//! is made once a second at most, so that reading it often costs little more than reading it once.

use std::{convert::Infallible, future::Future, net::SocketAddr, sync::Arc, time::Duration};

use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const PATH: &str = "/metrics";
/// OpenMetrics 1.0.
const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Connections at the same time. Prometheus needs one.
const CONNECTIONS: usize = 8;
/// Bytes of the request's line and headers.
const HEAD_BYTES: usize = 16 * 1024;
const HEADERS: usize = 64;
/// How long one connection may take, from its first byte to its last.
const DEADLINE: Duration = Duration::from_secs(10);
/// The pause after the system refused to accept a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The text of the metrics.
pub(crate) trait Source: Send + Sync + 'static {
    /// The text as of now, or of a moment ago.
    fn text(&self) -> impl Future<Output = Arc<str>> + Send;
}

impl Source for super::sample::Sampler {
    async fn text(&self) -> Arc<str> {
        self.text().await
    }
}

/// A listener for readers of metrics.
#[derive(Debug)]
pub(crate) struct Endpoint {
    listener: TcpListener,
    deadline: Duration,
}

impl Endpoint {
    /// Listens on `address`.
    pub(crate) async fn bind(address: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        tracing::info!("metrics are served at http://{address}{PATH}");
        if !address.ip().is_loopback() {
            tracing::warn!(
                %address,
                "other machines can read the metrics without authentication; let a firewall decide which"
            );
        }
        Ok(Self {
            listener,
            deadline: DEADLINE,
        })
    }

    /// Serves until `stop`.
    pub(crate) async fn serve<S: Source>(self, source: Arc<S>, stop: CancellationToken) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        let tracker = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            let socket = match accepted {
                Ok((socket, _)) => socket,
                Err(e) => {
                    tracing::warn!(error = %e, "cannot accept readers of metrics; trying again");
                    stop.run_until_cancelled(sleep(ACCEPT_PAUSE)).await;
                    continue;
                }
            };
            // Dropping the socket closes it.
            let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
                continue;
            };
            let (source, deadline, stop) = (Arc::clone(&source), self.deadline, stop.clone());
            tracker.spawn(async move {
                let serving = timeout(deadline, connection(socket, source));
                stop.run_until_cancelled(serving).await;
                drop(permit);
            });
        }
        tracker.close();
        tracker.wait().await;
    }
}

/// Serves one request. How a reader ends its connection is no fault of the broker, so errors are
/// not logged.
async fn connection<S: Source>(socket: TcpStream, source: Arc<S>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let source = Arc::clone(&source);
        async move { Ok::<_, Infallible>(answer(&request, source.as_ref()).await) }
    });
    let _ended = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(socket), service)
        .await;
}

async fn answer<S: Source>(request: &Request<Incoming>, source: &S) -> Response<String> {
    if request.uri().path() != PATH {
        return refusal(StatusCode::NOT_FOUND);
    }
    if request.method() != Method::GET {
        let mut response = refusal(StatusCode::METHOD_NOT_ALLOWED);
        let get = HeaderValue::from_static("GET");
        response.headers_mut().insert(ALLOW, get);
        return response;
    }
    let mut response = Response::new(source.text().await.to_string());
    let media_type = HeaderValue::from_static(MEDIA_TYPE);
    response.headers_mut().insert(CONTENT_TYPE, media_type);
    response
}

fn refusal(status: StatusCode) -> Response<String> {
    let mut response = Response::new(String::new());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    struct Fixed;

    impl Source for Fixed {
        async fn text(&self) -> Arc<str> {
            "# EOF\n".into()
        }
    }

    struct Server {
        address: SocketAddr,
        stop: CancellationToken,
        tracker: TaskTracker,
    }

    impl Server {
        async fn start(deadline: Duration) -> Self {
            let mut endpoint = Endpoint::bind("127.0.0.1:0".parse().unwrap())
                .await
                .unwrap();
            endpoint.deadline = deadline;
            let address = endpoint.listener.local_addr().unwrap();
            let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
            tracker.spawn(endpoint.serve(Arc::new(Fixed), stop.clone()));
            Self {
                address,
                stop,
                tracker,
            }
        }

        async fn connect(&self) -> TcpStream {
            TcpStream::connect(self.address).await.unwrap()
        }

        /// Sends a request and reads to the end of the connection.
        async fn send(&self, request: &str) -> String {
            let mut socket = self.connect().await;
            socket.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await.unwrap();
            answer
        }

        async fn stop(self) {
            self.stop.cancel();
            self.tracker.close();
            self.tracker.wait().await;
        }
    }

    /// Whether the server closes the connection without an answer.
    async fn is_closed(socket: &mut TcpStream) -> bool {
        matches!(socket.read(&mut [0]).await, Ok(0) | Err(_))
    }

    #[tokio::test]
    async fn only_metrics_can_be_read() {
        let server = Server::start(DEADLINE).await;
        let answer = server
            .send("GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
            .await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(
            answer.contains(MEDIA_TYPE) && answer.ends_with("# EOF\n"),
            "{answer}"
        );
        for (request, status) in [
            (
                "POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
                "405",
            ),
            ("GET / HTTP/1.1\r\nhost: x\r\n\r\n", "404"),
            ("GET /metrics/x HTTP/1.1\r\nhost: x\r\n\r\n", "404"),
        ] {
            let answer = server.send(request).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{answer}"
            );
        }
        let big = "x".repeat(2 * HEAD_BYTES);
        let request = format!("GET /metrics HTTP/1.1\r\nhost: x\r\nx-big: {big}\r\n\r\n");
        let mut socket = server.connect().await;
        // The server may close the connection before it has read all of this.
        let _sent = socket.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _read = socket.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/1.1 200 "));
        server.stop().await;
    }

    #[tokio::test]
    async fn silent_connections_end_and_few_are_served_at_a_time() {
        let server = Server::start(Duration::from_millis(200)).await;
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS {
            silent.push(server.connect().await);
        }
        let mut one_more = server.connect().await;
        assert!(is_closed(&mut one_more).await);
        for socket in &mut silent {
            assert!(is_closed(socket).await);
        }
        let answer = server
            .send("GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
            .await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        server.stop().await;
    }
}
