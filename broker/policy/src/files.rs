//! The files of a policy directory, and the digest that names a policy set.

use std::{io::Read, path::Path};

use taskpass_core::sha256_hex;

use crate::{LoadError, limits, schema_text};

/// One file of a policy set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyFile {
    /// The file's name without directories, such as `10-agents.cedar`. Unique in the set.
    pub name: String,
    /// Its content.
    pub text: String,
}

/// Reads the `.cedar` files of `dir` in the order of their names. Skips other files, hidden files
/// and subdirectories.
pub(crate) fn read_dir(dir: &Path) -> Result<Vec<PolicyFile>, LoadError> {
    let unreadable = |source| LoadError::Unreadable {
        path: dir.to_owned(),
        source,
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name();
        // A name that is not UTF-8 gets replacement characters. The file must not be skipped: it
        // may hold a `forbid`.
        let name = name.to_string_lossy();
        if !name.ends_with(".cedar") || name.starts_with('.') {
            continue;
        }
        // Follows links: an orchestrator mounts configuration through several.
        if entry.path().is_dir() {
            continue;
        }
        if files.len() == limits::FILES_MAX {
            return Err(LoadError::TooManyFiles {
                path: dir.to_owned(),
            });
        }
        files.push(PolicyFile {
            name: name.clone().into_owned(),
            text: read_file(&entry.path())?,
        });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

fn read_file(path: &Path) -> Result<String, LoadError> {
    let unreadable = |source| LoadError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    // Reads one byte more than the limit: enough to notice a larger file, and memory stays bounded.
    let limit = u64::try_from(limits::FILE_BYTES_MAX).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() > limits::FILE_BYTES_MAX {
        return Err(LoadError::TooLarge {
            path: path.to_owned(),
        });
    }
    String::from_utf8(bytes).map_err(|e| LoadError::NotText {
        path: path.to_owned(),
        source: e.utf8_error(),
    })
}

/// SHA-256 over the schema and the files in the order of their names. Each part is preceded by its
/// length, so no two sets have the same input.
pub(crate) fn set_hash(files: &[PolicyFile]) -> String {
    let mut sorted: Vec<&PolicyFile> = files.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let mut input = Vec::new();
    let parts = std::iter::once(schema_text()).chain(
        sorted
            .iter()
            .flat_map(|file| [file.name.as_str(), file.text.as_str()]),
    );
    for part in parts {
        input.extend_from_slice(&(part.len() as u64).to_be_bytes());
        input.extend_from_slice(part.as_bytes());
    }
    sha256_hex(&input)
}
