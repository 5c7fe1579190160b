#![expect(
    clippy::disallowed_methods,
    reason = "the hand-run measure reads the machine's clock"
)]

use std::{collections::HashSet, fs, os::unix::fs::PermissionsExt, path::PathBuf};

use rcgen::{PublicKeyData as _, SigningKey as _};
use taskpass_core::{EntropyError, ManualClock, SeededEntropy, TaskId};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;

mod replacement;
mod rotation;

const START: Timestamp = Timestamp::from_millis(1_760_000_000_123);
const HOUR: Duration = Duration::from_secs(3600);

struct Home {
    _temporary: tempfile::TempDir,
    dir: PathBuf,
    clock: Arc<ManualClock>,
    entropy: Arc<SeededEntropy>,
}

fn deps(trust_domain: TrustDomain, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Deps {
    Deps {
        trust_domain,
        config: Config::default(),
        clock,
        entropy,
        keys: KeyFiles::plain(),
    }
}

impl Home {
    fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        Self {
            dir: temporary.path().join("ca"),
            _temporary: temporary,
            clock: Arc::new(ManualClock::new(START)),
            entropy: Arc::new(SeededEntropy::new(7)),
        }
    }

    fn try_create(&self) -> Result<Authority, Error> {
        let (clock, entropy) = (self.clock.clone(), self.entropy.clone());
        Authority::create(&self.dir, deps(domain(), clock, entropy))
    }

    fn try_open(&self) -> Result<Authority, Error> {
        let (clock, entropy) = (self.clock.clone(), self.entropy.clone());
        Authority::open(&self.dir, deps(domain(), clock, entropy))
    }

    fn create(&self) -> Authority {
        let authority = self.try_create().unwrap();
        authority.rotate().unwrap();
        authority
    }

    fn open(&self) -> Authority {
        let authority = self.try_open().unwrap();
        authority.rotate().unwrap();
        authority
    }

    fn files(&self, ending: &str) -> usize {
        let names = fs::read_dir(&self.dir)
            .unwrap()
            .map(|it| it.unwrap().file_name());
        names
            .filter(|it| it.to_str().unwrap().ends_with(ending))
            .count()
    }
}

fn domain() -> TrustDomain {
    "acme.test".parse().unwrap()
}

fn builder() -> Identity {
    Identity::Agent("builder".parse().unwrap())
}

fn issue(authority: &Authority) -> Issued {
    let key = NewKey::generate().unwrap();
    authority
        .issue(&builder(), key.public_key(), &IssueOptions::default())
        .unwrap()
}

fn issue_if_possible(authority: &Authority) -> Option<Issued> {
    let key = NewKey::generate().unwrap();
    authority
        .issue(&builder(), key.public_key(), &IssueOptions::default())
        .ok()
}

fn is_accepted(authority: &Authority, issued: &Issued, now: Timestamp) -> bool {
    let verifier = authority.peer_verifier();
    verifier.verify_client(&issued.chain_der, now).is_ok()
}

/// X-1 … X-6, as another library reads it.
#[test]
fn an_issued_svid_follows_the_standard() {
    let home = Home::new();
    let authority = home.create();
    let task: TaskId = "t0123456789abcdef".parse().unwrap();
    let key = NewKey::generate().unwrap();
    for identity in [
        builder(),
        Identity::AgentTask("builder".parse().unwrap(), task),
        Identity::Operator("admin".parse().unwrap()),
        Identity::Broker("node-1".parse().unwrap()),
    ] {
        let issued = authority
            .issue(&identity, key.public_key(), &IssueOptions::default())
            .unwrap();
        assert_eq!(issued.chain_der.len(), 2);
        let (_, leaf) = X509Certificate::from_der(&issued.chain_der[0]).unwrap();
        let san = leaf.subject_alternative_name().unwrap().unwrap();
        assert!(san.critical, "X-2");
        let uri = identity.spiffe_id(&domain()).unwrap();
        assert_eq!(
            format!("{:?}", san.value.general_names),
            format!("[URI({:?})]", uri.as_str())
        );
        let constraints = leaf.basic_constraints().unwrap().unwrap();
        assert!(!constraints.value.ca && constraints.critical, "X-4");
        let usage = leaf.key_usage().unwrap().unwrap();
        assert!(
            usage.critical && usage.value.flags == 1,
            "X-5: digitalSignature only"
        );
        let extended = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.server_auth && extended.client_auth, "X-6");
        assert_eq!(leaf.public_key().raw, key.public_key().spki_der());
        assert_eq!(leaf.validity().not_before.timestamp(), START.seconds() - 10);
        assert_eq!(
            leaf.validity().not_after.timestamp(),
            START.seconds() + 3600
        );
        assert_eq!(issued.not_before.millis(), (START.seconds() - 10) * 1000);

        let (_, issuing) = X509Certificate::from_der(&issued.chain_der[1]).unwrap();
        leaf.verify_signature(Some(issuing.public_key())).unwrap();
        assert_eq!(leaf.issuer().as_raw(), issuing.subject().as_raw());
        let pem = issued.chain_pem();
        assert_eq!(pem.matches("-----BEGIN CERTIFICATE-----\n").count(), 2);
        let peer = authority
            .peer_verifier()
            .verify_client(&issued.chain_der, START)
            .unwrap();
        assert_eq!((peer.identity, peer.serial), (identity, issued.serial));
        assert_eq!(peer.key_sha256, key.public_key().key_sha256());
    }
}

/// X-4, X-5, X-7, X-8: the form of the authorities' certificates.
#[test]
fn authorities_follow_the_standard() {
    let home = Home::new();
    let authority = home.create();
    let chain = issue(&authority).chain_der;
    let bundle = authority.bundle();
    let root = &bundle.roots_der[0];
    for (der, path_len) in [(root, None), (&chain[1], Some(0))] {
        let (_, ca) = X509Certificate::from_der(der).unwrap();
        let constraints = ca.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && constraints.value.ca);
        assert_eq!(constraints.value.path_len_constraint, path_len);
        let usage = ca.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.key_cert_sign() && !usage.value.digital_signature());
        let san = ca.subject_alternative_name().unwrap().unwrap();
        let names = format!("{:?}", san.value.general_names);
        assert_eq!(names, r#"[URI("spiffe://acme.test")]"#);
        assert!(
            ca.name_constraints().unwrap().is_none(),
            "rustls refuses URI constraints"
        );
        assert!(
            authority
                .peer_verifier()
                .verify_client(std::slice::from_ref(der), START)
                .is_err()
        );
    }
    let (_, ca) = X509Certificate::from_der(root).unwrap();
    ca.verify_signature(None).unwrap();
    assert_eq!(
        ca.validity().not_after.timestamp(),
        START.seconds() + 3650 * 24 * 3600
    );
}

/// X-13, B-1 … B-4.
#[test]
fn the_bundle_is_a_spiffe_bundle() {
    let home = Home::new();
    let authority = home.create();
    let bundle = authority.bundle();
    let bundle = bundle.as_ref();
    let set: serde_json::Value = serde_json::from_str(&bundle.jwks).unwrap();
    assert_eq!(set["spiffe_sequence"], 1);
    assert_eq!(set["spiffe_refresh_hint"], 300);
    let [jwk] = set["keys"].as_array().unwrap().as_slice() else {
        panic!("one key: {set}");
    };
    assert_eq!(jwk["use"], "x509-svid");
    assert_eq!(jwk["kty"], "EC");
    assert!(jwk.get("kid").is_none());
    assert_eq!(jwk["x5c"].as_array().unwrap().len(), 1);
    assert_eq!(jwk["x"].as_str().unwrap().len(), 43);
    assert_eq!(
        pem::one_certificate(&bundle.pem).unwrap(),
        bundle.roots_der[0]
    );
    let verifier = PeerVerifier::for_bundle(&domain(), &bundle.roots_der).unwrap();
    verifier
        .verify_server(&issue(&authority).chain_der, START)
        .unwrap();
    let key = loaded::read_key(&authority.custody, loaded::ROOT_KEY)
        .unwrap()
        .unwrap();
    assert_eq!(
        authority.pinned_root().0.to_string(),
        sha256_hex(&key.subject_public_key_info())
    );
}

#[test]
fn lifetimes_are_cut_to_the_longest_allowed() {
    let home = Home::new();
    let authority = home.create();
    let key = NewKey::generate().unwrap();
    let end = |ttl: &str| {
        let options = IssueOptions {
            ttl: Some(ttl.parse().unwrap()),
            ..IssueOptions::default()
        };
        let issued = authority
            .issue(&builder(), key.public_key(), &options)
            .unwrap();
        issued.not_after.since(home.clock.now().floor_to_second())
    };
    assert_eq!(end("5m"), HOUR / 12);
    assert_eq!(end("2h"), HOUR);
    // The test does not rotate: the authority's own end comes first, and after it the authority
    // signs nothing.
    home.clock.advance(HOUR * 24 - Duration::from_secs(60));
    assert_eq!(end("1h"), Duration::from_secs(60));
    home.clock.advance(Duration::from_secs(60));
    let refused = authority.issue(&builder(), key.public_key(), &IssueOptions::default());
    assert!(matches!(refused, Err(Error::NoActive(_))), "{refused:?}");
    home.clock.set(START.minus(HOUR));
    let refused = authority.issue(&builder(), key.public_key(), &IssueOptions::default());
    assert!(
        matches!(refused, Err(Error::ClockWentBack { .. })),
        "{refused:?}"
    );
}

#[test]
fn only_brokers_have_server_names() {
    let home = Home::new();
    let authority = home.create();
    let key = NewKey::generate().unwrap();
    let options = IssueOptions {
        ttl: None,
        server_names: ["broker.acme.test", "127.0.0.1", "::1"]
            .map(|it| ServerName::try_from(it).unwrap())
            .to_vec(),
    };
    let node = Identity::Broker("node-1".parse().unwrap());
    let issued = authority.issue(&node, key.public_key(), &options).unwrap();
    let leaf = webpki::EndEntityCert::try_from(&issued.chain_der[0]).unwrap();
    for name in &options.server_names {
        leaf.verify_is_valid_for_subject_name(name).unwrap();
    }
    let refused = authority.issue(&builder(), key.public_key(), &options);
    assert!(matches!(refused, Err(Error::ServerNames(_))), "{refused:?}");
}

#[test]
fn operators_are_signed_by_the_root_and_outlive_issuing_authorities() {
    let home = Home::new();
    let authority = home.create();
    let key = NewKey::generate().unwrap();
    let admin = "admin".parse().unwrap();
    let issued = authority.issue_operator(&admin, key.public_key()).unwrap();
    assert_eq!(issued.chain_der.len(), 1);
    home.clock.advance(HOUR * 24 * 29);
    authority.rotate().unwrap();
    assert!(is_accepted(&authority, &issued, home.clock.now()));
    home.clock.advance(HOUR * 24 * 2);
    assert!(!is_accepted(&authority, &issued, home.clock.now()));
}

#[test]
fn serial_numbers_are_positive_and_never_repeat() {
    let home = Home::new();
    let authority = home.create();
    let key = NewKey::generate().unwrap();
    let mut seen = HashSet::new();
    for _ in 0..500 {
        let issued = authority
            .issue(&builder(), key.public_key(), &IssueOptions::default())
            .unwrap();
        assert!(u128::from_str_radix(&issued.serial, 16).unwrap() < 1 << 127);
        assert!(
            seen.insert(issued.serial),
            "the same key again must not repeat a serial"
        );
    }
}

#[derive(Debug)]
struct Zeros;

impl Entropy for Zeros {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), EntropyError> {
        bytes.fill(0);
        Ok(())
    }
}

#[test]
fn a_random_source_that_gives_zeros_signs_nothing() {
    let home = Home::new();
    drop(home.create());
    let (clock, entropy) = (home.clock.clone(), Arc::new(Zeros));
    let authority = Authority::open(&home.dir, deps(domain(), clock, entropy)).unwrap();
    let key = NewKey::generate().unwrap();
    let refused = authority.issue(&builder(), key.public_key(), &IssueOptions::default());
    assert!(matches!(refused, Err(Error::Entropy(_))), "{refused:?}");
}

#[test]
fn a_directory_holds_one_authority_of_one_trust_domain() {
    let home = Home::new();
    assert!(matches!(home.try_open(), Err(Error::Missing(_))));
    drop(home.create());
    assert!(matches!(home.try_create(), Err(Error::Exists(_))));
    let other = "other.test".parse().unwrap();
    let (clock, entropy) = (home.clock.clone(), home.entropy.clone());
    let refused = Authority::open(&home.dir, deps(other, clock, entropy));
    assert!(matches!(refused, Err(Error::Damaged { .. })), "{refused:?}");
}

#[test]
fn exposed_and_damaged_files_are_refused_with_their_names() {
    let home = Home::new();
    let authority = home.create();
    let issuing = format!("issuing-{}", authority.authorities()[0].serial);
    drop(authority);
    let refusal = |home: &Home| home.try_open().map(|_| ()).unwrap_err().to_string();
    for name in ["root.key".to_owned(), format!("{issuing}.key")] {
        let path = home.dir.join(&name);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let message = refusal(&home);
        assert!(
            message.contains("chmod 600") && message.contains(&name),
            "{message}"
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();

        let content = fs::read(&path).unwrap();
        let foreign = NewKey::generate().unwrap().private_key_pem();
        for bad in ["", "x", foreign.expose()] {
            fs::write(&path, bad).unwrap();
            let stem = name.trim_end_matches(".key");
            assert!(refusal(&home).contains(stem), "{bad:?}");
        }
        fs::write(&path, content).unwrap();
    }
    for name in [
        "root.pem".to_owned(),
        format!("{issuing}.pem"),
        "state.json".to_owned(),
    ] {
        let path = home.dir.join(&name);
        let content = fs::read(&path).unwrap();
        fs::write(&path, "{}").unwrap();
        assert!(refusal(&home).contains(&name));
        fs::write(&path, content).unwrap();
    }
    home.open();
}

#[test]
fn lifetimes_that_do_not_fit_are_refused() {
    let ttl = |text: &str| text.parse::<Ttl>().unwrap();
    let year = HOUR * 24 * 365;
    let message = Config::new(ttl("5h"), ttl("24h"), year)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("`5h`") && message.contains("14400s"),
        "{message}"
    );
    assert!(Config::new(ttl("4h"), ttl("24h"), year).is_ok());
    assert!(Config::new(ttl("1h"), ttl("24h"), HOUR).is_err());
}

#[test]
fn debug_shows_no_key() {
    let home = Home::new();
    let authority = home.create();
    let key = NewKey::generate().unwrap();
    let shown = format!("{authority:?} {key:?}");
    let secret = key.private_key_pem();
    assert!(
        secret
            .expose()
            .lines()
            .nth(1)
            .is_some_and(|line| !shown.contains(line))
    );
    assert!(key.pair().sign(b"x").is_ok());
}

/// A measure, not a check: run with `--release -- --nocapture measure`.
#[test]
fn measure_issue_rate() {
    let home = Home::new();
    let authority = home.create();
    let csr = NewKey::generate().unwrap().csr_der().unwrap();
    let rounds = if cfg!(debug_assertions) { 20 } else { 20_000 };
    let started = std::time::Instant::now();
    let key = PublicKey::from_csr(&csr).unwrap();
    for _ in 0..rounds {
        let issued = authority.issue(&builder(), &key, &IssueOptions::default());
        assert!(issued.is_ok());
    }
    let issue = started.elapsed();
    for _ in 0..rounds {
        assert!(PublicKey::from_csr(&csr).is_ok());
    }
    let both = started.elapsed();
    let chain = issue_if_possible(&authority).unwrap().chain_der;
    for _ in 0..rounds {
        assert!(
            authority
                .peer_verifier()
                .verify_client(&chain, START)
                .is_ok()
        );
    }
    let all = started.elapsed();
    println!(
        "per operation: issue {:?}, request {:?}, verify {:?}",
        issue / rounds,
        (both - issue) / rounds,
        (all - both) / rounds
    );
}
