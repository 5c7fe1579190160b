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
    drain::{Activity, Ends},
    load::Gate,
    registry::{Admission, Registration},
    server::Shared,
    tls::ALPN,
};

/// Bytes a peer may send on one stream before it is read; room for one request message.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same on one connection.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes of responses kept for a stream whose peer does not read.
const SEND_BUFFER: usize = 64 * 1024;
/// Streams that a peer opened and reset before they were taken up (CVE-2023-44487), then the connection ends.
const RESET_STREAMS_PENDING: usize = 32;
/// Streams that were reset because of the peer's errors, then the connection ends.
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

/// What a new connection is.
pub(super) struct Accepted {
    pub(super) socket: TcpStream,
    pub(super) remote: SocketAddr,
    pub(super) admission: Admission,
}

/// Serves one connection until its end.
pub(super) async fn serve<S: RequestService>(
    shared: Arc<Shared<S>>,
    accepted: Accepted,
    tracker: TaskTracker,
    shutdown: CancellationToken,
) {
    let Accepted {
        socket,
        remote,
        admission,
    } = accepted;
    let secured = tokio::select! {
        biased;
        () = shutdown.cancelled() => return,
        secured = secure(&shared, socket, remote, &admission) => secured,
    };
    match secured {
        Ok((stream, peer, registration)) => {
            run(&shared, stream, peer, registration, tracker, &shutdown).await;
        }
        Err(e) => {
            let source = std::error::Error::source(&e).map(ToString::to_string);
            tracing::debug!(%remote, error = %e, source, "a connection was refused");
        }
    }
    // Counted as open until here.
    drop(admission);
}

/// Handshake, identification, registration.
async fn secure<S: RequestService>(
    shared: &Shared<S>,
    socket: TcpStream,
    remote: SocketAddr,
    admission: &Admission,
) -> Result<(TlsStream<TcpStream>, Peer, Registration), Refusal> {
    let handshake = async {
        let hello = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
        in_turn(&shared.handshakes, hello.into_stream(shared.tls.current())).await
    };
    let stream = timeout(shared.limits.handshake_timeout, handshake)
        .await
        .or(Err(Refusal::Timeout))?
        .map_err(Refusal::Handshake)?;
    let (_, session) = stream.get_ref();
    if session.alpn_protocol() != Some(ALPN) {
        return Err(Refusal::Protocol);
    }
    let identity = shared
        .tls
        .identify(session.peer_certificates())
        .map_err(Refusal::Peer)?;
    let who = identity.as_ref().map(|it| &it.identity);
    let registration = admission
        .register(who, remote, &shared.limits)
        .ok_or(Refusal::TooMany)?;
    let peer = Peer {
        identity,
        remote_addr: remote,
        connection_id: admission.id,
    };
    Ok((stream, peer, registration))
}

/// Does `work` step by step, each step in a turn of its own. A peer that lets the broker wait between two steps keeps no
/// turn from others, or as many silent peers as there are turns would keep everybody out.
async fn in_turn<F: Future>(turns: &Semaphore, work: F) -> F::Output {
    let mut work = pin!(work);
    loop {
        // The semaphore is never closed.
        let turn = turns.acquire().await;
        let step = poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await;
        drop(turn);
        match step {
            Poll::Ready(done) => return done,
            Poll::Pending => woken().await,
        }
    }
}

/// Returns when this task is woken, as whatever it has polled before has asked for.
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

/// HTTP/2 until the end.
async fn run<S: RequestService>(
    shared: &Shared<S>,
    stream: TlsStream<TcpStream>,
    peer: Peer,
    registration: Registration,
    tracker: TaskTracker,
    shutdown: &CancellationToken,
) {
    let activity = Arc::new(Activity::default());
    let ends = Ends {
        limits: &shared.limits,
        clock: shared.tls.clock(),
        shutdown,
        id: peer.connection_id,
        not_after: peer.identity.as_ref().map(|it| it.not_after),
        activity: &activity,
    };
    let span =
        tracing::debug_span!("connection", id = %peer.connection_id, remote = %peer.remote_addr);
    let gate = Gate {
        service: shared.service.clone(),
        peer,
        limits: shared.limits,
        all: Arc::clone(&shared.requests),
        of_caller: Arc::clone(&registration.requests),
        activity: Arc::clone(&activity),
    };
    let streams = Streams {
        tracker,
        cut: registration.cut.clone(),
    };
    let mut connection =
        pin!(builder(streams, &shared.limits).serve_connection(TokioIo::new(stream), gate));
    let mut polite = pin!(ends.polite());
    let mut hard = pin!(ends.hard());
    let ending = tokio::select! {
        biased;
        () = registration.cut.cancelled() => return span.in_scope(|| shared.was_cut("it was cut")),
        why = hard.as_mut() => return span.in_scope(|| shared.was_cut(why)),
        ending = polite.as_mut() => ending,
        end = connection.as_mut() => return span.in_scope(|| ended(end)),
    };
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        biased;
        () = registration.cut.cancelled() => span.in_scope(|| shared.was_cut("it was cut")),
        why = hard => span.in_scope(|| shared.was_cut(why)),
        () = tokio::time::sleep(ending.grace) => span.in_scope(|| shared.was_cut(ending.why)),
        end = connection => span.in_scope(|| ended(end)),
    }
}

fn ended(end: Result<(), hyper::Error>) {
    match end {
        Ok(()) => tracing::debug!("the connection ended"),
        // What a peer does to its connection is its own affair.
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

/// Runs the requests of one connection: tracked, and gone when the connection is.
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
    use std::task::{Context, Waker};

    use tokio::sync::Notify;

    use super::*;

    #[test]
    fn a_turn_is_needed_for_each_step_and_kept_for_none() {
        let (turns, word) = (Semaphore::new(1), Notify::new());
        let mut work = pin!(in_turn(&turns, word.notified()));
        let mut step = || work.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(step(), Poll::Pending);
        assert_eq!(turns.available_permits(), 1, "it waits without a turn");
        let taken = turns.try_acquire().unwrap();
        word.notify_one();
        assert_eq!(step(), Poll::Pending, "it goes on without a turn");
        drop(taken);
        assert_eq!(step(), Poll::Ready(()));
    }
}
