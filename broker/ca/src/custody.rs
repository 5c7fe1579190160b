//! The directory with the keys: who may read it, and how files in it change.
//!
//! Every file is replaced as a whole (temporary file, fsync, rename, fsync of the directory), so that a reader
//! after a crash sees the old content or the new one. Erasing a key unlinks it; on a disk that keeps old blocks the
//! bytes may remain there, which is why keys that can be unlinked live for a day.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use crate::Error;

const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
const LOCK: &str = "lock";
const TEMPORARY_SUFFIX: &str = ".tmp";
/// No file here comes near this; a larger one is not ours.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A directory that only its owner can enter, held by this process.
#[derive(Debug)]
pub(crate) struct Custody {
    dir: PathBuf,
    /// Held until drop: two processes would erase each other's keys.
    _lock: File,
    #[cfg(test)]
    fuse: std::sync::Arc<tests::Fuse>,
}

impl Custody {
    /// Makes the directory if it is not there and takes hold of it.
    pub(crate) fn create(dir: &Path) -> Result<Self, Error> {
        DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY_MODE)
            .create(dir)
            .map_err(|e| failed("create", dir, e))?;
        Self::open(dir)
    }

    /// Takes hold of an existing directory; refuses one that others can enter.
    pub(crate) fn open(dir: &Path) -> Result<Self, Error> {
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
            _lock: lock,
            #[cfg(test)]
            fuse: tests::Fuse::in_this_thread(),
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

    /// The content of `name`, `None` when there is no such file. Refuses a file that others can read: all of them
    /// are ours alone, and the keys among them are worth nothing once they are not.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Zeroizing<String>>, Error> {
        let path = self.path(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed("open", &path, e)),
        };
        // Of the open file, not of the path: nobody can swap it between the check and the use.
        let metadata = file.metadata().map_err(|e| failed("inspect", &path, e))?;
        refuse_exposed(&path, &metadata, FILE_MODE)?;
        let mut text = Zeroizing::new(String::new());
        file.take(FILE_BYTES_MAX)
            .read_to_string(&mut text)
            .map_err(|e| failed("read", &path, e))?;
        Ok(Some(text))
    }

    /// Replaces `name` by `content`, durably, readable by the owner only.
    pub(crate) fn write(&self, name: &str, content: &[u8]) -> Result<(), Error> {
        let path = self.path(name);
        let temporary = self.path(&format!("{name}{TEMPORARY_SUFFIX}"));
        self.write_temporary(&temporary, content)
            .map_err(|e| failed("write", &temporary, e))?;
        self.step()
            .and_then(|()| fs::rename(&temporary, &path))
            .and_then(|()| self.sync_dir())
            .map_err(|e| failed("write", &path, e))
    }

    fn write_temporary(&self, temporary: &Path, content: &[u8]) -> io::Result<()> {
        // A leftover of a crash may have any content; a new file surely has our permissions.
        match fs::remove_file(temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        self.step()?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(temporary)?;
        self.step()?;
        file.write_all(content)?;
        self.step()?;
        file.sync_all()
    }

    /// Removes every file for which `keep` is false, leftovers of interrupted writes included. Files that are not
    /// of the authority (`ours` is false) stay.
    pub(crate) fn sweep(
        &self,
        ours: impl Fn(&str) -> bool,
        keep: impl Fn(&str) -> bool,
    ) -> Result<(), Error> {
        // What makes these files superfluous must be durable before they go.
        self.sync_dir().map_err(|e| failed("write", &self.dir, e))?;
        let entries = fs::read_dir(&self.dir).map_err(|e| failed("list", &self.dir, e))?;
        let mut removed = false;
        for entry in entries {
            let entry = entry.map_err(|e| failed("list", &self.dir, e))?;
            let file_name = entry.file_name();
            let Some(name) = file_name.to_str() else {
                continue;
            };
            if !ours(name.strip_suffix(TEMPORARY_SUFFIX).unwrap_or(name)) || keep(name) {
                continue;
            }
            self.step()
                .and_then(|()| fs::remove_file(entry.path()))
                .map_err(|e| failed("erase", &entry.path(), e))?;
            removed = true;
        }
        if removed {
            self.sync_dir().map_err(|e| failed("write", &self.dir, e))?;
        }
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.step()?;
        File::open(&self.dir)?.sync_all()
    }

    /// Every change of the disk passes here first, so that tests can cut the power before any one of them.
    #[cfg(not(test))]
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "the same signature as the one the tests use"
    )]
    fn step(&self) -> io::Result<()> {
        Ok(())
    }

    #[cfg(test)]
    fn step(&self) -> io::Result<()> {
        self.fuse.burn()
    }
}

/// Refuses what group or others can get at.
fn refuse_exposed(path: &Path, metadata: &fs::Metadata, wanted: u32) -> Result<(), Error> {
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(Error::Exposed {
        path: path.into(),
        mode,
        wanted,
    })
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io {
        action,
        path: path.into(),
        source,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{
        cell::RefCell,
        sync::{
            Arc,
            atomic::{AtomicI64, Ordering},
        },
    };

    use super::*;

    thread_local! {
        static FUSE: RefCell<Arc<Fuse>> = RefCell::new(Arc::new(Fuse::never()));
    }

    /// Fails the disk for good after a number of steps, as a crash does.
    #[derive(Debug)]
    pub(crate) struct Fuse(AtomicI64);

    impl Fuse {
        fn never() -> Self {
            Self(AtomicI64::new(i64::MAX))
        }

        /// What is opened in this thread from now on fails after `steps` changes of the disk.
        pub(crate) fn set(steps: i64) -> Arc<Self> {
            let fuse = Arc::new(Self(AtomicI64::new(steps)));
            FUSE.with(|slot| *slot.borrow_mut() = Arc::clone(&fuse));
            fuse
        }

        pub(crate) fn clear() {
            FUSE.with(|slot| *slot.borrow_mut() = Arc::new(Self::never()));
        }

        /// Lights a fuse that is in use.
        pub(crate) fn relight(&self, steps: i64) {
            self.0.store(steps, Ordering::SeqCst);
        }

        pub(crate) fn blown(&self) -> bool {
            self.0.load(Ordering::SeqCst) < 0
        }

        pub(super) fn in_this_thread() -> Arc<Self> {
            FUSE.with(|slot| Arc::clone(&slot.borrow()))
        }

        pub(super) fn burn(&self) -> io::Result<()> {
            if self.0.fetch_sub(1, Ordering::SeqCst) <= 0 {
                self.0.store(-1, Ordering::SeqCst);
                return Err(io::Error::other("the power is gone"));
            }
            Ok(())
        }
    }

    #[test]
    fn files_are_ours_alone_and_exposed_ones_are_refused_with_the_command_that_helps() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("a/ca");
        let custody = Custody::create(&dir).unwrap();
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
        let message = Custody::open(&dir).unwrap_err().to_string();
        assert!(message.contains("chmod 700"), "{message}");
    }

    #[test]
    fn one_process_at_a_time() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("ca");
        let first = Custody::create(&dir).unwrap();
        assert!(matches!(Custody::open(&dir), Err(Error::InUse(_))));
        drop(first);
        assert!(Custody::open(&dir).is_ok());
    }

    #[test]
    fn an_interrupted_write_leaves_the_old_content() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("ca");
        Custody::create(&dir).unwrap().write("f", b"old").unwrap();
        for steps in 0..4 {
            Fuse::set(steps);
            let custody = Custody::open(&dir).unwrap();
            assert!(custody.write("f", b"new").is_err());
            assert_eq!(custody.read("f").unwrap().unwrap().as_str(), "old");
        }
        Fuse::clear();
        let custody = Custody::open(&dir).unwrap();
        custody.write("f", b"new").unwrap();
        assert_eq!(custody.read("f").unwrap().unwrap().as_str(), "new");
    }
}
