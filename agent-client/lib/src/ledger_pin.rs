//! The ledger as this client knows it: the key that was pinned at the first login, and the newest
//! checkpoint that the broker has shown.
//!
//! Each login and each renewal compares the broker's answer with both. The thief of a broker's disk
//! can write another history under another key, and the owner of the ledger's key can rewrite the
//! history under the same key. A client that adopted the new key, or a checkpoint that does not
//! continue the old one, would help to hide that.

use taskpass_core::excerpt;
use taskpass_ledger_verify::{Checkpoint, Hash, VerifyingKey, tree::PROOF_HASHES_MAX};
use taskpass_proto::v1::{Bundle, LedgerHead};

use crate::{Error, IdentityDirectory};

/// Characters of a foreign key in a message; a key of our own trust domain is shorter.
const KEY_CHARS_SHOWN: usize = 400;

/// The pinned key and the newest checkpoint, as the identity directory keeps them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pinned {
    /// The ledger's public key. `None` before the first login.
    pub key: Option<VerifyingKey>,
    /// The newest checkpoint seen. `None` when there was none since the key was pinned.
    pub newest: Option<Checkpoint>,
}

impl Pinned {
    /// The size that the broker is asked to prove as a prefix; 0 without a checkpoint.
    pub(crate) fn size(&self) -> u64 {
        self.newest.as_ref().map_or(0, Checkpoint::size)
    }

    /// Compares the broker's key with the pinned one. Returns the key of the ledger.
    pub(crate) fn check_key(
        &self,
        bundle: &Bundle,
        directory: &IdentityDirectory,
    ) -> Result<VerifyingKey, Error> {
        let shown = bundle.ledger_vkey.trim();
        if let Some(pinned) = self.key.as_ref().filter(|key| key.to_string() != shown) {
            return Err(Error::LedgerKeyChanged {
                dir: directory.path().to_owned(),
                pinned: pinned.to_string(),
                shown: shown_key(shown),
            });
        }
        let key: VerifyingKey = shown
            .parse()
            .map_err(|e| Error::Reply(format!("the ledger's key cannot be used: {e}")))?;
        let origin = format!("taskpass/{}", bundle.trust_domain);
        if key.name() != origin {
            return Err(Error::Reply(format!(
                "the ledger's key is named `{}`, not `{origin}`",
                key.name()
            )));
        }
        Ok(key)
    }

    /// Compares the broker's answer with the kept key and checkpoint. Returns the pair to keep from
    /// now on.
    pub(crate) fn check(
        &self,
        bundle: &Bundle,
        head: Option<LedgerHead>,
        directory: &IdentityDirectory,
    ) -> Result<Self, Error> {
        let key = self.check_key(bundle, directory)?;
        let Some(head) = head else {
            // A broker from before checkpoints came with identities. Once a checkpoint is kept,
            // silence would be the easiest way around it.
            return match &self.newest {
                None => Ok(self.clone().with_key(key)),
                Some(_) => Err(self.rewritten(directory, "the broker shows no checkpoint")),
            };
        };
        let checkpoint = Checkpoint::open(&head.checkpoint, &key)
            .map_err(|e| Error::Reply(format!("the ledger's checkpoint does not verify: {e}")))?;
        let proof = hashes(&head.consistency)?;
        self.check_continues(&checkpoint, &proof, directory)?;
        Ok(Self {
            key: Some(key),
            newest: Some(checkpoint),
        })
    }

    /// Fails unless `shown` is the kept checkpoint or continues it.
    pub(crate) fn check_continues(
        &self,
        shown: &Checkpoint,
        proof: &[Hash],
        directory: &IdentityDirectory,
    ) -> Result<(), Error> {
        let Some(kept) = &self.newest else {
            return Ok(());
        };
        if shown.continues(kept, proof) {
            return Ok(());
        }
        let why = if shown.size() < kept.size() {
            format!("the broker's ledger has only {} entries", shown.size())
        } else if shown.size() == kept.size() {
            "the same entries lead to another root".to_owned()
        } else {
            format!("its {} entries begin otherwise", shown.size())
        };
        Err(self.rewritten(directory, &why))
    }

    fn with_key(self, key: VerifyingKey) -> Self {
        Self {
            key: Some(key),
            ..self
        }
    }

    fn rewritten(&self, directory: &IdentityDirectory, why: &str) -> Error {
        Error::LedgerRewritten {
            dir: directory.path().to_owned(),
            size: self.size(),
            why: why.to_owned(),
        }
    }
}

/// The hashes of a proof.
pub(crate) fn hashes(proof: &[Vec<u8>]) -> Result<Vec<Hash>, Error> {
    let hashes = proof.iter().map(|hash| hash.as_slice().try_into().ok());
    let hashes: Option<Vec<Hash>> = hashes.collect();
    hashes
        .filter(|hashes| hashes.len() <= PROOF_HASHES_MAX)
        .ok_or_else(|| Error::Reply("the ledger's proof has the wrong form".to_owned()))
}

/// A key for a message. It comes from a server that may be no honest broker.
fn shown_key(text: &str) -> String {
    if text.is_empty() {
        return "none".to_owned();
    }
    let text: String = text.chars().take(KEY_CHARS_SHOWN).collect();
    text.parse::<VerifyingKey>()
        .map_or_else(|_unreadable| excerpt(&text), |key| key.to_string())
}
