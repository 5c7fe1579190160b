//! Files that hold one secret: checks their mode, reads them, and tells whether they changed.

use std::{
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use taskpass_core::Secret;
use zeroize::Zeroizing;

/// Tokens and secret ids are far shorter.
const SECRET_FILE_BYTES_MAX: u64 = 16 * 1024;

/// Why a secret file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecretFileError {
    #[error("the secret file `{path}` cannot be read")]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the secret file `{path}` is open to all users (mode {mode:04o}); run chmod 600 on it")]
    TooOpen { path: PathBuf, mode: u32 },
    #[error(
        "the secret file `{path}` does not hold one line of visible characters; write the secret alone into it"
    )]
    Malformed { path: PathBuf },
}

/// Tells one state of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// The file's present stamp.
pub(crate) fn stamp(path: &Path) -> Result<Stamp, SecretFileError> {
    let metadata = std::fs::metadata(path).map_err(|e| unreadable(path, e))?;
    Ok(stamp_of(&metadata))
}

/// The secret, without the end of its line, and the stamp of the file that was read.
pub(crate) fn read(path: &Path) -> Result<(Secret, Stamp), SecretFileError> {
    let file = std::fs::File::open(path).map_err(|e| unreadable(path, e))?;
    let metadata = file.metadata().map_err(|e| unreadable(path, e))?;
    let mode = metadata.mode() & 0o7777;
    if mode & 0o007 != 0 {
        return Err(SecretFileError::TooOpen {
            path: path.to_owned(),
            mode,
        });
    }
    let mut text = Zeroizing::new(String::new());
    file.take(SECRET_FILE_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|e| unreadable(path, e))?;
    let secret = text.trim();
    // Other characters cannot be in an HTTP header; the file is probably the wrong one, such as
    // JSON.
    if secret.is_empty() || !secret.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(SecretFileError::Malformed {
            path: path.to_owned(),
        });
    }
    Ok((Secret::new(secret.to_owned()), stamp_of(&metadata)))
}

fn stamp_of(metadata: &std::fs::Metadata) -> Stamp {
    Stamp {
        inode: metadata.ino(),
        bytes: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    }
}

fn unreadable(path: &Path, source: std::io::Error) -> SecretFileError {
    SecretFileError::Unreadable {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_private_single_lines_are_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let put = |text: &str, mode: u32| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        put("hvs.abc\n", 0o600);
        let (secret, before) = read(&path).unwrap();
        assert_eq!(secret.expose(), "hvs.abc");
        assert_eq!(stamp(&path).unwrap(), before);
        put("hvs.abcd\n", 0o640);
        assert!(read(&path).is_ok() && stamp(&path).unwrap() != before);
        put("hvs.abc", 0o604);
        assert!(matches!(read(&path), Err(SecretFileError::TooOpen { .. })));
        for text in ["", "\n", "two words", "a\nb"] {
            put(text, 0o600);
            assert!(
                matches!(read(&path), Err(SecretFileError::Malformed { .. })),
                "{text:?}"
            );
        }
        assert!(matches!(
            read(&dir.path().join("no")),
            Err(SecretFileError::Unreadable { .. })
        ));
    }
}
