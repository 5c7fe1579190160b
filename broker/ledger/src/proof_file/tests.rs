use super::*;
use crate::testing::{Scratch, entry, verifying};

fn proof() -> (String, Vec<u8>) {
    let scratch = Scratch::new();
    let (ledger, checkpoint) = scratch.filled(300, 100);
    let proof = ProofFile::new(&ledger.reader(), &checkpoint, 258).unwrap();
    (proof.to_string(), entry(258))
}

#[test]
fn a_proof_stands_on_its_own() {
    let (text, entry) = proof();
    let parsed = ProofFile::parse(&text).unwrap();
    assert_eq!(parsed.to_string(), text);
    assert_eq!((parsed.index(), parsed.extra()), (258, None));
    let checkpoint = parsed.verify(&entry, &verifying()).unwrap();
    assert_eq!(checkpoint.size(), 300);
    let other = parsed.verify(b"another", &verifying());
    assert!(matches!(other, Err(VerifyError::NotProven { index: 258 })));
}

#[test]
fn every_flipped_byte_is_noticed() {
    let (text, entry) = proof();
    for place in 0..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[place] ^= 1;
        let Ok(changed) = String::from_utf8(bytes) else {
            continue;
        };
        let verified = ProofFile::parse(&changed).map(|proof| proof.verify(&entry, &verifying()));
        assert!(!matches!(verified, Ok(Ok(_))), "{place}: {changed}");
    }
}

#[test]
fn extra_data_is_carried_and_malformed_proofs_are_refused() {
    let (text, entry) = proof();
    let extra = text.replace("@v1\n", "@v1\nextra aGVsbG8=\n");
    let parsed = ProofFile::parse(&extra).unwrap();
    assert_eq!(parsed.extra(), Some(b"hello".as_slice()));
    assert!(parsed.verify(&entry, &verifying()).is_ok());
    assert_eq!(parsed.to_string(), extra);
    let long = "c2sp.org/tlog-proof@v1\nindex 0\n".to_owned() + &"A\n".repeat(200_000);
    for bad in [
        "",
        "c2sp.org/tlog-proof@v2\nindex 1\n\n",
        "c2sp.org/tlog-proof@v1\nindex 01\n\nnote",
        "c2sp.org/tlog-proof@v1\n\nnote",
        "c2sp.org/tlog-proof@v1\nextra !\nindex 1\n\nnote",
        "c2sp.org/tlog-proof@v1\nindex 1\nabc\n\nnote",
        &long,
    ] {
        assert!(ProofFile::parse(bad).is_err(), "{bad:.60}");
    }
}
