//! The public half of a ledger's key, as a C2SP vkey: `name+id+key`.

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::signature::{ED25519, UnparsedPublicKey};
use taskpass_core::{Digest, hex};

use crate::note::{Note, NoteError, is_key_name, malformed};

/// The type of a plain Ed25519 signature in keys and key ids.
const ED25519_TYPE: u8 = 0x01;

/// The public half: verifies checkpoints and roots. Printed and parsed as a vkey.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifyingKey {
    name: String,
    id: [u8; 4],
    public: [u8; 32],
}

impl VerifyingKey {
    /// The key `public` under `name`. The caller has checked the name with
    /// [`is_key_name`].
    pub fn new(name: &str, public: [u8; 32]) -> Self {
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
    pub fn label(&self) -> String {
        format!("{}+{}", self.name, hex(&self.id))
    }

    /// The text of a note that this key signed, with its last newline. Each signature by this key
    /// must be good. Signatures by other keys, such as witnesses', are not looked at.
    pub fn verify<'a>(&self, note: &'a str) -> Result<&'a str, NoteError> {
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

/// The three parts of `name+id+base64(type ‖ 32 bytes)`.
pub fn parse<'a>(
    text: &'a str,
    what: &'static str,
) -> Result<(&'a str, [u8; 4], [u8; 32]), NoteError> {
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

/// A type and 32 bytes of a key in base64, as keys are printed.
pub fn typed(key: &[u8; 32]) -> String {
    let mut bytes = vec![ED25519_TYPE];
    bytes.extend_from_slice(key);
    STANDARD.encode(bytes)
}
