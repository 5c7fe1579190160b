//! Old segments of the ledger leave the machine: `taskpassd ledger archive`, and `[ledger] keep`.
//!
//! The order is what keeps the history. The copies are durable and compared with the tree before
//! the ledger says that they are in the archive. The entry that says so and the index over
//! everything before it are durable before a segment is deleted. A broker that is killed in between
//! has lost nothing, and archiving again completes it.

mod command;
mod keep;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use taskpass_core::{Clock, Event, Timestamp, hex, with_sources};
use taskpass_engine::failpoint::reached;
use taskpass_ledger::{ArchiveError, Archiver, Begun, Copied, Copying, Forgotten, Reader};
use taskpass_store::{Batch, CommitError, Entry, LogStore, Store as _, StoreError};
use tokio::sync::{Mutex, watch};
use tokio_util::task::TaskTracker;

use crate::init::quoted;

pub use self::command::{CommandError, Request, Told, archive};
pub(crate) use self::{command::answer, keep::KeepLimit};

/// The segments that are to leave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Only entries from before this time leave.
    pub(crate) before: Timestamp,
    /// The archive's directory, absolute.
    pub(crate) to: PathBuf,
}

/// How far the copies are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes that were copied and compared.
    pub done: u64,
    /// Bytes that are to be, as far as is known.
    pub total: u64,
}

/// What left the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archived {
    /// The archive's directory.
    pub archive: PathBuf,
    /// The ledger's own directory.
    pub ledger: PathBuf,
    /// The first entry that this machine still has.
    pub kept_from: u64,
    /// How many entries left.
    pub entries: u64,
    /// The segments that left, by the names of their files.
    pub segments: Vec<String>,
    /// Their length on disk.
    pub bytes: u64,
    /// The root of the tree over all entries before `kept_from`, in hex; none when nothing left.
    pub root: Option<String>,
    /// The ledger entry that records it; none when nothing left.
    pub ledger_index: Option<u64>,
    /// Whether the directory had no archive before.
    #[serde(default)]
    pub begun: bool,
    /// Segments that an earlier run had left here, and that were deleted now.
    #[serde(default)]
    pub leftovers: u64,
    /// Segments that stay until a later run, since an export still reads them.
    #[serde(default)]
    pub held: u64,
}

/// Why segments did not leave, or not all of them.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The time is still to come.
    #[error("`{before}` is in the future, it is {now} now; name an earlier time with `--before`")]
    Future {
        /// The time that was named.
        before: Timestamp,
        /// The broker's time.
        now: Timestamp,
    },
    /// Another one runs.
    #[error("the ledger is being archived already; wait until that is done, and run this again")]
    Busy,
    /// The copies were not made or are not right. Nothing was deleted.
    #[error("nothing was deleted")]
    Copy(#[source] ArchiveError),
    /// An entry cannot be read.
    #[error("entry {index} of the ledger cannot be read, and nothing was deleted")]
    Entry {
        /// The entry.
        index: u64,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The archive is missing, or this ledger cannot go on with it.
    #[error("old segments stay on this machine")]
    Archive(#[source] ArchiveError),
    /// The ledger does not say so.
    #[error("the archive could not be recorded, and nothing was deleted")]
    Record(#[source] CommitError),
    /// A start would need the entries to build the index again.
    #[error("the index could not be made durable, and nothing was deleted")]
    Index(#[source] StoreError),
    /// The copies are right, and this machine still has some of the segments.
    #[error("the segments are in the archive, but not all were deleted here; run this again")]
    Forget(#[source] ArchiveError),
    /// A thread panicked.
    #[error("BUG: {0}")]
    Thread(String),
}

/// Archives the ledger of one open store, once at a time.
#[derive(Debug)]
pub(crate) struct Archiving {
    store: Arc<LogStore>,
    ledger: Reader,
    archiver: Archiver,
    clock: Arc<dyn Clock>,
    /// Shutdown waits for these a while.
    tasks: TaskTracker,
    running: Mutex<()>,
}

impl Archiving {
    pub(crate) fn new(
        store: Arc<LogStore>,
        ledger: Reader,
        archiver: Archiver,
        clock: Arc<dyn Clock>,
        tasks: TaskTracker,
    ) -> Self {
        Self {
            store,
            ledger,
            archiver,
            clock,
            tasks,
            running: Mutex::new(()),
        }
    }

    /// Moves every whole segment from before the time to the archive. `user` is the person on the
    /// broker's machine who asked, and may begin an archive. `[ledger] keep` has no user, and goes
    /// on with an archive alone.
    ///
    /// Runs to its end when nothing waits for it any more: a half of it would keep the lock of
    /// files that a thread still writes.
    pub(crate) async fn archive(
        self: Arc<Self>,
        order: Order,
        user: Option<u32>,
        progress: watch::Sender<Progress>,
    ) -> Result<Archived, Error> {
        let tasks = self.tasks.clone();
        let work = tasks.spawn(async move { self.run(&order, user, &progress).await });
        work.await
            .unwrap_or_else(|panic| Err(Error::Thread(panic.to_string())))
    }

    async fn run(
        &self,
        order: &Order,
        user: Option<u32>,
        progress: &watch::Sender<Progress>,
    ) -> Result<Archived, Error> {
        let Ok(_running) = self.running.try_lock() else {
            return Err(Error::Busy);
        };
        let (before, now) = (order.before, self.clock.now());
        if before > now {
            return Err(Error::Future { before, now });
        }
        // A segment can leave once all of it is signed. An index that cannot be made durable is
        // found out before anything is recorded.
        self.store.seal().await.map_err(Error::Index)?;
        self.store.flush_index().await.map_err(Error::Index)?;
        let mut archived = Archived {
            archive: order.to.clone(),
            ledger: self.archiver.ledger().to_owned(),
            kept_from: self.ledger.first(),
            entries: 0,
            segments: Vec::new(),
            bytes: 0,
            root: None,
            ledger_index: None,
            begun: self.begin(&order.to, user).await? == Begun::Now,
            leftovers: 0,
            held: 0,
        };
        let cleaned = self.clean_up(&order.to).await?;
        (archived.leftovers, archived.held) = (cleaned.deleted, cleaned.held);
        let Some(cut) = self.cut(before).await? else {
            return Ok(archived);
        };
        while let Some(copied) = self.copy(cut, &order.to, progress).await? {
            reached("archive.copied");
            archived.ledger_index = Some(self.record(&copied, user).await?);
            reached("archive.recorded");
            // From here on a start needs none of the entries, unless the index is lost.
            self.store.flush_index().await.map_err(Error::Index)?;
            reached("archive.indexed");
            archived.add(&copied);
            archived.held += self.forget(copied).await?.held;
            reached("archive.forgotten");
        }
        Ok(archived)
    }

    /// Begins an archive for a person. Without one, the directory must have it: it may be the place
    /// of a volume that is not mounted, and another archive would begin on the wrong disk.
    async fn begin(&self, to: &Path, user: Option<u32>) -> Result<Begun, Error> {
        let (archiver, to) = (self.archiver.clone(), to.to_owned());
        blocking(move || {
            let begun = match user {
                Some(_) => archiver.begin(&to),
                None => archiver.require_begun(&to).map(|()| Begun::Before),
            };
            begun.map_err(Error::Archive)
        })
        .await
    }

    /// Deletes segments that an earlier run had left, once their copies were compared again.
    async fn clean_up(&self, to: &Path) -> Result<Forgotten, Error> {
        let (archiver, to) = (self.archiver.clone(), to.to_owned());
        blocking(move || archiver.clean_up(&to).map_err(Error::Archive)).await
    }

    /// The newest place to cut the ledger at which every entry before was recorded by then.
    async fn cut(&self, before: Timestamp) -> Result<Option<u64>, Error> {
        let (archiver, ledger) = (self.archiver.clone(), self.ledger.clone());
        blocking(move || {
            for index in archiver.cuts().into_iter().rev() {
                let unreadable = |source| Error::Entry { index, source };
                let entry = ledger.entry(index).map_err(|e| unreadable(e.into()))?;
                let entry = Entry::parse(&entry).map_err(|e| unreadable(e.into()))?;
                // Entries from before an accepted time may have later times, but stand before it.
                if entry.time <= before {
                    return Ok(Some(index));
                }
            }
            Ok(None)
        })
        .await
    }

    async fn copy(
        &self,
        cut: u64,
        to: &Path,
        progress: &watch::Sender<Progress>,
    ) -> Result<Option<Copied>, Error> {
        let (archiver, to) = (self.archiver.clone(), to.to_owned());
        let progress = progress.clone();
        blocking(move || {
            let tell = &mut |Copying { done, total }| {
                progress.send_replace(Progress { done, total });
            };
            archiver.copy(cut, &to, tell).map_err(Error::Copy)
        })
        .await
    }

    /// Records which segments are in the archive. The record may use the reserve, since the archive
    /// makes room for everything else.
    async fn record(&self, copied: &Copied, user: Option<u32>) -> Result<u64, Error> {
        let event = Event::LedgerArchived {
            first: copied.first(),
            next: copied.next(),
            root: hex(copied.root()),
            segments: copied.segments().to_vec(),
            archive: copied.archive().display().to_string(),
            user,
        };
        let recorded = self.store.commit(Batch::reserved([event])).await;
        Ok(recorded.map_err(Error::Record)?.first_index)
    }

    async fn forget(&self, copied: Copied) -> Result<Forgotten, Error> {
        let archiver = self.archiver.clone();
        let forgotten = blocking(move || archiver.forget(&copied).map_err(Error::Forget)).await;
        if forgotten.is_ok() {
            tracing::info!(
                kept_from = self.ledger.first(),
                "old segments of the ledger are in the archive"
            );
        }
        forgotten
    }
}

impl Archived {
    fn add(&mut self, copied: &Copied) {
        self.kept_from = copied.next();
        self.entries += copied.next().saturating_sub(copied.first());
        self.segments.extend_from_slice(copied.segments());
        self.bytes += copied.bytes();
        self.root = Some(hex(copied.root()));
    }

    /// As JSON with stable names.
    pub fn to_json(&self) -> String {
        // Cannot fail: the fields are texts and numbers, which JSON can always represent.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

impl fmt::Display for Archived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (archive, ledger) = (quoted(&self.archive), quoted(&self.ledger));
        if self.begun {
            writeln!(
                f,
                "{archive} had no archive of this ledger: one begins there now."
            )?;
        }
        if self.leftovers > 0 {
            writeln!(
                f,
                "{} segments that an earlier run had left here were in the archive, and are deleted now.",
                self.leftovers
            )?;
        }
        if self.held > 0 {
            writeln!(
                f,
                "{} segments stay here, since an export reads them; run this again after it.",
                self.held
            )?;
        }
        let Some(index) = self.ledger_index else {
            return write!(
                f,
                "Nothing left: no whole segment of the ledger is from before that time.\n\
                 This machine has the entries from {} on.",
                self.kept_from
            );
        };
        write!(
            f,
            "\
{} entries in {} segments, {} bytes, are in {archive} and no longer part of this machine's ledger.
Entry {index} of the ledger says so. This machine has the entries from {} on.

Verify both together:

  taskpass ledger verify --archive {archive} {ledger}",
            self.entries,
            self.segments.len(),
            self.bytes,
            self.kept_from
        )
    }
}

/// The error with its causes, on one line.
fn in_words(error: &Error) -> String {
    with_sources(error)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| Err(Error::Thread(panic.to_string())))
}
