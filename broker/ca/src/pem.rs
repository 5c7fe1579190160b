//! PEM (RFC 7468) for certificates and keys.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls_pki_types::CertificateDer;

const COLUMNS: usize = 64;

/// A certificate as PEM text.
pub(crate) fn certificate(der: &CertificateDer<'_>) -> String {
    encode("CERTIFICATE", der)
}

/// The one certificate in `text`; `None` if there is none, more than one, or other text around it.
pub(crate) fn one_certificate(text: &str) -> Option<CertificateDer<'static>> {
    decode_one("CERTIFICATE", text).map(CertificateDer::from)
}

/// The bytes in the one block called `label` that `text` consists of. Only white space may stand
/// around it: a person must not overlook a second block that is then used.
pub(crate) fn decode_one(label: &str, text: &str) -> Option<Vec<u8>> {
    let body = text
        .trim()
        .strip_prefix(&format!("-----BEGIN {label}-----"))?
        .strip_suffix(&format!("-----END {label}-----"))?;
    let compact: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    STANDARD.decode(compact).ok()
}

/// One PEM block with lines of 64 characters.
fn encode(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    text.reserve(body.len() + body.len() / COLUMNS + 64);
    for (index, c) in body.chars().enumerate() {
        if index > 0 && index % COLUMNS == 0 {
            text.push('\n');
        }
        text.push(c);
    }
    text.push_str(&format!("\n-----END {label}-----\n"));
    text
}
