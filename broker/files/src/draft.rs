//! A file that is being written beside its place.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use crate::{Access, Error, directory::sync_parent, failed, step};

const PRIVATE_MODE: u32 = 0o600;
const ORDINARY_MODE: u32 = 0o666;

/// The name under which the file `path` is written until all of its content is on disk.
pub fn unfinished(path: &Path) -> PathBuf {
    path.with_added_extension("tmp")
}

/// A file that is being written. Dropped before it is moved into its place, it is removed.
#[derive(Debug)]
pub struct Draft {
    file: File,
    beside: PathBuf,
    path: PathBuf,
}

impl Draft {
    /// Begins to write the file `path`, which stays as it is for now.
    pub fn begin(path: &Path, access: Access) -> Result<Self, Error> {
        let beside = unfinished(path);
        let file = open_new(&beside, access).map_err(failed("create", &beside))?;
        Ok(Self {
            file,
            beside,
            path: path.to_owned(),
        })
    }

    /// Makes this the file at its path, on disk, unless there is one: a link never replaces.
    pub fn create(self) -> Result<(), Error> {
        self.sync()?;
        step()
            .and_then(|()| fs::hard_link(&self.beside, &self.path))
            .map_err(failed("create", &self.path))?;
        step()
            .and_then(|()| fs::remove_file(&self.beside))
            .map_err(failed("remove", &self.beside))?;
        sync_parent(&self.path)
    }

    /// Makes this the file at its path, on disk. A reader sees the former file or this one.
    pub fn replace(self) -> Result<(), Error> {
        self.sync()?;
        step()
            .and_then(|()| fs::rename(&self.beside, &self.path))
            .map_err(failed("replace", &self.path))?;
        sync_parent(&self.path)
    }

    /// The same, and then overwrites the bytes of the former file, which no name leads to any more.
    pub fn replace_erasing(self) -> Result<(), Error> {
        let failed_to_open = failed("open", &self.path);
        let former = OpenOptions::new().write(true).open(&self.path);
        let (former, path) = (former.map_err(failed_to_open)?, self.path.clone());
        self.replace()?;
        overwrite(&former).map_err(failed("overwrite", &path))
    }

    /// Puts all that was written on disk, for a caller that reads it back before it is moved in.
    pub fn sync(&self) -> Result<(), Error> {
        step()
            .and_then(|()| self.file.sync_all())
            .map_err(failed("sync", &self.beside))
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        step()?;
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Draft {
    /// A draft that failed may hold a key. After `create` and `replace` there is nothing to remove.
    fn drop(&mut self) {
        step().and_then(|()| fs::remove_file(&self.beside)).ok();
    }
}

/// Overwrites a file that holds a secret, and removes it. Durable after
/// [`sync_dir`](crate::sync_dir).
pub fn erase(path: &Path) -> Result<(), Error> {
    let file = OpenOptions::new().write(true).open(path);
    file.and_then(|file| overwrite(&file))
        .map_err(failed("overwrite", path))?;
    crate::remove(path)
}

fn overwrite(mut file: &File) -> io::Result<()> {
    let zeros = vec![0; usize::try_from(file.metadata()?.len()).unwrap_or(0)];
    step()?;
    file.write_all(&zeros)?;
    step()?;
    file.sync_all()
}

/// Opens a file that did not exist. A leftover of a crash is removed, never reused: it may have
/// any mode, be a link, or be the same file as a finished key that was just linked in.
fn open_new(beside: &Path, access: Access) -> io::Result<File> {
    match step().and_then(|()| fs::remove_file(beside)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    step()?;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    match access {
        Access::Ordinary => options.mode(ORDINARY_MODE).open(beside),
        Access::Private => {
            let file = options.mode(PRIVATE_MODE).open(beside)?;
            // The umask can only have taken bits away, the owner's own among them.
            file.set_permissions(Permissions::from_mode(PRIVATE_MODE))?;
            Ok(file)
        }
    }
}
