//! Why a key could not be sealed or opened, in words for the person who has to repair it.

use std::{io, path::PathBuf};

use taskpass_core::EntropyError;

/// Why a key could not be sealed, opened or moved to another seal.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No randomness.
    #[error("no key was made")]
    Entropy(#[source] EntropyError),
    /// The cryptographic library refused, which it does for no input of ours.
    #[error("BUG: the key could not be sealed")]
    Crypto,
    /// A file in plain text where only sealed ones count.
    #[error(
        "it lies in plain text although [keys] names a seal; run `taskpassd keys seal --config FILE`"
    )]
    Plain,
    /// A sealed file, and no seal is configured.
    #[error(
        "it is sealed, and [keys] in the configuration names no seal; name the seal, or bring the old configuration back and run `taskpassd keys unseal --config FILE`"
    )]
    Sealed,
    /// A file under a data key that was not opened.
    #[error(
        "it is sealed with the key `{0}`, which the seal in [keys] does not open; finish the change of the seal with `taskpassd keys reseal --config FILE --from OLD-FILE`, or restore `seal.json` from the same backup"
    )]
    UnknownKey(String),
    /// The file holds the key of another place.
    #[error("it holds the sealed key `{found}`, not `{wanted}`; restore it from a backup")]
    Misplaced {
        /// The name in the file.
        found: String,
        /// The name that belongs here.
        wanted: String,
    },
    /// Not the text that was sealed.
    #[error(
        "it was changed after it was sealed, or it is of another installation; restore it from a backup"
    )]
    Changed,
    /// Not a sealed key at all, although it begins like one.
    #[error("it is no whole sealed key: {0}; restore it from a backup")]
    Malformed(&'static str),
    /// Made by a later release.
    #[error(
        "it has version `{0}` of the format, and this release reads version 1; use the release that wrote it"
    )]
    Version(String),
    /// The keyring cannot be read.
    #[error("`{}` is no keyring: {why}; restore it from a backup", path.display())]
    Keyring {
        /// The file.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// The passphrase is too short or too long.
    #[error(
        "the passphrase has {0} bytes; it must have {min} to {max}, for example of `openssl rand -base64 32`",
        min = crate::PASSPHRASE_BYTES_MIN,
        max = crate::PASSPHRASE_BYTES_MAX
    )]
    Passphrase(usize),
    /// The passphrase does not open the data key.
    #[error(
        "the passphrase does not open the wrapped key; give the passphrase that sealed it, or restore `seal.json` if it was changed"
    )]
    WrongPassphrase,
    /// The sealed copy was not what was written, so the file stays as it was.
    #[error("`{}` could not be read back after it was written; the old file stays", .0.display())]
    ReadBack(PathBuf),
    /// Other users can read the file.
    #[error(
        "`{}` is open to other users (mode {mode:04o}); run `chmod 600 '{}'`, and replace the key if others could have read it",
        path.display(), path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file operation failed.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// The operation.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// One key file, and the reason.
    #[error("the key file `{}` cannot be used", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<Error>,
    },
}

impl From<taskpass_files::Error> for Error {
    fn from(error: taskpass_files::Error) -> Self {
        Self::Io {
            action: error.action,
            path: error.path,
            source: error.source,
        }
    }
}
