//! How the installation's private keys lie on the disk: opening the seal, and moving the keys to
//! another one.
//!
//! A random *data key* seals the key files of the certificate authority and of the ledger. A seal
//! wraps the data key, and `seal.json` in the data directory holds it wrapped. So a key service is
//! asked once at the start and not at each rotation, and the broker runs on when it is away.

mod change;
mod open;
mod passphrase;
mod status;
#[cfg(test)]
mod tests;

pub use change::{Change, Changed, Error, Request, change};
pub use open::KeysError;
pub(crate) use open::{fresh, open, open_at_start};
pub use status::{Form, KeyFile, Status, status};
pub(crate) use status::{key_files, plain_files};

use std::sync::Arc;

use taskpass_provider::{ProviderKinds, SealFactory, seal_factory};

/// The kinds of seal: the broker's own, and one of each provider's package that offers one.
pub(crate) fn seals(kinds: &ProviderKinds) -> Vec<Arc<dyn SealFactory>> {
    let mut seals = vec![
        seal_factory::<passphrase::PassphraseFile>(),
        seal_factory::<passphrase::SystemdCredential>(),
    ];
    seals.extend(kinds.iter().filter_map(|kind| kind.seal()));
    seals
}
