//! TLS 1.3 towards the broker: the roots to trust, and the certificate to show.
//!
//! A broker is known by its SPIFFE ID, `spiffe://<trust domain>/broker/<node>`, never by a host
//! name. Before the first login the client knows only the root's fingerprint from the join token
//! ([`Trust::Pin`]); afterwards it has the bundle. Sessions are not resumed, so every connection is
//! verified in full.
//!
//! A broker sends the roots of its bundle after its own certificate. A client that knows other
//! roots, or that has an identity under another root than the broker's own, renews: the answer
//! brings the new bundle. The chain alone changes nothing here.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use ring::digest::{SHA256, digest};
use rustls::{
    CertificateError, DigitallySignedStruct, OtherError, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls13_signature},
    time_provider::TimeProvider,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use taskpass_core::{Clock, Identity, Timestamp, TrustDomain, with_sources};
use taskpass_spiffe_verify::PeerVerifier;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{
    Error,
    svid::{Leaf, Svid},
};

/// How the broker proves itself.
#[derive(Debug, Clone)]
pub(crate) enum Trust {
    /// Any broker of the trust domain with a chain that ends at one of the roots.
    Bundle {
        domain: TrustDomain,
        roots: Vec<CertificateDer<'static>>,
    },
    /// Any broker that sends its chain with a root above it, where SHA-256 of the root's
    /// SubjectPublicKeyInfo is this. While a root is replaced, the broker sends both.
    Pin([u8; 32]),
}

/// Why the server does not count as the broker.
#[derive(Debug, thiserror::Error)]
enum Rejection {
    #[error("its root is not the one that the join token names")]
    OtherRoot,
    #[error("it sent no root certificate to compare with the join token")]
    NoRoot,
    #[error("{0}")]
    Malformed(String),
    #[error("it proved to be `{0}`, which is not a broker")]
    NotABroker(String),
    #[error("{0}")]
    Peer(String),
}

/// Whether the roots have moved on since the identity and its bundle were stored. Each handshake of
/// a link says what the broker shows.
#[derive(Debug, Default)]
pub(crate) struct Behind {
    /// What the last handshake showed, where it differs from what the identity has.
    other: ArcSwapOption<Shown>,
    /// What the broker showed when it confirmed the identity.
    renewed_at: ArcSwapOption<Shown>,
}

/// The keys of the roots that a broker sends, and the name of the root that it hangs on itself.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    roots: BTreeSet<[u8; 32]>,
    own_root: Option<Vec<u8>>,
}

impl Behind {
    /// As the last handshake found it. A broker that still shows what it showed at the renewal has
    /// nothing new to give.
    pub(crate) fn get(&self) -> bool {
        let other = self.other.load();
        other.is_some() && *other != *self.renewed_at.load()
    }

    /// Notes that the identity was renewed while the broker showed this.
    pub(crate) fn renewed(&self) {
        self.renewed_at.store(self.other.load_full());
    }

    fn note(&self, other: Option<Shown>) {
        self.other.store(other.map(Arc::new));
    }
}

/// The TLS configuration of one identity, or of none yet.
pub(crate) struct Tls {
    pub(crate) config: Arc<rustls::ClientConfig>,
    pub(crate) behind: Arc<Behind>,
}

/// Makes the TLS configuration of one identity, or of none yet.
pub(crate) fn client_config(
    trust: Trust,
    identity: Option<&Svid>,
    clock: Arc<dyn Clock>,
) -> Result<Tls, Error> {
    let crypto = |e: rustls::Error| Error::Crypto(e.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let behind = Arc::new(Behind::default());
    let verifier = BrokerVerifier {
        trust,
        own_root: identity.and_then(|svid| issuer_of(svid.chain.last()?)),
        behind: Arc::clone(&behind),
        provider: Arc::clone(&provider),
    };
    let builder = rustls::ClientConfig::builder_with_details(provider, Arc::new(OurTime(clock)))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(crypto)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(svid) => builder
            .with_client_auth_cert(
                svid.chain.clone(),
                PrivatePkcs8KeyDer::from(svid.key.expose().to_vec()).into(),
            )
            .map_err(crypto)?,
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    // The name in the ClientHello would be a host name, which proves nothing here.
    config.enable_sni = false;
    Ok(Tls {
        config: Arc::new(config),
        behind,
    })
}

/// Why a handshake failed, when it failed because of the server.
pub(crate) fn rejection(error: &std::io::Error) -> Option<String> {
    let tls: &rustls::Error = error.get_ref()?.downcast_ref()?;
    match tls {
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => {
            Some(other.0.to_string())
        }
        rustls::Error::InvalidCertificate(other) => Some(format!("{other:?}")),
        rustls::Error::NoCertificatesPresented => Some("it sent no certificate".to_owned()),
        _ => None,
    }
}

#[derive(Debug)]
struct BrokerVerifier {
    trust: Trust,
    /// The name of the root that our identity hangs on.
    own_root: Option<Vec<u8>>,
    behind: Arc<Behind>,
    provider: Arc<CryptoProvider>,
}

impl BrokerVerifier {
    fn check(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<(), Rejection> {
        let verifier = match &self.trust {
            Trust::Bundle { domain, roots } => PeerVerifier::for_bundle(domain, roots),
            Trust::Pin(pin) => {
                let [leaf, above @ ..] = chain else {
                    return Err(Rejection::NoRoot);
                };
                let root = pinned(above, pin)?;
                // The name is not trusted yet: the path from the pinned root to the leaf is
                // validated below.
                let leaf = Leaf::parse(leaf).map_err(Rejection::Malformed)?;
                PeerVerifier::for_bundle(&leaf.trust_domain, std::slice::from_ref(root))
            }
        };
        let peer = verifier
            .and_then(|v| v.verify_server(chain, now))
            .map_err(|e| Rejection::Peer(with_sources(&e)))?;
        match peer.identity {
            Identity::Broker(_) => {}
            _ => return Err(Rejection::NotABroker(peer.spiffe_id.to_string())),
        }
        if let Trust::Bundle { roots, .. } = &self.trust {
            self.behind.note(self.other_than_ours(chain, roots)?);
        }
        Ok(())
    }

    /// Compares the roots that the broker sends with ours. An attacker cannot send others: the
    /// chain is part of the handshake that the broker's key signs.
    fn other_than_ours(
        &self,
        chain: &[CertificateDer<'_>],
        roots: &[CertificateDer<'_>],
    ) -> Result<Option<Shown>, Rejection> {
        let [_leaf, issuing, sent @ ..] = chain else {
            return Ok(None);
        };
        if sent.is_empty() {
            return Ok(None);
        }
        let keys = |certificates: &[CertificateDer<'_>]| {
            let keys = certificates.iter().map(public_key_digest);
            keys.collect::<Result<BTreeSet<_>, _>>()
        };
        let shown = Shown {
            roots: keys(sent)?,
            own_root: issuer_of(issuing),
        };
        let under_other_root = self.own_root.is_some() && shown.own_root != self.own_root;
        let is_other = under_other_root || shown.roots != keys(roots)?;
        Ok(is_other.then_some(shown))
    }
}

/// The pinned root among the certificates above the leaf.
fn pinned<'a, 'b>(
    above: &'a [CertificateDer<'b>],
    pin: &[u8; 32],
) -> Result<&'a CertificateDer<'b>, Rejection> {
    if above.is_empty() {
        return Err(Rejection::NoRoot);
    }
    for root in above.iter().rev() {
        if public_key_digest(root)? == *pin {
            return Ok(root);
        }
    }
    Err(Rejection::OtherRoot)
}

/// The name of a certificate's issuer, DER.
fn issuer_of(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.issuer().as_raw().to_vec())
}

impl ServerCertVerifier for BrokerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain: Vec<CertificateDer<'_>> = std::iter::once(end_entity)
            .chain(intermediates)
            .cloned()
            .collect();
        let millis = i64::try_from(now.as_secs().saturating_mul(1000)).unwrap_or(i64::MAX);
        match self.check(&chain, Timestamp::from_millis(millis)) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(why) => Err(rustls::Error::InvalidCertificate(CertificateError::Other(
                OtherError(Arc::new(why)),
            ))),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// SHA-256 of a certificate's SubjectPublicKeyInfo, which a join token pins.
pub(crate) fn root_pin(root: &CertificateDer<'_>) -> Result<[u8; 32], Error> {
    public_key_digest(root).map_err(|e| Error::Reply(e.to_string()))
}

fn public_key_digest(certificate: &CertificateDer<'_>) -> Result<[u8; 32], Rejection> {
    let (_, parsed) = X509Certificate::from_der(certificate)
        .map_err(|e| Rejection::Malformed(format!("its root cannot be read: {e}")))?;
    <[u8; 32]>::try_from(digest(&SHA256, parsed.public_key().raw).as_ref())
        .map_err(|e| Rejection::Malformed(e.to_string()))
}

/// The configured clock, as rustls asks for it.
#[derive(Debug)]
struct OurTime(Arc<dyn Clock>);

impl TimeProvider for OurTime {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now().seconds()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process lives on one link for weeks, and the broker's roots move on meanwhile.
    #[test]
    fn a_renewal_hides_only_the_roots_that_it_saw() {
        let shown = |root: u8| Shown {
            roots: BTreeSet::from([[root; 32]]),
            own_root: None,
        };
        let behind = Behind::default();
        behind.renewed();
        assert!(!behind.get());
        behind.note(Some(shown(1)));
        assert!(behind.get());
        // The answer to the renewal brought the same bundle.
        behind.renewed();
        behind.note(Some(shown(1)));
        assert!(!behind.get(), "a second renewal would bring nothing new");
        behind.note(Some(shown(2)));
        assert!(behind.get(), "another root appeared after the renewal");
        behind.note(None);
        assert!(!behind.get());
    }
}
