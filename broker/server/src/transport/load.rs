//! Requests in flight: how many there may be, in all and of one caller, and how long one may take
//! to answer.
//!
//! There is no queue. The broker refuses a request over the limit at once, with a hint when to try
//! again: the requests in flight stay fast, and the caller learns early.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderValue, Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};
use taskpass_core::Clock;
use taskpass_engine::rate::Limiter;
use tokio::time::{Sleep, sleep};
use tonic::{Code, Status, body::Body};
use tonic_types::{ErrorDetails, StatusExt};
use tower::ServiceExt;

use super::{Limits, Peer, delivery::OnDelivered, drain::Activity, peer::Network};
use crate::observe::request::{Observed, Observer};

/// How long a refused caller should wait.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// The same for clients that retry by themselves (gRPC proposal A6).
const PUSHBACK_HEADER: &str = "grpc-retry-pushback-ms";

/// The service that answers the requests, such as `tonic::service::Routes`.
pub trait RequestService:
    tower::Service<
        Request<Body>,
        Response = Response<Body>,
        Error = std::convert::Infallible,
        Future: Send,
    > + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> RequestService for S where
    S: tower::Service<
            Request<Body>,
            Response = Response<Body>,
            Error = std::convert::Infallible,
            Future: Send,
        > + Clone
        + Send
        + Sync
        + 'static
{
}

/// The right to one place under a limit. Dropping it frees the place.
#[derive(Debug)]
pub(super) struct Permit(Arc<AtomicUsize>);

impl Permit {
    pub(super) fn acquire(counter: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        let grow = |count: usize| (count < limit).then(|| count + 1);
        counter
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, grow)
            .is_ok()
            .then(|| Self(Arc::clone(counter)))
    }

    /// Counts without a limit.
    fn unlimited(counter: &Arc<AtomicUsize>) -> Self {
        counter.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(counter))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The checks of one connection for each of its requests.
#[derive(Debug, Clone)]
pub(super) struct Gate<S> {
    pub(super) service: S,
    pub(super) peer: Peer,
    pub(super) limits: Limits,
    /// Requests in flight over all connections.
    pub(super) all: Arc<AtomicUsize>,
    /// Requests in flight of this connection's caller.
    pub(super) of_caller: Arc<AtomicUsize>,
    pub(super) activity: Arc<Activity>,
    /// How often requests without a client certificate come, by network.
    pub(super) unauthenticated: Arc<Limiter<Network>>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) observer: Arc<Observer>,
}

impl<S: RequestService> hyper::service::Service<Request<Incoming>> for Gate<S> {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let caller = self.peer.identity.as_ref().map(|it| &it.spiffe_id);
        let mut observed = self.observer.begin(request.uri().path(), caller);
        request.extensions_mut().insert(self.peer.clone());
        let deadline = Box::pin(sleep(self.limits.body_timeout));
        let request = request.map(|body| Prompt { body, deadline });
        let acquired = match is_grpc(&request) {
            Ok(()) => self.acquire().map_err(|status| refusal(&status)),
            Err(code) => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = code;
                Err(response)
            }
        };
        let permits = match acquired {
            Ok(permits) => permits,
            Err(mut response) => {
                observed.answered(&mut response);
                return Box::pin(answer_after_body(request.into_body(), response));
            }
        };
        let request = request.map(Body::new);
        let (service, timeout) = (self.service.clone(), self.limits.request_timeout);
        Box::pin(async move {
            let serving = observed.run(service.oneshot(request));
            let Ok(answer) = tokio::time::timeout(timeout, serving).await else {
                let mut response = refusal(&Status::deadline_exceeded(
                    "the broker took too long; the request may or may not have been carried out",
                ));
                observed.answered(&mut response);
                return Ok(response);
            };
            answer.map(|mut response| {
                observed.answered(&mut response);
                let on_delivered = response.extensions_mut().remove::<OnDelivered>();
                response.map(|body| {
                    Body::new(Held {
                        body,
                        permits,
                        on_delivered,
                        observed: Some(observed),
                    })
                })
            })
        })
    }
}

impl<S> Gate<S> {
    /// Checks the caller's own share first: a caller over its share must hear that it is the cause.
    fn acquire(&self) -> Result<[Permit; 3], Status> {
        self.check_rate()?;
        let share = match self.peer.identity {
            Some(_) => self.limits.requests_per_caller,
            None => self.limits.unauthenticated_requests_per_address,
        };
        let of_caller = Permit::acquire(&self.of_caller, share).ok_or_else(|| {
            let message = format!(
                "you have {share} requests in flight, which is the most one caller may; \
                 wait for some to finish"
            );
            try_later(Code::ResourceExhausted, message)
        })?;
        let all = Permit::acquire(&self.all, self.limits.requests).ok_or_else(|| {
            let message = "the broker has as many requests in flight as it takes; try again";
            try_later(Code::Unavailable, message.to_owned())
        })?;
        self.activity.begun.fetch_add(1, Ordering::AcqRel);
        // HTTP/2 itself limits this count (`streams_per_connection`); it shows when a connection is
        // idle.
        let of_connection = Permit::unlimited(&self.activity.in_flight);
        Ok([of_caller, all, of_connection])
    }

    /// A caller with a certificate has a rate of its own in the engine.
    fn check_rate(&self) -> Result<(), Status> {
        if self.peer.identity.is_some() {
            return Ok(());
        }
        let (rate, from) = (
            self.limits.unauthenticated(),
            Network::of(self.peer.remote_addr),
        );
        let checked = self
            .unauthenticated
            .check_rate(rate, from, self.clock.monotonic());
        checked.map_err(|wait| {
            let message = "requests without a client certificate come too fast from your address \
                           (`limits.unauthenticated_requests_per_second`); wait";
            let details = ErrorDetails::with_retry_info(Some(wait));
            Status::with_error_details(Code::ResourceExhausted, message, details)
        })
    }
}

/// Lets only requests through that a gRPC library sends. A web page can make a browser send a GET,
/// or a POST of plain text, with the client certificate of its user. Before a request with the
/// content type of gRPC, the browser asks the broker for permission (CORS preflight), which the
/// broker never gives.
fn is_grpc<B>(request: &Request<B>) -> Result<(), StatusCode> {
    if request.method() != Method::POST {
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    let kind = request
        .headers()
        .get(CONTENT_TYPE)
        .map(HeaderValue::as_bytes);
    match kind.and_then(|kind| kind.strip_prefix(b"application/grpc")) {
        Some([] | [b'+' | b';', ..]) => Ok(()),
        _ => Err(StatusCode::UNSUPPORTED_MEDIA_TYPE),
    }
}

/// Answers a refused request after its body has arrived. With an earlier answer, HTTP/2 would reset
/// the stream, and many resets end the connection with all its other requests.
async fn answer_after_body(
    mut body: Prompt,
    response: Response<Body>,
) -> Result<Response<Body>, std::convert::Infallible> {
    while let Some(Ok(_part)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {}
    Ok(response)
}

fn try_later(code: Code, message: String) -> Status {
    let details = ErrorDetails::with_retry_info(Some(RETRY_AFTER));
    Status::with_error_details(code, message, details)
}

/// A response that consists of a status only.
fn refusal(status: &Status) -> Response<Body> {
    let mut response = status.clone().into_http::<Body>();
    if matches!(status.code(), Code::ResourceExhausted | Code::Unavailable) {
        let millis = HeaderValue::from_static("1000");
        response.headers_mut().insert(PUSHBACK_HEADER, millis);
    }
    response
}

/// A request body with a deadline. Without it, a caller that sends one byte at a time would hold a
/// permit for as long as it likes.
struct Prompt {
    body: Incoming,
    deadline: Pin<Box<Sleep>>,
}

impl HttpBody for Prompt {
    type Data = Bytes;
    type Error = tower::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tower::BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame.map(|it| it.map_err(Into::into)));
        }
        self.deadline.as_mut().poll(cx).map(|()| {
            let message = "the request did not arrive in time; send it faster";
            Some(Err(Status::deadline_exceeded(message).into()))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A response body. Its request counts as in flight until the body ends.
struct Held {
    body: Body,
    #[expect(dead_code, reason = "its drop frees the places")]
    permits: [Permit; 3],
    on_delivered: Option<OnDelivered>,
    observed: Option<Observed>,
}

impl HttpBody for Held {
    type Data = <Body as HttpBody>::Data;
    type Error = <Body as HttpBody>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let (Some(Ok(frame)), Some(observed)) = (&frame, &mut self.observed)
            && let Some(trailers) = frame.trailers_ref()
        {
            observed.ended(trailers);
        }
        let is_last = match &frame {
            None => true,
            Some(Ok(frame)) => frame.is_trailers() || self.body.is_end_stream(),
            Some(Err(_)) => false,
        };
        if let Some(on_delivered) = self.on_delivered.take_if(|_| is_last) {
            on_delivered.call();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use hyper::body::Bytes;

    use super::*;

    /// A message and its trailers, as tonic's are; the last first.
    struct Reply(Vec<Frame<Bytes>>);

    impl HttpBody for Reply {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            Poll::Ready(self.0.pop().map(Ok))
        }
    }

    /// Polls a body for so many frames, drops it, and counts how often `OnDelivered` was called.
    async fn calls_after(frames: usize) -> usize {
        let reply = Reply(vec![
            Frame::trailers(HeaderMap::new()),
            Frame::data(Bytes::from_static(b"secret")),
        ]);
        let (calls, counter) = (Arc::new(AtomicUsize::new(0)), Arc::default());
        let count = Arc::clone(&calls);
        let mut held = Held {
            body: Body::new(reply),
            permits: [(); 3].map(|()| Permit::unlimited(&counter)),
            on_delivered: Some(OnDelivered::new(move || {
                count.fetch_add(1, Ordering::SeqCst);
            })),
            observed: None,
        };
        for _ in 0..frames {
            std::future::poll_fn(|cx| Pin::new(&mut held).poll_frame(cx)).await;
        }
        drop(held);
        assert_eq!(counter.load(Ordering::SeqCst), 0);
        calls.load(Ordering::SeqCst)
    }

    #[tokio::test]
    async fn a_body_reports_its_delivery_once() {
        for (frames, calls) in [(0, 0), (1, 0), (2, 1), (3, 1)] {
            assert_eq!(calls_after(frames).await, calls, "{frames} frames");
        }
    }
}
