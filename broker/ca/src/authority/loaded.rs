//! The authorities as they are used in memory, read from the key directory.

use std::sync::Arc;

use rcgen::{Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use taskpass_core::{Timestamp, TrustDomain, sha256_hex};

use crate::{
    CaRecord, Error, PeerVerifier, PublicKey, Stage,
    custody::Custody,
    pem,
    state::State,
    template::{self, Validity},
};

pub(super) const ROOT_KEY: &str = "root.key";
pub(super) const ROOT_CERTIFICATE: &str = "root.pem";

/// The root of the installation. Its private key stays on the disk.
pub(super) struct Root {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) key: PublicKey,
    pub(super) validity: Validity,
}

impl Root {
    pub(super) fn load(custody: &Custody, domain: &TrustDomain) -> Result<Self, Error> {
        let Some(certificate) = read_certificate(custody, ROOT_CERTIFICATE)? else {
            return Err(Error::Missing(custody.dir().into()));
        };
        // The key is read now so that a lost or exposed one is found at the start and not half a
        // day later.
        let Some(pair) = read_key(custody, ROOT_KEY)? else {
            return Err(damaged(custody, ROOT_KEY, "it is missing"));
        };
        let key = public_half(&pair)
            .ok_or_else(|| damaged(custody, ROOT_KEY, "it is not a P-256 key"))?;
        let validity = template::check_authority(&certificate, domain, &key)
            .map_err(|e| damaged(custody, ROOT_CERTIFICATE, &e.to_string()))?;
        Ok(Self {
            certificate,
            key,
            validity,
        })
    }
}

/// A key that signs, and the chain that goes along with its signatures.
pub(super) struct Signer {
    pub(super) issuer: Issuer<'static, KeyPair>,
    pub(super) validity: Validity,
    /// The certificate that follows the leaf in a chain.
    pub(super) chain_der: Option<CertificateDer<'static>>,
}

/// All that readers need. Rotation replaces it as a whole.
pub(super) struct Snapshot {
    pub(super) generation: u64,
    pub(super) signer: Option<Signer>,
    /// Certificates of authorities that may sign, with their ends.
    pub(super) accepted: Vec<(Timestamp, CertificateDer<'static>)>,
    pub(super) verifier: Arc<PeerVerifier>,
}

impl Snapshot {
    pub(super) fn build(
        state: &State,
        custody: &Custody,
        domain: &TrustDomain,
        root: &Root,
    ) -> Result<Self, Error> {
        let mut accepted = vec![(root.validity.not_after, root.certificate.clone())];
        let mut signer = None;
        for ca in &state.authorities {
            let name = ca.certificate_file();
            let certificate = read_certificate(custody, &name)?
                .filter(|der| sha256_hex(der) == ca.certificate_sha256)
                .ok_or_else(|| damaged(custody, &name, "it is not the certificate it must be"))?;
            if ca.stage == Stage::Active {
                signer = Some(load_signer(custody, domain, ca, &certificate)?);
            }
            if ca.stage >= Stage::Published {
                accepted.push((ca.not_after, certificate));
            }
        }
        let issuers: Vec<_> = accepted.iter().map(|(_, der)| der.clone()).collect();
        let verifier = PeerVerifier::for_issuers(domain, &issuers).map_err(Error::Signed)?;
        Ok(Self {
            generation: state.generation,
            signer,
            accepted,
            verifier: Arc::new(verifier),
        })
    }
}

fn load_signer(
    custody: &Custody,
    domain: &TrustDomain,
    ca: &CaRecord,
    certificate: &CertificateDer<'static>,
) -> Result<Signer, Error> {
    let name = ca.key_file();
    let pair = read_key(custody, &name)?.ok_or_else(|| damaged(custody, &name, "it is missing"))?;
    let key = public_half(&pair).ok_or_else(|| damaged(custody, &name, "it is not a P-256 key"))?;
    let validity = template::check_authority(certificate, domain, &key)
        .map_err(|e| damaged(custody, &name, &e.to_string()))?;
    Ok(Signer {
        issuer: issuer(certificate, pair)?,
        validity,
        chain_der: Some(certificate.clone()),
    })
}

pub(super) fn issuer(
    certificate: &CertificateDer<'_>,
    pair: KeyPair,
) -> Result<Issuer<'static, KeyPair>, Error> {
    Issuer::from_ca_cert_der(certificate, pair).map_err(|source| Error::Sign {
        action: "read an authority's own certificate",
        source,
    })
}

pub(super) fn read_certificate(
    custody: &Custody,
    name: &str,
) -> Result<Option<CertificateDer<'static>>, Error> {
    let Some(text) = custody.read(name)? else {
        return Ok(None);
    };
    pem::one_certificate(&text)
        .map(Some)
        .ok_or_else(|| damaged(custody, name, "it is not a single PEM certificate"))
}

pub(super) fn read_key(custody: &Custody, name: &str) -> Result<Option<KeyPair>, Error> {
    let Some(text) = custody.read(name)? else {
        return Ok(None);
    };
    let der = pem::decode_one("PRIVATE KEY", &text).map(zeroize::Zeroizing::new);
    der.and_then(|der| {
        let pkcs8 = PrivatePkcs8KeyDer::from(der.as_slice());
        KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &PKCS_ECDSA_P256_SHA256).ok()
    })
    .map(Some)
    .ok_or_else(|| damaged(custody, name, "it is not a PKCS #8 P-256 private key"))
}

pub(super) fn public_half(pair: &KeyPair) -> Option<PublicKey> {
    PublicKey::from_spki(&pair.subject_public_key_info())
}

pub(super) fn damaged(custody: &Custody, name: &str, why: &str) -> Error {
    Error::Damaged {
        path: custody.path(name),
        why: why.to_owned(),
    }
}
