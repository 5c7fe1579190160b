//! The trust bundle: the roots with which others verify this installation's certificates.

use std::time::Duration;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use rustls_pki_types::CertificateDer;
use serde_json::json;
use taskpass_core::Digest;

use crate::{PublicKey, pem};

/// How often others should fetch the bundle again (B-3).
const REFRESH_HINT: Duration = Duration::from_secs(300);

/// The roots of one trust domain in the forms that peers want.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// The roots as PEM, for TLS libraries.
    pub pem: String,
    /// The roots as a SPIFFE bundle: a JWK Set as SPIFFE_Trust_Domain_and_Bundle.md section 4 has
    /// it.
    pub jwks: String,
    /// The roots as DER.
    pub roots_der: Vec<CertificateDer<'static>>,
    /// SHA-256 of each root's public key (SubjectPublicKeyInfo), as join tokens pin it.
    pub root_keys: Vec<Digest>,
}

impl Bundle {
    /// The bundle of `roots`, each with its key. `sequence` grows with every change of the content
    /// (B-2).
    pub(crate) fn new<'a>(
        roots: impl Iterator<Item = (&'a CertificateDer<'static>, &'a PublicKey)>,
        sequence: u64,
    ) -> Self {
        let (mut keys, mut roots_der, mut root_keys) = (Vec::new(), Vec::new(), Vec::new());
        for (certificate, key) in roots {
            keys.push(jwk(certificate, key));
            roots_der.push(certificate.clone());
            root_keys.push(key.digest());
        }
        let jwks = json!({
            "spiffe_sequence": sequence,
            "spiffe_refresh_hint": REFRESH_HINT.as_secs(),
            "keys": keys,
        });
        Self {
            pem: roots_der.iter().map(pem::certificate).collect(),
            jwks: jwks.to_string(),
            roots_der,
            root_keys,
        }
    }
}

fn jwk(certificate: &CertificateDer<'_>, key: &PublicKey) -> serde_json::Value {
    let mut jwk = json!({
        "use": "x509-svid",
        // exactly one certificate, and no `kid`.
        "x5c": [STANDARD.encode(certificate)],
    });
    if let (Some(fields), Some((x, y))) = (jwk.as_object_mut(), key.p256_coordinates()) {
        fields.insert("kty".to_owned(), json!("EC"));
        fields.insert("crv".to_owned(), json!("P-256"));
        fields.insert("x".to_owned(), json!(URL_SAFE_NO_PAD.encode(x)));
        fields.insert("y".to_owned(), json!(URL_SAFE_NO_PAD.encode(y)));
    }
    jwk
}
