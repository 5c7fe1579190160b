//! Proofs of single entries, and the arithmetic of the tree with arbitrary numbers and hashes.

use taskpass_ledger::{
    Hash, ProofFile,
    tree::{consistency_holds, inclusion_root, leaf_hash},
};

use crate::{fixtures, input, wording};

pub(crate) fn run(data: &[u8]) {
    let (what, rest) = input::choice(data);
    if what % 2 == 1 {
        arithmetic(rest);
        return;
    }
    let Some(text) = input::text(rest) else {
        return;
    };
    match ProofFile::parse(text) {
        Ok(proof) => {
            assert_eq!(proof.to_string(), text);
            verify(&proof);
        }
        Err(error) => drop(wording::one_line(error, 400)),
    }
}

/// Asserts that an entry is proven at its own place and at no other.
fn verify(proof: &ProofFile) {
    let history = fixtures::history();
    for (index, entry) in (0_u64..).zip(&history.entries) {
        match proof.verify(entry, &history.key) {
            Ok(checkpoint) => {
                let signed = [&history.checkpoint, &history.older];
                assert!(signed.iter().any(|known| known.root() == checkpoint.root()));
                assert_eq!(proof.index(), index);
            }
            Err(error) => wording::one_line_each(&error, 1000),
        }
    }
}

fn arithmetic(data: &[u8]) {
    let mut numbers = data.chunks_exact(8);
    let mut number = || {
        let bytes = numbers.next().and_then(|chunk| chunk.try_into().ok());
        bytes.map_or(0, u64::from_be_bytes)
    };
    let (index, size) = (number(), number());
    let hashes: Vec<Hash> = data
        .get(16..)
        .unwrap_or_default()
        .chunks_exact(32)
        .filter_map(|chunk| chunk.try_into().ok())
        .collect();
    let leaf = leaf_hash(data);
    if inclusion_root(&leaf, index, size, &hashes).is_some() {
        assert!(index < size && hashes.len() <= 64);
        // A proof with one hash less belongs to another tree.
        let shorter = hashes.split_last().map(|(_, shorter)| shorter);
        let again = shorter.map(|shorter| inclusion_root(&leaf, index, size, shorter));
        assert!(!matches!(again, Some(Some(_))));
    }
    let old = hashes.first().unwrap_or(&leaf);
    let holds = consistency_holds((index, old), (size, &leaf), &hashes);
    assert!(!holds || index <= size);
}
