//! The Merkle tree of RFC 6962 (2.1): hashes, proofs and their verification. Pure: knows no files.
//!
//! A tree's inner hashes are named `(level, index)`: the hash over the `2^level` leaves that begin
//! with leaf `index · 2^level`. Proofs are made of such complete subtrees, wherever they are kept.

use ring::digest::{Context, SHA256};

/// A SHA-256 value: a leaf, a subtree or a root.
pub type Hash = [u8; 32];

/// No proof is longer: a tree has at most 2^64 leaves, a consistency proof one hash more than its
/// height.
pub const PROOF_HASHES_MAX: usize = 65;

/// The hash of an entry as a leaf: SHA-256 of 0x00 and its bytes.
pub fn leaf_hash(entry: &[u8]) -> Hash {
    sha256(&[&[0x00], entry])
}

/// The hash of an inner node: SHA-256 of 0x01 and the two hashes below it.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut input = [0x01_u8; 65];
    let (_, children) = input.split_at_mut(1);
    let (to_left, to_right) = children.split_at_mut(32);
    to_left.copy_from_slice(left);
    to_right.copy_from_slice(right);
    sha256(&[&input])
}

/// The root of the tree without leaves: SHA-256 of nothing.
pub fn empty_root() -> Hash {
    sha256(&[])
}

fn sha256(parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// Roots of a growing tree in logarithmic space: only the complete subtrees along the right edge
/// are kept.
#[derive(Debug, Clone, Default)]
pub struct Frontier {
    size: u64,
    /// Largest subtree first; one for each bit set in `size`.
    subtrees: Vec<Hash>,
}

impl Frontier {
    /// Adds a leaf on the right.
    pub fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.subtrees.pop() {
                hash = node_hash(&left, &hash);
            }
        }
        self.subtrees.push(hash);
        self.size += 1;
    }

    /// How many leaves the tree has.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The root over all leaves so far.
    pub fn root(&self) -> Hash {
        fold(&self.subtrees)
    }
}

/// The root over neighbouring complete subtrees, largest first.
pub fn fold(subtrees: &[Hash]) -> Hash {
    let mut hashes = subtrees.iter().rev();
    let Some(last) = hashes.next() else {
        return empty_root();
    };
    hashes.fold(*last, |right, left| node_hash(left, &right))
}

/// The largest power of two smaller than `n`, for `n` > 1: where RFC 6962 splits a tree of `n`
/// leaves.
const fn split(n: u64) -> u64 {
    1 << (u64::BITS - 1 - (n - 1).leading_zeros())
}

/// The hash over the leaves `begin..end`; `begin` must be a place where the RFC splits a tree.
pub fn range_root<E>(
    begin: u64,
    end: u64,
    node: &mut impl FnMut(u32, u64) -> Result<Hash, E>,
) -> Result<Hash, E> {
    let mut subtrees = Vec::new();
    let mut at = begin;
    while at < end {
        let level = u64::BITS - 1 - (end - at).leading_zeros();
        subtrees.push(node(level, at >> level)?);
        at += 1 << level;
    }
    Ok(fold(&subtrees))
}

/// The proof that leaf `index` is in the tree of the first `size` leaves (RFC 6962, 2.1.1), leaf to
/// root.
pub fn inclusion_proof<E>(
    index: u64,
    size: u64,
    node: &mut impl FnMut(u32, u64) -> Result<Hash, E>,
) -> Result<Vec<Hash>, E> {
    let (mut begin, mut end) = (0, size);
    let mut proof = Vec::new();
    while end - begin > 1 {
        let middle = begin + split(end - begin);
        if index < middle {
            proof.push(range_root(middle, end, node)?);
            end = middle;
        } else {
            proof.push(range_root(begin, middle, node)?);
            begin = middle;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// The proof that the tree of `size` leaves continues the one of `old` leaves (RFC 6962, 2.1.2).
pub fn consistency_proof<E>(
    old: u64,
    size: u64,
    node: &mut impl FnMut(u32, u64) -> Result<Hash, E>,
) -> Result<Vec<Hash>, E> {
    let mut proof = Vec::new();
    if old == 0 || old == size {
        return Ok(proof);
    }
    let (mut begin, mut end) = (0, size);
    while end != old {
        let middle = begin + split(end - begin);
        if old <= middle {
            proof.push(range_root(middle, end, node)?);
            end = middle;
        } else {
            proof.push(range_root(begin, middle, node)?);
            begin = middle;
        }
    }
    if begin > 0 {
        proof.push(range_root(begin, end, node)?);
    }
    proof.reverse();
    Ok(proof)
}

/// The root that an inclusion proof leads to (RFC 9162, 2.1.3.2); none when it cannot belong to
/// that place.
pub fn inclusion_root(leaf: &Hash, index: u64, size: u64, proof: &[Hash]) -> Option<Hash> {
    if index >= size {
        return None;
    }
    let (mut node, mut last) = (index, size - 1);
    let mut root = *leaf;
    for sibling in proof {
        if last == 0 {
            return None;
        }
        if node & 1 == 1 || node == last {
            root = node_hash(sibling, &root);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            root = node_hash(&root, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(root)
}

/// Whether `proof` shows that the tree with `root` continues the tree with `old_root` (RFC 9162,
/// 2.1.4.2).
pub fn consistency_holds(
    (old, old_root): (u64, &Hash),
    (size, root): (u64, &Hash),
    proof: &[Hash],
) -> bool {
    if old == 0 {
        return proof.is_empty() && *old_root == empty_root();
    }
    if old == size {
        return proof.is_empty() && old_root == root;
    }
    if old > size {
        return false;
    }
    let (mut node, mut last) = (old - 1, size - 1);
    while node & 1 == 1 {
        node >>= 1;
        last >>= 1;
    }
    // A complete old tree is itself the first node of the path, so the proof leaves it out.
    let (start, rest) = match (old.is_power_of_two(), proof.split_first()) {
        (true, _) => (*old_root, proof),
        (false, Some((first, rest))) => (*first, rest),
        (false, None) => return false,
    };
    let (mut from_old, mut from_new) = (start, start);
    for sibling in rest {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            from_old = node_hash(sibling, &from_old);
            from_new = node_hash(sibling, &from_new);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            from_new = node_hash(&from_new, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && from_old == *old_root && from_new == *root
}

#[cfg(test)]
mod tests;
