//! The form of our certificates, and the check that a signed certificate has it.

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
    SerialNumber, string::Ia5String,
};
use rustls_pki_types::{CertificateDer, ServerName};
use taskpass_core::{Entropy, EntropyError, InvalidValue, SpiffeId, Timestamp, TrustDomain, hex};
use taskpass_spiffe_verify::certificate::{self, Leaf};

use crate::{Error, NewKey, PeerError, PublicKey};

/// From when until when a certificate is valid, in whole seconds as X.509 has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
}

/// A random serial number: 128 bits, the top one clear so that it stays positive in 16 bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Serial(u128);

impl Serial {
    pub(crate) fn generate(entropy: &dyn Entropy) -> Result<Self, Error> {
        let mut bytes = [0; 16];
        entropy.fill(&mut bytes).map_err(Error::Entropy)?;
        let number = u128::from_be_bytes(bytes) & (u128::MAX >> 1);
        if number == 0 {
            // Zero is not a serial number (RFC 5280 section 4.1.2.2), and no working source gives
            // it.
            return Err(Error::Entropy(EntropyError));
        }
        Ok(Self(number))
    }

    pub(crate) fn hex(self) -> String {
        hex(&self.0.to_be_bytes())
    }
}

/// A leaf to be signed.
pub(crate) struct LeafOrder<'a> {
    pub(crate) spiffe_id: &'a SpiffeId,
    pub(crate) server_names: &'a [ServerName<'static>],
    pub(crate) key: &'a PublicKey,
    pub(crate) serial: Serial,
    pub(crate) validity: Validity,
}

/// Signs an X.509-SVID and reads it back (X-1 … X-6).
pub(crate) fn sign_leaf(
    order: &LeafOrder<'_>,
    issuer: &Issuer<'static, KeyPair>,
) -> Result<CertificateDer<'static>, Error> {
    let mut params = params(order.serial, order.validity);
    // No subject: the URI name is the identity, and an empty subject makes it critical.
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(order.spiffe_id.as_str())?];
    for name in order.server_names {
        params.subject_alt_names.push(server_name(name)?);
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let signed = sign(&params, order.key, issuer)?;
    check_leaf(&signed, order)?;
    Ok(signed.into())
}

/// Checks a signed leaf against its order: the library that builds certificates is not trusted with
/// that.
fn check_leaf(signed: &Certificate, order: &LeafOrder<'_>) -> Result<(), Error> {
    let leaf = Leaf::read(signed.der()).map_err(Error::Signed)?;
    let names: Vec<String> = order
        .server_names
        .iter()
        .map(|name| name.to_str().into_owned())
        .collect();
    let differs = [
        ("name", leaf.uri != order.spiffe_id.as_str()),
        ("set of server names", leaf.server_names != names),
        ("public key", leaf.spki != order.key.spki_der()),
        ("serial number", leaf.serial != order.serial.hex()),
        ("start", leaf.not_before != order.validity.not_before),
        ("end", leaf.not_after != order.validity.not_after),
    ];
    match differs.into_iter().find(|(_, differs)| *differs) {
        None => Ok(()),
        Some((what, _)) => Err(Error::SignedOther(what)),
    }
}

/// How far below a certificate authority others may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tier {
    /// The root, which signs issuing authorities.
    Root,
    /// An issuing authority, which signs leaves only (path length 0).
    Issuing,
}

/// The parameters of a certificate authority of `domain`. Subject names differ, so
/// that a verifier that looks an issuer up by its name finds one.
pub(crate) fn authority_params(
    tier: Tier,
    domain: &TrustDomain,
    serial: Serial,
    validity: Validity,
) -> Result<CertificateParams, Error> {
    let mut params = params(serial, validity);
    let (name, constraint) = match tier {
        Tier::Root => ("root", BasicConstraints::Unconstrained),
        Tier::Issuing => ("issuing", BasicConstraints::Constrained(0)),
    };
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "Taskpass");
    params
        .distinguished_name
        .push(DnType::CommonName, format!("{name} {}", serial.hex()));
    params.subject_alt_names = vec![uri(&domain.id_string())?];
    params.is_ca = IsCa::Ca(constraint);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// Signs a root's certificate with its own key; the caller checks it.
pub(crate) fn self_sign(
    params: &CertificateParams,
    key: &NewKey,
) -> Result<CertificateDer<'static>, Error> {
    let signed = params.self_signed(key.pair());
    let signed = signed.map_err(|source| Error::Sign {
        action: "sign the root certificate",
        source,
    })?;
    Ok(signed.into())
}

/// Signs a certificate; the caller checks it.
pub(crate) fn sign(
    params: &CertificateParams,
    key: &impl PublicKeyData,
    issuer: &Issuer<'static, KeyPair>,
) -> Result<Certificate, Error> {
    params.signed_by(key, issuer).map_err(|source| Error::Sign {
        action: "sign a certificate",
        source,
    })
}

/// A certificate authority's certificate must be one of ours: the trust domain's own ID without a
/// path, able to sign certificates and nothing else.
pub(crate) fn check_authority(
    der: &[u8],
    domain: &TrustDomain,
    key: &PublicKey,
) -> Result<Validity, PeerError> {
    let parsed = certificate::read(der)?;
    let constraints = parsed.basic_constraints().ok().flatten();
    if !constraints.is_some_and(|it| it.critical && it.value.ca) {
        return Err(PeerError::Rule("X-4", "it is not a certificate authority"));
    }
    let usage = parsed.key_usage().ok().flatten();
    if !usage
        .is_some_and(|it| it.critical && it.value.key_cert_sign() && !it.value.digital_signature())
    {
        return Err(PeerError::Rule(
            "X-7",
            "its key is not for signing certificates",
        ));
    }
    let names = parsed.subject_alternative_name().ok().flatten();
    let id = domain.id_string();
    let is_ours = names.is_some_and(|it| {
        matches!(
            it.value.general_names.as_slice(),
            [x509_parser::extensions::GeneralName::URI(uri)] if *uri == id
        )
    });
    if !is_ours {
        return Err(PeerError::Rule("X-7", "it belongs to another trust domain"));
    }
    if parsed.public_key().raw != key.spki_der() {
        return Err(PeerError::Malformed(
            "the private key beside it is another one",
        ));
    }
    Ok(Validity {
        not_before: certificate::start(&parsed),
        not_after: certificate::end(&parsed),
    })
}

fn params(serial: Serial, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&serial.0.to_be_bytes()));
    params.not_before = validity.not_before.to_offset_date_time();
    params.not_after = validity.not_after.to_offset_date_time();
    params.use_authority_key_identifier_extension = true;
    params
}

fn uri(text: &str) -> Result<SanType, Error> {
    ia5(text).map(SanType::URI)
}

fn server_name(name: &ServerName<'static>) -> Result<SanType, Error> {
    match name {
        ServerName::DnsName(dns) => ia5(dns.as_ref()).map(SanType::DnsName),
        ServerName::IpAddress(ip) => Ok(SanType::IpAddress((*ip).into())),
        other => Err(Error::Name(InvalidValue::new(format!(
            "`{other:?}` is neither a DNS name nor an IP address"
        )))),
    }
}

fn ia5(text: &str) -> Result<Ia5String, Error> {
    text.try_into().map_err(|source| Error::Sign {
        action: "put a name into a certificate",
        source,
    })
}
