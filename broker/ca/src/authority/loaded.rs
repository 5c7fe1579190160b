//! The authorities as they are used in memory, read from the key directory.

use std::sync::Arc;

use rcgen::{Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use taskpass_core::{RootNumber, RootStage, Timestamp, TrustDomain, sha256_hex};
use taskpass_spiffe_verify::certificate;

use crate::{
    Bundle, CaRecord, Error, PeerError, PeerVerifier, PublicKey, RootRecord, Stage,
    custody::Custody,
    pem,
    state::State,
    template::{self, Validity},
};

/// The certificate of the root that the installation was made with.
pub(super) const ROOT_CERTIFICATE: &str = "root.pem";
#[cfg(test)]
pub(super) const ROOT_KEY: &str = "root.key";

/// A root of the bundle. Its private key stays on the disk.
#[derive(Clone)]
pub(super) struct Root {
    pub(super) record: RootRecord,
    pub(super) certificate: CertificateDer<'static>,
    pub(super) key: PublicKey,
    pub(super) validity: Validity,
}

impl Root {
    fn load(custody: &Custody, domain: &TrustDomain, record: &RootRecord) -> Result<Self, Error> {
        let name = record.certificate_file();
        let certificate = read_certificate(custody, &name)?
            .filter(|der| sha256_hex(der) == record.certificate_sha256)
            .ok_or_else(|| damaged(custody, &name, "it is not the certificate it must be"))?;
        let (key, validity) = read_root(custody, domain, &name, &certificate)?;
        Ok(Self {
            record: record.clone(),
            certificate,
            key,
            validity,
        })
    }

    /// Reads the private key; its file must hold the key that the certificate names.
    pub(super) fn private_key(&self, custody: &Custody) -> Result<KeyPair, Error> {
        let name = self.record.key_file();
        let pair =
            read_key(custody, &name)?.ok_or_else(|| damaged(custody, &name, "it is missing"))?;
        if public_half(&pair).as_ref() != Some(&self.key) {
            return Err(damaged(custody, &name, "it is not the root's key"));
        }
        Ok(pair)
    }
}

/// Before the first replacement the state names no root, and `root.pem` from `init` is the only
/// root.
pub(super) fn adopt_first_root(
    custody: &Custody,
    domain: &TrustDomain,
    state: &mut State,
) -> Result<(), Error> {
    if !state.roots.is_empty() {
        return Ok(());
    }
    let Some(certificate) = read_certificate(custody, ROOT_CERTIFICATE)? else {
        return Err(Error::Missing(custody.dir().into()));
    };
    let (_, validity) = read_root(custody, domain, ROOT_CERTIFICATE, &certificate)?;
    let unreadable = |e: PeerError| damaged(custody, ROOT_CERTIFICATE, &e.to_string());
    let parsed = certificate::read(&certificate).map_err(unreadable)?;
    state.roots.push(RootRecord {
        number: RootNumber::FIRST,
        stage: RootStage::Active,
        serial: certificate::serial_hex(&parsed).map_err(unreadable)?,
        not_before: validity.not_before,
        not_after: validity.not_after,
        certificate_sha256: sha256_hex(&certificate),
    });
    Ok(())
}

/// The key and the validity of a root's certificate, if it is one of ours.
fn read_root(
    custody: &Custody,
    domain: &TrustDomain,
    name: &str,
    certificate: &CertificateDer<'_>,
) -> Result<(PublicKey, Validity), Error> {
    let unreadable = |e: PeerError| damaged(custody, name, &e.to_string());
    let parsed = certificate::read(certificate).map_err(unreadable)?;
    let key = PublicKey::from_spki(parsed.public_key().raw)
        .ok_or_else(|| damaged(custody, name, "its key cannot be used"))?;
    let validity = template::check_authority(certificate, domain, &key).map_err(unreadable)?;
    Ok((key, validity))
}

/// The certificate across: the key of the active root, with the signature of the outgoing one. The
/// broker sends it to each peer, and no other record has its hash.
fn read_cross(
    custody: &Custody,
    domain: &TrustDomain,
    active: &Root,
    outgoing: &Root,
) -> Result<CertificateDer<'static>, Error> {
    let name = active.record.cross_file();
    let missing = || damaged(custody, &name, "it is missing");
    let cross = read_certificate(custody, &name)?.ok_or_else(missing)?;
    template::check_authority(&cross, domain, &active.key)
        .and_then(|_| certificate::check_signature(&cross, &outgoing.certificate))
        .map_err(|e| damaged(custody, &name, &e.to_string()))?;
    Ok(cross)
}

/// The roots of the bundle.
pub(super) struct Roots {
    pub(super) active: Root,
    /// The root that comes, or the root that goes.
    pub(super) other: Option<Root>,
    /// The name and key of the active root as the outgoing one has signed them.
    cross: Option<CertificateDer<'static>>,
}

impl Roots {
    fn load(state: &State, custody: &Custody, domain: &TrustDomain) -> Result<Self, Error> {
        let load = |record: &RootRecord| Root::load(custody, domain, record);
        let active = state.root_in(RootStage::Active).map(load).transpose()?;
        let active = active.ok_or_else(|| Error::Missing(custody.dir().into()))?;
        let other = state.roots.iter().find(|it| it.stage != RootStage::Active);
        let other = other.map(load).transpose()?;
        let is_going = |root: &Root| root.record.stage == RootStage::Outgoing;
        let cross = match &other {
            Some(other) if is_going(other) => Some(read_cross(custody, domain, &active, other)?),
            _ => None,
        };
        Ok(Self {
            active,
            other,
            cross,
        })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Root> {
        std::iter::once(&self.active).chain(&self.other)
    }

    /// The certificates that the broker sends after its own and its issuing authority's.
    pub(super) fn served(&self) -> Vec<CertificateDer<'static>> {
        let certificate = |root: &Root| root.certificate.clone();
        match (&self.cross, &self.other) {
            (Some(cross), Some(outgoing)) => vec![cross.clone(), certificate(outgoing)],
            (_, Some(prepared)) => vec![certificate(prepared), certificate(&self.active)],
            (_, None) => vec![certificate(&self.active)],
        }
    }
}

/// A key that signs, and the chain that goes along with its signatures.
pub(super) struct Signer {
    pub(super) issuer: Issuer<'static, KeyPair>,
    pub(super) validity: Validity,
    /// The certificate that follows the leaf in a chain.
    pub(super) chain_der: Option<CertificateDer<'static>>,
    /// The number of the root that the chain ends in.
    pub(super) root: RootNumber,
}

/// All that readers need. Rotation replaces it as a whole.
pub(super) struct Snapshot {
    pub(super) generation: u64,
    pub(super) signer: Option<Signer>,
    /// Certificates of authorities that may sign, with their ends.
    pub(super) accepted: Vec<(Timestamp, CertificateDer<'static>)>,
    pub(super) verifier: Arc<PeerVerifier>,
    pub(super) roots: Roots,
    pub(super) bundle: Arc<Bundle>,
}

impl Snapshot {
    pub(super) fn build(
        state: &State,
        custody: &Custody,
        domain: &TrustDomain,
    ) -> Result<Self, Error> {
        let roots = Roots::load(state, custody, domain)?;
        // A prepared root has signed nothing yet.
        let signs = roots
            .iter()
            .filter(|root| root.record.stage >= RootStage::Active);
        let mut accepted: Vec<_> = signs
            .map(|root| (root.validity.not_after, root.certificate.clone()))
            .collect();
        let mut signer = None;
        for ca in &state.authorities {
            let name = ca.certificate_file();
            let certificate = read_certificate(custody, &name)?
                .filter(|der| sha256_hex(der) == ca.certificate_sha256)
                .ok_or_else(|| damaged(custody, &name, "it is not the certificate it must be"))?;
            // `state.json` alone proves nothing: a program that writes the directory would have its
            // own authority accepted.
            let root = roots.iter().find(|root| root.record.number == ca.root);
            let root = root.ok_or_else(|| damaged(custody, &name, "its root is not there"))?;
            certificate::check_signature(&certificate, &root.certificate)
                .map_err(|e| damaged(custody, &name, &e.to_string()))?;
            if ca.stage == Stage::Active {
                signer = Some(load_signer(custody, domain, ca, &certificate)?);
            }
            if ca.stage >= Stage::Published {
                accepted.push((ca.not_after, certificate));
            }
        }
        let issuers: Vec<_> = accepted.iter().map(|(_, der)| der.clone()).collect();
        let verifier = PeerVerifier::for_issuers(domain, &issuers).map_err(Error::Signed)?;
        let of_bundle = roots.iter().map(|root| (&root.certificate, &root.key));
        let bundle = Arc::new(Bundle::new(of_bundle, state.sequence));
        Ok(Self {
            generation: state.generation,
            signer,
            accepted,
            verifier: Arc::new(verifier),
            roots,
            bundle,
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
        root: ca.root,
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
