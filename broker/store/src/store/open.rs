//! Opening: the log, the index if it fits, and the entries that the index has not seen.

mod accepted;
mod imaged;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
};

use parking_lot::Mutex;
use ring::hmac;
use taskpass_core::{Clock, Event};
use taskpass_ledger::{Archiver, Ledger, Options, Reader, RootsSigner, SigningKey, Unhashed};
use tokio::sync::{Semaphore, watch};

use self::{accepted::AcceptedTimes, imaged::Reading};
use super::{Commits, Config, LogStore, QUEUE_EVENTS_MAX, Queue, UNINDEXED_EVENTS_MAX};
use crate::{
    Batch, Entry, MemoryLog, OpenError,
    applier::{Applier, FLUSH_CHANGES, Feed, Progress},
    decider::Decider,
    history::is_full,
    image::ImageKey,
    imager::{self, Imager},
    index::{Comparison, Index, IndexError},
    log::{Entries, InMemory, LocalLog, Log, LogError, Position},
    past::Past,
    portion::{self, replayed},
    sequencer::{self, Sequencer},
    shared::Shared,
    state::{Change, State},
    writer::Writer,
};

/// The use of the key that seals the index, derived from the ledger's.
const SEAL_PURPOSE: &str = "taskpass index v1";
/// The use of the key that seals the image of the live records.
const IMAGE_PURPOSE: &str = "taskpass image v1";
/// Why an index with other records is built again.
const CHANGED: &str = "its records are not those that this broker wrote";

/// A store on local files.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: LogStore,
    /// Its ledger, for exports and proofs.
    pub ledger: Reader,
    /// Moves old segments of the ledger to an archive.
    pub archiver: Archiver,
    /// The entries of the ledger that opening did not hash.
    pub unhashed: Unhashed,
    /// Signs roots with the ledger's key.
    pub roots_signer: RootsSigner,
    /// Findings of the opening.
    pub report: OpenReport,
}

/// Findings of the opening.
#[derive(Debug)]
pub struct OpenReport {
    /// About the ledger.
    pub ledger: taskpass_ledger::OpenReport,
    /// About the index.
    pub index: IndexReport,
}

/// Findings about the index.
#[derive(Debug, Default)]
pub struct IndexReport {
    /// Why it was built again, if it was.
    pub rebuilt: Option<String>,
    /// Where the old one is now.
    pub moved_to: Option<PathBuf>,
    /// Whether the live records were read from their image, and not from it.
    pub from_image: bool,
    /// Entries it had not seen.
    pub replayed: u64,
    /// Why it cannot be opened or written. History cannot be read until this is mended and the
    /// broker restarted.
    pub failed: Option<String>,
}

impl LogStore {
    /// Opens the store in `config.dir`, or makes one. `key` signs the ledger's checkpoints; its
    /// name is the ledger's origin. Blocks: call it before serving.
    pub fn open(
        config: &Config,
        key: SigningKey,
        clock: Arc<dyn Clock>,
    ) -> Result<Opened, OpenError> {
        let ledger_key = LedgerKey {
            origin: key.verifying_key().name().to_owned(),
            seal: key.derive(SEAL_PURPOSE),
            image: ImageKey::new(&key.derive(IMAGE_PURPOSE)),
        };
        let image = config.dir.join(imager::FILE);
        let files = thread::scope(|scope| {
            let image = Reading::begin(scope, &image, &ledger_key.image);
            let (ledger, report) = open_ledger(config, key)?;
            let (found, index_report) = open_index(config, &ledger_key, &ledger.reader(), image)?;
            Ok::<_, OpenError>((ledger, report, found, index_report))
        });
        let (ledger, ledger_report, found, mut report) = files?;
        let (reader, archiver) = (ledger.reader(), ledger.archiver());
        let (unhashed, roots_signer) = (ledger.unhashed(), ledger.roots_signer());
        let (index, mut state) = (Arc::new(found.index), found.state);
        let mut past = Past::new(Arc::clone(&index)).map_err(|e| OpenError::Index {
            path: config.dir.join("index").display().to_string(),
            reason: e.0,
        })?;
        let mut log = LocalLog::new(ledger, Arc::clone(&clock));
        let behind = (&*index, found.position);
        follow(&mut state, &mut past, behind, &mut log, &mut report)?;
        clock.resumes_after(state.last_time());
        let ahead = Decider { state, past };
        let imaging = (image, ledger_key, found.uncompared);
        let store = Self::start(log, index, ahead, (clock, imaging), &report)?;
        let report = OpenReport {
            ledger: ledger_report,
            index: report,
        };
        Ok(Opened {
            store,
            ledger: reader,
            archiver,
            unhashed,
            roots_signer,
            report,
        })
    }

    /// A store over a log in memory. Its commits and reads are done before they return, without a
    /// thread.
    pub fn in_memory(log: &MemoryLog, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let index = Arc::new(Index::in_memory());
        let mut state = State::default();
        let mut past = Past::new(Arc::clone(&index)).map_err(|e| OpenError::Index {
            path: "memory".to_owned(),
            reason: e.0,
        })?;
        let mut log = InMemory::new(log.clone(), Arc::clone(&clock));
        let mut report = IndexReport::default();
        follow(&mut state, &mut past, (&*index, 0), &mut log, &mut report)?;
        clock.resumes_after(state.last_time());
        let (progress, watched) = progress(&state, &report);
        let shared = Arc::new(Shared::new(state.clone()));
        let feed = Feed::Here {
            index: Arc::clone(&index),
            progress,
        };
        let entries = log.entries();
        let sequencer = Sequencer::new(
            Decider { state, past },
            Arc::clone(&shared),
            Box::new(log),
            Arc::clone(&clock),
            feed,
            watched.clone(),
        );
        Ok(Self {
            shared,
            index,
            progress: watched,
            entries,
            clock,
            commits: Commits::Here(Box::new(Mutex::new(sequencer))),
        })
    }

    /// Whether replaying the log gives the state there is, except for records that have lost their
    /// meaning by now.
    pub fn matches(&self, log: &MemoryLog) -> Result<bool, OpenError> {
        let replayed = Self::in_memory(log, Arc::clone(&self.clock))?;
        let mut states = [&replayed, self].map(|store| store.shared.state.read().clone());
        for state in &mut states {
            let now = self.clock.now().max(state.last_time());
            for change in state.stale(now) {
                state.set(&change);
            }
        }
        let [replayed, own] = states;
        Ok(replayed == own)
    }

    fn start(
        log: LocalLog,
        index: Arc<Index>,
        ahead: Decider<Past>,
        (clock, (image, key, uncompared)): (
            Arc<dyn Clock>,
            (PathBuf, LedgerKey, Option<Comparison>),
        ),
        report: &IndexReport,
    ) -> Result<Self, OpenError> {
        let entries = log.entries();
        let (progress, watched) = progress(&ahead.state, report);
        let next = ahead.state.next();
        let shared = Arc::new(Shared::new(ahead.state.clone()));
        let (to_index, portions) = mpsc::channel();
        let (inbox, messages) = mpsc::channel();
        let mut sequencer = Sequencer::new(
            ahead,
            Arc::clone(&shared),
            Box::new(log),
            Arc::clone(&clock),
            Feed::Behind(to_index.clone()),
            watched.clone(),
        );
        record_rebuild(&mut sequencer, &shared, report);
        let source = imager::Source {
            path: image,
            key: key.image,
            origin: key.origin,
            index: Arc::clone(&index),
            shared: Arc::clone(&shared),
            entries: Arc::clone(&entries),
        };
        let applier = Applier::new(
            Arc::clone(&index),
            Arc::clone(&clock),
            progress,
            Imager::new(source, next),
            uncompared,
        );
        let writer = Writer(sequencer);
        let threads = vec![
            spawn("store-writer", move || writer.run(&messages))?,
            spawn("store-index", move || applier.run(&portions))?,
        ];
        Ok(Self {
            shared,
            index,
            progress: watched,
            entries,
            clock,
            commits: Commits::Queued(Queue {
                room: Arc::new(Semaphore::new(QUEUE_EVENTS_MAX)),
                unindexed: Arc::new(Semaphore::new(UNINDEXED_EVENTS_MAX)),
                inbox,
                index: to_index,
                threads: Mutex::new(threads),
            }),
        })
    }
}

fn progress(
    state: &State,
    report: &IndexReport,
) -> (watch::Sender<Progress>, watch::Receiver<Progress>) {
    watch::channel(Progress {
        applied: state.next(),
        failed: report.failed.as_deref().map(Arc::from),
    })
}

fn spawn(
    name: &str,
    run: impl FnOnce() + Send + 'static,
) -> Result<thread::JoinHandle<()>, OpenError> {
    let thread = thread::Builder::new().name(name.to_owned());
    thread.spawn(run).map_err(OpenError::Threads)
}

/// Records for auditors that the index was lost. A full disk may not take this record; the broker
/// then serves without it.
fn record_rebuild(sequencer: &mut Sequencer, shared: &Shared, report: &IndexReport) {
    let is_installed = shared.state.read().trust_domain().is_some();
    let Some(reason) = report.rebuilt.clone().filter(|_| is_installed) else {
        return;
    };
    let batch = Batch::new([Event::IndexRebuilt { reason }]);
    let json = sequencer::encode(&batch);
    let recorded = json.and_then(|json| sequencer.commit(batch, json));
    if let Err(error) = recorded {
        tracing::warn!(%error, "that the index was built again could not be recorded");
    }
}

/// The parts of the ledger's key that the index needs.
struct LedgerKey {
    origin: String,
    /// Seals the records.
    seal: hmac::Key,
    /// Seals the image of the live ones.
    image: ImageKey,
}

/// The index, and the state that a start goes on from.
struct Found {
    index: Index,
    state: State,
    /// How many entries the index has seen. The state may have seen fewer.
    position: u64,
    /// How far the rows are compared, where the state is from the image.
    uncompared: Option<Comparison>,
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

fn open_ledger(
    config: &Config,
    key: SigningKey,
) -> Result<(Ledger, taskpass_ledger::OpenReport), OpenError> {
    let directory = config.dir.join("ledger");
    let options = Options {
        damage: config.damage,
        disk: Arc::clone(&config.disk),
        archive: config.archive.clone(),
        segment_bytes: config.segment_bytes,
        ..Options::new(key)
    };
    Ledger::open(&directory, options).map_err(|source| OpenError::Ledger {
        dir: directory.display().to_string(),
        source: Box::new(source),
    })
}

/// The index and the state it holds; a new one when the old does not fit, and none when that cannot
/// be made either.
fn open_index(
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
        forget_image(config).ok();
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
    let opened = opened.and_then(|()| forget_image(config));
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

/// Removes an image that this start does not use. The index goes on without it, and an image that
/// stayed could come back with records that were right for another index.
fn forget_image(config: &Config) -> Result<(), IndexError> {
    let path = config.dir.join(imager::FILE);
    imager::remove(&path)
        .map_err(|e| IndexError(format!("`{}` cannot be removed: {e}", path.display())))
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
    forget_image(config)?;
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

/// Brings the state, and the index with it, to the end of the log. The index has seen the entries
/// before `indexed` already.
fn follow(
    state: &mut State,
    past: &mut Past,
    (index, indexed): (&Index, u64),
    log: &mut dyn Log,
    report: &mut IndexReport,
) -> Result<(), OpenError> {
    let mut dirty = 0;
    let accepted = AcceptedTimes::read(log, Position(state.next())).map_err(unreadable)?;
    loop {
        let from = state.next();
        let mut news = log.news(Position(from)).map_err(unreadable)?;
        if news.is_empty() {
            break;
        }
        // Up to there only the state has to follow.
        let seen = usize::try_from(indexed.saturating_sub(from)).unwrap_or(usize::MAX);
        if let (1.., Some(news)) = (seen, news.first_mut()) {
            news.truncate(seen.min(news.len()));
            let earliest = accepted.earliest_since(news.end());
            replayed(state, news, earliest).map_err(unreadable)?;
            continue;
        }
        for news in &news {
            let earliest = accepted.earliest_since(news.end());
            let portion = replayed(state, news, earliest).map_err(unreadable)?;
            portion.changes.iter().for_each(|change| past.saw(change));
            if report.failed.is_some() {
                continue;
            }
            dirty += portion.changes.len();
            let written = portion::write(&[portion], index);
            keep_going(written, past, report);
        }
        report.replayed += state.next() - from;
        if dirty >= FLUSH_CHANGES && report.failed.is_none() {
            keep_going(index.flush(), past, report);
            dirty = 0;
        }
    }
    if dirty > 0 && report.failed.is_none() {
        keep_going(index.flush(), past, report);
    }
    Ok(())
}

/// Goes on after a failed write of the index: live records are served from memory, so that revoking
/// goes on.
fn keep_going(written: Result<(), IndexError>, past: &mut Past, report: &mut IndexReport) {
    if let Err(error) = written {
        tracing::error!(%error, "the index of history cannot be written; mend this and restart the broker");
        report.failed = Some(error.0);
        past.leave_gaps();
    }
}

fn unreadable(error: LogError) -> OpenError {
    match error {
        LogError::Unreadable { index, reason } => OpenError::Entry { index, reason },
        LogError::Full
        | LogError::TooLarge(_)
        | LogError::Overtaken
        | LogError::Broken(_)
        | LogError::Unsigned(_) => OpenError::Log(error.to_string()),
    }
}
