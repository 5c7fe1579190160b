//! The errors of a ledger on disk, in words for the person that has to act.

use std::{io, path::PathBuf};

use crate::{DamageAt, NoteError, disk};

/// A ledger operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("cannot {action} `{path}`")]
    Io {
        /// The operation.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// No room for ordinary entries; the reserve is kept for revocations.
    #[error(
        "no room left for the ledger in `{path}`: nothing was recorded; free some space, then it goes on by itself"
    )]
    DiskFull {
        /// The segment that could not grow.
        path: PathBuf,
    },
    /// An entry is longer than 65,535 bytes, the limit of C2SP tlog-tiles.
    #[error(
        "an entry of {bytes} bytes does not fit: the limit is 65535; store large content by its hash"
    )]
    EntryTooLarge {
        /// Its length.
        bytes: usize,
    },
    /// An entry has no bytes.
    #[error("an entry without content cannot be recorded")]
    EmptyEntry,
    /// One batch is larger than 32 MiB.
    #[error("a batch of {bytes} bytes does not fit: the limit is 33554432; split it")]
    BatchTooLarge {
        /// Its length on disk.
        bytes: usize,
    },
    /// After a failure, the content of the disk is not known.
    #[error(
        "the ledger in `{path}` takes no more entries after a failed write; restart to check it and go on"
    )]
    Poisoned {
        /// The ledger's directory.
        path: PathBuf,
    },
    /// Another process has the ledger open.
    #[error("the ledger in `{path}` is in use by another process; stop that one first")]
    Locked {
        /// The ledger's directory.
        path: PathBuf,
    },
    /// The ledger is not as it was written.
    #[error(
        "the ledger is damaged at entry {index}, `{segment}` offset {offset}: {reason}; restore the directory from a backup, or accept the damage to go on without what is unreadable"
    )]
    Damaged {
        /// The file.
        segment: PathBuf,
        /// The byte in it where the damage begins.
        offset: u64,
        /// The first damaged entry.
        index: u64,
        /// The damage.
        reason: String,
    },
    /// An entry or a tree size beyond the end was asked for.
    #[error("entry or size {asked} is beyond the ledger's {size} entries")]
    OutOfRange {
        /// The index or size that was asked for.
        asked: u64,
        /// How many entries there are.
        size: u64,
    },
    /// An entry is in an archive that this ledger does not know.
    #[error(
        "entry {index} is in an archive, and this machine keeps the entries from {first} on; name the archive's directory as `[ledger] archive` in the configuration and restart the broker, or ask for entry {first} and later"
    )]
    Archived {
        /// The entry that was asked for.
        index: u64,
        /// The first entry that can be read here.
        first: u64,
    },
    /// The archive has no such entry.
    #[error(
        "the archive `{path}` does not have entry {index}; mount it, or name the directory that `taskpassd ledger archive` wrote as `[ledger] archive`"
    )]
    NotInArchive {
        /// The archive.
        path: PathBuf,
        /// The entry that was asked for.
        index: u64,
    },
    /// The archive is not as it was written.
    #[error(
        "the archive is damaged at entry {index}, `{segment}` offset {offset}: {reason}; restore the file from another copy of the archive"
    )]
    DamagedArchive {
        /// The file.
        segment: PathBuf,
        /// The byte in it where the damage begins.
        offset: u64,
        /// The first damaged entry.
        index: u64,
        /// The damage.
        reason: String,
    },
    /// A ledger has no valid edge over the entries that are in its archive.
    #[error(
        "`{path}` does not say where this ledger begins; restore it from a backup, or remove it and then put the archive's segments back into `segments/`"
    )]
    Base {
        /// The file.
        path: PathBuf,
        /// The mistake in it.
        #[source]
        source: NoteError,
    },
    /// A ledger is said to begin behind the end of what its checkpoint signed.
    #[error(
        "`{path}` says that the entries before {begins} are in an archive, and the checkpoint has signed only {signed}: the files are of different times; restore the whole directory from one backup, or remove `base` if `segments/` has the entries from the first one on"
    )]
    BaseAhead {
        /// The file.
        path: PathBuf,
        /// The first entry that would be kept here.
        begins: u64,
        /// The checkpoint's size.
        signed: u64,
    },
    /// A checkpoint is not one of this ledger.
    #[error("`{path}` is not a checkpoint of this ledger")]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// The mistake in it.
        #[source]
        source: NoteError,
    },
    /// The entries that were read do not lead to the signed root; none of them can be trusted.
    #[error(
        "the entries do not lead to the root of the checkpoint of size {size}; run `taskpass ledger verify` on the ledger's directory"
    )]
    RootMismatch {
        /// The checkpoint's size.
        size: u64,
    },
}

impl Error {
    /// Whether the disk is full, so that the caller can stop issuing and go on revoking.
    pub const fn is_disk_full(&self) -> bool {
        matches!(self, Self::DiskFull { .. })
    }

    /// Where the ledger is damaged, if it is.
    pub(crate) fn damage(&self) -> Option<DamageAt> {
        match self {
            Self::Damaged {
                segment,
                offset,
                index,
                reason,
            } => Some(DamageAt::new(segment, *offset, *index, reason)),
            _ => None,
        }
    }

    /// For `map_err`: names the operation and the file.
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| {
            if disk::is_full(&source) {
                Self::DiskFull { path }
            } else {
                Self::Io {
                    action,
                    path,
                    source,
                }
            }
        }
    }
}
