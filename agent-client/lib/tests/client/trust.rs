//! Which servers a client takes for the broker, before and after the first login.

use std::{sync::Arc, time::Duration};

use rustls_pki_types::CertificateDer;
use taskpass_client::{Client, Error, JoinToken};
use taskpass_client_testing::{
    fake::Fake,
    pki::{Bearer, DOMAIN, Leaf, Pki},
};
use taskpass_core::{Clock, ManualClock, SystemClock};

fn why(error: Error) -> String {
    match error {
        Error::Untrusted { why, .. } => why,
        other => panic!("expected an untrusted server, got {other:?}"),
    }
}

async fn login(fake: &Fake, token: &JoinToken) -> Result<(), Error> {
    Client::login(&fake.config(), token).await.map(drop)
}

/// A broker that shows the certificate of `leaf`, and the refusal it gets from a client with the
/// right token.
async fn refused_login(leaf: Leaf) -> String {
    let fake = Fake::start_as(&leaf).await;
    let refusal = login(&fake, &fake.token()).await.unwrap_err();
    assert_eq!(fake.state().count("attest"), 0, "the token was sent");
    why(refusal)
}

#[tokio::test]
async fn the_pinned_broker_is_believed() {
    let fake = Fake::start().await;
    login(&fake, &fake.token()).await.unwrap();
    let leaf = fake.config().directory.leaf().unwrap();
    assert_eq!(leaf.spiffe_id.as_str(), "spiffe://acme.test/agent/builder");
}

#[tokio::test]
async fn another_root_than_the_tokens_gets_no_token() {
    let (fake, other) = (Fake::start().await, Fake::start().await);
    let refusal = login(&fake, &other.token()).await.unwrap_err();
    assert!(why(refusal).contains("root"), "must name the root");
    assert_eq!(fake.state().count("attest"), 0);
}

#[tokio::test]
async fn a_pinned_root_that_did_not_sign_the_leaf_is_refused() {
    // The true root is public: every server can send it along with a chain of its own.
    let (genuine, forger) = (Pki::generate(), Pki::generate());
    let mut server = forger.bearer(&Leaf::named("/broker/one"));
    server.chain.push(genuine.root.clone());
    let fake = Fake::start_with(genuine, server).await;
    let refusal = login(&fake, &fake.token()).await.unwrap_err();
    assert!(why(refusal).contains("not signed"));
    assert_eq!(fake.state().count("attest"), 0);
}

#[tokio::test]
async fn a_server_without_its_root_is_refused_at_login() {
    let pki = Pki::generate();
    let Bearer { chain, key } = pki.bearer(&Leaf::named("/broker/one"));
    let chain: Vec<CertificateDer<'static>> = chain.into_iter().take(1).collect();
    let fake = Fake::start_with(pki, Bearer { chain, key }).await;
    why(login(&fake, &fake.token()).await.unwrap_err());
}

#[tokio::test]
async fn only_a_broker_is_a_broker() {
    for path in [
        "/agent/builder",
        "/operator/admin",
        "/agent/builder/task/t0123456789abcdef",
    ] {
        assert!(
            refused_login(Leaf::named(path))
                .await
                .contains("not a broker"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_server_certificate_with_no_or_several_names_is_refused() {
    let mut nobody = Leaf::named("/broker/one");
    nobody.uris.clear();
    refused_login(nobody).await;
    let mut several = Leaf::named("/broker/one");
    several.uris.push(format!("spiffe://{DOMAIN}/broker/two"));
    assert!(refused_login(several).await.contains("more than one"));
}

#[tokio::test]
async fn the_validity_of_the_broker_is_judged_by_our_clock() {
    let mut expired = Leaf::named("/broker/one");
    expired.from = time::Duration::hours(-2);
    expired.until = time::Duration::hours(-1);
    assert!(refused_login(expired).await.contains("expired"));

    let fake = Fake::start().await;
    let clock = Arc::new(ManualClock::new(SystemClock::new().now()));
    let mut config = fake.config();
    config.clock = clock.clone();
    clock.advance(Duration::from_secs(2 * 3600));
    let refusal = Client::login(&config, &fake.token()).await.unwrap_err();
    assert!(why(refusal).contains("expired"));
}

#[tokio::test]
async fn after_login_only_the_bundles_brokers_are_believed() {
    let home = Fake::start().await;
    login(&home, &home.token()).await.unwrap();
    let mut config = home.config();
    // Another installation with the same name, and so with equal SPIFFE IDs.
    let stranger = Fake::start().await;
    config.addr = stranger.addr.to_string().parse().unwrap();
    why(Client::connect(config.clone()).await.unwrap_err());
    assert!(stranger.state().calls.is_empty());
}

#[tokio::test]
async fn an_agents_certificate_does_not_make_a_broker_after_login_either() {
    let home = Fake::start().await;
    login(&home, &home.token()).await.unwrap();
    let directory = home.identity();
    for path in ["/agent/builder", "/operator/admin"] {
        let pki = Pki::generate();
        let server = pki.bearer(&Leaf::named(path));
        let bundle = pem(&pki.root);
        let fake = Fake::start_with(pki, server).await;
        std::fs::write(directory.join("bundle.pem"), bundle).unwrap();
        let mut config = home.config();
        config.addr = fake.addr.to_string().parse().unwrap();
        let refusal = Client::connect(config).await.unwrap_err();
        assert!(why(refusal).contains("not a broker"), "{path}");
    }
}

#[tokio::test]
async fn an_expired_identity_is_said_so_before_connecting() {
    let fake = Fake::start().await;
    login(&fake, &fake.token()).await.unwrap();
    let clock = ManualClock::new(SystemClock::new().now());
    clock.advance(Duration::from_secs(2 * 3600));
    let mut config = fake.config();
    config.clock = Arc::new(clock);
    let refusal = Client::connect(config).await.unwrap_err();
    assert!(
        matches!(refusal, Error::IdentityExpired { .. }),
        "{refusal:?}"
    );
}

#[tokio::test]
async fn a_token_counts_once_and_is_not_repeated() {
    let fake = Fake::start().await;
    login(&fake, &fake.token()).await.unwrap();
    let refusal = login(&fake, &fake.token()).await.unwrap_err();
    assert_eq!(refusal.reason(), Some("JOIN_TOKEN_INVALID"));
    assert!(!format!("{refusal:?}").contains(taskpass_client_testing::fake::SECRET));
    assert_eq!(fake.state().count("attest"), 2);
}

fn pem(der: &CertificateDer<'_>) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

/// The broker of `pki`, which also sends the root of `other`.
async fn between_two_roots(pki: Pki, other: &Pki) -> Fake {
    let mut server = pki.bearer(&Leaf::named("/broker/one"));
    server.chain.push(other.root.clone());
    server.chain.push(pki.root.clone());
    Fake::start_with(pki, server).await
}

fn bundle(fake: &Fake) -> String {
    std::fs::read_to_string(fake.identity().join("bundle.pem")).unwrap()
}

/// The broker has published another root: the next connection of a client that does not know it
/// fetches the bundle, and no later one does so again.
#[tokio::test]
async fn another_root_of_the_broker_is_fetched_over_the_trusted_connection_once() {
    let (pki, next) = (Pki::generate(), Pki::generate());
    let roots = vec![pki.root.clone(), next.root.clone()];
    let fake = between_two_roots(pki, &next).await;
    login(&fake, &fake.token()).await.unwrap();
    assert_eq!(bundle(&fake).matches("BEGIN").count(), 1);
    fake.state().bundle_roots = Some(roots);
    for _ in 0..3 {
        let mut config = fake.config();
        config.renewal = taskpass_client::Renewal::OnDemand;
        let client = Client::connect(config).await.unwrap();
        client.renew_svid_if_due().await.unwrap();
        assert_eq!(bundle(&fake).matches("BEGIN").count(), 2);
    }
    assert_eq!(fake.state().count("renew_svid"), 1);
}

/// A broker between the thief of one root and the client could otherwise replace all of them.
#[tokio::test]
async fn a_bundle_without_any_trusted_root_is_refused() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let before = bundle(&fake);
    let stranger = Pki::generate();
    // The new identity verifies under the bundle that comes with it.
    fake.state().bundle_roots = Some(vec![stranger.root.clone()]);
    fake.state().pki = stranger;
    let error = client.renew_svid().await.unwrap_err();
    assert!(error.to_string().contains("none of the roots"), "{error}");
    assert_eq!(bundle(&fake), before, "nothing was stored");
}

/// A join token pins one root of two, whichever of them it is.
#[tokio::test]
async fn a_join_token_may_pin_either_root_that_is_sent() {
    let (pki, next) = (Pki::generate(), Pki::generate());
    let fake = between_two_roots(pki, &next).await;
    login(&fake, &fake.token()).await.unwrap();
    // Sent along without having signed anything, a root proves nothing.
    let foreign = Fake::start_with(next, Pki::generate().bearer(&Leaf::named("/broker/one")));
    let refusal = login(&fake, &foreign.await.token()).await.unwrap_err();
    assert!(why(refusal).contains("not signed"));
}
