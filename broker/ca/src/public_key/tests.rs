use rcgen::{
    CertificateParams, IsCa, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, SanType, SigningKey as _,
};

use taskpass_core::sha256_hex;

use super::*;

fn pair(algorithm: &'static SignatureAlgorithm) -> KeyPair {
    KeyPair::generate_for(algorithm).unwrap()
}

fn request(pair: &KeyPair) -> Vec<u8> {
    let request = CertificateParams::default()
        .serialize_request(pair)
        .unwrap();
    request.der().to_vec()
}

/// One DER value with a length of up to two bytes.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        len @ 0..128 => out.push(u8::try_from(len).unwrap()),
        len => {
            out.push(0x82);
            out.extend(u16::try_from(len).unwrap().to_be_bytes());
        }
    }
    out.extend_from_slice(content);
    out
}

const ECDSA_SHA256: &[u8] = &[0x30, 0x0a, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const ED25519_ID: &[u8] = &[0x30, 5, 6, 3, 0x2b, 0x65, 0x70];

/// A request put together by hand: any key info, any algorithm, any extra bytes, a true signature
/// over it all.
struct Forged<'a> {
    spki: &'a [u8],
    algorithm: &'a [u8],
    after_attributes: &'a [u8],
    after_signature: &'a [u8],
}

impl Forged<'_> {
    fn sign(&self, pair: &KeyPair) -> Vec<u8> {
        let empty_name = [0x30, 0];
        let attributes = [0xa0, 0];
        let parts = [
            &[2, 1, 0][..],
            &empty_name,
            self.spki,
            &attributes,
            self.after_attributes,
        ];
        let info = der(0x30, &parts.concat());
        let signature = der(3, &[&[0][..], &pair.sign(&info).unwrap()].concat());
        der(
            0x30,
            &[&info, self.algorithm, &signature, self.after_signature].concat(),
        )
    }
}

fn forged(spki: &[u8]) -> Forged<'_> {
    Forged {
        spki,
        algorithm: ECDSA_SHA256,
        after_attributes: &[],
        after_signature: &[],
    }
}

#[test]
fn good_requests_give_their_key_and_nothing_else() {
    for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ED25519] {
        let pair = pair(algorithm);
        let mut wishes = CertificateParams::default();
        wishes.subject_alt_names = vec![SanType::URI(
            "spiffe://acme.test/operator/admin".try_into().unwrap(),
        )];
        wishes.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        wishes.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let request = wishes.serialize_request(&pair).unwrap();
        let from_pem = PublicKey::from_csr(request.pem().unwrap().as_bytes()).unwrap();
        let from_der = PublicKey::from_csr(request.der()).unwrap();
        assert_eq!(from_pem, from_der);
        assert_eq!(from_der.spki_der(), pair.subject_public_key_info());
        assert_eq!(from_der.subject_public_key_info(), from_der.spki_der());
        assert_eq!(from_der.key_sha256(), sha256_hex(from_der.spki_der()));
    }
    let new = NewKey::generate().unwrap();
    assert_eq!(
        &PublicKey::from_csr(&new.csr_der().unwrap()).unwrap(),
        new.public_key()
    );
    let p256 = pair(&PKCS_ECDSA_P256_SHA256);
    let by_hand = forged(&p256.subject_public_key_info()).sign(&p256);
    assert!(
        PublicKey::from_csr(&by_hand).is_ok(),
        "the forger itself works"
    );
}

#[test]
fn pem_must_be_one_block_and_nothing_else() {
    let pair = pair(&PKCS_ECDSA_P256_SHA256);
    let request = CertificateParams::default()
        .serialize_request(&pair)
        .unwrap();
    let good = request.pem().unwrap();
    assert!(PublicKey::from_csr(format!("\n {}\n\n", good.trim()).as_bytes()).is_ok());
    assert!(PublicKey::from_csr(good.replace('\n', "\r\n").as_bytes()).is_ok());
    for bad in [
        String::new(),
        "hello".to_owned(),
        format!("{good}{good}"),
        format!("Certificate Request:\n{good}"),
        format!("{good}and more"),
        good.replace("CERTIFICATE REQUEST", "CERTIFICATE"),
        good.replace("CERTIFICATE REQUEST", "PRIVATE KEY"),
        good.replace('M', "*"),
        good.replace("-----END CERTIFICATE REQUEST-----", ""),
    ] {
        let refused = PublicKey::from_csr(bad.as_bytes());
        assert_eq!(refused, Err(CsrError::Pem), "{bad}");
    }
    assert_eq!(PublicKey::from_csr(&[0xff, 0xfe]), Err(CsrError::Pem));
}

#[test]
fn unsupported_keys_are_refused() {
    let p384 = pair(&PKCS_ECDSA_P384_SHA384);
    assert_eq!(
        PublicKey::from_csr(&request(&p384)),
        Err(CsrError::UnsupportedKey)
    );

    let p256 = pair(&PKCS_ECDSA_P256_SHA256);
    let spki = p256.subject_public_key_info();
    let point = &spki[P256_POINT_AT..];
    let key = |algorithm: &[u8], point: &[u8]| {
        der(
            0x30,
            &[algorithm, &der(3, &[&[0][..], point].concat())].concat(),
        )
    };
    let named = &spki[2..23];
    assert_eq!(
        key(named, point),
        spki,
        "the parts are cut in the right places"
    );
    let ec_oid = &named[2..11];
    let explicit = der(0x30, &[ec_oid, &der(0x30, &[2, 1, 1])[..]].concat());
    let rsa = der(
        0x30,
        &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0],
    );
    let mut compressed = vec![2];
    compressed.extend_from_slice(&point[1..33]);
    let mut hybrid = point.to_vec();
    hybrid[0] = 6;
    for (what, bad) in [
        ("explicit parameters", key(&explicit, point)),
        ("RSA", key(&rsa, &der(0x30, &[2, 2, 0x7f, 1, 2, 1, 3]))),
        ("compressed", key(named, &compressed)),
        ("hybrid", key(named, &hybrid)),
        ("short", key(named, &point[..64])),
        ("long", key(named, &[point, &[0]].concat())),
        ("infinity", key(named, &[0])),
    ] {
        let refused = PublicKey::from_csr(&forged(&bad).sign(&p256));
        assert_eq!(refused, Err(CsrError::UnsupportedKey), "{what}");
    }
    let mut off_curve = spki;
    off_curve[P256_BYTES - 1] ^= 1;
    let refused = PublicKey::from_csr(&forged(&off_curve).sign(&p256));
    assert_eq!(refused, Err(CsrError::WrongSignature), "not on the curve");
}

#[test]
fn signatures_must_be_the_keys_own() {
    let (p256, other) = (pair(&PKCS_ECDSA_P256_SHA256), pair(&PKCS_ECDSA_P256_SHA256));
    let ed25519 = pair(&PKCS_ED25519);
    let spki = p256.subject_public_key_info();
    let refused = PublicKey::from_csr(&forged(&spki).sign(&other));
    assert_eq!(refused, Err(CsrError::WrongSignature));

    // The key is P-256 and the request says it is signed with Ed25519, and the other way round.
    let mixed = Forged {
        algorithm: ED25519_ID,
        ..forged(&spki)
    };
    let refused = PublicKey::from_csr(&mixed.sign(&ed25519));
    assert_eq!(refused, Err(CsrError::UnsupportedSignature));
    let edwards = ed25519.subject_public_key_info();
    let refused = PublicKey::from_csr(&forged(&edwards).sign(&p256));
    assert_eq!(refused, Err(CsrError::UnsupportedSignature));
    let with_null = [
        0x30, 0x0c, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2, 5, 0,
    ];
    let null = Forged {
        algorithm: &with_null,
        ..forged(&spki)
    };
    let refused = PublicKey::from_csr(&null.sign(&p256));
    assert_eq!(refused, Err(CsrError::UnsupportedSignature));
}

#[test]
fn extra_bytes_and_oversize_are_refused() {
    let p256 = pair(&PKCS_ECDSA_P256_SHA256);
    let spki = p256.subject_public_key_info();
    let mut trailing = request(&p256);
    trailing.push(0);
    assert_eq!(PublicKey::from_csr(&trailing), Err(CsrError::TrailingBytes));
    for (after_attributes, after_signature) in [(&[5_u8, 0][..], &[][..]), (&[], &[5, 0])] {
        let stuffed = Forged {
            after_attributes,
            after_signature,
            ..forged(&spki)
        };
        let refused = PublicKey::from_csr(&stuffed.sign(&p256));
        let extra = matches!(refused, Err(CsrError::TrailingBytes | CsrError::Malformed));
        assert!(extra, "{refused:?}");
    }
    let large = vec![0x30; limits::CSR_BYTES_MAX + 1];
    assert_eq!(
        PublicKey::from_csr(&large),
        Err(CsrError::TooLarge(large.len()))
    );
}

/// Every truncation and every single flipped byte is refused or gives the same key.
#[test]
fn damaged_requests_never_give_another_key() {
    let p256 = pair(&PKCS_ECDSA_P256_SHA256);
    let good = request(&p256);
    for at in 0..good.len() {
        assert!(PublicKey::from_csr(&good[..at]).is_err(), "cut at {at}");
        for mask in [0x01, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] ^= mask;
            // The parser accepts some wrong tags; the key must still be the signed key.
            if let Ok(key) = PublicKey::from_csr(&bad) {
                assert_eq!(key.spki_der(), p256.subject_public_key_info(), "byte {at}");
            }
        }
    }
}
