//! Signs the roots of the installation with the ledger's key.

use std::sync::Arc;

use taskpass_core::Timestamp;
use taskpass_ledger_verify::SignedRoots;

use crate::{Hash, SigningKey, VerifyingKey};

/// Signs which roots the installation has, on any thread. It signs nothing else.
#[derive(Debug, Clone)]
pub struct RootsSigner(Arc<SigningKey>);

impl RootsSigner {
    pub(crate) const fn new(key: Arc<SigningKey>) -> Self {
        Self(key)
    }

    /// The ledger's public key.
    pub fn verifying_key(&self) -> &VerifyingKey {
        self.0.verifying_key()
    }

    /// The note about roots with these public keys.
    pub fn sign(&self, keys: &[Hash], time: Timestamp) -> String {
        SignedRoots::sign(keys, time, self.0.as_ref())
    }
}
