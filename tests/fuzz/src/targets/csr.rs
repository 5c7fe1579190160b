//! Certificate requests. The first byte chooses: the request as it is, or content that gets a valid
//! signature.

use rcgen::SigningKey as _;
use taskpass_ca::PublicKey;
use taskpass_core::{limits, sha256_hex};

use crate::{der, fixtures, input, wording::one_line};

pub(crate) fn run(data: &[u8]) {
    let (how, rest) = input::choice(data);
    let signed;
    let request = if how % 2 == 0 {
        rest
    } else {
        signed = sign(rest);
        &signed
    };
    match PublicKey::from_csr(request) {
        Ok(key) => accepted(request, &key),
        Err(error) => drop(one_line(error, 250)),
    }
}

/// A request over these bytes, signed with the key of [`fixtures::key`] 3.
pub(crate) fn sign(info: &[u8]) -> Vec<u8> {
    let signature = fixtures::authorities()
        .leaf_key
        .sign(info)
        .expect("a signature");
    der::signed(info, &signature)
}

fn accepted(request: &[u8], key: &PublicKey) {
    assert!(request.len() <= limits::CSR_BYTES_MAX);
    let spki = key.spki_der();
    assert!([44, 91].contains(&spki.len()) && spki.first() == Some(&0x30));
    assert_eq!(key.key_sha256(), sha256_hex(spki));
    if request.first() != Some(&0x30) {
        return;
    }
    // The request contains the key, and the same request in PEM gives the same key.
    assert!(request.windows(spki.len()).any(|window| window == spki));
    let pem = der::pem("CERTIFICATE REQUEST", request);
    if pem.len() <= limits::CSR_BYTES_MAX {
        assert_eq!(PublicKey::from_csr(pem.as_bytes()).as_ref(), Ok(key));
    }
}
