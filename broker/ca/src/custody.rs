//! The directory with the keys: its permissions, its lock, and its files.
//!
//! `taskpass_files` replaces each file as a whole, so a reader after a crash sees the old content
//! or the new one. Erasing a key unlinks it. A disk that keeps old blocks may keep the bytes.
//! Therefore the keys of issuing authorities live for a day, and what the erased key of a root
//! signs counts only until the root is retired.
//!
//! A file whose name ends in `.key` holds a private key, and [`KeyFiles`] decides its content. So
//! no caller can write a key in plain text where the installation is sealed.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use taskpass_files::{Access, create_dir_all, exposed_mode, remove, replace, sync_dir, unfinished};
use taskpass_seal::KeyFiles;
use zeroize::Zeroizing;

use crate::Error;

const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
const LOCK: &str = "lock";
/// The end of the names of files with a private key.
const KEY_SUFFIX: &str = ".key";
/// No file here comes near this size.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A directory that only its owner can enter, locked by this process.
#[derive(Debug)]
pub(crate) struct Custody {
    dir: PathBuf,
    keys: KeyFiles,
    /// Held until drop: two processes would erase each other's keys.
    _lock: File,
}

impl Custody {
    /// Makes the directory if it is not there, and locks it.
    pub(crate) fn create(dir: &Path, keys: KeyFiles) -> Result<Self, Error> {
        create_dir_all(dir)?;
        Self::open(dir, keys)
    }

    /// Locks an existing directory; refuses a directory that other users can enter.
    pub(crate) fn open(dir: &Path, keys: KeyFiles) -> Result<Self, Error> {
        let metadata = match fs::metadata(dir) {
            Ok(metadata) => metadata,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(Error::Missing(dir.into()));
            }
            Err(e) => return Err(failed("open", dir, e)),
        };
        refuse_exposed(dir, &metadata, DIRECTORY_MODE)?;
        let path = dir.join(LOCK);
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(&path)
            .map_err(|e| failed("open", &path, e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::InUse(dir.into())),
            Err(TryLockError::Error(e)) => return Err(failed("lock", &path, e)),
        }
        Ok(Self {
            dir: dir.into(),
            keys,
            _lock: lock,
        })
    }

    /// Where `name` is, for messages.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The directory itself, for messages.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The content of `name`, or the key that is sealed in it; `None` if there is no such file.
    /// Refuses a file that others can read: a key is worth nothing once another user may have
    /// copied it.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Zeroizing<String>>, Error> {
        let path = self.path(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed("open", &path, e)),
        };
        // The open file is asked, not the path: the path may lead to another file by the time it is
        // read.
        let metadata = file.metadata().map_err(|e| failed("inspect", &path, e))?;
        refuse_exposed(&path, &metadata, FILE_MODE)?;
        let mut text = Zeroizing::new(String::new());
        file.take(FILE_BYTES_MAX)
            .read_to_string(&mut text)
            .map_err(|e| failed("read", &path, e))?;
        if !name.ends_with(KEY_SUFFIX) {
            return Ok(Some(text));
        }
        let key = self.keys.reveal(&sealed_name(name), text.as_bytes());
        let key = key.map_err(|source| Error::Key {
            path: self.path(name),
            source,
        })?;
        let key = String::from_utf8(key.to_vec()).map(Zeroizing::new);
        key.map(Some).map_err(|e| Error::Damaged {
            path: self.path(name),
            // The library's error holds the bytes.
            why: e.utf8_error().to_string(),
        })
    }

    /// Replaces `name` by `content`, durably, readable by the owner only. A private key is sealed
    /// where the installation is.
    pub(crate) fn write(&self, name: &str, content: &[u8]) -> Result<(), Error> {
        let path = self.path(name);
        if !name.ends_with(KEY_SUFFIX) {
            return Ok(replace(&path, content, Access::Private)?);
        }
        match self.keys.protect(&sealed_name(name), content) {
            Ok(content) => Ok(replace(&path, &content, Access::Private)?),
            Err(source) => Err(Error::Key { path, source }),
        }
    }

    /// Removes each file for which `keep` is false, leftovers of interrupted writes included. Files
    /// of others than the authority (`ours` is false) stay.
    pub(crate) fn sweep(
        &self,
        ours: impl Fn(&str) -> bool,
        keep: impl Fn(&str) -> bool,
    ) -> Result<(), Error> {
        // The state that no longer names these files must be durable before they go.
        sync_dir(&self.dir)?;
        let entries = fs::read_dir(&self.dir).map_err(|e| failed("list", &self.dir, e))?;
        let mut removed = false;
        for entry in entries {
            let entry = entry.map_err(|e| failed("list", &self.dir, e))?;
            let file_name = entry.file_name();
            let Some(name) = file_name.to_str() else {
                continue;
            };
            if !ours(finished(name)) || keep(name) {
                continue;
            }
            remove(&entry.path())?;
            removed = true;
        }
        if removed {
            sync_dir(&self.dir)?;
        }
        Ok(())
    }
}

/// The name of a key in its sealed file: a key of another directory does not open in its place.
fn sealed_name(name: &str) -> String {
    format!("ca/{name}")
}

/// The name of the file that `name` would have become, had its write not been interrupted.
fn finished(name: &str) -> &str {
    let whole = name.rsplit_once('.').map_or(name, |(whole, _)| whole);
    if unfinished(Path::new(whole)) == Path::new(name) {
        whole
    } else {
        name
    }
}

/// Refuses a file or directory that group or others may read, write or enter.
fn refuse_exposed(path: &Path, metadata: &fs::Metadata, wanted: u32) -> Result<(), Error> {
    match exposed_mode(metadata) {
        None => Ok(()),
        Some(mode) => Err(Error::Exposed {
            path: path.into(),
            mode,
            wanted,
        }),
    }
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io {
        action,
        path: path.into(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use taskpass_files::power_cut::Fuse;

    use super::*;

    #[test]
    fn files_are_ours_alone_and_exposed_ones_are_refused_with_the_command_that_helps() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("a/ca");
        let custody = Custody::create(&dir, KeyFiles::plain()).unwrap();
        custody.write("root.key", b"secret").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&dir), 0o700);
        assert_eq!(mode(&dir.join("root.key")), 0o600);
        assert_eq!(
            custody.read("root.key").unwrap().unwrap().as_str(),
            "secret"
        );
        assert!(custody.read("absent").unwrap().is_none());

        for bits in [0o640, 0o604, 0o620, 0o601] {
            fs::set_permissions(dir.join("root.key"), fs::Permissions::from_mode(bits)).unwrap();
            let message = custody.read("root.key").unwrap_err().to_string();
            let expected = format!("run `chmod 600 '{}'`", dir.join("root.key").display());
            assert!(message.contains(&expected), "{message}");
        }
        drop(custody);
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o750)).unwrap();
        let message = Custody::open(&dir, KeyFiles::plain())
            .unwrap_err()
            .to_string();
        assert!(message.contains("chmod 700"), "{message}");
    }

    #[test]
    fn one_process_at_a_time() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("ca");
        let first = Custody::create(&dir, KeyFiles::plain()).unwrap();
        assert!(matches!(
            Custody::open(&dir, KeyFiles::plain()),
            Err(Error::InUse(_))
        ));
        drop(first);
        assert!(Custody::open(&dir, KeyFiles::plain()).is_ok());
    }

    #[test]
    fn an_interrupted_write_leaves_the_old_content() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("ca");
        Custody::create(&dir, KeyFiles::plain())
            .unwrap()
            .write("f", b"old")
            .unwrap();
        for steps in 0..5 {
            Fuse::set(steps);
            let custody = Custody::open(&dir, KeyFiles::plain()).unwrap();
            assert!(custody.write("f", b"new").is_err());
            assert_eq!(custody.read("f").unwrap().unwrap().as_str(), "old");
        }
        Fuse::clear();
        let custody = Custody::open(&dir, KeyFiles::plain()).unwrap();
        custody.write("f", b"new").unwrap();
        assert_eq!(custody.read("f").unwrap().unwrap().as_str(), "new");
    }
}
