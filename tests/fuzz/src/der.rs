//! The part of DER and PEM that is needed to put valid signatures on invented content.

use base64::{Engine as _, engine::general_purpose::STANDARD};

const ED25519: [u8; 7] = [0x30, 5, 6, 3, 0x2b, 0x65, 0x70];

/// One value: tag, length, content.
pub(crate) fn value(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut out = vec![tag];
    match u8::try_from(length) {
        Ok(short @ 0..128) => out.push(short),
        Ok(byte) => out.extend([0x81, byte]),
        Err(_) => {
            let bytes = u32::try_from(length)
                .expect("inputs are small")
                .to_be_bytes();
            out.push(0x84);
            out.extend(bytes);
        }
    }
    out.extend_from_slice(content);
    out
}

/// `content`, then the algorithm Ed25519, then the signature: the form of certificates and
/// certificate requests.
pub(crate) fn signed(content: &[u8], signature: &[u8]) -> Vec<u8> {
    let signature = value(3, &[&[0], signature].concat());
    value(0x30, &[content, &ED25519, &signature].concat())
}

/// The signed part of a certificate or request.
pub(crate) fn signed_part(der: &[u8]) -> &[u8] {
    let (_, outer) = header(der);
    let outer = der.get(outer..).unwrap_or_default();
    let (length, start) = header(outer);
    outer.get(..start + length).unwrap_or_default()
}

/// Where the content begins, and its length. Only for values made here: lengths of up to two bytes.
fn header(der: &[u8]) -> (usize, usize) {
    match der {
        [_, 0x82, high, low, ..] => (usize::from(u16::from_be_bytes([*high, *low])), 4),
        [_, 0x81, byte, ..] => (usize::from(*byte), 3),
        [_, byte, ..] => (usize::from(*byte), 2),
        _ => (0, 0),
    }
}

/// One PEM block.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in STANDARD.encode(der).as_bytes().chunks(64) {
        text += str::from_utf8(line).expect("base64");
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}
