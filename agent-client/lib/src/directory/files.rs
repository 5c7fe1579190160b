//! The single files of an identity directory: opened, judged, written, and named in errors.

use std::{
    fs::{File, Metadata},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use rustix::{fs::OFlags, io::Errno, process::geteuid};
use taskpass_files::{Access, exposed_mode, rename, replace, sync_dir};
use zeroize::Zeroizing;

use super::IdentityDirectory;
use crate::Error;

/// Bytes of any file here; chains and bundles are far smaller.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// The complaint about a pipe, a socket, a directory or a device.
const NOT_A_FILE: &str = "it is no regular file";

/// The content of a file, with the metadata of the same open file.
struct Content {
    bytes: Zeroizing<Vec<u8>>,
    metadata: Metadata,
}

impl IdentityDirectory {
    /// Reads a private key. A key that others can read is not private any more, and is not used.
    pub(super) fn read_private(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        let Some(Content { bytes, metadata }) = self.read_with_metadata(name)? else {
            return Ok(None);
        };
        if let Some(mode) = exposed_mode(&metadata) {
            let path = self.path.join(name);
            return Err(self.bad(
                name,
                format!(
                    "others may read it (mode {mode:03o}); run `chmod 600 {}`, and log in again if others did",
                    path.display()
                ),
            ));
        }
        Ok(Some(bytes))
    }

    pub(super) fn read(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        let read = self.read_with_metadata(name)?;
        Ok(read.map(|content| content.bytes))
    }

    /// Reads a file; `None` when there is none.
    fn read_with_metadata(&self, name: &str) -> Result<Option<Content>, Error> {
        let path = self.path.join(name);
        let failed = |source| Error::File {
            action: "read",
            path: path.clone(),
            source,
        };
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mut file = match open(&self.base().join(name), flags) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => {
                return Err(match Errno::from_io_error(&e) {
                    Some(Errno::LOOP) => self.misplaced(name, "it is a symbolic link"),
                    // A socket.
                    Some(Errno::NXIO) => self.misplaced(name, NOT_A_FILE),
                    _ => failed(e),
                });
            }
        };
        let metadata = file.metadata().map_err(failed)?;
        self.judge(name, &metadata)?;
        let size = usize::try_from(metadata.len()).unwrap_or(0);
        // Room for everything at once: a growing buffer would leave copies of a key behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(size));
        file.read_to_end(&mut bytes).map_err(failed)?;
        Ok(Some(Content { bytes, metadata }))
    }

    /// Refuses an open file that this user cannot have written here.
    pub(super) fn judge(&self, name: &str, metadata: &Metadata) -> Result<(), Error> {
        if !metadata.is_file() {
            return Err(self.misplaced(name, NOT_A_FILE));
        }
        let user = geteuid().as_raw();
        if let Some(owner) = other_owner(metadata, user) {
            let path = self.path.join(name);
            let path = path.display();
            return Err(self.bad(
                name,
                format!(
                    "it belongs to user {owner}, and this program runs as user {user}; run it as user {owner}, or, if you trust the file, run `chown -h {user} {path}`"
                ),
            ));
        }
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o022 != 0 {
            let path = self.path.join(name);
            let path = path.display();
            return Err(self.bad(
                name,
                format!(
                    "others may write it (mode {mode:03o}); run `chmod go-w {path}`, and log in again if others did"
                ),
            ));
        }
        if metadata.len() > FILE_BYTES_MAX {
            return Err(self.bad(name, "it is larger than 1 MiB"));
        }
        Ok(())
    }

    /// Writes a private file that is there completely or not at all.
    pub(super) fn write(&self, name: &str, content: &[u8]) -> Result<(), Error> {
        replace(&self.base().join(name), content, Access::Private).map_err(|e| self.failed(e))
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        let base = self.base();
        rename(&base.join(from), &base.join(to)).map_err(|e| self.failed(e))
    }

    /// Makes renames and removals durable.
    pub(super) fn sync(&self) -> Result<(), Error> {
        sync_dir(&self.base()).map_err(|e| self.failed(e))
    }

    pub(super) fn exists(&self, name: &str) -> bool {
        self.base().join(name).exists()
    }

    pub(super) fn missing(&self) -> Error {
        Error::NoIdentity {
            dir: self.path.clone(),
        }
    }

    pub(super) fn error(&self, action: &'static str, source: io::Error) -> Error {
        Error::File {
            action,
            path: self.path.clone(),
            source,
        }
    }

    /// Names the path that the person knows, and not the open directory.
    pub(super) fn failed(&self, error: taskpass_files::Error) -> Error {
        let path = match error.path.strip_prefix(self.base()) {
            Ok(below) if below.as_os_str().is_empty() => self.path.clone(),
            Ok(below) => self.path.join(below),
            Err(_elsewhere) => error.path,
        };
        Error::File {
            action: error.action,
            path,
            source: error.source,
        }
    }

    /// Something that this library did not put there. Moving it away loses nothing.
    pub(super) fn misplaced(&self, name: &str, what: &str) -> Error {
        let path = self.path.join(name);
        let path = path.display();
        self.bad(
            name,
            format!("{what}; run `mv {path} {path}.old`, and log in again"),
        )
    }

    pub(super) fn bad(&self, name: &str, why: impl Into<String>) -> Error {
        Error::IdentityFile {
            path: self.path.join(name),
            why: why.into(),
        }
    }
}

/// Opens for reading, with more flags than [`File::open`] sets.
pub(super) fn open(path: &Path, flags: OFlags) -> io::Result<File> {
    // The bits are the same in both types: `open(2)` takes an `int`.
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    File::options().read(true).custom_flags(flags).open(path)
}

/// The owner of a file, unless it is this user.
fn other_owner(metadata: &Metadata, user: u32) -> Option<u32> {
    Some(metadata.uid()).filter(|owner| *owner != user)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_of_another_user_is_told_apart() {
        let metadata = fs::metadata(env!("CARGO_MANIFEST_DIR")).unwrap();
        let owner = metadata.uid();
        assert_eq!(other_owner(&metadata, owner), None);
        assert_eq!(other_owner(&metadata, owner + 1), Some(owner));
    }
}
