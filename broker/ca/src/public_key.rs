//! Public keys to certify, and new private keys for the broker itself.
//!
//! From a signing request only the public key is taken. Names, lifetimes and extensions that a
//! requester writes into it are never looked at, so there is nothing to forget to filter.

use std::fmt;

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData, SignatureAlgorithm};
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ED25519, UnparsedPublicKey,
    VerificationAlgorithm,
};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use taskpass_core::{Digest, Secret, limits};
use x509_parser::{
    asn1_rs::Any,
    certification_request::X509CertificationRequest,
    oid_registry::{OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ED25519},
    prelude::FromDer,
    x509::AlgorithmIdentifier,
};

use crate::{Error, pem};

/// SubjectPublicKeyInfo of an uncompressed P-256 point up to its 64 bytes of coordinates (RFC 5480
/// section 2). Comparing with it excludes compressed points and curves given by explicit
/// parameters.
const P256_PREFIX: [u8; 27] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];
const P256_BYTES: usize = P256_PREFIX.len() + 64;
/// SubjectPublicKeyInfo of an Ed25519 key up to its 32 bytes (RFC 8410 section 4).
const ED25519_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];
const ED25519_BYTES: usize = ED25519_PREFIX.len() + 32;
/// Where the BIT STRING's content begins in a P-256 SubjectPublicKeyInfo: before the point's
/// leading 0x04.
const P256_POINT_AT: usize = P256_PREFIX.len() - 1;

/// Why a signing request was refused. All of these are the requester's mistakes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CsrError {
    /// More bytes than any honest request has.
    #[error("the signing request has {0} bytes; at most {max} are accepted", max = limits::CSR_BYTES_MAX)]
    TooLarge(usize),
    /// PEM that is not exactly one request.
    #[error(
        "the signing request is not a single PEM block `CERTIFICATE REQUEST` with nothing around it"
    )]
    Pem,
    /// Not a PKCS #10 request.
    #[error("the signing request is not valid PKCS #10 DER")]
    Malformed,
    /// Bytes after or inside the request that do not belong there.
    #[error("the signing request has extra bytes")]
    TrailingBytes,
    /// A kind of key that is not certified.
    #[error(
        "the signing request's key is neither P-256 (named curve, uncompressed point) nor Ed25519; make a key of one of these kinds"
    )]
    UnsupportedKey,
    /// A signature algorithm that does not go with the key.
    #[error(
        "the signing request is signed with an algorithm that does not go with its key; use ECDSA with SHA-256 or SHA-384 for P-256, Ed25519 for Ed25519"
    )]
    UnsupportedSignature,
    /// The requester does not hold the private key, or the point is not on the curve.
    #[error("the signing request's own signature does not match its key")]
    WrongSignature,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    P256,
    Ed25519,
}

/// A public key. Its owner has shown that they hold the private key.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    kind: Kind,
    spki: Vec<u8>,
}

impl PublicKey {
    /// Takes the public key out of a PKCS #10 signing request (RFC 2986), PEM or DER, at most
    /// [`limits::CSR_BYTES_MAX`] bytes, after checking the request's own signature.
    pub fn from_csr(request: &[u8]) -> Result<Self, CsrError> {
        if request.len() > limits::CSR_BYTES_MAX {
            return Err(CsrError::TooLarge(request.len()));
        }
        // DER begins with the tag of a SEQUENCE, PEM with a dash or white space.
        if request.first() == Some(&0x30) {
            return Self::from_csr_der(request);
        }
        let text = str::from_utf8(request).or(Err(CsrError::Pem))?;
        let der = pem::decode_one("CERTIFICATE REQUEST", text).ok_or(CsrError::Pem)?;
        Self::from_csr_der(&der)
    }

    fn from_csr_der(der: &[u8]) -> Result<Self, CsrError> {
        let (rest, request) =
            X509CertificationRequest::from_der(der).or(Err(CsrError::Malformed))?;
        let info = &request.certification_request_info;
        // The parser ignores bytes after the last part of a SEQUENCE.
        if !rest.is_empty() || !has_three_parts(der, info.raw) {
            return Err(CsrError::TrailingBytes);
        }
        let key = Self::from_spki(info.subject_pki.raw).ok_or(CsrError::UnsupportedKey)?;
        let algorithm = key.verification_algorithm(&request.signature_algorithm)?;
        if request.signature_value.unused_bits != 0 {
            return Err(CsrError::Malformed);
        }
        // For P-256 this also checks that the point is on the curve.
        UnparsedPublicKey::new(algorithm, key.der_bytes())
            .verify(info.raw, &request.signature_value.data)
            .or(Err(CsrError::WrongSignature))?;
        Ok(key)
    }

    fn verification_algorithm(
        &self,
        signature: &AlgorithmIdentifier<'_>,
    ) -> Result<&'static dyn VerificationAlgorithm, CsrError> {
        // RFC 5758 section 3.2 and RFC 8410 section 3: parameters are absent.
        if signature.parameters.is_some() {
            return Err(CsrError::UnsupportedSignature);
        }
        match self.kind {
            Kind::P256 if signature.algorithm == OID_SIG_ECDSA_WITH_SHA256 => {
                Ok(&ECDSA_P256_SHA256_ASN1)
            }
            Kind::P256 if signature.algorithm == OID_SIG_ECDSA_WITH_SHA384 => {
                Ok(&ECDSA_P256_SHA384_ASN1)
            }
            Kind::Ed25519 if signature.algorithm == OID_SIG_ED25519 => Ok(&ED25519),
            Kind::P256 | Kind::Ed25519 => Err(CsrError::UnsupportedSignature),
        }
    }

    /// Reads a SubjectPublicKeyInfo of one of the accepted kinds; ownership is not checked.
    pub(crate) fn from_spki(spki: &[u8]) -> Option<Self> {
        let kind = if spki.len() == P256_BYTES && spki.starts_with(&P256_PREFIX) {
            Kind::P256
        } else if spki.len() == ED25519_BYTES && spki.starts_with(&ED25519_PREFIX) {
            Kind::Ed25519
        } else {
            return None;
        };
        Some(Self {
            kind,
            spki: spki.to_vec(),
        })
    }

    /// The key as DER SubjectPublicKeyInfo.
    pub fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    /// SHA-256 of the SubjectPublicKeyInfo, in hex.
    pub fn key_sha256(&self) -> String {
        self.digest().to_string()
    }

    /// SHA-256 of the SubjectPublicKeyInfo.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.spki)
    }

    /// The x and y coordinates of a P-256 point.
    pub(crate) fn p256_coordinates(&self) -> Option<(&[u8], &[u8])> {
        match self.kind {
            Kind::P256 => self.spki.get(P256_PREFIX.len()..)?.split_at_checked(32),
            Kind::Ed25519 => None,
        }
    }
}

/// Whether the outer SEQUENCE consists of exactly three values, the first of which is `info`.
fn has_three_parts(der: &[u8], info: &[u8]) -> bool {
    fn value(from: &[u8]) -> Option<&[u8]> {
        Any::from_der(from).ok().map(|(rest, _)| rest)
    }
    let Ok((_, outer)) = Any::from_der(der) else {
        return false;
    };
    outer.data.starts_with(info)
        && value(outer.data).is_some_and(|rest| {
            rest.len() + info.len() == outer.data.len()
                && value(rest).and_then(value).is_some_and(<[u8]>::is_empty)
        })
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        let at = match self.kind {
            Kind::P256 => P256_POINT_AT,
            Kind::Ed25519 => ED25519_PREFIX.len(),
        };
        // INVARIANT: `from_spki` has checked the length.
        self.spki.get(at..).unwrap_or_default()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self.kind {
            Kind::P256 => &PKCS_ECDSA_P256_SHA256,
            Kind::Ed25519 => &PKCS_ED25519,
        }
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PublicKey")
            .field(&self.key_sha256())
            .finish()
    }
}

/// A new P-256 key pair, for the broker's own server certificate and for the operator made at
/// `init`.
pub struct NewKey {
    pair: KeyPair,
    public: PublicKey,
}

impl NewKey {
    /// Makes a key from the system's random source. ring generates keys from no other, so that none
    /// can be weak by mistake. All other randomness in this crate is a parameter.
    pub fn generate() -> Result<Self, Error> {
        let sign_error = |source| Error::Sign {
            action: "generate a key",
            source,
        };
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(sign_error)?;
        let public = PublicKey::from_spki(&pair.subject_public_key_info())
            .ok_or_else(|| sign_error(rcgen::Error::UnsupportedSignatureAlgorithm))?;
        Ok(Self { pair, public })
    }

    /// The public half.
    pub const fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// The private key as unencrypted PKCS #8 PEM.
    pub fn private_key_pem(&self) -> Secret {
        Secret::new(self.pair.serialize_pem())
    }

    /// The private key for a TLS configuration.
    pub fn private_key_der(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.pair.serialize_der()).into()
    }

    /// A signing request for this key in DER, with an empty subject and no wishes.
    pub fn csr_der(&self) -> Result<Vec<u8>, Error> {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .serialize_request(&self.pair)
            .map(|request| request.der().to_vec())
            .map_err(|source| Error::Sign {
                action: "sign a request for a certificate",
                source,
            })
    }

    pub(crate) const fn pair(&self) -> &KeyPair {
        &self.pair
    }
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewKey")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
