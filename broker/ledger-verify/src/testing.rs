//! A key that signs for the tests of this crate.

use ring::signature::{Ed25519KeyPair, KeyPair};

use crate::{
    Signer, VerifyingKey,
    note::{self, Signature},
};

pub(crate) struct SigningKey {
    pair: Ed25519KeyPair,
    verifying: VerifyingKey,
}

impl SigningKey {
    pub(crate) fn from_seed(name: &str, seed: &[u8; 32]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).unwrap();
        let public = pair.public_key().as_ref().try_into().unwrap();
        let verifying = VerifyingKey::new(name, public);
        Self { pair, verifying }
    }
}

impl Signer for SigningKey {
    fn verifying_key(&self) -> &VerifyingKey {
        &self.verifying
    }

    fn sign(&self, text: &str) -> String {
        let signature = Signature {
            name: self.verifying.name(),
            key_id: *self.verifying.id(),
            bytes: self.pair.sign(text.as_bytes()).as_ref().to_vec(),
        };
        note::format(text, &signature)
    }
}
