//! Certificates of a test installation: a root, an issuing authority, and leaves right and wrong.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use taskpass_core::{Clock, Entropy, SystemClock, SystemEntropy};
use time::{Duration, OffsetDateTime};

pub const DOMAIN: &str = "acme.test";

pub struct Pki {
    pub root: CertificateDer<'static>,
    issuing: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    pub pin: [u8; 32],
}

/// The content of a leaf.
pub struct Leaf {
    pub uris: Vec<String>,
    pub from: Duration,
    pub until: Duration,
}

/// A chain, leaf first, and its key in PKCS#8.
pub struct Bearer {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: Vec<u8>,
}

impl Leaf {
    pub fn named(path: &str) -> Self {
        Self {
            uris: vec![format!("spiffe://{DOMAIN}{path}")],
            from: Duration::seconds(-10),
            until: Duration::hours(1),
        }
    }
}

impl Pki {
    pub fn generate() -> Self {
        let root_key = KeyPair::generate().unwrap();
        let root_params = authority("root");
        let root = root_params.self_signed(&root_key).unwrap();
        let pin = ring::digest::digest(&ring::digest::SHA256, &root_key.subject_public_key_info());
        let root_issuer = Issuer::new(root_params, root_key);
        let key = KeyPair::generate().unwrap();
        let params = authority("issuing");
        let issuing = params.signed_by(&key, &root_issuer).unwrap();
        Self {
            root: root.der().clone(),
            issuing: issuing.der().clone(),
            issuer: Issuer::new(params, key),
            pin: pin.as_ref().try_into().unwrap(),
        }
    }

    /// A leaf with a key of its own.
    pub fn bearer(&self, leaf: &Leaf) -> Bearer {
        let key = KeyPair::generate().unwrap();
        Bearer {
            chain: self.sign(leaf, &key),
            key: key.serialize_der(),
        }
    }

    /// As a broker does: only the public key is taken from the request.
    pub fn sign_request(&self, leaf: &Leaf, csr: &[u8]) -> Vec<CertificateDer<'static>> {
        let request =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr))
                .unwrap();
        self.sign(leaf, &request.public_key)
    }

    fn sign(&self, leaf: &Leaf, key: &impl PublicKeyData) -> Vec<CertificateDer<'static>> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = leaf
            .uris
            .iter()
            .map(|uri| SanType::URI(uri.as_str().try_into().unwrap()))
            .collect();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let mut serial = [0; 16];
        SystemEntropy::new().fill(&mut serial).unwrap();
        serial[0] = serial[0] & 0x7f | 1;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.not_before = now() + leaf.from;
        params.not_after = now() + leaf.until;
        let certificate = params.signed_by(key, &self.issuer).unwrap();
        vec![certificate.der().clone(), self.issuing.clone()]
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    params.subject_alt_names = vec![SanType::URI(
        format!("spiffe://{DOMAIN}").as_str().try_into().unwrap(),
    )];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = now() - Duration::days(1);
    params.not_after = now() + Duration::days(365);
    params
}

/// The machine's time: the TLS of the tests' server reads it by itself.
pub fn now() -> OffsetDateTime {
    SystemClock::new().now().to_offset_date_time()
}

pub fn wire(time: OffsetDateTime) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time.unix_timestamp(),
        nanos: i32::try_from(time.nanosecond()).unwrap(),
    }
}
