//! Sees a reply that carries a secret to the transport. A handler's result may never get there: the caller cancels, the
//! time is over, the connection is cut. Then the reply is dropped, and [`Handover`] with it takes the credential back.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tonic::{body::Body, server::NamedService};
use tower::Service;

use crate::engine::Handover;

/// A gRPC service whose replies are watched on their way out.
#[derive(Debug, Clone)]
pub(super) struct Watched<S>(pub(super) S);

impl<S: NamedService> NamedService for Watched<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Watched<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async move {
            let mut response = answer.await?;
            let Some(handover) = response.extensions_mut().remove::<Handover>() else {
                return Ok(response);
            };
            Ok(response.map(|body| Body::new(Parcel { body, handover })))
        })
    }
}

/// A body that says when the transport has taken all of it.
struct Parcel {
    body: Body,
    handover: Handover,
}

impl HttpBody for Parcel {
    type Data = <Body as HttpBody>::Data;
    type Error = <Body as HttpBody>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let is_last = match &frame {
            None => true,
            Some(Ok(frame)) => frame.is_trailers() || self.body.is_end_stream(),
            Some(Err(_)) => false,
        };
        if is_last {
            self.handover.done();
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
    use std::{sync::Arc, time::Duration};

    use http::HeaderMap;
    use hyper::body::Bytes;
    use taskpass_core::CredentialState;

    use super::*;
    use crate::engine::{
        Settings,
        testing::{Answer, Bench, eventually},
    };

    /// A message and its trailers, as tonic's are.
    struct Reply(Vec<Frame<Bytes>>);

    impl HttpBody for Reply {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop().map(Ok))
        }
    }

    /// Drops the reply after so many of its frames were taken, and says what became of the credential.
    async fn after(frames: usize) -> CredentialState {
        let bench = Bench::new(&["a"], Settings::default()).await;
        let (fake, task) = (&bench.fakes[0], bench.task().await);
        let issuing = bench.begin(fake, task).await;
        fake.answer(Answer::Give(Duration::from_secs(60)));
        let issued = issuing.await.unwrap().unwrap();
        let frames_of_reply = vec![
            Frame::trailers(HeaderMap::new()),
            Frame::data(Bytes::from_static(b"secret")),
        ];
        let mut parcel = Parcel {
            body: Body::new(Reply(frames_of_reply)),
            handover: issued.handover,
        };
        for _ in 0..frames {
            let frame = std::future::poll_fn(|cx| Pin::new(&mut parcel).poll_frame(cx)).await;
            assert!(frame.is_some());
        }
        drop(parcel);
        // Whatever the drop set off is over before the next look.
        let tasks = bench.engine.tasks();
        tasks.close();
        eventually("nothing runs any more", || async { tasks.is_empty() }).await;
        let credential: Arc<_> = bench.credential(issued.id).await;
        credential.state
    }

    #[tokio::test]
    async fn a_reply_that_is_not_taken_whole_takes_the_credential_back() {
        assert_eq!(after(0).await, CredentialState::Revoking);
        assert_eq!(after(1).await, CredentialState::Revoking);
        assert_eq!(after(2).await, CredentialState::Active);
    }
}
