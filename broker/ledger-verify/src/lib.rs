//! The parts that verify a ledger: its public key, signed checkpoints and roots, and the proofs of
//! its Merkle tree. They know no files.
//!
//! The broker's ledger and its clients share it, so both follow the same rules. A client links
//! nothing else of a ledger.

pub mod checkpoint;
pub mod key;
pub mod note;
mod roots;
#[cfg(test)]
mod testing;
pub mod tree;

pub use checkpoint::{Checkpoint, Signer};
pub use key::VerifyingKey;
pub use note::NoteError;
pub use roots::SignedRoots;
pub use tree::Hash;
