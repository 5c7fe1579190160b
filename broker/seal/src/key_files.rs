//! The content of key files: as it is, or sealed.

use std::{fmt, sync::Arc};

use taskpass_core::Entropy;
use zeroize::Zeroizing;

use crate::{DataKey, Error, is_sealed, sealed_text::SealedText};

/// Whether a key file in plain text counts beside sealed ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlainFiles {
    /// An installation that calls itself sealed must not hold keys that a thief can read.
    Refused,
    /// While the files are moved from one form to the other.
    Accepted,
}

/// How an installation keeps its private keys. Cheap to clone.
#[derive(Clone)]
pub struct KeyFiles(Option<Arc<Sealed>>);

struct Sealed {
    /// The trust domain: a file of another installation does not open.
    domain: String,
    /// The first one seals; all of them open.
    keys: Vec<DataKey>,
    plain: PlainFiles,
    entropy: Arc<dyn Entropy>,
}

impl fmt::Debug for KeyFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            None => f.write_str("KeyFiles(plain)"),
            Some(sealed) => f.debug_tuple("KeyFiles").field(&sealed.keys).finish(),
        }
    }
}

impl KeyFiles {
    /// Keys lie on the disk as they are. Sealed ones are refused.
    pub const fn plain() -> Self {
        Self(None)
    }

    /// The first key seals, and every one of `keys` opens the files that it has sealed.
    pub fn sealed(
        domain: &str,
        keys: Vec<DataKey>,
        plain: PlainFiles,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        Self(Some(Arc::new(Sealed {
            domain: domain.to_owned(),
            keys,
            plain,
            entropy,
        })))
    }

    /// The content of the file for the private key `name`.
    pub fn protect(&self, name: &str, key: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let Some(sealed) = &self.0 else {
            return Ok(Zeroizing::new(key.to_vec()));
        };
        let data_key = sealed.keys.first().ok_or(Error::Crypto)?;
        let context = SealedText::context(&sealed.domain, data_key.id(), name);
        let text = SealedText {
            key: data_key.id().to_owned(),
            name: name.to_owned(),
            body: data_key.seal(&context, key, sealed.entropy.as_ref())?,
        };
        Ok(Zeroizing::new(text.write().into_bytes()))
    }

    /// The private key `name` in the content of its file.
    pub fn reveal(&self, name: &str, content: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let Some(sealed) = &self.0 else {
            return if is_sealed(content) {
                Err(Error::Sealed)
            } else {
                Ok(Zeroizing::new(content.to_vec()))
            };
        };
        if !is_sealed(content) {
            return match sealed.plain {
                PlainFiles::Accepted => Ok(Zeroizing::new(content.to_vec())),
                PlainFiles::Refused => Err(Error::Plain),
            };
        }
        let text = SealedText::parse(content)?;
        if text.name != name {
            return Err(Error::Misplaced {
                found: text.name.chars().take(NAME_CHARS_SHOWN).collect(),
                wanted: name.to_owned(),
            });
        }
        let data_key = sealed.keys.iter().find(|key| key.id() == text.key);
        let Some(data_key) = data_key else {
            return Err(Error::UnknownKey(
                text.key.chars().take(NAME_CHARS_SHOWN).collect(),
            ));
        };
        let context = SealedText::context(&sealed.domain, data_key.id(), name);
        data_key.open(&context, &text.body).ok_or(Error::Changed)
    }

    /// Whether `protect` would give a file like this one: in plain text, or under the first data
    /// key.
    pub(crate) fn is_current(&self, content: &[u8]) -> bool {
        let newest = self.0.as_ref().and_then(|sealed| sealed.keys.first());
        match (newest, is_sealed(content)) {
            (None, is_sealed) => !is_sealed,
            (Some(_), false) => false,
            (Some(key), true) => SealedText::parse(content).is_ok_and(|text| text.key == key.id()),
        }
    }
}

/// A name in a damaged file may be of any length.
const NAME_CHARS_SHOWN: usize = 80;

#[cfg(test)]
mod tests;
