//! The ledger's key pair: Ed25519, named after the ledger's origin, in the text forms of other note
//! tools.
//!
//! The public half is a C2SP vkey, `name+id+key`; the private half is kept in the form of Go's
//! `sumdb/note`, `PRIVATE+KEY+name+id+seed`, in a file that only its owner can read.

use std::{
    fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
    str::FromStr,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use taskpass_core::{Digest, Entropy, EntropyError, Secret, hex};
use taskpass_files::{Access, create_new, exposed_mode};

use crate::note::{self, Note, NoteError, Signature, is_key_name, malformed};

/// The type of a plain Ed25519 signature in keys and key ids.
const ED25519_TYPE: u8 = 0x01;
const PRIVATE_PREFIX: &str = "PRIVATE+KEY+";
/// No key file is longer than this.
const KEY_FILE_BYTES_MAX: usize = 1024;

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

/// The public half: verifies checkpoints. Printed and parsed as a vkey.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifyingKey {
    name: String,
    id: [u8; 4],
    public: [u8; 32],
}

impl VerifyingKey {
    fn new(name: &str, public: [u8; 32]) -> Self {
        Self {
            name: name.to_owned(),
            id: key_id(name, &public),
            public,
        }
    }

    /// The key's name, which is the ledger's origin.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key id that stands before signatures.
    pub const fn id(&self) -> &[u8; 4] {
        &self.id
    }

    /// Name and id, for messages.
    pub(crate) fn label(&self) -> String {
        format!("{}+{}", self.name, hex(&self.id))
    }

    /// The text of a note that this key signed, with its last newline. Each signature by this key
    /// must be good. Signatures by other keys, such as witnesses', are not looked at.
    pub(crate) fn verify<'a>(&self, note: &'a str) -> Result<&'a str, NoteError> {
        let note = Note::parse(note)?;
        let mut signed = false;
        for signature in note.signatures() {
            let signature = signature?;
            if signature.name != self.name || signature.key_id != self.id {
                continue;
            }
            UnparsedPublicKey::new(&ED25519, &self.public)
                .verify(note.text().as_bytes(), &signature.bytes)
                .ok()
                .ok_or_else(|| NoteError::BadSignature { key: self.label() })?;
            signed = true;
        }
        if signed {
            Ok(note.text())
        } else {
            Err(NoteError::NotSigned { key: self.label() })
        }
    }
}

impl fmt::Display for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.label(), typed(&self.public))
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({self})")
    }
}

impl FromStr for VerifyingKey {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, id, public) = parse(text, "the verifier key")?;
        let key = Self::new(name, public);
        if key.id == id {
            Ok(key)
        } else {
            Err(malformed(
                "the verifier key",
                "its id does not belong to its name and key",
            ))
        }
    }
}

/// The private half: signs checkpoints.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    verifying: VerifyingKey,
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
        let mut seed = [0; 32];
        entropy.fill(&mut seed).map_err(KeyError::Entropy)?;
        let key = Self::from_seed(origin, &seed)?;
        let text = Secret::new(format!(
            "{PRIVATE_PREFIX}{}+{}\n",
            key.verifying.label(),
            typed(&seed)
        ));
        create_new(path, text.expose().as_bytes(), Access::Private)?;
        Ok(key)
    }

    /// Reads the key of the ledger `origin`.
    pub fn load(origin: &str, path: &Path) -> Result<Self, KeyError> {
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
        let key = Self::parse(text.expose()).map_err(content)?;
        if key.verifying.name == origin {
            Ok(key)
        } else {
            Err(KeyError::Origin {
                path: path.to_owned(),
                expected: origin.to_owned(),
                found: key.verifying.name,
            })
        }
    }

    /// The public half.
    pub const fn verifying_key(&self) -> &VerifyingKey {
        &self.verifying
    }

    /// The note of `text`, which ends in a newline, signed by this key.
    pub(crate) fn sign(&self, text: &str) -> String {
        let signature = Signature {
            name: &self.verifying.name,
            key_id: self.verifying.id,
            bytes: self.pair.sign(text.as_bytes()).as_ref().to_vec(),
        };
        note::format(text, &signature)
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
        })
    }

    fn parse(text: &str) -> Result<Self, NoteError> {
        let what = "the signing key";
        let line = text.strip_suffix('\n').unwrap_or(text);
        let rest = line.strip_prefix(PRIVATE_PREFIX);
        let rest = rest.ok_or_else(|| malformed(what, "it does not begin with `PRIVATE+KEY+`"))?;
        let (name, id, seed) = parse(rest, what)?;
        let key = Self::from_seed(name, &seed).ok();
        key.filter(|key| key.verifying.id == id)
            .ok_or_else(|| malformed(what, "its id does not belong to its name and key"))
    }
}

/// The three parts of `name+id+base64(type ‖ 32 bytes)`.
fn parse<'a>(text: &'a str, what: &'static str) -> Result<(&'a str, [u8; 4], [u8; 32]), NoteError> {
    let bad = malformed(what, "it is not `name+id+base64` with an Ed25519 key");
    let parts = text
        .split_once('+')
        .and_then(|(name, rest)| Some((name, rest.split_once('+')?)));
    let Some((name, (id, key))) = parts else {
        return Err(bad);
    };
    let id_bytes = u32::from_str_radix(id, 16).ok().map(u32::to_be_bytes);
    let key = STANDARD.decode(key).ok();
    let key = key.as_deref().and_then(<[u8]>::split_first);
    match (id_bytes, key) {
        (Some(id_bytes), Some((&ED25519_TYPE, key)))
            if is_key_name(name) && hex(&id_bytes) == id =>
        {
            let key = <[u8; 32]>::try_from(key).ok().ok_or(bad)?;
            Ok((name, id_bytes, key))
        }
        _ => Err(bad),
    }
}

fn key_id(name: &str, public: &[u8; 32]) -> [u8; 4] {
    let mut input = name.as_bytes().to_vec();
    input.extend_from_slice(&[b'\n', ED25519_TYPE]);
    input.extend_from_slice(public);
    let digest = Digest::of(&input);
    let [a, b, c, d, ..] = *digest.bytes();
    [a, b, c, d]
}

fn typed(key: &[u8; 32]) -> String {
    let mut bytes = vec![ED25519_TYPE];
    bytes.extend_from_slice(key);
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests;
