//! The file with the wrapped data keys, `seal.json`. Without the seal's own secret it opens
//! nothing.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};
use taskpass_files::{Access, replace};

use crate::{Error, rewrite::read_private};

const VERSION: u32 = 1;

/// One data key, wrapped by a seal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrappedKey {
    /// The data key's name.
    pub id: String,
    /// The seal that wrapped it, as `seal` in `[keys]` names it.
    pub seal: String,
    /// The key in the form that the seal unwraps.
    pub wrapped: String,
}

/// All wrapped data keys of an installation: one, and two while files are moved from one to the
/// other. The first one is for new files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keyring {
    version: u32,
    /// The keys.
    pub keys: Vec<WrappedKey>,
}

impl Keyring {
    /// A keyring with these keys.
    pub const fn new(keys: Vec<WrappedKey>) -> Self {
        Self {
            version: VERSION,
            keys,
        }
    }

    /// Reads the file; `None` if there is none, and the keys of the installation are not sealed.
    pub fn load(path: &Path) -> Result<Option<Self>, Error> {
        let text = match read_private(path) {
            Ok(text) => text,
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        let wrong = |why: String| Error::Keyring {
            path: path.to_owned(),
            why,
        };
        let keyring: Self = serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
        match keyring.version {
            VERSION if keyring.keys.is_empty() => Err(wrong("it has no key".to_owned())),
            VERSION => Ok(Some(keyring)),
            other => Err(wrong(format!(
                "version `{other}` was written by another release; this one knows {VERSION}"
            ))),
        }
    }

    /// Replaces the file.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let text = serde_json::to_vec_pretty(self).map_err(|e| Error::Keyring {
            path: path.to_owned(),
            why: e.to_string(),
        })?;
        Ok(replace(path, &text, Access::Private)?)
    }

    /// Removes the file, durably.
    pub fn remove(path: &Path) -> Result<(), Error> {
        match fs::symlink_metadata(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            _ => taskpass_files::remove(path)?,
        }
        let parent = path.parent().unwrap_or_else(|| Path::new("."));
        Ok(taskpass_files::sync_dir(parent)?)
    }
}
