//! Opening the index, and the state that a start goes on from.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use taskpass_core::Event;

use super::{Config, IndexReport, LedgerKey, imaged::Reading, unreadable};
use crate::{
    Entry, OpenError,
    history::is_full,
    imager,
    index::{Comparison, Index, IndexError},
    log::Entries,
    state::{Change, State},
};

/// Why an index with other records is built again.
const CHANGED: &str = "its records are not those that this broker wrote";

/// The index, and the state that a start goes on from.
pub(super) struct Found {
    pub(super) index: Index,
    pub(super) state: State,
    /// How many entries the index has seen. The state may have seen fewer.
    pub(super) position: u64,
    /// How far the rows are compared, where the state is from the image.
    pub(super) uncompared: Option<Comparison>,
}

impl Found {
    /// Nothing is in the index.
    fn nothing(index: Index) -> Self {
        Self {
            index,
            state: State::default(),
            position: 0,
            uncompared: None,
        }
    }
}

/// Why an index is not used.
enum Unfit {
    /// It cannot be read, or it belongs to another ledger.
    Broken(IndexError),
    /// Another program wrote its records.
    Changed,
}

impl From<IndexError> for Unfit {
    fn from(error: IndexError) -> Self {
        Self::Broken(error)
    }
}

/// The index and the state it holds; a new one when the old does not fit, and none when that cannot
/// be made either.
pub(super) fn open_index(
    config: &Config,
    key: &LedgerKey,
    ledger: &dyn Entries,
    image: Reading<'_>,
) -> Result<(Found, IndexReport), OpenError> {
    let origin = key.origin.as_str();
    let path = config.dir.join("index");
    let mut report = IndexReport::default();
    let existed = path.symlink_metadata().is_ok();
    if is_full(&path) {
        // Only a copy, and the index needs the room.
        forget_image(config);
    }
    if is_full(&path) && (existed || was_served(ledger)) {
        require_all(ledger, &no_room().0)?;
        return Ok(without_index(&path, origin, no_room(), report));
    }
    if existed {
        match load((&path, config), key, ledger, image) {
            Ok(Some(found)) => {
                report.from_image = found.uncompared.is_some();
                return Ok((found, report));
            }
            // Nothing was ever written to it: the broker stopped right after it was made.
            Ok(None) if ledger.size() == 0 => {}
            Ok(None) => report.rebuilt = Some("it is empty".to_owned()),
            // The disk has filled up meanwhile: that says nothing about the index, which stays
            // where it is.
            Err(_) if is_full(&path) => {
                require_all(ledger, &no_room().0)?;
                return Ok(without_index(&path, origin, no_room(), report));
            }
            Err(Unfit::Broken(error)) => report.rebuilt = Some(error.0),
            Err(Unfit::Changed) => {
                require_all(ledger, CHANGED)?;
                tracing::error!(path = %path.display(), "the index does not hold what this broker wrote: another program changed its files; it is moved aside for you to look at, and built again from the ledger");
                report.rebuilt = Some(CHANGED.to_owned());
            }
        }
    } else if was_served(ledger) {
        report.rebuilt = Some("it was missing".to_owned());
    }
    if let Some(reason) = &report.rebuilt {
        // The index stays where it is until it can be built again.
        require_all(ledger, reason)?;
        tracing::warn!(reason, "the index is built again from the ledger");
    }
    let opened = match existed && report.rebuilt.is_some() {
        true => move_aside(&path).map(|aside| report.moved_to = Some(aside)),
        false => Ok(()),
    };
    forget_image(config);
    match opened.and_then(|()| Index::open(&path, config.index_cache_bytes, origin, &key.seal)) {
        Ok(index) => {
            index.begins_at(ledger.size());
            Ok((Found::nothing(index), report))
        }
        Err(error) => {
            require_all(ledger, &error.0)?;
            Ok(without_index(&path, origin, error, report))
        }
    }
}

/// Removes an image that this start does not use. The index goes on without it, and a later start
/// must not take it for a copy of what the index has by then.
fn forget_image(config: &Config) {
    let path = config.dir.join(imager::FILE);
    if let Err(error) = imager::remove(&path) {
        tracing::warn!(%error, path = %path.display(), "an image of the live records that is not used could not be removed; remove it");
    }
}

/// Without the index the state comes from all entries, the archived ones among them.
fn require_all(ledger: &dyn Entries, reason: &str) -> Result<(), OpenError> {
    match ledger.first() {
        // The archive may be named and not mounted.
        0 if ledger.size() > 0 => {
            let first = ledger.entry(0);
            first.map(drop).map_err(unreadable)
        }
        0 => Ok(()),
        first => Err(OpenError::Archived {
            reason: reason.to_owned(),
            first,
        }),
    }
}

fn no_room() -> IndexError {
    IndexError("there is no room on the disk to open it".to_owned())
}

/// Goes without the index: live records are served from memory, so that revoking goes on.
fn without_index(
    path: &Path,
    origin: &str,
    error: IndexError,
    report: IndexReport,
) -> (Found, IndexReport) {
    let waits_for_room = is_full(path);
    let what_next = match waits_for_room {
        true => "free some space, and the broker ends by itself to be started again with it",
        false => "mend this and restart the broker",
    };
    tracing::error!(%error, path = %path.display(), what_next, "the index of history cannot be opened");
    let report = IndexReport {
        rebuilt: None,
        failed: Some(error.0),
        ..report
    };
    (Found::nothing(Index::absent(path, origin)), report)
}

/// Whether a broker ever ran on this ledger. Before the first one there is no index, and none was
/// lost.
fn was_served(ledger: &dyn Entries) -> bool {
    /// A new installation has a handful of entries.
    const FIRST_ENTRIES: u64 = 16;
    let started = |index| {
        let entry = ledger.genuine(index).ok()?;
        let event = Entry::parse(&entry).ok()?.event;
        matches!(event, Event::BrokerStarted { .. }).then_some(())
    };
    ledger.size() > FIRST_ENTRIES || (0..ledger.size()).any(|index| started(index).is_some())
}

fn load(
    (path, config): (&Path, &Config),
    key: &LedgerKey,
    ledger: &dyn Entries,
    mut image: Reading<'_>,
) -> Result<Option<Found>, Unfit> {
    let index = Index::open(path, config.index_cache_bytes, &key.origin, &key.seal)?;
    let Some(meta) = index.checked_meta(ledger)? else {
        return Ok(None);
    };
    let position = meta.position;
    if let Some(state) = image.state(key, ledger, &meta)
        && index.accept_unread(&meta)?
    {
        // Nothing is written over rows that were not compared. Otherwise the thread of the index
        // compares them, when the broker serves.
        let mut comparison = Comparison::new();
        if ledger.size() > position {
            while !comparison.ended() {
                comparison.step(&index)?;
            }
            if !comparison.fits(&index) {
                return Err(Unfit::Changed);
            }
        }
        return Ok(Some(Found {
            index,
            state,
            position,
            uncompared: Some(comparison),
        }));
    }
    forget_image(config);
    let mut state = State::default();
    state.set(&Change::Position(position, meta.time));
    state.set(&Change::TrustDomain(meta.trust_domain.clone()));
    let rows = index.live_rows();
    state.load(&rows)?;
    match index.accept(&meta, &rows)? {
        true => Ok(Some(Found {
            index,
            state,
            position,
            uncompared: None,
        })),
        false => Err(Unfit::Changed),
    }
}

/// The indexes in the data directory `dir` that did not fit and were moved aside. They stay until a
/// person has looked at them.
pub fn indexes_set_aside(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(b"index.damaged-")
        {
            found.push(entry.path());
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Moves a directory to the first free `<path>.damaged-<n>`, durably.
fn move_aside(path: &Path) -> Result<PathBuf, IndexError> {
    let free = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".damaged-{number}"));
        Some(PathBuf::from(name)).filter(|aside| aside.symlink_metadata().is_err())
    };
    let moved = || -> io::Result<PathBuf> {
        let aside = (1..).find_map(free).ok_or(io::ErrorKind::AlreadyExists)?;
        fs::rename(path, &aside)?;
        if let Some(parent) = path.parent() {
            fs::File::open(parent)?.sync_all()?;
        }
        Ok(aside)
    };
    moved().map_err(|e| IndexError(format!("the old one could not be moved aside: {e}")))
}
