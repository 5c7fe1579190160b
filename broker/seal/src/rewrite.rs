//! Moves a key file from one form to another without a moment in which no readable copy is there.
//!
//! The new form is written beside the file, synced, read back and opened, and only then put in its
//! place. After that the bytes of the former file are overwritten. A disk that writes elsewhere
//! instead (an SSD, a file system that copies on write, a snapshot) may keep them all the same.

use std::{
    fs::{self, File},
    io::{self, Read, Write as _},
    path::Path,
};

use taskpass_files::{Access, Draft, erase, exposed_mode, sync_dir, unfinished};
use zeroize::Zeroizing;

use crate::{Error, KeyFiles};

/// No key file comes near this size.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The outcome for one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rewritten {
    /// The file has the new form.
    Now,
    /// It had it before.
    Already,
}

/// Moves the file `path` with the key `name` to the form of `to`.
pub fn rewrite(
    path: &Path,
    name: &str,
    from: &KeyFiles,
    to: &KeyFiles,
) -> Result<Rewritten, Error> {
    let of_file = |source| Error::File {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let content = read_private(path)?;
    if to.is_current(&content) {
        // The caller reports success, so the key must open.
        to.reveal(name, &content).map_err(of_file)?;
        return Ok(Rewritten::Already);
    }
    let key = from.reveal(name, &content).map_err(of_file)?;
    let next = to.protect(name, &key).map_err(of_file)?;
    let mut draft = Draft::begin(path, Access::Private)?;
    draft.write_all(&next).map_err(|source| Error::Io {
        action: "write",
        path: path.to_owned(),
        source,
    })?;
    draft.sync()?;
    let written = read_private(&unfinished(path))?;
    if to.reveal(name, &written).map_err(of_file)? != key {
        return Err(Error::ReadBack(path.to_owned()));
    }
    draft.replace_erasing()?;
    Ok(Rewritten::Now)
}

/// Overwrites and removes what interrupted writes of keys left in `dir`: it may be a key in plain
/// text.
pub fn erase_leftovers(dir: &Path) -> Result<(), Error> {
    let failed = |source| Error::Io {
        action: "list",
        path: dir.to_owned(),
        source,
    };
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| name.ends_with(".key.tmp")) {
            erase(&path)?;
        }
    }
    Ok(sync_dir(dir)?)
}

/// The content of a file that only its owner may read.
pub fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    let failed = |action| {
        move |source: io::Error| Error::Io {
            action,
            path: path.to_owned(),
            source,
        }
    };
    let file = File::open(path).map_err(failed("open"))?;
    let metadata = file.metadata().map_err(failed("inspect"))?;
    if let Some(mode) = exposed_mode(&metadata) {
        return Err(Error::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    // Room for all of it from the start: a buffer that grows leaves copies of the key behind.
    let bytes = usize::try_from(metadata.len().min(FILE_BYTES_MAX)).unwrap_or(0);
    let mut content = Zeroizing::new(Vec::with_capacity(bytes + 1));
    file.take(FILE_BYTES_MAX)
        .read_to_end(&mut content)
        .map_err(failed("read"))?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use taskpass_core::{Entropy, SeededEntropy};
    use taskpass_files::power_cut::Fuse;

    use super::*;
    use crate::{DataKey, PlainFiles};

    const NAME: &str = "ledger.key";

    fn sealed(plain: PlainFiles) -> KeyFiles {
        let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(1));
        let key = DataKey::generate(entropy.as_ref()).unwrap();
        KeyFiles::sealed("acme.test", vec![key], plain, entropy)
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }

    /// Wherever the power is cut, the key can be read, and a second run finishes the move.
    #[test]
    fn a_power_cut_at_any_step_leaves_a_readable_key() {
        let plain = KeyFiles::plain();
        let any = sealed(PlainFiles::Accepted);
        for (from, to) in [(&plain, &any), (&any, &plain)] {
            let mut steps = 0;
            loop {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join(NAME);
                let content = from.protect(NAME, b"the seed").unwrap();
                taskpass_files::create_new(&path, &content, Access::Private).unwrap();
                Fuse::set(steps);
                let cut = rewrite(&path, NAME, &any, to);
                Fuse::clear();
                let found = any.reveal(NAME, &read_private(&path).unwrap()).unwrap();
                assert_eq!(found.as_slice(), b"the seed", "after {steps} steps");
                rewrite(&path, NAME, &any, to).unwrap();
                erase_leftovers(dir.path()).unwrap();
                assert_eq!(names(dir.path()), [NAME]);
                let content = read_private(&path).unwrap();
                assert_eq!(to.reveal(NAME, &content).unwrap().as_slice(), b"the seed");
                if cut.is_ok() {
                    break;
                }
                steps += 1;
            }
            assert!(steps > 5, "{steps}");
        }
    }

    /// A second name of the former file shows its blocks after it was replaced.
    #[test]
    fn the_former_file_is_overwritten_and_leftovers_are_erased() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        taskpass_files::create_new(&path, b"the seed", Access::Private).unwrap();
        fs::hard_link(&path, dir.path().join("blocks")).unwrap();
        fs::write(dir.path().join("root.key.tmp"), b"a key").unwrap();
        fs::hard_link(dir.path().join("root.key.tmp"), dir.path().join("more")).unwrap();
        let to = sealed(PlainFiles::Refused);
        let moved = rewrite(&path, NAME, &KeyFiles::plain(), &to).unwrap();
        erase_leftovers(dir.path()).unwrap();
        assert_eq!(moved, Rewritten::Now);
        assert_eq!(fs::read(dir.path().join("blocks")).unwrap(), [0; 8]);
        assert_eq!(fs::read(dir.path().join("more")).unwrap(), [0; 5]);
        assert!(!dir.path().join("root.key.tmp").exists());
        let again = rewrite(&path, NAME, &KeyFiles::plain(), &to).unwrap();
        assert_eq!(again, Rewritten::Already);
    }

    #[test]
    fn a_key_that_does_not_open_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        let (from, to) = (sealed(PlainFiles::Accepted), KeyFiles::plain());
        let content = from.protect("ca/root.key", b"another key").unwrap();
        taskpass_files::create_new(&path, &content, Access::Private).unwrap();
        let message = rewrite(&path, NAME, &from, &to).unwrap_err().to_string();
        assert!(message.contains(NAME), "{message}");
        assert_eq!(fs::read(&path).unwrap(), *content);
    }
}
