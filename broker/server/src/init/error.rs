//! Why nothing was installed.

use std::{io, path::PathBuf};

use taskpass_core::InvalidValue;
use taskpass_ledger::KeyError;

use super::shell::quoted;
use crate::config::ConfigError;

/// Why nothing was installed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory holds an installation.
    #[error("`{}` holds an installation already; choose another directory", .0.display())]
    Exists(PathBuf),
    /// A former `init` did not finish.
    #[error(
        "`{}` holds an installation that was not finished; remove it with `rm -r {}` and try again",
        dir.display(), left.join(" ")
    )]
    Unfinished {
        /// The directory.
        dir: PathBuf,
        /// The files and directories that it left, quoted for a shell.
        left: Vec<String>,
    },
    /// Other users can enter the directory.
    #[error("`{}` is open to other users (mode {mode:04o}); run `chmod 700 {}` and try again", dir.display(), quoted(dir))]
    Exposed {
        /// The directory.
        dir: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file or directory could not be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file for `[keys]` is of no use.
    #[error("the table [keys] in `{}` cannot be used", path.display())]
    KeysFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The wrapped data key could not be written.
    #[error("the wrapped data key could not be written")]
    Keyring(#[from] taskpass_seal::Error),
    /// The certificate authority could not be made.
    #[error("the certificate authority could not be made")]
    Authority(#[from] taskpass_ca::Error),
    /// The ledger's key could not be made.
    #[error("the ledger's key could not be made")]
    Key(#[from] KeyError),
    /// The ledger could not be made.
    #[error("the ledger could not be made")]
    Ledger(#[from] taskpass_ledger::Error),
    /// A bug.
    #[error("BUG: {0}")]
    Invalid(#[from] InvalidValue),
    /// A bug.
    #[error("BUG: an event cannot be written as JSON")]
    Event(#[from] serde_json::Error),
    /// A bug: the configuration that `init` would write is not valid.
    #[error("BUG: the new configuration is wrong")]
    Config(#[from] ConfigError),
}

impl From<taskpass_files::Error> for Error {
    fn from(error: taskpass_files::Error) -> Self {
        Self::Write {
            path: error.path,
            source: error.source,
        }
    }
}
