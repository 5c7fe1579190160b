use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose as Eku, IsCa, Issuer, KeyPair, KeyUsagePurpose as Ku, SanType,
    SerialNumber,
};

use super::*;

const NOW: Timestamp = Timestamp::from_millis(1_760_000_000_000);
const HOUR: Duration = Duration::from_secs(3600);
const BUILDER: &str = "spiffe://acme.test/agent/builder";

fn domain() -> TrustDomain {
    "acme.test".parse().unwrap()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// A certificate authority made for the test, with its certificate.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = NOW.minus(HOUR).to_offset_date_time();
    params.not_after = NOW.plus(HOUR * 24).to_offset_date_time();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![Ku::KeyCertSign, Ku::CrlSign];
    params
}

fn root(name: &str) -> Ca {
    let (params, key) = (ca_params(name), KeyPair::generate().unwrap());
    let der = params.self_signed(&key).unwrap().der().clone();
    Ca {
        issuer: Issuer::new(params, key),
        der,
    }
}

fn below(parent: &Ca, params: CertificateParams) -> Ca {
    let key = KeyPair::generate().unwrap();
    let der = params
        .signed_by(&key, &parent.issuer)
        .unwrap()
        .der()
        .clone();
    Ca {
        issuer: Issuer::new(params, key),
        der,
    }
}

fn leaf_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = NOW.minus(HOUR).to_offset_date_time();
    params.not_after = NOW.plus(HOUR).to_offset_date_time();
    params.subject_alt_names = vec![uri(BUILDER)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![Ku::DigitalSignature];
    params.extended_key_usages = vec![Eku::ServerAuth, Eku::ClientAuth];
    params.serial_number = Some(SerialNumber::from_slice(&[1, 2, 3]));
    params
}

fn sign(params: &CertificateParams, ca: &Ca) -> CertificateDer<'static> {
    let key = KeyPair::generate().unwrap();
    params.signed_by(&key, &ca.issuer).unwrap().der().clone()
}

fn verifier(issuers: &[&Ca]) -> PeerVerifier {
    let issuers: Vec<_> = issuers.iter().map(|ca| ca.der.clone()).collect();
    PeerVerifier::for_issuers(&domain(), &issuers).unwrap()
}

fn with(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = leaf_params();
    change(&mut params);
    params
}

#[test]
fn a_good_svid_is_accepted_and_names_its_holder() {
    let ca = root("issuing");
    let leaf = sign(&leaf_params(), &ca);
    let peer = verifier(&[&ca])
        .verify_client(&[leaf.clone(), ca.der.clone()], NOW)
        .unwrap();
    assert_eq!(peer.spiffe_id.as_str(), BUILDER);
    assert_eq!(peer.identity.agent().unwrap().as_str(), "builder");
    assert_eq!(peer.serial, "00000000000000000000000000010203");
    assert_eq!(peer.not_after, NOW.plus(HOUR));
    assert_eq!(peer.key_sha256.len(), 64);
    // A named subject makes critical names optional; other kinds of names beside the URI are
    // fine.
    for good in [
        with(|it| it.distinguished_name.push(DnType::CommonName, "builder")),
        with(|it| {
            it.subject_alt_names
                .push(SanType::DnsName("a.test".try_into().unwrap()))
        }),
        with(|it| it.extended_key_usages.clear()),
        with(|it| it.key_usages.push(Ku::KeyAgreement)),
    ] {
        let accepted = verifier(&[&ca]).verify_client(&[sign(&good, &ca)], NOW);
        assert!(accepted.is_ok(), "{accepted:?}");
    }
}

fn is_rule(error: &PeerError, rule: &str) -> bool {
    match error {
        PeerError::Rule(number, _) => *number == rule,
        PeerError::Name(_) => rule == "name",
        PeerError::Malformed(_) => rule == "malformed",
        PeerError::Untrusted(_) => rule == "untrusted",
        PeerError::Expired(_) => rule == "expired",
        PeerError::NotYetValid(_) => rule == "early",
        PeerError::CertificateTooLarge(_) => rule == "large",
        _ => false,
    }
}

fn extension(oid: &[u64], content: &[u8]) -> CustomExtension {
    CustomExtension::from_oid_content(oid, content.to_vec())
}

const OID_BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
const OID_KEY_USAGE: &[u64] = &[2, 5, 29, 15];
const OID_NAMES: &[u64] = &[2, 5, 29, 17];

/// each of these differs from a good certificate in one
/// point.
#[test]
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn certificates_that_break_a_rule_are_refused_for_that_reason() {
    let ca = root("issuing");
    let accept = verifier(&[&ca]);
    let names = |uris: &[&str]| {
        let uris: Vec<_> = uris.iter().map(|text| uri(text)).collect();
        with(|it| it.subject_alt_names = uris)
    };
    let not_critical = {
        // An alternative name that is not critical, beside an empty subject.
        let name = [&[0x30, 34, 0x86, 32][..], BUILDER.as_bytes()].concat();
        with(|it| {
            it.subject_alt_names.clear();
            it.custom_extensions.push(extension(OID_NAMES, &name));
        })
    };
    let long = format!("spiffe://acme.test/agent/{}", "a".repeat(2048));
    for (rule, what, params) in [
        ("X-1", "no names", names(&[])),
        (
            "X-1",
            "two URIs",
            names(&[BUILDER, "spiffe://acme.test/agent/other"]),
        ),
        (
            "X-1",
            "a DNS name only",
            with(|it| {
                it.subject_alt_names = vec![SanType::DnsName("a.test".try_into().unwrap())];
            }),
        ),
        ("X-2", "names not critical", not_critical),
        ("name", "X-3: no path", names(&["spiffe://acme.test"])),
        (
            "name",
            "X-10: another scheme",
            names(&["https://acme.test/agent/builder"]),
        ),
        (
            "name",
            "X-9: another trust domain",
            names(&["spiffe://other.test/agent/builder"]),
        ),
        (
            "name",
            "upper case",
            names(&["spiffe://ACME.test/agent/builder"]),
        ),
        (
            "name",
            "not a form of ours",
            names(&["spiffe://acme.test/admin"]),
        ),
        ("name", "X-11: a long URI", names(&[&long])),
        (
            "X-4",
            "cA",
            with(|it| it.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ),
        ("X-5", "no key usage", with(|it| it.key_usages.clear())),
        (
            "X-5",
            "keyCertSign",
            with(|it| it.key_usages.push(Ku::KeyCertSign)),
        ),
        ("X-5", "cRLSign", with(|it| it.key_usages.push(Ku::CrlSign))),
        (
            "X-5",
            "no digitalSignature",
            with(|it| it.key_usages = vec![Ku::KeyAgreement]),
        ),
        (
            "X-5",
            "key usage not critical",
            with(|it| {
                it.key_usages.clear();
                it.custom_extensions
                    .push(extension(OID_KEY_USAGE, &[3, 2, 7, 0x80]));
            }),
        ),
        (
            "X-6",
            "client only",
            with(|it| it.extended_key_usages = vec![Eku::ClientAuth]),
        ),
        (
            "X-6",
            "neither",
            with(|it| it.extended_key_usages = vec![Eku::CodeSigning]),
        ),
        (
            "X-11",
            "many names",
            with(|it| {
                let dns = |n| SanType::DnsName(format!("n{n}.test").try_into().unwrap());
                it.subject_alt_names.extend((0..32).map(dns));
            }),
        ),
        (
            "malformed",
            "X-10: constraints unreadable",
            with(|it| {
                it.is_ca = IsCa::NoCa;
                it.custom_extensions
                    .push(extension(OID_BASIC_CONSTRAINTS, &[4, 1, 0]));
            }),
        ),
        (
            "malformed",
            "X-10: usage unreadable",
            with(|it| {
                it.key_usages.clear();
                it.custom_extensions
                    .push(extension(OID_KEY_USAGE, &[4, 1, 0x80]));
            }),
        ),
        (
            "malformed",
            "key usage twice",
            with(|it| {
                it.custom_extensions
                    .push(extension(OID_KEY_USAGE, &[3, 2, 7, 0x80]));
            }),
        ),
        (
            "malformed",
            "serial number too long",
            with(|it| {
                it.serial_number = Some(SerialNumber::from_slice(&[1; 17]));
            }),
        ),
        (
            "large",
            "X-11: a large extension",
            with(|it| {
                it.custom_extensions.push(extension(
                    &[1, 2, 3],
                    &[&[4, 0x82, 0x20, 0][..], &[0; 8192]].concat(),
                ));
            }),
        ),
        (
            "untrusted",
            "an unknown critical extension",
            with(|it| {
                let mut unknown = extension(&[1, 2, 3], &[5, 0]);
                unknown.set_criticality(true);
                it.custom_extensions.push(unknown);
            }),
        ),
        (
            "expired",
            "past its end",
            with(|it| {
                it.not_after = NOW.minus(HOUR / 2).to_offset_date_time();
            }),
        ),
        (
            "early",
            "before its start",
            with(|it| {
                it.not_before = NOW.plus(HOUR / 2).to_offset_date_time();
            }),
        ),
    ] {
        let refused = accept
            .verify_client(&[sign(&params, &ca)], NOW)
            .unwrap_err();
        assert!(is_rule(&refused, rule), "{what}: {refused}");
        assert!(accept.verify_server(&[sign(&params, &ca)], NOW).is_err());
    }
}

/// only our own authorities count, and only while they are valid.
#[test]
fn strangers_and_ended_authorities_are_refused() {
    let (ours, theirs) = (root("issuing"), root("issuing"));
    let leaf = sign(&leaf_params(), &theirs);
    let refused = verifier(&[&ours]).verify_client(&[leaf.clone(), theirs.der.clone()], NOW);
    assert!(
        matches!(refused, Err(PeerError::Untrusted(_))),
        "{refused:?}"
    );
    assert!(
        verifier(&[])
            .verify_client(std::slice::from_ref(&leaf), NOW)
            .is_err()
    );

    let mut params = ca_params("ended");
    params.not_after = NOW.minus(HOUR / 2).to_offset_date_time();
    let ended = below(&ours, params);
    let late = sign(&leaf_params(), &ended);
    let refused = verifier(&[&ended]).verify_client(&[late], NOW);
    assert!(
        matches!(refused, Err(PeerError::Untrusted(_))),
        "{refused:?}"
    );

    // A leaf cannot sign, even when it is signed by us.
    let key = KeyPair::generate().unwrap();
    let middle = leaf_params()
        .signed_by(&key, &ours.issuer)
        .unwrap()
        .der()
        .clone();
    let below_leaf = Ca {
        issuer: Issuer::new(leaf_params(), key),
        der: middle,
    };
    let forged = sign(&leaf_params(), &below_leaf);
    let chain = [forged, below_leaf.der];
    let roots = [ours.der.clone()];
    assert!(verifier(&[&ours]).verify_client(&chain, NOW).is_err());
    let client = PeerVerifier::for_bundle(&domain(), &roots).unwrap();
    assert!(client.verify_server(&chain, NOW).is_err());
}

/// an intermediate that the peer sends along extends nothing at the broker, while a client
/// with the roots only needs it.
#[test]
fn an_authority_that_was_removed_gains_nothing_from_being_sent_along() {
    let root = root("root");
    let kept = below(&root, ca_params("kept"));
    let removed = below(&root, ca_params("removed"));
    let from = |ca: &Ca| [sign(&leaf_params(), ca), ca.der.clone()];
    let broker = verifier(&[&root, &kept]);
    broker.verify_client(&from(&kept), NOW).unwrap();
    broker
        .verify_client(&[sign(&leaf_params(), &root)], NOW)
        .unwrap();
    let refused = broker.verify_client(&from(&removed), NOW);
    assert!(
        matches!(refused, Err(PeerError::Untrusted(_))),
        "{refused:?}"
    );

    let client = PeerVerifier::for_bundle(&domain(), std::slice::from_ref(&root.der)).unwrap();
    client.verify_server(&from(&kept), NOW).unwrap();
    assert!(
        client
            .verify_server(&[sign(&leaf_params(), &kept)], NOW)
            .is_err()
    );
    // An issuing authority of path length 0 has no authorities below it.
    let mut params = ca_params("issuing");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let issuing = below(&root, params);
    let sub = below(&issuing, ca_params("sub"));
    let chain = [
        sign(&leaf_params(), &sub),
        sub.der.clone(),
        issuing.der.clone(),
    ];
    assert!(client.verify_server(&chain, NOW).is_err());
}

///
#[test]
fn chains_are_bounded_and_garbage_is_refused() {
    let ca = root("issuing");
    let leaf = sign(&leaf_params(), &ca);
    let accept = verifier(&[&ca]);
    assert_eq!(
        accept.verify_client(&[], NOW),
        Err(PeerError::NoCertificate)
    );
    let chain = |extra: usize| [vec![leaf.clone()], vec![ca.der.clone(); extra]].concat();
    accept.verify_client(&chain(3), NOW).unwrap();
    assert_eq!(
        accept.verify_client(&chain(4), NOW),
        Err(PeerError::ChainTooLong(5))
    );
    let large = CertificateDer::from(vec![0x30; 8193]);
    let refused = accept.verify_client(&[leaf.clone(), large], NOW);
    assert_eq!(refused, Err(PeerError::CertificateTooLarge(8193)));
    for cut in 0..leaf.len() {
        let part = CertificateDer::from(leaf[..cut].to_vec());
        assert!(accept.verify_client(&[part], NOW).is_err());
    }
    let mut more = leaf.to_vec();
    more.push(0);
    let refused = accept.verify_client(&[CertificateDer::from(more)], NOW);
    assert!(
        matches!(refused, Err(PeerError::Malformed(_))),
        "{refused:?}"
    );
}
