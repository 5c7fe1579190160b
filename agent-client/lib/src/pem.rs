//! Certificates and keys as PEM text (RFC 7468).

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject};
use taskpass_core::excerpt;
use zeroize::Zeroizing;

use crate::svid::PrivateKey;

const LINE_CHARS: usize = 64;

/// Certificates one after the other.
pub(crate) fn from_certificates(certificates: &[CertificateDer<'_>]) -> String {
    certificates
        .iter()
        .map(|der| block("CERTIFICATE", der).to_string())
        .collect()
}

/// A private key, in memory that is wiped.
pub(crate) fn from_key(key: &PrivateKey) -> Zeroizing<String> {
    block("PRIVATE KEY", key.expose())
}

/// All certificates of a file; at least one.
pub(crate) fn to_certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_slice_iter(text)
        .collect::<Result<Vec<_>, _>>()
        // The error lists every byte that is not PEM, so it may be long.
        .map_err(|e| format!("it is not PEM: {}", excerpt(&e.to_string())))?;
    if certificates.is_empty() {
        return Err("there is no certificate in it".to_owned());
    }
    Ok(certificates)
}

/// The PKCS#8 key of a file.
pub(crate) fn to_key(text: &[u8]) -> Result<PrivateKey, String> {
    let key = PrivatePkcs8KeyDer::from_pem_slice(text)
        // The error may repeat bytes of the key.
        .map_err(|_e| "there is no PKCS#8 private key in it".to_owned())?;
    Ok(PrivateKey::from_pkcs8(key.secret_pkcs8_der().to_vec()))
}

fn block(label: &str, der: &[u8]) -> Zeroizing<String> {
    let encoded = Zeroizing::new(STANDARD.encode(der));
    // Room for everything at once: a growing string would leave copies behind.
    let mut text = Zeroizing::new(String::with_capacity(
        encoded.len() * 2 + 2 * label.len() + 64,
    ));
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    for (at, c) in encoded.chars().enumerate() {
        if at > 0 && at % LINE_CHARS == 0 {
            text.push('\n');
        }
        text.push(c);
    }
    text.push_str("\n-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}
