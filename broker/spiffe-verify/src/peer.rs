//! The identity of the other end: checks the certificate chain that a peer presented.
//!
//! Shared by the broker (which knows every issuing authority it has) and by clients (which know the
//! roots of the bundle). Both trust one trust domain only, their own.

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use taskpass_core::{Identity, SpiffeId, Timestamp, TrustDomain};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::{
    PeerError,
    certificate::{self, Leaf},
};

/// Certificates in one presented chain; ours have two.
const CHAIN_MAX: usize = 4;

/// An authenticated peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The holder that the SPIFFE ID names.
    pub identity: Identity,
    /// The SPIFFE ID as presented.
    pub spiffe_id: SpiffeId,
    /// The certificate's serial number as 32 hex digits.
    pub serial: String,
    /// SHA-256 of the peer's public key (SubjectPublicKeyInfo), in hex.
    pub key_sha256: String,
    /// Until when the certificate is valid.
    pub not_after: Timestamp,
}

#[derive(Debug)]
struct Anchor {
    trusted: TrustAnchor<'static>,
    not_before: Timestamp,
    not_after: Timestamp,
}

/// Whether certificates that the peer sends may link its own to a trusted one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Links {
    FromPeer,
    Ignored,
}

/// Checks chains against one trust domain's authorities. Holds no clock and does no I/O.
#[derive(Debug)]
pub struct PeerVerifier {
    domain: TrustDomain,
    anchors: Vec<Anchor>,
    links: Links,
}

impl PeerVerifier {
    /// For the broker: the leaf must be signed by one of `issuers` itself.
    ///
    /// The other certificates that the peer sends are ignored. An authority that was removed, or
    /// that was made with a stolen root, gains nothing from being sent along.
    pub fn for_issuers(
        domain: &TrustDomain,
        issuers: &[CertificateDer<'_>],
    ) -> Result<Self, PeerError> {
        Self::new(domain, issuers, Links::Ignored)
    }

    /// For clients: the chain must end at one of the bundle's `roots`.
    pub fn for_bundle(
        domain: &TrustDomain,
        roots: &[CertificateDer<'_>],
    ) -> Result<Self, PeerError> {
        Self::new(domain, roots, Links::FromPeer)
    }

    fn new(
        domain: &TrustDomain,
        trusted: &[CertificateDer<'_>],
        links: Links,
    ) -> Result<Self, PeerError> {
        let anchors = trusted.iter().map(anchor).collect::<Result<_, _>>()?;
        Ok(Self {
            domain: domain.clone(),
            anchors,
            links,
        })
    }

    /// The trust domain of the peers that are accepted.
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// Checks the chain of a peer that connected to us; leaf first.
    pub fn verify_client(
        &self,
        chain: &[CertificateDer<'_>],
        now: Timestamp,
    ) -> Result<PeerIdentity, PeerError> {
        self.verify(chain, now, KeyUsage::client_auth())
    }

    /// Checks the chain of a server that we connected to; leaf first. The caller still has to see
    /// that the identity is the one it wants to talk to.
    pub fn verify_server(
        &self,
        chain: &[CertificateDer<'_>],
        now: Timestamp,
    ) -> Result<PeerIdentity, PeerError> {
        self.verify(chain, now, KeyUsage::server_auth())
    }

    fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        now: Timestamp,
        usage: KeyUsage,
    ) -> Result<PeerIdentity, PeerError> {
        let (leaf_der, sent) = chain.split_first().ok_or(PeerError::NoCertificate)?;
        if chain.len() > CHAIN_MAX {
            return Err(PeerError::ChainTooLong(chain.len()));
        }
        let too_large = |der: &&CertificateDer<'_>| der.len() > certificate::CERTIFICATE_BYTES_MAX;
        if let Some(large) = sent.iter().find(too_large) {
            return Err(PeerError::CertificateTooLarge(large.len()));
        }
        let leaf = Leaf::read(leaf_der)?;
        let identity = Identity::parse(&leaf.uri, &self.domain).map_err(PeerError::Name)?;
        let spiffe_id = leaf.uri.parse().map_err(PeerError::Name)?;
        let links = match self.links {
            Links::FromPeer => sent,
            Links::Ignored => &[],
        };
        self.verify_path(leaf_der, links, now, usage)
            .map_err(|e| match e {
                webpki::Error::CertExpired { .. } if leaf.not_after < now => {
                    PeerError::Expired(leaf.not_after)
                }
                webpki::Error::CertNotValidYet { .. } if now < leaf.not_before => {
                    PeerError::NotYetValid(leaf.not_before)
                }
                other => PeerError::Untrusted(other),
            })?;
        Ok(PeerIdentity {
            identity,
            spiffe_id,
            key_sha256: leaf.key_sha256(),
            serial: leaf.serial,
            not_after: leaf.not_after,
        })
    }

    /// RFC 5280 path validation.
    fn verify_path(
        &self,
        leaf: &CertificateDer<'_>,
        links: &[CertificateDer<'_>],
        now: Timestamp,
        usage: KeyUsage,
    ) -> Result<(), webpki::Error> {
        // Path validation does not look at the validity of a trust anchor; an issuing authority's
        // must be.
        let anchors: Vec<TrustAnchor<'_>> = self
            .anchors
            .iter()
            .filter(|anchor| anchor.not_before <= now && now <= anchor.not_after)
            .map(|anchor| anchor.trusted.clone())
            .collect();
        let seconds = u64::try_from(now.seconds()).unwrap_or(0);
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        EndEntityCert::try_from(leaf)?
            .verify_for_usage(
                ALL_VERIFICATION_ALGS,
                &anchors,
                links,
                time,
                usage,
                None,
                None,
            )
            .map(|_path| ())
    }
}

fn anchor(der: &CertificateDer<'_>) -> Result<Anchor, PeerError> {
    let parsed = certificate::read(der)?;
    Ok(Anchor {
        trusted: anchor_from_trusted_cert(der)
            .map_err(PeerError::Untrusted)?
            .to_owned(),
        not_before: certificate::start(&parsed),
        not_after: certificate::end(&parsed),
    })
}

#[cfg(test)]
mod tests;
