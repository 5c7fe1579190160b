//! The reasons to refuse the certificate of a peer.

use taskpass_core::{InvalidValue, Timestamp};

/// Why the certificate of a peer is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The peer presented no certificate.
    #[error("no certificate was presented")]
    NoCertificate,
    /// More certificates than any chain of ours has.
    #[error("the chain has {0} certificates; at most 4 are accepted")]
    ChainTooLong(usize),
    /// A certificate larger than any of ours.
    #[error("the certificate has {0} bytes; at most 8192 are accepted")]
    CertificateTooLarge(usize),
    /// The certificate cannot be read.
    #[error("the certificate is malformed: {0}")]
    Malformed(&'static str),
    /// The certificate breaks a rule of the SPIFFE standard; the first part is its number.
    #[error("the certificate is not an X.509-SVID ({0}): {1}")]
    Rule(&'static str, &'static str),
    /// The name in it is not one of this trust domain.
    #[error("the certificate's name is not accepted")]
    Name(#[source] InvalidValue),
    /// Past its end.
    #[error("the certificate expired at {0}; renew it or log in again")]
    Expired(Timestamp),
    /// Before its start.
    #[error("the certificate is valid only from {0}; compare the clocks")]
    NotYetValid(Timestamp),
    /// No authority of this trust domain has signed it.
    #[error("the certificate was not signed by a current authority of this trust domain")]
    Untrusted(#[source] webpki::Error),
}
