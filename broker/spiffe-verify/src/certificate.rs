//! Reads a leaf certificate and checks the rules of X509-SVID.md that the certificate alone can
//! break.
//!
//! It checks the certificates that peers present, and each certificate that this authority has just
//! signed. [`crate::PeerVerifier`] checks the signer of a certificate and whether it is valid now.

use std::net::IpAddr;

use taskpass_core::{Timestamp, hex, sha256_hex};
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension, SubjectAlternativeName},
    prelude::FromDer,
};

use crate::PeerError;

/// Bytes of one certificate; ours have about 700.
pub const CERTIFICATE_BYTES_MAX: usize = 8 * 1024;
/// Alternative names of one certificate.
const NAMES_MAX: usize = 32;
/// Bytes of a serial number that fit the 32 hex digits everything else uses.
const SERIAL_BYTES_MAX: usize = 16;

/// The content of a well-formed leaf.
#[derive(Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The one URI name, which is the SPIFFE ID.
    pub uri: String,
    /// DNS names and IP addresses as text, in order.
    pub server_names: Vec<String>,
    /// The serial number as 32 hex digits.
    pub serial: String,
    /// DER of the SubjectPublicKeyInfo.
    pub spki: Vec<u8>,
    /// From when the certificate is valid.
    pub not_before: Timestamp,
    /// Until when the certificate is valid.
    pub not_after: Timestamp,
}

impl Leaf {
    /// Reads `der` and applies.
    pub fn read(der: &[u8]) -> Result<Self, PeerError> {
        let certificate = read(der)?;
        check_extensions_are_readable(&certificate)?;
        check_usage(&certificate)?;
        let (uri, server_names) = names(&certificate)?;
        Ok(Self {
            uri,
            server_names,
            serial: serial_hex(&certificate)?,
            spki: certificate.public_key().raw.to_vec(),
            not_before: start(&certificate),
            not_after: end(&certificate),
        })
    }

    /// SHA-256 of the public key (SubjectPublicKeyInfo), in hex.
    pub fn key_sha256(&self) -> String {
        sha256_hex(&self.spki)
    }
}

/// Parses one whole certificate of bounded size.
pub fn read(der: &[u8]) -> Result<X509Certificate<'_>, PeerError> {
    if der.len() > CERTIFICATE_BYTES_MAX {
        return Err(PeerError::CertificateTooLarge(der.len()));
    }
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(PeerError::Malformed("it has extra bytes")),
        Err(_) => Err(PeerError::Malformed("it is not X.509 DER")),
    }
}

/// Whether `issuer` signed a certificate.
pub fn check_signature(der: &[u8], issuer: &[u8]) -> Result<(), PeerError> {
    let (signed, issuer) = (read(der)?, read(issuer)?);
    if signed.issuer().as_raw() != issuer.subject().as_raw()
        || signed.verify_signature(Some(issuer.public_key())).is_err()
    {
        return Err(PeerError::Malformed("its issuer's signature is not on it"));
    }
    Ok(())
}

/// From when the certificate is valid.
pub fn start(certificate: &X509Certificate<'_>) -> Timestamp {
    from_seconds(certificate.validity().not_before.timestamp())
}

/// Until when the certificate is valid.
pub fn end(certificate: &X509Certificate<'_>) -> Timestamp {
    from_seconds(certificate.validity().not_after.timestamp())
}

fn from_seconds(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds.saturating_mul(1000))
}

/// The serial number as 32 hex digits.
pub fn serial_hex(certificate: &X509Certificate<'_>) -> Result<String, PeerError> {
    let raw = certificate.raw_serial();
    let first = raw.iter().position(|byte| *byte != 0);
    let digits = first.and_then(|at| raw.get(at..)).unwrap_or_default();
    if digits.is_empty() || digits.len() > SERIAL_BYTES_MAX {
        return Err(PeerError::Malformed(
            "its serial number is zero or too long",
        ));
    }
    Ok(format!("{:0>32}", hex(digits)))
}

/// Refuses an extension that cannot be read, since it must not count as absent, and an
/// extension that is there twice.
fn check_extensions_are_readable(certificate: &X509Certificate<'_>) -> Result<(), PeerError> {
    if certificate.extensions_map().is_err() {
        return Err(PeerError::Malformed("an extension is there twice"));
    }
    for extension in certificate.extensions() {
        if matches!(
            extension.parsed_extension(),
            ParsedExtension::ParseError { .. }
        ) {
            return Err(PeerError::Malformed("an extension cannot be read"));
        }
    }
    Ok(())
}

/// the leaf's key may sign handshakes, as client and as server, and nothing else.
fn check_usage(certificate: &X509Certificate<'_>) -> Result<(), PeerError> {
    let mut key_usage = None;
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
                return Err(PeerError::Rule("X-4", "it is a certificate authority"));
            }
            ParsedExtension::KeyUsage(usage) => key_usage = Some((extension.critical, usage)),
            ParsedExtension::ExtendedKeyUsage(usage)
                if !(usage.any || usage.server_auth && usage.client_auth) =>
            {
                return Err(PeerError::Rule(
                    "X-6",
                    "its extended key usage lacks server or client authentication",
                ));
            }
            _ => {}
        }
    }
    match key_usage {
        None => Err(PeerError::Rule("X-5", "it has no key usage")),
        Some((_, usage)) if usage.key_cert_sign() || usage.crl_sign() => Err(PeerError::Rule(
            "X-5",
            "its key may sign certificates or revocation lists",
        )),
        Some((true, usage)) if usage.digital_signature() => Ok(()),
        Some(_) => Err(PeerError::Rule(
            "X-5",
            "its key usage is not a critical `digitalSignature`",
        )),
    }
}

/// The one SPIFFE ID and the server names beside it.
fn names(certificate: &X509Certificate<'_>) -> Result<(String, Vec<String>), PeerError> {
    const MISSING: PeerError = PeerError::Rule("X-1", "it has no URI name");
    let (critical, alternatives): (bool, &SubjectAlternativeName<'_>) = certificate
        .extensions()
        .iter()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => Some((extension.critical, names)),
            _ => None,
        })
        .ok_or(MISSING)?;
    if alternatives.general_names.len() > NAMES_MAX {
        return Err(PeerError::Rule("X-11", "it has more than 32 names"));
    }
    if !critical && certificate.subject().iter().next().is_none() {
        return Err(PeerError::Rule(
            "X-2",
            "its subject is empty but its alternative names are not critical",
        ));
    }
    let mut uri = None;
    let mut server_names = Vec::new();
    for name in &alternatives.general_names {
        match name {
            GeneralName::URI(text) if uri.is_none() => uri = Some((*text).to_owned()),
            GeneralName::URI(_) => {
                return Err(PeerError::Rule("X-1", "it has more than one URI name"));
            }
            GeneralName::DNSName(text) => server_names.push((*text).to_owned()),
            GeneralName::IPAddress(bytes) => server_names.push(address(bytes)?.to_string()),
            GeneralName::Invalid(..) => {
                return Err(PeerError::Malformed("a name in it cannot be read"));
            }
            // Names of other kinds (e-mail, directory) are not used.
            _ => {}
        }
    }
    Ok((uri.ok_or(MISSING)?, server_names))
}

fn address(bytes: &[u8]) -> Result<IpAddr, PeerError> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ok(v4.into());
    }
    <[u8; 16]>::try_from(bytes)
        .map(IpAddr::from)
        .or(Err(PeerError::Malformed(
            "an IP address in it cannot be read",
        )))
}
