//! One span for each request, with an id that its caller can quote.
//!
//! The id is in the response header `x-request-id`, in the `ErrorInfo` of a refusal, and in every
//! log line that the request causes.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use taskpass_core::{Clock, Entropy, EntropyError, SpiffeId};
use taskpass_metrics::{Code, Method, Metrics};
use tracing::{Instrument, Span};

/// The response header with the request's id.
const ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// gRPC's header or trailer with the code.
const STATUS_HEADER: &str = "grpc-status";
/// The package of the broker's own services; logs and labels leave it out.
const OWN_PACKAGE: &str = "taskpass.v1.";

tokio::task_local! {
    /// The id of the request that the current task serves.
    static CURRENT: RequestId;
}

/// The id of a request: a number that differs in each process, and a count.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(Arc<str>);

impl RequestId {
    /// The id of the request that the current task serves; `None` in background work.
    pub(crate) fn current() -> Option<String> {
        CURRENT.try_with(|id| id.0.to_string()).ok()
    }
}

/// Gives requests their ids and spans, and counts them.
#[derive(Debug)]
pub struct Observer {
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    /// Random, so that ids of two runs of the broker differ.
    process: u64,
    count: AtomicU64,
}

impl Observer {
    /// Counts in `metrics`.
    pub fn new(
        metrics: Arc<Metrics>,
        clock: Arc<dyn Clock>,
        entropy: &dyn Entropy,
    ) -> Result<Self, EntropyError> {
        Ok(Self {
            metrics,
            clock,
            process: entropy.next_u64()? >> 32,
            count: AtomicU64::new(0),
        })
    }

    /// A request for `path` arrived from the caller with this certificate.
    pub(crate) fn begin(self: &Arc<Self>, path: &str, caller: Option<&SpiffeId>) -> Observed {
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let id = RequestId(format!("{:08x}-{count}", self.process).into());
        let name = path.strip_prefix('/').unwrap_or(path);
        let name = name.strip_prefix(OWN_PACKAGE).unwrap_or(name);
        let method = self.metrics.requests.method(name);
        let caller = caller.map_or("unauthenticated", SpiffeId::as_str);
        let span = tracing::info_span!(
            "request",
            id = &*id.0,
            // The name from the list: a caller must not write texts of its own into the log.
            method = self.metrics.requests.name(method),
            caller,
        );
        Observed {
            observer: Arc::clone(self),
            id,
            span,
            method,
            began: self.clock.monotonic(),
            code: None,
        }
    }
}

/// A request in flight. It counts when it ends; dropped before, it counts as cancelled.
#[derive(Debug)]
pub(crate) struct Observed {
    observer: Arc<Observer>,
    id: RequestId,
    span: Span,
    method: Method,
    began: Duration,
    code: Option<Code>,
}

impl Observed {
    /// Serves the request inside its span.
    pub(crate) fn run<F: Future>(&self, serving: F) -> impl Future<Output = F::Output> + use<F> {
        CURRENT.scope(self.id.clone(), serving.instrument(self.span.clone()))
    }

    /// Puts the id on the response. A response without a body ends the request.
    pub(crate) fn answered<B>(&mut self, response: &mut Response<B>) {
        if let Ok(mut id) = HeaderValue::from_str(&self.id.0) {
            // No id is ever sent twice. HPACK puts a value that is not sensitive into its table,
            // and takes one out for it that other responses have, too (RFC 7541 section 7.1.3).
            id.set_sensitive(true);
            response.headers_mut().insert(ID_HEADER, id);
        }
        if response.status() == StatusCode::OK {
            self.ended(response.headers());
        } else {
            self.code = Some(Code::NOT_GRPC);
        }
    }

    /// Notes the code, if the headers or trailers have one.
    pub(crate) fn ended(&mut self, headers: &HeaderMap) {
        let text = headers.get(STATUS_HEADER).and_then(|it| it.to_str().ok());
        if let Some(number) = text.and_then(|text| text.parse().ok()) {
            self.code = Some(Code::grpc(number));
        }
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        let code = self.code.unwrap_or(Code::CANCELLED);
        let Observer { metrics, clock, .. } = self.observer.as_ref();
        let took = clock.monotonic().saturating_sub(self.began);
        metrics.requests.done(self.method, code, took);
        self.span
            .in_scope(|| tracing::debug!(code = code.as_str(), ?took, "the request ended"));
    }
}

#[cfg(test)]
mod tests {
    use taskpass_core::{ManualClock, SeededEntropy, Timestamp};
    use taskpass_metrics::{Labels, Sample};

    use super::*;

    fn observer() -> (Arc<Metrics>, Arc<Observer>) {
        let metrics = Arc::new(Metrics::new(Labels {
            methods: vec!["TaskService/EndTask".to_owned()],
            ..Labels::default()
        }));
        let clock = Arc::new(ManualClock::new(Timestamp::EPOCH));
        let observer = Observer::new(Arc::clone(&metrics), clock, &SeededEntropy::new(1));
        (metrics, Arc::new(observer.unwrap()))
    }

    #[tokio::test]
    async fn the_id_is_known_inside_the_request_and_on_its_response() {
        let (_, observer) = observer();
        let mut observed = observer.begin("/taskpass.v1.TaskService/EndTask", None);
        let inside = observed.run(async { RequestId::current() }).await.unwrap();
        let mut response = Response::new(());
        observed.answered(&mut response);
        assert_eq!(response.headers()[ID_HEADER], inside.as_str());
        assert_eq!(RequestId::current(), None);
        let next = observer.begin("/x", None);
        assert_ne!(*next.id.0, *inside);
    }

    #[test]
    fn a_request_counts_by_its_end() {
        let (metrics, observer) = observer();
        let begin = || observer.begin("/taskpass.v1.TaskService/EndTask", None);
        // Cut off.
        drop(begin());
        // Refused with a status in the headers.
        let mut response = Response::new(());
        response.headers_mut().insert(STATUS_HEADER, 7.into());
        begin().answered(&mut response);
        // Answered with a status in the trailers.
        let mut observed = begin();
        observed.answered(&mut Response::new(()));
        observed.ended(&HeaderMap::from_iter([(
            HeaderName::from_static(STATUS_HEADER),
            0.into(),
        )]));
        drop(observed);
        // Not gRPC.
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        observer.begin("/made/up", None).answered(&mut response);
        let text = metrics.encode(&Sample::default());
        for (method, code) in [
            ("TaskService/EndTask", "CANCELLED"),
            ("TaskService/EndTask", "PERMISSION_DENIED"),
            ("TaskService/EndTask", "OK"),
            ("other", "NOT_GRPC"),
        ] {
            let line = format!("taskpass_requests_total{{method=\"{method}\",code=\"{code}\"}} 1");
            assert!(text.contains(&line), "{line}\n{text}");
        }
    }
}
