//! The life of one connection: handshake, then HTTP/2 until one side or a limit ends it.

use std::{
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    task::Poll,
};

use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::server::Acceptor;
use tokio::{net::TcpStream, sync::Semaphore, time::timeout};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Limits, Peer, RequestService,
    context::Context,
    drain::{Activity, Ends},
    load::Gate,
    registry::{ConnectionPermit, Registration},
    tls::ALPN,
};

/// Bytes that a peer may send on one stream before the broker reads them; room for one request
/// message.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same on one connection.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes of responses that the broker keeps for a stream while its peer does not read.
const SEND_BUFFER: usize = 64 * 1024;
/// Streams that a peer may reset before the broker served them (rapid reset, CVE-2023-44487); with
/// one more, the connection ends.
const RESET_STREAMS_PENDING: usize = 32;
/// Streams that the broker resets because of the peer's errors; with one more, the connection ends.
const RESET_STREAMS_BY_ERROR: usize = 64;

/// Why a connection never got to its first request.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the TLS handshake took too long")]
    Timeout,
    #[error("the TLS handshake failed")]
    Handshake(#[source] std::io::Error),
    #[error("the client did not offer HTTP/2 by ALPN")]
    Protocol,
    #[error("the client's certificate is no longer accepted")]
    Peer(#[source] taskpass_ca::PeerError),
    #[error("the caller has too many connections")]
    TooMany,
}

/// A connection as the accept loop hands it on.
pub(super) struct Accepted {
    pub(super) socket: TcpStream,
    pub(super) remote: SocketAddr,
    pub(super) permit: ConnectionPermit,
    /// The limits of the moment in which it came.
    pub(super) limits: Limits,
}

/// Serves one connection until its end.
pub(super) async fn serve<S: RequestService>(
    context: Arc<Context<S>>,
    accepted: Accepted,
    tracker: TaskTracker,
    shutdown: CancellationToken,
) {
    let Accepted {
        socket,
        remote,
        permit,
        limits,
    } = accepted;
    let secured = tokio::select! {
        biased;
        () = shutdown.cancelled() => return,
        secured = secure(&context, &limits, socket, remote, &permit) => secured,
    };
    match secured {
        Ok((stream, peer, registration)) => {
            let ended = run(
                &context,
                limits,
                stream,
                peer,
                registration,
                tracker,
                &shutdown,
            );
            ended.await;
        }
        Err(e) => {
            let source = std::error::Error::source(&e).map(ToString::to_string);
            tracing::debug!(%remote, error = %e, source, "a connection was refused");
        }
    }
    // The connection keeps its place until here.
    drop(permit);
}

/// Handshake, identification, registration.
async fn secure<S: RequestService>(
    context: &Context<S>,
    limits: &Limits,
    socket: TcpStream,
    remote: SocketAddr,
    permit: &ConnectionPermit,
) -> Result<(TlsStream<TcpStream>, Peer, Registration), Refusal> {
    let handshake = async {
        let hello = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
        let steps = hello.into_stream(context.tls.current());
        with_permit_for_each_step(&context.handshakes, steps).await
    };
    let stream = timeout(limits.handshake_timeout, handshake)
        .await
        .or(Err(Refusal::Timeout))?
        .map_err(Refusal::Handshake)?;
    let (_, session) = stream.get_ref();
    if session.alpn_protocol() != Some(ALPN) {
        return Err(Refusal::Protocol);
    }
    let identity = context
        .tls
        .identify(session.peer_certificates())
        .map_err(Refusal::Peer)?;
    let name = identity.as_ref().map(|it| &it.identity);
    let registration = permit
        .register(name, remote, limits)
        .ok_or(Refusal::TooMany)?;
    let peer = Peer {
        identity,
        remote_addr: remote,
        connection_id: permit.id,
    };
    Ok((stream, peer, registration))
}

/// Polls `work` to its end and acquires a permit for each single poll. `work` holds no permit while
/// it waits for its peer: otherwise a few silent peers, one for each permit, would stop all other
/// handshakes.
async fn with_permit_for_each_step<F: Future>(permits: &Semaphore, work: F) -> F::Output {
    let mut work = pin!(work);
    loop {
        // The semaphore is never closed.
        let permit = permits.acquire().await;
        let step = poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await;
        drop(permit);
        match step {
            Poll::Ready(done) => return done,
            Poll::Pending => woken().await,
        }
    }
}

/// Returns when this task is woken. The wake-up was asked for by the future that the task polled
/// before.
async fn woken() {
    let mut waits = true;
    poll_fn(|_| {
        if std::mem::take(&mut waits) {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    })
    .await;
}

/// Serves HTTP/2 until the end of the connection.
async fn run<S: RequestService>(
    context: &Context<S>,
    limits: Limits,
    stream: TlsStream<TcpStream>,
    peer: Peer,
    registration: Registration,
    tracker: TaskTracker,
    shutdown: &CancellationToken,
) {
    let activity = Arc::new(Activity::default());
    let ends = Ends {
        limits: &limits,
        clock: context.tls.clock().as_ref(),
        shutdown,
        id: peer.connection_id,
        not_after: peer.identity.as_ref().map(|it| it.not_after),
        activity: &activity,
    };
    let span =
        tracing::debug_span!("connection", id = %peer.connection_id, remote = %peer.remote_addr);
    let gate = Gate {
        service: context.service.clone(),
        peer,
        limits,
        all: Arc::clone(context.connections.requests()),
        of_caller: Arc::clone(&registration.requests),
        activity: Arc::clone(&activity),
        unauthenticated: Arc::clone(&context.unauthenticated),
        clock: Arc::clone(context.tls.clock()),
        observer: Arc::clone(&context.observer),
    };
    let streams = Streams {
        tracker,
        cut: registration.cut.clone(),
    };
    let mut connection =
        pin!(builder(streams, &limits).serve_connection(TokioIo::new(stream), gate));
    let mut polite = pin!(ends.polite());
    let mut hard = pin!(ends.hard());
    let ending = tokio::select! {
        biased;
        () = registration.cut.cancelled() => {
            return span.in_scope(|| context.count_cut("it was cut"));
        }
        why = hard.as_mut() => return span.in_scope(|| context.count_cut(why)),
        ending = polite.as_mut() => ending,
        end = connection.as_mut() => return span.in_scope(|| ended(end)),
    };
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        biased;
        () = registration.cut.cancelled() => span.in_scope(|| context.count_cut("it was cut")),
        why = hard => span.in_scope(|| context.count_cut(why)),
        () = tokio::time::sleep(ending.grace) => span.in_scope(|| context.count_cut(ending.why)),
        end = connection => span.in_scope(|| ended(end)),
    }
}

fn ended(end: Result<(), hyper::Error>) {
    match end {
        Ok(()) => tracing::debug!("the connection ended"),
        // A peer may end its connection in any way; this is no fault of the broker.
        Err(e) => tracing::debug!(error = %e, "the connection ended with an error"),
    }
}

fn builder(streams: Streams, limits: &Limits) -> http2::Builder<Streams> {
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_per_connection)
        .max_header_list_size(limits.header_bytes)
        .keep_alive_interval(limits.keepalive_interval)
        .keep_alive_timeout(limits.keepalive_timeout)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(RESET_STREAMS_PENDING)
        .max_local_error_reset_streams(RESET_STREAMS_BY_ERROR);
    builder
}

/// Runs the requests of one connection. The tracker waits for them, and they are cancelled when the
/// connection ends.
#[derive(Debug, Clone)]
struct Streams {
    tracker: TaskTracker,
    cut: CancellationToken,
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, request: F) {
        let cut = self.cut.clone();
        self.tracker.spawn(async move {
            cut.run_until_cancelled_owned(request).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use std::task::{self, Waker};

    use tokio::sync::Notify;

    use super::*;

    #[test]
    fn each_step_needs_a_permit_and_waiting_holds_none() {
        let (permits, word) = (Semaphore::new(1), Notify::new());
        let mut work = pin!(with_permit_for_each_step(&permits, word.notified()));
        let mut step = || {
            work.as_mut()
                .poll(&mut task::Context::from_waker(Waker::noop()))
        };
        assert_eq!(step(), Poll::Pending);
        assert_eq!(
            permits.available_permits(),
            1,
            "it holds a permit while it waits"
        );
        let taken = permits.try_acquire().unwrap();
        word.notify_one();
        assert_eq!(step(), Poll::Pending, "it goes on without a permit");
        drop(taken);
        assert_eq!(step(), Poll::Ready(()));
    }
}
