//! An identity: key, certificate chain, and the contents of the leaf. Also the CSR for the next
//! one.
//!
//! [`crate::directory`] reads and writes files, [`crate::channel`] opens connections; this file
//! does neither.

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use taskpass_core::{SpiffeId, Timestamp, TrustDomain, hex};
use x509_parser::{
    certificate::X509Certificate,
    extensions::GeneralName,
    prelude::{FromDer, ParsedExtension},
};
use zeroize::Zeroizing;

use crate::Error;

/// A private key (PKCS#8, DER), wiped on drop.
pub(crate) struct PrivateKey(Zeroizing<Vec<u8>>);

/// An X.509-SVID with its private key.
pub(crate) struct Svid {
    /// Leaf first, then the issuing authority.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKey,
    pub(crate) leaf: Leaf,
}

/// The contents of a leaf certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// The SPIFFE ID in it.
    pub spiffe_id: SpiffeId,
    /// The trust domain of that ID.
    pub trust_domain: TrustDomain,
    /// The serial number as 32 hex digits.
    pub serial: String,
    /// Valid from.
    pub not_before: Timestamp,
    /// Valid until.
    pub not_after: Timestamp,
    /// DER of the SubjectPublicKeyInfo.
    pub(crate) public_key: Vec<u8>,
}

impl PrivateKey {
    /// Takes a PKCS#8 key in DER.
    pub(crate) fn from_pkcs8(der: Vec<u8>) -> Self {
        Self(Zeroizing::new(der))
    }

    /// The PKCS#8 DER, to be written to a file of mode 0600 or handed to TLS.
    pub(crate) fn expose(&self) -> &[u8] {
        &self.0
    }

    /// DER of the SubjectPublicKeyInfo that belongs to the key.
    pub(crate) fn public_key(&self) -> Result<Vec<u8>, Error> {
        Ok(self.pair()?.subject_public_key_info())
    }

    fn pair(&self) -> Result<KeyPair, Error> {
        KeyPair::try_from(&PrivatePkcs8KeyDer::from(self.expose()))
            .map_err(|e| Error::Crypto(format!("the private key cannot be read: {e}")))
    }
}

/// A fresh P-256 key and the PKCS#10 request (DER) for it. The broker takes only the public key
/// from it.
pub(crate) fn new_key_and_csr() -> Result<(PrivateKey, Vec<u8>), Error> {
    let failed = |e: rcgen::Error| Error::Crypto(format!("cannot make a key and a request: {e}"));
    // ring reads the system's randomness by itself. A generator with a seed could be given a weak
    // one.
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let request = CertificateParams::default()
        .serialize_request(&pair)
        .map_err(failed)?;
    Ok((
        PrivateKey::from_pkcs8(pair.serialize_der()),
        request.der().to_vec(),
    ))
}

impl Svid {
    /// Puts key and chain together; fails when they are not a pair.
    pub(crate) fn new(key: PrivateKey, chain: Vec<CertificateDer<'static>>) -> Result<Self, Error> {
        let first = chain
            .first()
            .ok_or_else(|| Error::Reply("the certificate chain is empty".to_owned()))?;
        let leaf = Leaf::parse(first).map_err(Error::Reply)?;
        if key.public_key()? != leaf.public_key {
            return Err(Error::Reply(
                "the certificate is for another key".to_owned(),
            ));
        }
        Ok(Self { chain, key, leaf })
    }

    /// The same identity for another holder in this process.
    pub(crate) fn duplicate(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: PrivateKey(self.key.0.clone()),
            leaf: self.leaf.clone(),
        }
    }
}

impl Leaf {
    /// Reads a leaf by the rules for X.509-SVIDs: exactly one URI, no CA, no right to sign
    /// certificates. The error says which rule the certificate breaks.
    pub(crate) fn parse(der: &CertificateDer<'_>) -> Result<Self, String> {
        let (rest, certificate) = X509Certificate::from_der(der)
            .map_err(|e| format!("the certificate cannot be read: {e}"))?;
        if !rest.is_empty() {
            return Err("there is something after the certificate".to_owned());
        }
        check_is_leaf(&certificate)?;
        let uri = only_uri(&certificate)?;
        let spiffe_id: SpiffeId = uri.parse().map_err(|e| format!("{e}"))?;
        let trust_domain = uri
            .split('/')
            .nth(2)
            .unwrap_or_default()
            .parse()
            .map_err(|e| format!("{e}"))?;
        let validity = certificate.validity();
        Ok(Self {
            spiffe_id,
            trust_domain,
            serial: serial_text(certificate.raw_serial()),
            not_before: Timestamp::from_millis(validity.not_before.timestamp() * 1000),
            not_after: Timestamp::from_millis(validity.not_after.timestamp() * 1000),
            public_key: certificate.public_key().raw.to_vec(),
        })
    }

    /// When it is due for renewal: at two thirds of its life.
    pub fn renew_at(&self) -> Timestamp {
        self.not_before
            .plus(self.not_after.since(self.not_before).mul_f64(2.0 / 3.0))
    }
}

/// X509-SVID section 4: a leaf must not be, or act as, a signing authority.
fn check_is_leaf(certificate: &X509Certificate<'_>) -> Result<(), String> {
    let constraints = certificate
        .basic_constraints()
        .map_err(|e| format!("its basic constraints cannot be read: {e}"))?;
    if constraints.is_some_and(|c| c.value.ca) {
        return Err("it is a signing authority, not a leaf".to_owned());
    }
    let usage = certificate
        .key_usage()
        .map_err(|e| format!("its key usage cannot be read: {e}"))?
        .ok_or("it has no key usage")?
        .value;
    if !usage.digital_signature() || usage.key_cert_sign() || usage.crl_sign() {
        return Err("its key usage is not that of a leaf".to_owned());
    }
    Ok(())
}

/// X509-SVID section 2: exactly one URI among the subject alternative names.
fn only_uri(certificate: &X509Certificate<'_>) -> Result<String, String> {
    let mut uris = certificate
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
        });
    match (uris.next(), uris.next()) {
        (Some(uri), None) => Ok(uri.to_owned()),
        (None, _) => Err("it has no SPIFFE ID".to_owned()),
        (Some(_), Some(_)) => {
            Err("it has more than one URI, so it has no single SPIFFE ID".to_owned())
        }
    }
}

/// 32 hex digits, without the zero byte that DER puts before a high bit.
fn serial_text(bytes: &[u8]) -> String {
    format!("{:0>32}", hex(bytes).trim_start_matches('0'))
}
