//! Files that appear with all of their content or not at all, and are on disk before the call
//! returns; private ones are for their owner only from their first byte on.
//!
//! A [`Draft`] is written beside its place, under the name that [`unfinished`] gives, synced, and
//! then moved in: [`Draft::create`] never replaces a file, [`Draft::replace`] does so atomically.
//! Neither follows a link at the place itself. Nothing here reads files or locks them: two
//! processes that write the same path take a lock of their own first.
//!
//! ```
//! use taskpass_files::{Access, create_dir_all, create_new, replace};
//!
//! # let scratch = tempfile::tempdir()?;
//! let dir = scratch.path().join("keys");
//! create_dir_all(&dir)?;
//! create_new(&dir.join("root.key"), b"first", Access::Private)?;
//! assert!(create_new(&dir.join("root.key"), b"second", Access::Private).is_err());
//! replace(&dir.join("root.key"), b"third", Access::Private)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod directory;
mod draft;
#[cfg(feature = "power-cut")]
pub mod power_cut;

use std::{
    fs::{self, File, Metadata},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

pub use directory::{create_dir, create_dir_all, sync_dir};
pub use draft::{Draft, erase, unfinished};

/// The users that may read a new file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Its owner only: mode 0600 under any umask.
    Private,
    /// All users that the umask of the process allows.
    Ordinary,
}

/// An operation on a file or directory that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} `{}`", .path.display())]
pub struct Error {
    /// The operation.
    pub action: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// The system's answer.
    #[source]
    pub source: io::Error,
}

impl Error {
    /// Whether the path exists already and must not be replaced.
    pub fn is_already_there(&self) -> bool {
        self.source.kind() == io::ErrorKind::AlreadyExists
    }
}

/// Writes a file that must not be there.
pub fn create_new(path: &Path, content: &[u8], access: Access) -> Result<(), Error> {
    write(path, content, access)?.create()
}

/// Writes a file, and replaces the file that may be there.
pub fn replace(path: &Path, content: &[u8], access: Access) -> Result<(), Error> {
    write(path, content, access)?.replace()
}

fn write(path: &Path, content: &[u8], access: Access) -> Result<Draft, Error> {
    let mut draft = Draft::begin(path, access)?;
    draft.write_all(content).map_err(failed("write", path))?;
    Ok(draft)
}

/// Removes a file. The removal is durable after [`sync_dir`], so that several need one sync.
pub fn remove(path: &Path) -> Result<(), Error> {
    step()
        .and_then(|()| fs::remove_file(path))
        .map_err(failed("remove", path))
}

/// Puts the file `from` in the place of `to`. Durable after [`sync_dir`].
pub fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    step()
        .and_then(|()| fs::rename(from, to))
        .map_err(failed("replace", to))
}

/// The permission bits, if group or others have any. Ask the open file, not the path: a path can
/// lead to another file by the time it is read.
pub fn exposed_mode(metadata: &Metadata) -> Option<u32> {
    let mode = metadata.permissions().mode() & 0o7777;
    (mode & 0o077 != 0).then_some(mode)
}

fn sync(path: &Path) -> io::Result<()> {
    step()?;
    File::open(path)?.sync_all()
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error {
        action,
        path: path.to_owned(),
        source,
    }
}

/// Every change of the disk passes here first: a test can cut the power before any one of them.
fn step() -> io::Result<()> {
    #[cfg(feature = "power-cut")]
    power_cut::burn()?;
    Ok(())
}

#[cfg(test)]
mod tests;
