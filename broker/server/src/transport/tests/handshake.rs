//! Which peers the handshake accepts, and with which TLS.

use rustls::{AlertDescription, HandshakeKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

#[tokio::test]
async fn a_peer_is_the_identity_of_its_certificate_and_without_one_unauthenticated() {
    let server = Server::start(patient()).await;
    for uri in [
        "spiffe://acme.test/agent/builder",
        "spiffe://acme.test/agent/builder/task/t0123456789abcdef",
        "spiffe://acme.test/operator/admin",
    ] {
        let mut client = server.client(Some(&server.identity(uri)));
        assert_eq!(client.hello().await.unwrap().0, uri);
    }
    assert_eq!(
        server.client(None).hello().await.unwrap().0,
        "unauthenticated"
    );
    server.stop().await;
}

/// Also a twin: the same trust domain with another root.
#[tokio::test]
async fn foreign_and_expired_certificates_are_refused() {
    let server = Server::start(patient()).await;
    let expired = server.identity("spiffe://acme.test/agent/builder");
    server.clock.advance(Duration::from_secs(3601));
    let (issued, key) = broker_certificate(&server.authority);
    server
        .tls
        .replace(issued.chain_der, key.private_key_der())
        .unwrap();

    let (_other_home, other) = authority("other.test", &server.clock);
    let (_twin_home, twin) = authority("acme.test", &server.clock);
    use AlertDescription::{AccessDenied, CertificateExpired, UnknownCA};
    for (refused, alert) in [
        (
            identity(&other, "spiffe://other.test/agent/builder"),
            AccessDenied,
        ),
        (
            identity(&twin, "spiffe://acme.test/agent/builder"),
            UnknownCA,
        ),
        (expired, CertificateExpired),
    ] {
        let mut client = server.client(Some(&refused));
        assert!(client.hello().await.is_err(), "{alert:?}");
        // The alert tells the client the cause, so that the client can mend it.
        let config = client_config(&server.authority, &server.clock, Some(&refused));
        let mut stream = tls_connect(server.addr, Arc::new(config)).await.unwrap();
        let error = within(stream.read_u8()).await.unwrap_err();
        let error = error
            .get_ref()
            .and_then(|it| it.downcast_ref::<rustls::Error>());
        assert_eq!(error, Some(&rustls::Error::AlertReceived(alert)));
    }
    assert!(server.agent("builder").hello().await.is_ok());
    eventually(|| server.transport.connections().counts().authenticated == 1).await;
    server.stop().await;
}

#[tokio::test]
async fn authorities_come_and_go_without_a_restart() {
    let server = Server::start(patient()).await;
    let operator = NewKey::generate().unwrap();
    let admin = "admin".parse().unwrap();
    let issued = server
        .authority
        .issue_operator(&admin, operator.public_key())
        .unwrap();
    let operator = ClientIdentity {
        issued,
        key: operator,
    };
    for _ in 0..5 {
        server.clock.advance(Duration::from_secs(9 * 3600));
        server.authority.rotate().unwrap();
        let (issued, key) = broker_certificate(&server.authority);
        server
            .tls
            .replace(issued.chain_der, key.private_key_der())
            .unwrap();
        assert!(server.agent("builder").hello().await.is_ok());
        assert!(server.client(Some(&operator)).hello().await.is_ok());
    }
    server.stop().await;
}

/// A ClientHello of TLS 1.2: no `supported_versions`, two ECDSA suites.
fn hello_of_tls_1_2() -> Vec<u8> {
    let extensions = [
        &[0, 10, 0, 4, 0, 2, 0, 23][..], // supported_groups: P-256
        &[0, 11, 0, 2, 1, 0],            // ec_point_formats: uncompressed
        &[0, 13, 0, 4, 0, 2, 4, 3],      // signature_algorithms: ECDSA with SHA-256
    ]
    .concat();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, 4, 0xc0, 0x2b, 0xc0, 0x2c, 1, 0, 0]);
    body.push(u8::try_from(extensions.len()).unwrap());
    body.extend(extensions);
    let length = u8::try_from(body.len()).unwrap();
    [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &body].concat()
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let server = Server::start(patient()).await;
    let mut socket = TcpStream::connect(server.addr).await.unwrap();
    socket.write_all(&hello_of_tls_1_2()).await.unwrap();
    let mut alert = [0; 7];
    within(socket.read_exact(&mut alert)).await.unwrap();
    assert_eq!(
        (alert[0], alert[5], alert[6]),
        (21, 2, 70),
        "fatal protocol_version"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_client_without_http_2_is_refused() {
    let server = Server::start(patient()).await;
    for protocols in [vec![], vec![b"http/1.1".to_vec()]] {
        let mut config = client_config(&server.authority, &server.clock, None);
        config.alpn_protocols = protocols;
        if let Ok(mut stream) = tls_connect(server.addr, Arc::new(config)).await {
            let mut rest = Vec::new();
            let end = within(stream.read_to_end(&mut rest)).await;
            assert!(end.is_err() || rest.is_empty());
        }
    }
    eventually(|| server.transport.connections().counts().connections == 0).await;
    server.stop().await;
}

/// A resumed session would not show its certificate again.
#[tokio::test]
async fn sessions_are_never_resumed() {
    let server = Server::start(patient()).await;
    let me = server.identity("spiffe://acme.test/agent/builder");
    let mut config = client_config(&server.authority, &server.clock, Some(&me));
    config.enable_early_data = true;
    let config = Arc::new(config);
    for _ in 0..3 {
        let mut stream = within(tls_connect(server.addr, Arc::clone(&config)))
            .await
            .unwrap();
        // Read the server's HTTP/2 settings, behind which a ticket would have come.
        let mut first = [0; 9];
        stream
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
            .await
            .unwrap();
        within(stream.read_exact(&mut first)).await.unwrap();
        let (_, session) = stream.get_ref();
        assert_eq!(session.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(session.tls13_tickets_received(), 0);
        assert!(!session.is_early_data_accepted());
    }
    server.stop().await;
}

#[tokio::test]
async fn a_handshake_has_a_deadline() {
    let limits = Limits {
        handshake_timeout: Duration::from_millis(50),
        ..patient()
    };
    let server = Server::start(limits).await;
    let mut silent = TcpStream::connect(server.addr).await.unwrap();
    let mut halfway = TcpStream::connect(server.addr).await.unwrap();
    halfway.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
    for socket in [&mut silent, &mut halfway] {
        let mut rest = Vec::new();
        let end = within(socket.read_to_end(&mut rest)).await;
        assert!(end.is_err() || rest.is_empty());
    }
    eventually(|| server.transport.connections().counts() == Counts::default()).await;
    server.stop().await;
}

#[tokio::test]
async fn silent_peers_hold_no_handshake_permit() {
    let limits = Limits {
        handshakes: 1,
        ..patient()
    };
    let server = Server::start(limits).await;
    let config = Arc::new(client_config(&server.authority, &server.clock, None));
    let name = ServerName::try_from("localhost").unwrap();
    let mut hello = Vec::new();
    let mut session = rustls::ClientConnection::new(config, name).unwrap();
    session.write_tls(&mut hello).unwrap();
    let mut silent = Vec::new();
    for said in [&[][..], &hello[..9], &hello] {
        let mut socket = TcpStream::connect(server.addr).await.unwrap();
        socket.write_all(said).await.unwrap();
        silent.push(socket);
    }
    // The last one has had its answer and lets the server wait.
    within(silent[2].readable()).await.unwrap();
    let answer = server.agent("builder").hello().await;
    assert!(answer.is_ok(), "{answer:?}");
    drop(silent);
    server.stop().await;
}

#[tokio::test]
async fn a_new_certificate_leaves_open_connections_alone() {
    let server = Server::start(patient()).await;
    let mut client = server.agent("builder");
    let (_, connection) = client.hello().await.unwrap();
    let (issued, key) = broker_certificate(&server.authority);
    let new_leaf = issued.chain_der[0].clone();
    server
        .tls
        .replace(issued.chain_der, key.private_key_der())
        .unwrap();
    assert_eq!(
        client.hello().await.unwrap().1,
        connection,
        "the same connection goes on"
    );
    let config = client_config(&server.authority, &server.clock, None);
    let stream = tls_connect(server.addr, Arc::new(config)).await.unwrap();
    let presented: &[CertificateDer<'_>] = stream.get_ref().1.peer_certificates().unwrap();
    assert_eq!(presented[0], new_leaf);
    assert!(
        server
            .tls
            .replace(
                vec![new_leaf],
                NewKey::generate().unwrap().private_key_der()
            )
            .is_err()
    );
    server.stop().await;
}
