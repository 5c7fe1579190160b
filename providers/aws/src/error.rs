//! Mistakes in the configuration of an AWS provider.

use std::path::PathBuf;

use taskpass_core::{InvalidValue, RoleName};

/// Why a provider could not be built; the texts are for the person that edits the configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name or parameter rule is not legal.
    #[error("a name or parameter of the provider is wrong")]
    Name(#[source] InvalidValue),
    /// A key has a value that cannot work.
    #[error("{0}")]
    Config(String),
    /// A template could not be read.
    #[error("role `{role}`: the session policy `{}` cannot be read; give a path relative to the configuration file", path.display())]
    TemplateUnreadable {
        /// The role.
        role: RoleName,
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// A template cannot be narrowed by a scope.
    #[error("role `{role}`: the session policy `{}` is refused: {message}", path.display())]
    Template {
        /// The role.
        role: RoleName,
        /// The file.
        path: PathBuf,
        /// The mistake and its remedy.
        message: String,
    },
}
