//! Checking policies before they are used. Each mistake is told on one line.

mod catalogue;
mod inspection;
#[cfg(test)]
mod tests;

use std::path::Path;

pub use catalogue::KnownNames;
pub(crate) use inspection::inspect;

use crate::{LoadError, PolicyFile, Report, files, schema::Language};

/// Checks the `.cedar` files of `dir` as [`crate::PolicySet::load_dir`] would, and references
/// against `known`. Fails only when the files cannot be read.
pub fn check(dir: &Path, known: Option<&KnownNames>) -> Result<Report, LoadError> {
    check_files(&files::read_dir(dir)?, known)
}

/// Checks texts that were read already.
pub fn check_files(files: &[PolicyFile], known: Option<&KnownNames>) -> Result<Report, LoadError> {
    let language = Language::load().map_err(LoadError::Schema)?;
    Ok(inspect(&language, files, known).1)
}
