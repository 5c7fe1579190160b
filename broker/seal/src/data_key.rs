//! The key that seals other keys.
//!
//! Each message gets a subkey of its own, derived with a random salt (HKDF-SHA256), and AES-256-GCM
//! under the subkey has a fixed nonce. So no count of messages has to be kept, and a nonce under
//! one subkey never repeats.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf,
};
use taskpass_core::{Entropy, Secret};
use zeroize::Zeroizing;

use crate::Error;

const KEY_BYTES: usize = 32;
const ID_BYTES: usize = 8;
const SALT_BYTES: usize = 32;

/// A key that seals key files. It is never on the disk unless it is wrapped.
pub struct DataKey {
    id: String,
    bytes: Zeroizing<[u8; KEY_BYTES]>,
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DataKey({})", self.id)
    }
}

impl DataKey {
    /// A new random key with a random name.
    pub fn generate(entropy: &dyn Entropy) -> Result<Self, Error> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        entropy.fill(bytes.as_mut()).map_err(Error::Entropy)?;
        let mut id = [0; ID_BYTES];
        entropy.fill(&mut id).map_err(Error::Entropy)?;
        let id = id.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { id, bytes })
    }

    /// The key that a seal has unwrapped.
    pub fn from_secret(id: &str, secret: &Secret) -> Option<Self> {
        let bytes = Zeroizing::new(STANDARD.decode(secret.expose()).ok()?);
        Some(Self {
            id: id.to_owned(),
            bytes: Zeroizing::new(bytes.as_slice().try_into().ok()?),
        })
    }

    /// The key as text, for a seal to wrap.
    pub fn to_secret(&self) -> Secret {
        Secret::new(STANDARD.encode(self.bytes.as_ref()))
    }

    /// A second owner, for files that are read and written with the same key.
    pub fn duplicate(&self) -> Self {
        Self {
            id: self.id.clone(),
            bytes: self.bytes.clone(),
        }
    }

    /// The name that sealed files have of it.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn seal(
        &self,
        context: &str,
        plain: &[u8],
        entropy: &dyn Entropy,
    ) -> Result<Vec<u8>, Error> {
        seal(&self.bytes, context, plain, entropy)
    }

    pub(crate) fn open(&self, context: &str, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        open(&self.bytes, context, sealed)
    }
}

/// The salt, the sealed bytes and the tag in a row. `context` must be the same when they are
/// opened.
pub(crate) fn seal(
    key: &[u8; KEY_BYTES],
    context: &str,
    plain: &[u8],
    entropy: &dyn Entropy,
) -> Result<Vec<u8>, Error> {
    let mut salt = [0; SALT_BYTES];
    entropy.fill(&mut salt).map_err(Error::Entropy)?;
    // Room for the tag from the start: a buffer that grows leaves a copy of the key behind.
    let mut sealed = Vec::with_capacity(plain.len() + AES_256_GCM.tag_len());
    sealed.extend_from_slice(plain);
    let mut sealed = Zeroizing::new(sealed);
    subkey(key, &salt)
        .and_then(|subkey| {
            let aad = Aad::from(context.as_bytes());
            subkey
                .seal_in_place_append_tag(nonce(), aad, &mut *sealed)
                .ok()
        })
        .ok_or(Error::Crypto)?;
    Ok([salt.as_slice(), sealed.as_slice()].concat())
}

/// The bytes that were sealed; `None` if anything is different from then.
pub(crate) fn open(
    key: &[u8; KEY_BYTES],
    context: &str,
    sealed: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let (salt, sealed) = sealed.split_at_checked(SALT_BYTES)?;
    let mut bytes = Zeroizing::new(sealed.to_vec());
    let aad = Aad::from(context.as_bytes());
    let length = subkey(key, salt)?
        .open_in_place(nonce(), aad, &mut bytes)
        .ok()?
        .len();
    bytes.truncate(length);
    Some(bytes)
}

fn subkey(key: &[u8; KEY_BYTES], salt: &[u8]) -> Option<LessSafeKey> {
    let derived = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(key);
    let info = [b"taskpass sealed key 1".as_slice()];
    let subkey = derived.expand(&info, &AES_256_GCM).ok()?;
    Some(LessSafeKey::new(UnboundKey::from(subkey)))
}

/// A subkey seals one message, so the nonce has nothing to tell apart.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

#[cfg(test)]
mod tests {
    use taskpass_core::SeededEntropy;

    use super::*;

    #[test]
    fn a_key_survives_its_text_and_shows_nothing_of_itself() {
        let entropy = SeededEntropy::new(1);
        let key = DataKey::generate(&entropy).unwrap();
        let again = DataKey::from_secret(key.id(), &key.to_secret()).unwrap();
        let sealed = key.seal("here", b"hunter2", &entropy).unwrap();
        assert_eq!(again.open("here", &sealed).unwrap().as_slice(), b"hunter2");
        assert!(!format!("{key:?}").contains(key.to_secret().expose()));
        for wrong in ["", "AAAA", "no base64"] {
            let secret = Secret::new(wrong.to_owned());
            assert!(DataKey::from_secret("x", &secret).is_none(), "{wrong}");
        }
    }

    #[test]
    fn the_same_bytes_are_never_sealed_alike() {
        let entropy = SeededEntropy::new(1);
        let key = DataKey::generate(&entropy).unwrap();
        let seal = || key.seal("here", b"same", &entropy).unwrap();
        assert_ne!(seal(), seal());
        let another = DataKey::generate(&entropy).unwrap();
        assert_ne!(key.id(), another.id());
        assert!(another.open("here", &seal()).is_none());
    }
}
