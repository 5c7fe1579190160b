//! Private keys that lie sealed on the disk.
//!
//! A *data key* seals every key file of an installation (AES-256-GCM, a subkey for each file). The
//! data key itself is wrapped by a *seal*: a passphrase, or a key that never leaves a key service.
//! The *keyring* is the file with the wrapped data key. A thief of the directory has sealed files
//! and a wrapped key, and neither opens without the seal's own secret. A program that runs has the
//! data key in memory, so a seal is no protection against a stranger on the running machine.
//!
//! A sealed file names the key that it holds and is bound to the installation, so files that were
//! swapped, or that come from another installation, do not open.
//!
//! This crate calls no key service: the caller wraps and unwraps the data key
//! ([`DataKey::to_secret`]), and [`wrap_with_passphrase`] does it with a passphrase. A second use
//! of the same seal, such as secrets of back ends, takes a data key of its own.
//!
//! ```
//! use std::sync::Arc;
//! use taskpass_core::SystemEntropy;
//! use taskpass_seal::{DataKey, KeyFiles, PlainFiles};
//!
//! # fn main() -> Result<(), taskpass_seal::Error> {
//! let entropy = Arc::new(SystemEntropy::new());
//! let key = DataKey::generate(entropy.as_ref())?;
//! let files = KeyFiles::sealed("acme.test", vec![key], PlainFiles::Refused, entropy);
//! let content = files.protect("ledger.key", b"the seed")?;
//! assert_eq!(files.reveal("ledger.key", &content)?.as_slice(), b"the seed");
//! assert!(files.reveal("ca/root.key", &content).is_err());
//! assert!(KeyFiles::plain().reveal("ledger.key", &content).is_err());
//! # Ok(())
//! # }
//! ```

mod data_key;
mod error;
mod key_files;
mod keyring;
mod passphrase;
mod rewrite;
mod sealed_text;

pub use data_key::DataKey;
pub use error::Error;
pub use key_files::{KeyFiles, PlainFiles};
pub use keyring::{Keyring, WrappedKey};
pub use passphrase::{
    PASSPHRASE_BYTES_MAX, PASSPHRASE_BYTES_MIN, unwrap_with_passphrase, wrap_with_passphrase,
};
pub use rewrite::{Rewritten, erase_leftovers, read_private, rewrite};
pub use sealed_text::is_sealed;
