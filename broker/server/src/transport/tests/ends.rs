//! How connections end.

use super::*;

#[tokio::test]
async fn cutting_an_agent_closes_its_connections_and_no_others() {
    let server = Server::start(patient()).await;
    let task = "spiffe://acme.test/agent/builder/task/t0123456789abcdef";
    let (agent, task) = (
        server.agent("builder"),
        server.client(Some(&server.identity(task))),
    );
    let mut other = server.agent("builder-2");
    let (_, connection) = other.hello().await.unwrap();
    let hanging = [server.hang(&agent).await, server.hang(&task).await];
    let counts = server.transport.connections().counts();
    assert_eq!(
        (counts.connections, counts.authenticated, counts.callers),
        (3, 3, 2)
    );

    assert_eq!(
        server
            .transport
            .connections()
            .cut_agent(&"builder".parse().unwrap()),
        2
    );
    for request in hanging {
        assert!(within(request).await.unwrap().is_err());
    }
    eventually(|| server.handler.gone.load(Ordering::SeqCst) == 2).await;
    server.counted("CANCELLED", 2).await;
    eventually(|| server.transport.connections().counts().connections == 1).await;
    assert_eq!(other.hello().await.unwrap().1, connection);
    assert_eq!(server.transport.connections().counts().requests, 0);
    server.stop().await;
}

#[tokio::test]
async fn a_drain_lets_requests_finish() {
    let server = Server::start(patient()).await;
    let client = server.agent("builder");
    let request = server.hang(&client).await;
    server.shutdown.cancel();
    // No longer listening, once the loop has seen it.
    while TcpStream::connect(server.addr).await.is_ok() {
        tokio::task::yield_now().await;
    }
    server.handler.release.notify_one();
    let response = within(request).await.unwrap().unwrap();
    assert_eq!(
        response.headers()["x-peer"],
        "spiffe://acme.test/agent/builder"
    );
    assert_eq!(server.stop().await.cut, 0);
}

#[tokio::test]
async fn a_drain_ends_at_its_deadline() {
    let limits = Limits {
        drain_timeout: Duration::from_millis(50),
        ..patient()
    };
    let server = Server::start(limits).await;
    let client = server.agent("builder");
    let request = server.hang(&client).await;
    // A peer that stays silent in HTTP/2 and a peer that never finishes its handshake do not delay
    // the end.
    let config = Arc::new(client_config(&server.authority, &server.clock, None));
    let _mute = tls_connect(server.addr, config).await.unwrap();
    let _silent = TcpStream::connect(server.addr).await.unwrap();
    eventually(|| server.transport.connections().counts().connections == 3).await;
    let gone = Arc::clone(&server.handler.gone);
    let drained = server.stop().await;
    assert_eq!(drained.open, 3);
    assert!((1..=2).contains(&drained.cut), "{drained:?}");
    assert!(within(request).await.unwrap().is_err());
    assert_eq!(
        gone.load(Ordering::SeqCst),
        1,
        "what was in flight is gone, too"
    );
}

/// The grace of a connection that was asked to end for another reason does not hold up a shutdown.
#[tokio::test]
async fn a_drain_does_not_wait_for_a_longer_grace() {
    let limits = Limits {
        connection_age: Duration::from_millis(20),
        connection_grace: PATIENCE * 2,
        drain_timeout: Duration::from_millis(50),
        ..patient()
    };
    let server = Server::start(limits).await;
    let client = server.agent("builder");
    let request = server.hang(&client).await;
    // It is past its age and was asked to end.
    let aged = tokio::time::timeout(limits.connection_age * 3, server.shutdown.cancelled());
    aged.await.unwrap_err();
    assert_eq!(server.transport.connections().counts().requests, 1);
    assert_eq!(server.stop().await, Drained { open: 1, cut: 1 });
    assert!(within(request).await.unwrap().is_err());
}

#[tokio::test]
async fn a_connection_ends_with_its_certificate() {
    let server = Server::start(patient()).await;
    let me = server.identity("spiffe://acme.test/agent/builder");
    let left = Duration::from_millis(100);
    server.clock.set(me.issued.not_after.minus(left));
    let client = server.client(Some(&me));
    let request = server.hang(&client).await;
    // The clock stands still: the connection lives on however long it takes.
    tokio::time::timeout(left * 2, server.handler.release.notified())
        .await
        .unwrap_err();
    assert_eq!(server.transport.connections().counts().authenticated, 1);
    server.clock.advance(left);
    assert!(within(request).await.unwrap().is_err());
    eventually(|| server.transport.connections().counts().authenticated == 0).await;
    assert!(
        client.clone().hello().await.is_err(),
        "and cannot be made again"
    );
    server.stop().await;
}

#[tokio::test]
async fn old_and_idle_connections_are_replaced_without_losing_a_request() {
    let short = Duration::from_millis(60);
    for limits in [
        Limits {
            connection_age: short,
            ..patient()
        },
        Limits {
            idle_timeout: short,
            ..patient()
        },
    ] {
        let server = Server::start(limits).await;
        let mut client = server.agent("builder");
        let (_, first) = client.hello().await.unwrap();
        let request = server.hang(&client).await;
        if limits.connection_age == short {
            tokio::time::timeout(short * 3, server.shutdown.cancelled())
                .await
                .unwrap_err();
        }
        server.handler.release.notify_one();
        assert!(
            within(request).await.unwrap().is_ok(),
            "what was in flight finishes"
        );
        eventually(|| server.transport.connections().counts().connections == 0).await;
        assert_ne!(client.hello().await.unwrap().1, first);
        server.stop().await;
    }
}

#[tokio::test]
async fn a_busy_connection_is_not_idle() {
    let limits = Limits {
        idle_timeout: Duration::from_millis(500),
        ..patient()
    };
    let server = Server::start(limits).await;
    let mut client = server.agent("builder");
    let (_, first) = client.hello().await.unwrap();
    let started = tokio::time::Instant::now();
    while started.elapsed() < limits.idle_timeout * 5 / 2 {
        assert_eq!(client.hello().await.unwrap().1, first);
    }
    server.stop().await;
}

#[tokio::test]
async fn unauthenticated_connections_end_sooner() {
    let limits = Limits {
        unauthenticated_connection_age: Duration::from_millis(50),
        ..patient()
    };
    let server = Server::start(limits).await;
    let (mut unauthenticated, mut agent) = (server.client(None), server.agent("builder"));
    let (_, connection) = agent.hello().await.unwrap();
    unauthenticated.hello().await.unwrap();
    eventually(|| server.transport.connections().counts().connections == 1).await;
    assert_eq!(agent.hello().await.unwrap().1, connection);
    server.stop().await;
}
