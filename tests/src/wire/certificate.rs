//! Certificates for tests: stored ones, ones by an untrusted authority, and ones by the
//! installation's own authority that it would never have signed.

use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject};

/// A certificate chain with its key.
#[derive(Debug, Clone)]
pub struct Certificate {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: Vec<u8>,
}

impl Certificate {
    /// Leaf first, and the key as PKCS#8.
    pub const fn new(chain: Vec<CertificateDer<'static>>, key: Vec<u8>) -> Self {
        Self { chain, key }
    }

    /// From an identity directory.
    pub fn load(directory: &Path) -> Self {
        let chain =
            CertificateDer::pem_file_iter(directory.join("svid.pem")).expect("svid.pem is there");
        let chain = chain
            .collect::<Result<_, _>>()
            .expect("svid.pem holds certificates");
        let key =
            PrivatePkcs8KeyDer::from_pem_file(directory.join("key.pem")).expect("key.pem is there");
        Self {
            chain,
            key: key.secret_pkcs8_der().to_vec(),
        }
    }

    /// A certificate for `spiffe_id` by an untrusted authority.
    pub fn self_made(spiffe_id: &str) -> Self {
        Forger::untrusted().leaf(spiffe_id, |_| ())
    }

    /// This chain with the key of another: a stolen certificate without its key.
    #[must_use]
    pub fn with_key_of(&self, other: &Self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: other.key.clone(),
        }
    }

    /// Appends more certificates to the chain.
    #[must_use]
    pub fn followed_by(mut self, more: impl IntoIterator<Item = CertificateDer<'static>>) -> Self {
        self.chain.extend(more);
        self
    }

    /// The leaf.
    pub fn leaf(&self) -> &CertificateDer<'static> {
        &self.chain[0]
    }
}

/// An authority that signs every certificate that a test asks for.
#[derive(Debug)]
pub struct Forger {
    issuer: Issuer<'static, KeyPair>,
    own: Certificate,
}

impl Forger {
    /// An authority that no broker trusts.
    pub fn untrusted() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = params.self_signed(&key).expect("a root");
        let own = Certificate::new(vec![root.der().clone()], key.serialize_der());
        Self {
            issuer: Issuer::new(params, key),
            own,
        }
    }

    /// The issuing authority of the installation in `home`, with its key: the worst theft there is.
    pub fn with_stolen_key(home: &Path) -> Self {
        let files = std::fs::read_dir(home.join("data/ca")).expect("the authority is there");
        let mut keys: Vec<_> = files
            .map(|file| file.expect("an entry").path())
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with("issuing-") && name.ends_with(".key")
            })
            .collect();
        keys.sort();
        let path = keys.first().expect("an issuing authority");
        let pem = std::fs::read_to_string(path).expect("its key");
        let key = KeyPair::from_pem(&pem).expect("a key in PEM");
        let certificate =
            CertificateDer::from_pem_file(path.with_extension("pem")).expect("its certificate");
        let own = Certificate::new(vec![certificate.clone()], key.serialize_der());
        Self {
            issuer: Issuer::from_ca_cert_der(&certificate, key).expect("an authority"),
            own,
        }
    }

    /// Its own certificate and key, presented as an agent's identity.
    pub fn itself(&self) -> Certificate {
        self.own.clone()
    }

    /// A certificate as the broker issues it to `spiffe_id`, except for `change`. The chain
    /// includes the authority's certificate.
    pub fn leaf(
        &self,
        spiffe_id: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Certificate {
        let (params, key) = template(spiffe_id, change);
        let leaf = params.signed_by(&key, &self.issuer).expect("a leaf");
        let chain = vec![leaf.der().clone(), self.own.leaf().clone()];
        Certificate::new(chain, key.serialize_der())
    }

    /// A certificate of an ordinary agent that signs others.
    pub fn agent_that_signs(&self, spiffe_id: &str) -> Self {
        let (params, key) = template(spiffe_id, |_| ());
        let leaf = params.signed_by(&key, &self.issuer).expect("a leaf");
        let own = Certificate::new(vec![leaf.der().clone()], key.serialize_der());
        Self {
            issuer: Issuer::new(params, key),
            own,
        }
    }
}

fn template(
    spiffe_id: &str,
    change: impl FnOnce(&mut CertificateParams),
) -> (CertificateParams, KeyPair) {
    let mut params = CertificateParams::default();
    // rcgen's serial numbers are longer than ours may be, and nothing but `change` may be wrong.
    params.serial_number = Some(SerialNumber::from(0x7a5c_0001_u64));
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names = vec![uri(spiffe_id)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    params.is_ca = IsCa::ExplicitNoCa;
    change(&mut params);
    (params, KeyPair::generate().expect("a key"))
}

/// A URI for `subject_alt_names`.
pub fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("an ASCII URI"))
}

/// A fresh P-256 key and a certificate request for it.
#[derive(Debug)]
pub struct KeyAndCsr {
    /// PKCS#8.
    pub key: Vec<u8>,
    /// PKCS#10, DER.
    pub csr: Vec<u8>,
}

impl Default for KeyAndCsr {
    fn default() -> Self {
        Self::new()
    }
}

impl KeyAndCsr {
    /// Makes both.
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let csr = CertificateParams::default()
            .serialize_request(&key)
            .expect("a request");
        Self {
            key: key.serialize_der(),
            csr: csr.der().to_vec(),
        }
    }
}
