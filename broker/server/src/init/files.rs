//! The files of a new installation: for their owner only, never in the place of others.

use std::{fs, path::Path};

use taskpass_files::{Access, create_dir_all, create_new, exposed_mode};

use super::error::Error;

/// Makes the directory and its parents. If the directory exists, only its owner may be able to
/// enter it.
pub(super) fn private_dir(dir: &Path) -> Result<(), Error> {
    create_dir_all(dir)?;
    let metadata = fs::metadata(dir).map_err(|source| Error::Write {
        path: dir.to_owned(),
        source,
    })?;
    match exposed_mode(&metadata) {
        None => Ok(()),
        Some(mode) => Err(Error::Exposed {
            dir: dir.to_owned(),
            mode,
        }),
    }
}

/// Writes a file that must not exist yet.
pub(super) fn new_file(path: &Path, content: &[u8]) -> Result<(), Error> {
    Ok(create_new(path, content, Access::Private)?)
}
