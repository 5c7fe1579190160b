//! What can go wrong in the authority, in words for the person who has to repair it.

use std::{io, path::PathBuf};

use taskpass_core::{EntropyError, InvalidValue, Timestamp};

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
    /// Keys that others can read.
    #[error(
        "`{}` is open to other users (mode {mode:04o}); run `chmod {wanted:o} '{}'`, and start a new installation if anyone else could have read it",
        .path.display(), .path.display()
    )]
    Exposed {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they must be.
        wanted: u32,
    },
    /// A file does not hold what it must.
    #[error("`{}` is damaged: {why}; restore it from a backup", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The disk did not do what was asked.
    #[error("cannot {action} `{}`", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No random bytes, so no key and no serial number.
    #[error("cannot draw random bytes for a certificate")]
    Entropy(#[source] EntropyError),
    /// The signing library refused.
    #[error("cannot {action}")]
    Sign {
        /// What was tried.
        action: &'static str,
        /// What the library said.
        #[source]
        source: rcgen::Error,
    },
    /// The name cannot be put into a certificate.
    #[error("the name cannot be certified")]
    Name(#[source] InvalidValue),
    /// Names of servers belong into the broker's own certificate only.
    #[error("`{0}` may not have server names in its certificate; only a broker may")]
    ServerNames(String),
    /// What was signed is not what was meant; it was thrown away.
    #[error("a certificate was signed that breaks a rule, and was thrown away")]
    Signed(#[source] PeerError),
    /// What was signed differs from what was asked for; it was thrown away.
    #[error("a certificate was signed with another {0} than asked for, and was thrown away")]
    SignedOther(&'static str),
    /// No issuing authority is valid.
    #[error("no issuing authority is valid at {0}; rotation has not run, see the log for why")]
    NoActive(Timestamp),
    /// The clock says a time before the authority existed.
    #[error("the clock says {now}, before the authority's own start at {start}; set the clock")]
    ClockWentBack {
        /// What the clock says.
        now: Timestamp,
        /// From when the authority is valid.
        start: Timestamp,
    },
    /// The installation's root is past its end.
    #[error("the root certificate ended at {0}; a new installation is needed")]
    RootExpired(Timestamp),
}

/// Why a peer's certificate is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// Nothing was presented.
    #[error("no certificate was presented")]
    NoCertificate,
    /// More certificates than any chain of ours has.
    #[error("the chain has {0} certificates; at most 4 are accepted")]
    ChainTooLong(usize),
    /// A certificate larger than any of ours.
    #[error("the certificate has {0} bytes; at most 8192 are accepted")]
    CertificateTooLarge(usize),
    /// The certificate cannot be read.
    #[error("the certificate is malformed: {0}")]
    Malformed(&'static str),
    /// The certificate breaks a rule of the SPIFFE standard; the first part is its number.
    #[error("the certificate is not an X.509-SVID ({0}): {1}")]
    Rule(&'static str, &'static str),
    /// The name in it is not one of this trust domain.
    #[error("the certificate's name is not accepted")]
    Name(#[source] InvalidValue),
    /// Past its end.
    #[error("the certificate expired at {0}; renew it or log in again")]
    Expired(Timestamp),
    /// Before its start.
    #[error("the certificate is valid only from {0}; compare the clocks")]
    NotYetValid(Timestamp),
    /// No authority of this trust domain has signed it.
    #[error("the certificate was not signed by a current authority of this trust domain")]
    Untrusted(#[source] webpki::Error),
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
