//! Directories for their owner only, and making changes in a directory durable.

use std::{
    fs::DirBuilder,
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use crate::{Error, failed, step, sync};

const DIRECTORY_MODE: u32 = 0o700;

/// Makes a directory that must not be there, mode 0700, on disk.
pub fn create_dir(dir: &Path) -> Result<(), Error> {
    make(dir).map_err(failed("create", dir))?;
    sync_parent(dir)
}

/// Makes the directory and the missing directories above it, mode 0700, on disk. An existing
/// directory keeps its mode; the caller decides whether other users may be able to enter it.
pub fn create_dir_all(dir: &Path) -> Result<(), Error> {
    if !dir.is_dir() {
        match dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => create_dir_all(parent)?,
            _ => {}
        }
        match make(dir) {
            // Another process made it meanwhile.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
            made => made.map_err(failed("create", dir))?,
        }
        return sync_parent(dir);
    }
    // A process that died just after making it may have left it in memory only.
    match sync_parent(dir) {
        // A directory above ours belongs to another user: we may enter it and not read it.
        Err(e) if e.source.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced,
    }
}

/// Makes the removals and renames in a directory durable.
pub fn sync_dir(dir: &Path) -> Result<(), Error> {
    sync(dir).map_err(failed("sync", dir))
}

pub(crate) fn sync_parent(path: &Path) -> Result<(), Error> {
    sync_dir(&parent(path))
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        Some(_) => PathBuf::from("."),
        None => path.to_owned(),
    }
}

fn make(dir: &Path) -> io::Result<()> {
    step()?;
    DirBuilder::new().mode(DIRECTORY_MODE).create(dir)
}
