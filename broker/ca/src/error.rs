//! The errors of the authority, in words for the person that has to repair it.

use std::{io, path::PathBuf};

use taskpass_core::{EntropyError, InvalidValue, Timestamp};
use taskpass_spiffe_verify::PeerError;

/// Why the authority could not be created, opened, rotated or asked to sign.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The lifetimes do not fit together.
    #[error("{0}")]
    Config(String),
    /// There is an authority already; a second one would orphan everything the first has signed.
    #[error("`{}` holds a certificate authority already; remove the directory to start a new installation", .0.display())]
    Exists(PathBuf),
    /// There is no authority here.
    #[error("`{}` holds no certificate authority; run `taskpassd init` first", .0.display())]
    Missing(PathBuf),
    /// Another process works with the same keys.
    #[error("`{}` is in use by another process; stop it first", .0.display())]
    InUse(PathBuf),
    /// Other users can read the keys.
    #[error(
        "`{}` is open to other users (mode {mode:04o}); run `chmod {wanted:o} '{}'`, and start a new installation if anyone else could have read it",
        .path.display(), .path.display()
    )]
    Exposed {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The bits it must have.
        wanted: u32,
    },
    /// A file has other content than it must have.
    #[error("`{}` is damaged: {why}; restore it from a backup", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// A private key could not be sealed, or its sealed file does not open.
    #[error("`{}` cannot be used", .path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: taskpass_seal::Error,
    },
    /// A file operation failed.
    #[error("cannot {action} `{}`", .path.display())]
    Io {
        /// The operation.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// No random bytes, so no key and no serial number.
    #[error("there are no random bytes for a certificate")]
    Entropy(#[source] EntropyError),
    /// The signing library refused.
    #[error("cannot {action}")]
    Sign {
        /// The operation.
        action: &'static str,
        /// The library's answer.
        #[source]
        source: rcgen::Error,
    },
    /// The name cannot be put into a certificate.
    #[error("the name cannot be certified")]
    Name(#[source] InvalidValue),
    /// Server names are for the broker's own certificate only.
    #[error("`{0}` may not have server names in its certificate; only a broker may")]
    ServerNames(String),
    /// A certificate that was just signed breaks a rule; it was thrown away.
    #[error("a certificate was signed that breaks a rule, and was thrown away")]
    Signed(#[source] PeerError),
    /// A certificate that was just signed differs from the order; it was thrown away.
    #[error("a certificate was signed with another {0} than asked for, and was thrown away")]
    SignedOther(&'static str),
    /// No issuing authority is valid.
    #[error("no issuing authority is valid at {0}; rotation has not run, see the log for why")]
    NoActive(Timestamp),
    /// The clock is before the authority's start.
    #[error(
        "the clock says {now}, before the authority's own start at {start}; set the clock, or if it is right stop the broker and run `taskpassd clock accept`"
    )]
    ClockWentBack {
        /// The clock's time.
        now: Timestamp,
        /// From when the authority is valid.
        start: Timestamp,
    },
    /// The installation's root is past its end.
    #[error("the root certificate ended at {0}; a new installation is needed")]
    RootExpired(Timestamp),
    /// The roots are at another stage of the replacement.
    #[error("{0}")]
    RootStage(String),
}

impl From<taskpass_files::Error> for Error {
    fn from(error: taskpass_files::Error) -> Self {
        let taskpass_files::Error {
            action,
            path,
            source,
        } = error;
        Self::Io {
            action,
            path,
            source,
        }
    }
}
