//! Client certificates, most of them signed by the installation's own issuing authority. Each has
//! exactly one fault, which its row names.

use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CustomExtension, IsCa, KeyUsagePurpose, SanType};
use taskpass_core::{Clock, SystemClock, Timestamp};
use taskpass_proto::v1 as pb;
use taskpass_tests::{
    Installation,
    wire::{Certificate, Forger, Wire, resumes, try_connect, uri},
};
use tonic::Code;

use super::{Bystander, WHO_AM_I, peak_memory};

const BUILDER: &str = "spiffe://acme.test/agent/builder";
const ADMIN: &str = "spiffe://acme.test/operator/admin";
const HOUR: Duration = Duration::from_secs(3600);

/// A class, how the handshake ends, and the client's certificate.
type Row = (&'static str, &'static str, Certificate);

fn in_one_hour() -> Timestamp {
    SystemClock::new().now().plus(HOUR)
}

fn one_hour_ago() -> Timestamp {
    SystemClock::new().now().minus(HOUR)
}

/// An unknown extension with so many bytes.
fn filler(params: &mut CertificateParams, bytes: usize) {
    let content = vec![0; bytes];
    let extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], content);
    params.custom_extensions.push(extension);
}

fn named(names: &[&str]) -> impl FnOnce(&mut CertificateParams) {
    let names = names.iter().map(|name| uri(name)).collect();
    move |params| params.subject_alt_names = names
}

/// Rules of the SPIFFE standard, signed by our own authority.
fn of_our_authority(ours: &Forger) -> Vec<Row> {
    let leaf = |change: fn(&mut CertificateParams)| ours.leaf(BUILDER, change);
    let with_names = |names: &[&str]| ours.leaf(BUILDER, named(names));
    vec![
        (
            "CA bit",
            "AccessDenied",
            leaf(|it| it.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ),
        (
            "CA bit without a path",
            "AccessDenied",
            leaf(|it| it.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))),
        ),
        (
            "may sign certificates",
            "AccessDenied",
            leaf(|it| it.key_usages.push(KeyUsagePurpose::KeyCertSign)),
        ),
        (
            "may sign revocation lists",
            "AccessDenied",
            leaf(|it| it.key_usages.push(KeyUsagePurpose::CrlSign)),
        ),
        (
            "the authority's own certificate",
            "AccessDenied",
            ours.itself(),
        ),
        (
            "two names, the second an operator's",
            "AccessDenied",
            with_names(&[BUILDER, ADMIN]),
        ),
        (
            "two names, the first an operator's",
            "AccessDenied",
            with_names(&[ADMIN, BUILDER]),
        ),
        (
            "the same name twice",
            "AccessDenied",
            with_names(&[BUILDER, BUILDER]),
        ),
        ("no name", "AccessDenied", with_names(&[])),
        (
            "a host name only",
            "AccessDenied",
            leaf(|it| {
                it.subject_alt_names =
                    vec![SanType::DnsName("acme.test".try_into().expect("a name"))];
            }),
        ),
        (
            "a foreign trust domain by our authority",
            "AccessDenied",
            with_names(&["spiffe://evil.test/agent/builder"]),
        ),
        (
            "a trust domain that begins like ours",
            "AccessDenied",
            with_names(&["spiffe://acme.test.evil.test/agent/builder"]),
        ),
        (
            "our trust domain in capitals",
            "AccessDenied",
            with_names(&["spiffe://ACME.test/agent/builder"]),
        ),
        (
            "a name with a query",
            "AccessDenied",
            with_names(&["spiffe://acme.test/agent/builder?as=admin"]),
        ),
        (
            "a name with dots",
            "AccessDenied",
            with_names(&["spiffe://acme.test/agent/../operator/admin"]),
        ),
        (
            "the name of the trust domain itself",
            "AccessDenied",
            with_names(&["spiffe://acme.test"]),
        ),
        (
            "a name of 2 KiB",
            "AccessDenied",
            with_names(&[&format!("spiffe://acme.test/agent/{}", "a".repeat(2048))]),
        ),
        (
            "expired",
            "CertificateExpired",
            leaf(|it| it.not_after = one_hour_ago().to_offset_date_time()),
        ),
        (
            "not yet valid",
            "CertificateExpired",
            leaf(|it| it.not_before = in_one_hour().to_offset_date_time()),
        ),
        (
            "an unknown critical extension",
            "UnknownCA",
            leaf(|it| {
                let oid = &[1, 3, 6, 1, 4, 1, 99_999, 2];
                let mut unknown = CustomExtension::from_oid_content(oid, vec![5, 0]);
                unknown.set_criticality(true);
                it.custom_extensions.push(unknown);
            }),
        ),
    ]
}

/// Certificates by other authorities, and oversized ones.
fn of_others(ours: &Forger) -> Vec<Row> {
    let untrusted = Forger::untrusted();
    let agent = ours.agent_that_signs(BUILDER);
    let signed_by_an_agent = agent
        .leaf(ADMIN, |_| ())
        .followed_by([ours.itself().leaf().clone()]);
    let more = |count: usize| vec![ours.itself().leaf().clone(); count];
    let padded = untrusted
        .leaf(BUILDER, |it| filler(it, 9000))
        .leaf()
        .clone();
    vec![
        (
            "a foreign trust domain",
            "AccessDenied",
            untrusted.leaf("spiffe://evil.test/agent/builder", |_| ()),
        ),
        (
            "an authority of one's own",
            "UnknownCA",
            untrusted.leaf(BUILDER, |_| ()),
        ),
        (
            "an authority of one's own, ours sent along",
            "UnknownCA",
            untrusted.leaf(BUILDER, |_| ()).followed_by(more(1)),
        ),
        ("signed by an agent", "UnknownCA", signed_by_an_agent),
        (
            "a chain of five",
            "AccessDenied",
            ours.leaf(BUILDER, |_| ()).followed_by(more(3)),
        ),
        (
            "a large certificate sent along",
            "AccessDenied",
            ours.leaf(BUILDER, |_| ()).followed_by([padded]),
        ),
        (
            "9 KB",
            "AccessDenied",
            ours.leaf(BUILDER, |it| filler(it, 9000)),
        ),
        (
            "60 KB",
            "AccessDenied",
            ours.leaf(BUILDER, |it| filler(it, 60_000)),
        ),
    ]
}

#[test]
fn certificates_with_one_thing_wrong_are_refused_in_the_handshake() {
    let installation = Installation::new();
    let broker = installation.start();
    let bystander = Bystander::new(&broker);
    let ours = Forger::with_stolen_key(&installation.home());
    let good = ours.leaf(BUILDER, |_| ());
    try_connect(broker.address(), Some(&good)).expect("nothing is wrong with the template");
    let mut complaints = Vec::new();
    for (class, alert, certificate) in [of_our_authority(&ours), of_others(&ours)].concat() {
        match try_connect(broker.address(), Some(&certificate)) {
            Ok(()) => complaints.push(format!("{class}: it was accepted")),
            Err(e) if e.contains(alert) => {}
            Err(e) => complaints.push(format!("{class}: {e} instead of {alert}")),
        }
        bystander.is_served(class);
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    broker.stop();
}

/// TLS itself ends after 64 KiB of handshake, and bytes after that are never kept.
#[test]
fn certificates_of_ten_megabytes_cost_the_broker_no_memory() {
    const MEGABYTES: usize = 10_000_000;
    let installation = Installation::new();
    let broker = installation.start();
    let bystander = Bystander::new(&broker);
    let ours = Forger::with_stolen_key(&installation.home());
    let one = ours.leaf(BUILDER, |it| filler(it, MEGABYTES));
    let padding = ours.leaf(BUILDER, |it| filler(it, 9000)).leaf().clone();
    let many = ours
        .leaf(BUILDER, |_| ())
        .followed_by(vec![padding; MEGABYTES / 9000]);
    let before = peak_memory(broker.pid());
    for (class, certificate) in [("one of 10 MB", one), ("a thousand of 9 KB", many)] {
        for _ in 0..4 {
            try_connect(broker.address(), Some(&certificate)).expect_err(class);
        }
        bystander.is_served(class);
    }
    let grown = peak_memory(broker.pid()) - before;
    assert!(grown < 8 << 20, "the broker grew by {grown} bytes");
    broker.stop();
}

/// Signed by our authority, but never issued: a finished handshake does not make a caller.
#[test]
fn a_good_signature_is_no_identity() {
    let installation = Installation::new();
    let broker = installation.start();
    let bystander = Bystander::new(&broker);
    let ours = Forger::with_stolen_key(&installation.home());
    for (class, name) in [
        (
            "a serial that is not on record",
            "spiffe://acme.test/agent/bystander",
        ),
        (
            "an agent that is not registered",
            "spiffe://acme.test/agent/ghost",
        ),
        (
            "a task that never was",
            "spiffe://acme.test/agent/bystander/task/t0123456789abcdef",
        ),
        ("a broker", "spiffe://acme.test/broker/node-1"),
    ] {
        let wire = Wire::new(broker.address(), Some(&ours.leaf(name, |_| ())));
        let status = wire
            .ask::<_, pb::WhoAmIResponse>(WHO_AM_I, &pb::WhoAmIRequest {})
            .expect_err(class);
        assert_eq!(status.code(), Code::Unauthenticated, "{class}: {status:?}");
        bystander.is_served(class);
    }
    broker.stop();
}

/// A resumed session would bring back a client that is not verified again.
#[test]
fn sessions_are_not_resumed() {
    let installation = Installation::new();
    let broker = installation.start();
    let bystander = Bystander::new(&broker);
    let agent = Certificate::load(broker.agent("builder").identity());
    assert!(!resumes(broker.address(), &agent), "a session was resumed");
    bystander.is_served("attempts to resume");
    broker.stop();
}
