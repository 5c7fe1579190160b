//! Why segments did not go to an archive.

use std::path::PathBuf;

use crate::Error;

/// Why segments did not go to an archive.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The ledger was closed.
    #[error("the ledger was closed meanwhile; run it again")]
    Closed,
    /// The archive would lie around or within the ledger.
    #[error("`{path}` is the ledger's own place; name a directory elsewhere, best on another disk")]
    OwnPlace {
        /// The directory that was named.
        path: PathBuf,
    },
    /// A file of the archive is the ledger's own by a link.
    #[error(
        "`{path}` is the ledger's own file by a link and no copy of it; remove the link, and run this again"
    )]
    Original {
        /// The file.
        path: PathBuf,
    },
    /// A symbolic link, or something else that can have no copy.
    #[error(
        "`{path}` is a symbolic link or a special file, and an archive has plain files and directories; move it away, or name another directory"
    )]
    NotPlain {
        /// The file or directory.
        path: PathBuf,
    },
    /// No archive was begun there.
    #[error(
        "`{path}` has no archive of this ledger; mount its volume, or run `taskpassd ledger archive --to {path}` once, which begins an archive there"
    )]
    NotBegun {
        /// The directory.
        path: PathBuf,
    },
    /// The directory has the archive of another ledger.
    #[error("`{path}` is of another ledger; name another directory")]
    OtherLedger {
        /// Its key.
        path: PathBuf,
    },
    /// The archive would not be in one piece.
    #[error(
        "the archive `{path}` ends before entry {ends}, and this ledger goes on at entry {first}; name another directory"
    )]
    Gap {
        /// The archive.
        path: PathBuf,
        /// The first entry that the archive does not have.
        ends: u64,
        /// The first entry that would follow.
        first: u64,
    },
    /// The archive does not have what its checkpoint says.
    #[error(
        "the archive `{path}` signed the entries before {ends}, and its segment with entry {index} is missing or incomplete; put it back, or name another directory"
    )]
    Lost {
        /// The archive.
        path: PathBuf,
        /// The first entry that the archive never had.
        ends: u64,
        /// The first entry that is missing.
        index: u64,
    },
    /// The archive has another file under the name of a segment.
    #[error(
        "`{path}` is there already and is not this ledger's segment; move it away, or name another directory"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// How it differs.
        #[source]
        source: Box<Error>,
    },
    /// A copy is not what was copied. Nothing was deleted.
    #[error(
        "the copy `{path}` is not what was written, and nothing was deleted; check the disk of the archive"
    )]
    NotCopied {
        /// The copy.
        path: PathBuf,
        /// How it differs.
        #[source]
        source: Box<Error>,
    },
    /// The copy that was compared is not there any more. The segment stays.
    #[error(
        "the copy `{path}` was exchanged after it was compared, and the segment stays here; run this again"
    )]
    Exchanged {
        /// The copy.
        path: PathBuf,
    },
    /// The ledger or the archive could not be read or written.
    #[error(transparent)]
    Ledger(#[from] Error),
}

impl From<taskpass_files::Error> for ArchiveError {
    fn from(error: taskpass_files::Error) -> Self {
        Self::Ledger(Error::io(error.action, error.path)(error.source))
    }
}
