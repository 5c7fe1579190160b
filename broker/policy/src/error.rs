//! Why policies cannot be used.

use std::path::PathBuf;

use crate::{Report, limits};

/// Why a policy set cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The directory or one of its files cannot be read.
    #[error("cannot read `{}`: check that it exists and that this process may read it", path.display())]
    Unreadable {
        /// The directory or file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A file is over [`limits::FILE_BYTES_MAX`].
    #[error("`{}` is larger than {} bytes: split it into several files", path.display(), limits::FILE_BYTES_MAX)]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// There are more than [`limits::FILES_MAX`] files.
    #[error("`{}` has more than {} policy files: put several policies into one file", path.display(), limits::FILES_MAX)]
    TooManyFiles {
        /// The directory.
        path: PathBuf,
    },
    /// A file is not text.
    #[error("`{}` is not UTF-8 text: save it as UTF-8", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// The place where it stops being text.
        #[source]
        source: std::str::Utf8Error,
    },
    /// Policies are wrong. The message is the first finding.
    #[error("{}", .0.summary())]
    Refused(Report),
    /// The schema that is built in cannot be used; a bug.
    #[error("BUG: {0}")]
    Schema(String),
}
