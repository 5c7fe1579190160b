//! New files and directories for their owner only, on disk before the call returns. Nothing is overwritten.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::Error;

const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Makes the directory and those above it, or makes sure that only its owner can enter the one that is there.
pub(super) fn private_dir(dir: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(dir)
        .map_err(failed(dir))?;
    let mode = fs::metadata(dir).map_err(failed(dir))?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(Error::Exposed {
            dir: dir.to_owned(),
            mode,
        });
    }
    sync_parent(dir)
}

/// Makes a directory that must not be there.
pub(crate) fn new_dir(dir: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .mode(DIRECTORY_MODE)
        .create(dir)
        .map_err(failed(dir))?;
    sync_parent(dir)
}

/// Writes a file that must not be there.
pub(super) fn new_file(path: &Path, content: &[u8]) -> Result<(), Error> {
    write(path, content).map_err(failed(path))?;
    sync_parent(path)
}

/// The same, but the file appears with all its content or not at all.
pub(super) fn publish(path: &Path, content: &[u8]) -> Result<(), Error> {
    let temporary = temporary(path);
    write(&temporary, content).map_err(failed(&temporary))?;
    fs::rename(&temporary, path).map_err(failed(path))?;
    sync_parent(path)
}

/// What a file is called until all of its content is there.
pub(super) fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn sync_parent(path: &Path) -> Result<(), Error> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or_else(|| Path::new("."));
    File::open(parent)
        .and_then(|dir| dir.sync_all())
        .map_err(failed(parent))
}

fn failed(path: &Path) -> impl Fn(io::Error) -> Error {
    |source| Error::Write {
        path: path.to_owned(),
        source,
    }
}
