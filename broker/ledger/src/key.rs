//! The ledger's key pair: Ed25519, named after the ledger's origin, in the text forms of other note
//! tools.
//!
//! The public half is a C2SP vkey, `name+id+key`; the private half is kept in the form of Go's
//! `sumdb/note`, `PRIVATE+KEY+name+id+seed`, in a file that only its owner can read, and sealed
//! where the installation is.

use std::{
    fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use ring::{
    hmac,
    signature::{Ed25519KeyPair, KeyPair},
};
use taskpass_core::{Entropy, EntropyError, Secret};
use taskpass_files::{Access, create_new, exposed_mode};
use taskpass_seal::KeyFiles;

use taskpass_ledger_verify::{
    Signer, VerifyingKey,
    key::{parse, typed},
    note::{self, NoteError, Signature, is_key_name, malformed},
};

const PRIVATE_PREFIX: &str = "PRIVATE+KEY+";
/// No key file is longer than this.
const KEY_FILE_BYTES_MAX: usize = 4096;
/// The name of the key in a sealed file.
const SEALED_NAME: &str = "ledger.key";

/// A key could not be made, kept or read.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The name is not usable as an origin.
    #[error(
        "`{0}` cannot name a ledger: 1 to 255 bytes without spaces, control characters and `+`"
    )]
    Name(String),
    /// No randomness.
    #[error("no ledger key was made")]
    Entropy(#[source] EntropyError),
    /// There is a key already. It is never overwritten: the history could then not be verified any
    /// more.
    #[error("`{0}` exists already and is kept; move it away first if a new key is really wanted")]
    Exists(PathBuf),
    /// Others can read the key.
    #[error("`{0}` is readable by others; run `chmod 600 {0}`")]
    Permissions(PathBuf),
    /// The file operation failed.
    #[error("cannot {action} the ledger key `{path}`")]
    Io {
        /// The operation.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The key could not be sealed, or its sealed file does not open.
    #[error("the ledger key `{path}` cannot be used")]
    Seal {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: taskpass_seal::Error,
    },
    /// The content is not a key.
    #[error("`{path}` holds no usable ledger key")]
    Content {
        /// The file.
        path: PathBuf,
        /// The mistake in it.
        #[source]
        source: NoteError,
    },
    /// The key belongs to another ledger.
    #[error("the key in `{path}` is of the ledger `{found}`, not of `{expected}`")]
    Origin {
        /// The file.
        path: PathBuf,
        /// The origin asked for.
        expected: String,
        /// The origin of the key.
        found: String,
    },
}

impl From<taskpass_files::Error> for KeyError {
    fn from(error: taskpass_files::Error) -> Self {
        if error.is_already_there() {
            return Self::Exists(error.path);
        }
        Self::Io {
            action: error.action,
            path: error.path,
            source: error.source,
        }
    }
}

/// The private half: signs checkpoints and roots.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    verifying: VerifyingKey,
    /// Makes keys for other uses.
    root: hmac::Key,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.verifying.label())
    }
}

impl SigningKey {
    /// Makes the key of the ledger `origin` and writes it to a new file, mode 0600, durable before
    /// this returns.
    pub fn generate(origin: &str, path: &Path, entropy: &dyn Entropy) -> Result<Self, KeyError> {
        Self::generate_in(origin, path, entropy, &KeyFiles::plain())
    }

    /// The same, as `keys` has private keys on the disk.
    pub fn generate_in(
        origin: &str,
        path: &Path,
        entropy: &dyn Entropy,
        keys: &KeyFiles,
    ) -> Result<Self, KeyError> {
        let mut seed = [0; 32];
        entropy.fill(&mut seed).map_err(KeyError::Entropy)?;
        let key = Self::from_seed(origin, &seed)?;
        let text = Secret::new(format!(
            "{PRIVATE_PREFIX}{}+{}\n",
            key.verifying.label(),
            typed(&seed)
        ));
        let content = keys.protect(SEALED_NAME, text.expose().as_bytes());
        let content = content.map_err(|source| KeyError::Seal {
            path: path.to_owned(),
            source,
        })?;
        create_new(path, &content, Access::Private)?;
        Ok(key)
    }

    /// Reads the key of the ledger `origin` from a file in plain text.
    pub fn load(origin: &str, path: &Path) -> Result<Self, KeyError> {
        Self::load_from(origin, path, &KeyFiles::plain())
    }

    /// Reads the key of the ledger `origin`, as `keys` has private keys on the disk.
    pub fn load_from(origin: &str, path: &Path, keys: &KeyFiles) -> Result<Self, KeyError> {
        let io = |source| KeyError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        };
        let file = fs::File::open(path).map_err(io)?;
        if exposed_mode(&file.metadata().map_err(io)?).is_some() {
            return Err(KeyError::Permissions(path.to_owned()));
        }
        let content = |source| KeyError::Content {
            path: path.to_owned(),
            source,
        };
        // Room for all of it from the start: a text that grows leaves copies of the seed behind.
        let mut text = String::with_capacity(KEY_FILE_BYTES_MAX + 1);
        let read = file
            .take(KEY_FILE_BYTES_MAX as u64 + 1)
            .read_to_string(&mut text);
        let text = Secret::new(text);
        read.map_err(io)?;
        if text.expose().len() > KEY_FILE_BYTES_MAX {
            return Err(content(malformed("the signing key", "it is too long")));
        }
        let revealed = keys.reveal(SEALED_NAME, text.expose().as_bytes());
        let revealed = revealed.map_err(|source| KeyError::Seal {
            path: path.to_owned(),
            source,
        })?;
        let plain = str::from_utf8(&revealed).ok();
        let plain = plain.ok_or_else(|| content(malformed("the signing key", "it is no text")))?;
        let key = Self::parse(plain).map_err(content)?;
        if key.verifying.name() == origin {
            Ok(key)
        } else {
            Err(KeyError::Origin {
                path: path.to_owned(),
                expected: origin.to_owned(),
                found: key.verifying.name().to_owned(),
            })
        }
    }

    /// The public half.
    pub const fn verifying_key(&self) -> &VerifyingKey {
        &self.verifying
    }

    /// A secret key for another use, which only the holder of this key can make. It says nothing
    /// about this key or about the keys for other uses.
    pub fn derive(&self, purpose: &str) -> hmac::Key {
        let tag = hmac::sign(&self.root, purpose.as_bytes());
        hmac::Key::new(hmac::HMAC_SHA256, tag.as_ref())
    }

    pub(crate) fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, KeyError> {
        let bad = || KeyError::Name(name.to_owned());
        if !is_key_name(name) {
            return Err(bad());
        }
        let pair = Ed25519KeyPair::from_seed_unchecked(seed)
            .ok()
            .ok_or_else(bad)?;
        let public: [u8; 32] = pair.public_key().as_ref().try_into().ok().ok_or_else(bad)?;
        Ok(Self {
            pair,
            verifying: VerifyingKey::new(name, public),
            root: hmac::Key::new(hmac::HMAC_SHA256, seed),
        })
    }

    fn parse(text: &str) -> Result<Self, NoteError> {
        let what = "the signing key";
        let line = text.strip_suffix('\n').unwrap_or(text);
        let rest = line.strip_prefix(PRIVATE_PREFIX);
        let rest = rest.ok_or_else(|| malformed(what, "it does not begin with `PRIVATE+KEY+`"))?;
        let (name, id, seed) = parse(rest, what)?;
        let key = Self::from_seed(name, &seed).ok();
        key.filter(|key| *key.verifying.id() == id)
            .ok_or_else(|| malformed(what, "its id does not belong to its name and key"))
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

#[cfg(test)]
mod tests;
