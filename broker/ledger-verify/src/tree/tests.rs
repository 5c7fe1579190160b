use std::convert::Infallible;

use proptest::prelude::*;

use super::*;

/// The tree of RFC 6962 2.1, written down as the standard has it.
fn naive_root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => empty_root(),
        [leaf] => *leaf,
        _ => {
            let mut k = 1;
            while k * 2 < leaves.len() {
                k *= 2;
            }
            node_hash(&naive_root(&leaves[..k]), &naive_root(&leaves[k..]))
        }
    }
}

fn naive_path(index: usize, leaves: &[Hash]) -> Vec<Hash> {
    if leaves.len() == 1 {
        return Vec::new();
    }
    let mut k = 1;
    while k * 2 < leaves.len() {
        k *= 2;
    }
    let (left, right) = leaves.split_at(k);
    let mut path;
    if index < k {
        path = naive_path(index, left);
        path.push(naive_root(right));
    } else {
        path = naive_path(index - k, right);
        path.push(naive_root(left));
    }
    path
}

fn nodes(leaves: &[Hash]) -> impl FnMut(u32, u64) -> Result<Hash, Infallible> {
    move |level, index| {
        let begin = usize::try_from(index << level).unwrap();
        Ok(naive_root(&leaves[begin..begin + (1 << level)]))
    }
}

fn leaves(count: u64) -> Vec<Hash> {
    (0..count).map(|n| leaf_hash(&n.to_be_bytes())).collect()
}

fn hex(text: &str) -> Vec<u8> {
    let (pairs, _) = text.as_bytes().as_chunks::<2>();
    pairs
        .iter()
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn hash(text: &str) -> Hash {
    hex(text).try_into().unwrap()
}

/// The leaves and roots that Certificate Transparency's own tests use.
const CT_LEAVES: [&str; 8] = [
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
];
const CT_ROOTS: [&str; 9] = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

fn ct_leaves() -> Vec<Hash> {
    CT_LEAVES.iter().map(|leaf| leaf_hash(&hex(leaf))).collect()
}

#[test]
fn roots_match_certificate_transparency() {
    let leaves = ct_leaves();
    let mut frontier = Frontier::default();
    for (size, root) in CT_ROOTS.iter().enumerate() {
        assert_eq!(frontier.root(), hash(root), "size {size}");
        let ranged = range_root(0, size as u64, &mut nodes(&leaves)).unwrap();
        assert_eq!(ranged, hash(root), "size {size}");
        if let Some(leaf) = leaves.get(size) {
            frontier.push(*leaf);
        }
    }
}

#[test]
fn inclusion_proofs_match_certificate_transparency() {
    let known: [(u64, u64, &[&str]); 5] = [
        (0, 1, &[]),
        (
            0,
            8,
            &[
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ],
        ),
        (
            5,
            8,
            &[
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ],
        ),
        (
            2,
            3,
            &["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
        ),
        (
            1,
            5,
            &[
                "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            ],
        ),
    ];
    let leaves = ct_leaves();
    for (index, size, proof) in known {
        let expected: Vec<Hash> = proof.iter().map(|h| hash(h)).collect();
        let found = inclusion_proof(index, size, &mut nodes(&leaves)).unwrap();
        assert_eq!(found, expected, "{index} of {size}");
        let leaf = &leaves[usize::try_from(index).unwrap()];
        let root = hash(CT_ROOTS[usize::try_from(size).unwrap()]);
        assert_eq!(inclusion_root(leaf, index, size, &found), Some(root));
    }
}

#[test]
fn consistency_proofs_match_certificate_transparency() {
    let known: [(u64, u64, &[&str]); 4] = [
        (1, 1, &[]),
        (
            1,
            8,
            &[
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ],
        ),
        (
            6,
            8,
            &[
                "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ],
        ),
        (
            2,
            5,
            &[
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            ],
        ),
    ];
    let leaves = ct_leaves();
    let root = |size: u64| hash(CT_ROOTS[usize::try_from(size).unwrap()]);
    for (old, size, proof) in known {
        let expected: Vec<Hash> = proof.iter().map(|h| hash(h)).collect();
        let found = consistency_proof(old, size, &mut nodes(&leaves)).unwrap();
        assert_eq!(found, expected, "{old} to {size}");
        let holds = consistency_holds((old, &root(old)), (size, &root(size)), &found);
        assert!(holds, "{old} to {size}");
    }
}

#[test]
fn every_small_tree_proves_every_leaf_and_every_older_self() {
    let leaves = leaves(40);
    for size in 1..=40_u64 {
        let some = &leaves[..usize::try_from(size).unwrap()];
        let root = naive_root(some);
        for index in 0..size {
            let proof = inclusion_proof(index, size, &mut nodes(some)).unwrap();
            let leaf = &some[usize::try_from(index).unwrap()];
            assert_eq!(inclusion_root(leaf, index, size, &proof), Some(root));
            assert_ne!(inclusion_root(leaf, index ^ 1, size, &proof), Some(root));
            let mut longer = proof.clone();
            longer.push([7; 32]);
            assert_ne!(inclusion_root(leaf, index, size, &longer), Some(root));
        }
        for old in 0..=size {
            let old_root = naive_root(&some[..usize::try_from(old).unwrap()]);
            let proof = consistency_proof(old, size, &mut nodes(some)).unwrap();
            assert!(consistency_holds((old, &old_root), (size, &root), &proof));
            assert!(!consistency_holds((old, &[9; 32]), (size, &root), &proof));
            assert!(old == 0 || !consistency_holds((old, &old_root), (size, &[9; 32]), &proof));
            if let Some((_, shorter)) = proof.split_last() {
                assert!(!consistency_holds((old, &old_root), (size, &root), shorter));
            }
        }
    }
}

#[test]
fn a_proof_never_overflows_on_absurd_sizes() {
    assert_eq!(inclusion_root(&[1; 32], u64::MAX, u64::MAX, &[]), None);
    assert!(inclusion_root(&[1; 32], u64::MAX - 1, u64::MAX, &[[2; 32]; 65]).is_none());
    assert!(!consistency_holds(
        (u64::MAX - 1, &[1; 32]),
        (u64::MAX, &[2; 32]),
        &[[3; 32]; 65]
    ));
    assert!(!consistency_holds((3, &[1; 32]), (2, &[2; 32]), &[]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn proofs_agree_with_the_naive_tree(size in 1_u64..600, pick in 0_u64..600, old in 0_u64..600) {
        let leaves = leaves(size);
        let (index, old) = (pick % size, old % (size + 1));
        let root = naive_root(&leaves);
        let at = usize::try_from(index).unwrap();
        let proof = inclusion_proof(index, size, &mut nodes(&leaves)).unwrap();
        prop_assert_eq!(&proof, &naive_path(at, &leaves));
        prop_assert_eq!(inclusion_root(&leaves[at], index, size, &proof), Some(root));
        let old_root = naive_root(&leaves[..usize::try_from(old).unwrap()]);
        let proof = consistency_proof(old, size, &mut nodes(&leaves)).unwrap();
        prop_assert!(consistency_holds((old, &old_root), (size, &root), &proof));
        for place in 0..proof.len() {
            let mut wrong = proof.clone();
            wrong[place][0] ^= 1;
            prop_assert!(!consistency_holds((old, &old_root), (size, &root), &wrong));
        }
    }
}
