//! Chains that peers present. The first byte chooses the verifier, and whether the leaf is taken as
//! it is or signed by a trusted authority.

use rcgen::SigningKey as _;
use rustls_pki_types::CertificateDer;
use taskpass_ca::{PeerIdentity, PeerVerifier};
use x509_parser::{extensions::GeneralName, prelude::*};

use crate::{der, fixtures, input, wording};

pub(crate) fn run(data: &[u8]) {
    let (how, rest) = input::choice(data);
    let fixed = fixtures::authorities();
    let mut chain: Vec<CertificateDer<'static>> = input::parts(rest)
        .into_iter()
        .map(|part| part.to_vec().into())
        .collect();
    if how & 1 == 1
        && let Some(leaf) = chain.first_mut()
    {
        *leaf = sign(leaf).into();
        chain.insert(1, fixed.issuing.clone());
    }
    let domain = fixtures::trust_domain();
    let issuers = std::slice::from_ref(&fixed.issuing);
    let by_issuer = PeerVerifier::for_issuers(&domain, issuers).expect("a verifier");
    let by_root =
        PeerVerifier::for_bundle(&domain, std::slice::from_ref(&fixed.root)).expect("a verifier");
    let verifier = if how & 2 == 0 { &by_issuer } else { &by_root };
    let verify = |verifier: &PeerVerifier| {
        if how & 4 == 0 {
            verifier.verify_client(&chain, fixtures::now())
        } else {
            verifier.verify_server(&chain, fixtures::now())
        }
    };
    match verify(verifier) {
        Ok(peer) => {
            let leaf = chain.first().expect("one was accepted");
            follows_the_standard(leaf, &peer);
            // A verifier that knows only the root must accept no peer that the broker's own issuers
            // refuse.
            assert_eq!(verify(&by_issuer).as_ref(), Ok(&peer));
        }
        Err(error) => wording::one_line_each(&error, 400),
    }
    // The same bytes as a bundle of trusted authorities.
    if let Err(error) = PeerVerifier::for_bundle(&domain, &chain) {
        wording::one_line_each(&error, 400);
    }
}

/// A certificate over these bytes, signed by the issuing authority.
pub(crate) fn sign(content: &[u8]) -> Vec<u8> {
    let signature = fixtures::authorities()
        .issuing_key
        .sign(content)
        .expect("a signature");
    der::signed(content, &signature)
}

/// Asserts X509-SVID.md sections 2 and 4, as far as the leaf shows them.
fn follows_the_standard(leaf: &[u8], peer: &PeerIdentity) {
    let now = fixtures::now();
    let id = peer.identity.spiffe_id(&fixtures::trust_domain());
    assert_eq!(id.as_ref(), Ok(&peer.spiffe_id));
    assert!(peer.not_after >= now);
    let is_hex = |text: &str| {
        text.bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    assert!(peer.serial.len() == 32 && is_hex(&peer.serial));
    assert!(peer.key_sha256.len() == 64 && is_hex(&peer.key_sha256));

    let (rest, certificate) = X509Certificate::from_der(leaf).expect("X.509");
    assert!(rest.is_empty());
    let uris: Vec<&str> = certificate
        .extensions()
        .iter()
        .filter_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => Some(names),
            _ => None,
        })
        .flat_map(|names| &names.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    assert_eq!(uris, [peer.spiffe_id.as_str()]);
    assert!(!certificate.is_ca());
    let usage = certificate
        .key_usage()
        .expect("readable")
        .expect("a key usage");
    assert!(usage.critical && usage.value.digital_signature());
    assert!(!usage.value.key_cert_sign() && !usage.value.crl_sign());
    assert!(certificate.validity().not_before.timestamp() <= now.seconds());
}
