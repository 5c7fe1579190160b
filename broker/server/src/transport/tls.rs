//! TLS 1.3 as the broker speaks it: no older version, no resumption, no early data, client
//! certificates from our own authorities only.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, ring, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime},
    server::{
        NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    time_provider::TimeProvider,
};
use taskpass_ca::{Authority, PeerError, PeerIdentity};
use taskpass_core::Clock;

/// The broker speaks HTTP/2 only.
pub(super) const ALPN: &[u8] = b"h2";

/// The server's certificate or key cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the server's certificate and key cannot be used for TLS")]
pub struct TlsError(#[source] rustls::Error);

/// The TLS side of the server. Its certificate can be replaced while connections are open.
#[derive(Debug)]
pub struct ServerTls {
    current: ArcSwap<ServerConfig>,
    verifier: Arc<Verifier>,
    provider: Arc<CryptoProvider>,
}

impl ServerTls {
    /// Serves with `chain` (leaf first) and its `key`. Each handshake checks the client against the
    /// authorities that `authority` accepts at that time.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        authority: Arc<Authority>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let verifier = Arc::new(Verifier {
            authority,
            clock,
            provider: Arc::clone(&provider),
        });
        let config = server_config(&provider, &verifier, chain, key)?;
        Ok(Self {
            current: ArcSwap::from_pointee(config),
            verifier,
            provider,
        })
    }

    /// Uses another certificate from the next handshake on. Open connections stay as they are.
    pub fn replace(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<(), TlsError> {
        let config = server_config(&self.provider, &self.verifier, chain, key)?;
        self.current.store(Arc::new(config));
        Ok(())
    }

    /// The configuration for the next handshake.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// The identity of the peer that presented `chain` in a finished handshake; `None` when it
    /// presented nothing.
    pub(super) fn identify(
        &self,
        chain: Option<&[CertificateDer<'_>]>,
    ) -> Result<Option<PeerIdentity>, PeerError> {
        chain.map(|chain| self.verifier.verify(chain)).transpose()
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.verifier.clock
    }
}

fn server_config(
    provider: &Arc<CryptoProvider>,
    verifier: &Arc<Verifier>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, TlsError> {
    let time = Arc::new(InjectedTime(Arc::clone(&verifier.clock)));
    let verifier: Arc<dyn ClientCertVerifier> = Arc::<Verifier>::clone(verifier);
    let mut config = ServerConfig::builder_with_details(Arc::clone(provider), time)
        // Named, because another crate of the build may switch on TLS 1.2 in rustls.
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(TlsError)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session would accept its client certificate without another check, even an expired
    // one.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    // An attacker can replay early data (RFC 8446, section 8).
    config.max_early_data_size = 0;
    Ok(config)
}

/// Checks client certificates by the rules of `taskpass_ca`.
#[derive(Debug)]
struct Verifier {
    authority: Arc<Authority>,
    clock: Arc<dyn Clock>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn verify(&self, chain: &[CertificateDer<'_>]) -> Result<PeerIdentity, PeerError> {
        let verifier = self.authority.peer_verifier();
        verifier.verify_client(chain, self.clock.now())
    }
}

impl ClientCertVerifier for Verifier {
    /// Optional: an agent without an identity connects without a certificate to attest.
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// None: the hints would show our authorities' names to unauthenticated peers, and change with
    /// every rotation.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let chain: Vec<CertificateDer<'_>> = std::iter::once(end_entity)
            .chain(intermediates)
            .map(|der| CertificateDer::from(der.as_ref()))
            .collect();
        match self.verify(&chain) {
            Ok(_identity) => Ok(ClientCertVerified::assertion()),
            Err(e) => {
                tracing::debug!(error = %e, "a client certificate was refused");
                Err(rustls::Error::InvalidCertificate(alert_for(&e)))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // TLS 1.2 is not offered.
        Err(rustls::Error::HandshakeNotComplete)
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
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

/// The TLS alert says whether the certificate is expired, unknown or unacceptable, so that the
/// client can act on it.
fn alert_for(error: &PeerError) -> CertificateError {
    match error {
        PeerError::Expired(_) => CertificateError::Expired,
        PeerError::NotYetValid(_) => CertificateError::NotValidYet,
        PeerError::Untrusted(_) => CertificateError::UnknownIssuer,
        PeerError::Malformed(_) => CertificateError::BadEncoding,
        _ => CertificateError::ApplicationVerificationFailure,
    }
}

/// The injected clock behind the trait of rustls.
#[derive(Debug)]
struct InjectedTime(Arc<dyn Clock>);

impl TimeProvider for InjectedTime {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now().seconds()).ok()?;
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(
            seconds,
        )))
    }
}
