//! How many connections and requests one peer may have.

use tokio::io::AsyncReadExt;
use tonic_types::StatusExt;

use super::*;

async fn from_address(server: &Server, source: &str) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(source.parse().unwrap(), 0))?;
    socket.connect(server.addr).await
}

async fn is_closed(socket: &mut TcpStream) -> bool {
    let mut byte = [0];
    matches!(within(socket.read(&mut byte)).await, Ok(0) | Err(_))
}

#[tokio::test]
async fn connections_are_limited_in_all_and_by_address() {
    let limits = Limits {
        connections: 3,
        connections_per_address: 2,
        ..patient()
    };
    let server = Server::start(limits).await;
    let connections = server.transport.connections();
    let open = |count| {
        let connections = connections.clone();
        async move { eventually(|| connections.counts().connections == count).await }
    };
    let first = from_address(&server, "127.0.0.1").await.unwrap();
    let _second = from_address(&server, "127.0.0.1").await.unwrap();
    open(2).await;
    let mut third = from_address(&server, "127.0.0.1").await.unwrap();
    assert!(is_closed(&mut third).await, "two from one address");
    let _other = from_address(&server, "127.0.0.2").await.unwrap();
    open(3).await;
    let mut fourth = from_address(&server, "127.0.0.3").await.unwrap();
    assert!(is_closed(&mut fourth).await, "three in all");
    drop(first);
    open(2).await;
    assert!(
        server.agent("builder").hello().await.is_ok(),
        "a place is free again"
    );
    server.stop().await;
}

#[tokio::test]
async fn connections_from_one_address_cannot_come_faster_than_their_rate() {
    let limits = Limits {
        new_connections_per_second: 1,
        new_connections_burst: 2,
        ..patient()
    };
    let server = Server::start(limits).await;
    for _ in 0..2 {
        server.agent("builder").hello().await.unwrap();
    }
    let mut third = from_address(&server, "127.0.0.1").await.unwrap();
    assert!(is_closed(&mut third).await, "two at once");
    let _other = from_address(&server, "127.0.0.2").await.unwrap();
    let connections = server.transport.connections();
    eventually(|| connections.counts().connections == 1).await;
    server.clock.advance(Duration::from_secs(1));
    assert!(server.agent("builder").hello().await.is_ok(), "one more");
    server.stop().await;
}

/// A connection that stays open costs no arrival, so its requests have a rate as well.
#[tokio::test]
async fn requests_without_a_certificate_cannot_come_faster_than_their_rate() {
    let limits = Limits {
        unauthenticated_requests_per_second: 1,
        unauthenticated_requests_burst: 2,
        ..patient()
    };
    let server = Server::start(limits).await;
    let (mut one, mut other) = (server.client(None), server.client(None));
    one.hello().await.unwrap();
    other.hello().await.unwrap();
    // Each that waits hears a time of its own.
    for (client, seconds) in [(&mut one, 1), (&mut other, 2)] {
        let response = client.send("/hello").await.unwrap();
        let refused = tonic::Status::from_header_map(response.headers()).unwrap();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        let wait = refused.get_details_retry_info().unwrap().retry_delay;
        assert_eq!(wait, Some(Duration::from_secs(seconds)));
    }
    server.agent("builder").hello().await.unwrap();
    server.clock.advance(Duration::from_secs(1));
    one.hello().await.unwrap();
    let refused = other.send("/hello").await.unwrap();
    let code = status(&refused);
    assert_eq!(code, Some(tonic::Code::ResourceExhausted), "they share it");
    server.stop().await;
}

#[tokio::test]
async fn one_caller_cannot_take_all_connections() {
    let limits = Limits {
        connections_per_caller: 2,
        ..patient()
    };
    let server = Server::start(limits).await;
    let task = server.identity("spiffe://acme.test/agent/builder/task/t0123456789abcdef");
    let (mut agent, mut task_client) = (server.agent("builder"), server.client(Some(&task)));
    agent.hello().await.unwrap();
    task_client.hello().await.unwrap();
    assert!(
        server.client(Some(&task)).hello().await.is_err(),
        "tasks count with their agent"
    );
    let mut other = server.agent("other");
    other.hello().await.unwrap();
    drop(agent);
    eventually(|| server.transport.connections().counts().connections == 2).await;
    assert!(server.client(Some(&task)).hello().await.is_ok());
    server.stop().await;
}

#[tokio::test]
async fn one_caller_cannot_take_all_requests() {
    let limits = Limits {
        requests_per_caller: 1,
        requests: 3,
        unauthenticated_requests_per_address: 1,
        ..patient()
    };
    let server = Server::start(limits).await;
    let (agent, mut again) = (server.agent("builder"), server.agent("builder"));
    let hanging = server.hang(&agent).await;
    let refused = again.send("/hello").await.unwrap();
    assert_eq!(status(&refused), Some(tonic::Code::ResourceExhausted));
    assert_eq!(refused.headers()["grpc-retry-pushback-ms"], "1000");
    let details = tonic::Status::from_header_map(refused.headers()).unwrap();
    assert!(details.get_error_details().retry_info().is_some());
    assert!(refused.headers().contains_key("x-request-id"));
    server.counted("RESOURCE_EXHAUSTED", 1).await;

    let unauthenticated = server.client(None);
    let _hanging = server.hang(&unauthenticated).await;
    let refused = server.client(None).send("/hello").await.unwrap();
    assert_eq!(status(&refused), Some(tonic::Code::ResourceExhausted));

    let other = server.agent("other");
    let _hanging = server.hang(&other).await;
    let refused = server.agent("third").send("/hello").await.unwrap();
    assert_eq!(status(&refused), Some(tonic::Code::Unavailable));
    assert_eq!(server.transport.connections().counts().requests, 3);

    server.handler.release.notify_waiters();
    within(hanging).await.unwrap().unwrap();
    eventually(|| server.transport.connections().counts().requests == 0).await;
    assert!(again.hello().await.is_ok());
    server.stop().await;
}

#[tokio::test]
async fn a_request_has_a_deadline() {
    let limits = Limits {
        request_timeout: Duration::from_millis(50),
        ..patient()
    };
    let server = Server::start(limits).await;
    let response = server.agent("builder").send("/hang").await.unwrap();
    assert_eq!(status(&response), Some(tonic::Code::DeadlineExceeded));
    assert_eq!(server.handler.gone.load(Ordering::SeqCst), 1);
    server.counted("DEADLINE_EXCEEDED", 1).await;
    assert_eq!(server.transport.connections().counts().requests, 0);
    server.stop().await;
}

/// Requests that a web page could make a browser send with its user's certificate.
#[tokio::test]
async fn a_request_that_is_not_grpc_is_refused() {
    let server = Server::start(patient()).await;
    let mut client = server.agent("builder");
    for (method, kind, expected) in [
        ("POST", Some("application/grpc"), 200),
        ("POST", Some("application/grpc+proto"), 200),
        ("GET", Some("application/grpc"), 405),
        ("POST", Some("text/plain"), 415),
        ("POST", Some("application/grpcx"), 415),
        ("POST", None, 415),
    ] {
        let request = Request::builder()
            .method(method)
            .uri("http://localhost/hello");
        let request = kind
            .into_iter()
            .fold(request, |it, kind| it.header("content-type", kind));
        let request = request.body(Body::empty()).unwrap();
        let answer = within(async { client.channel.ready().await?.call(request).await }).await;
        assert_eq!(answer.unwrap().status(), expected, "{method} {kind:?}");
    }
    server.counted("NOT_GRPC", 4).await;
    server.stop().await;
}

#[tokio::test]
async fn oversized_headers_are_refused() {
    let server = Server::start(patient()).await;
    let mut client = server.agent("builder");
    let big = "x".repeat(20 * 1024);
    let request = Request::post("http://localhost/hello").header("x-big", big);
    let request = request.body(Body::empty()).unwrap();
    let answer = within(async { client.channel.ready().await?.call(request).await }).await;
    assert!(answer.is_err() || answer.is_ok_and(|it| !it.status().is_success()));
    assert!(client.hello().await.is_ok());
    server.stop().await;
}
