//! Opening: the ledger, the index if it fits, and the tail that the index has not seen.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
};

use parking_lot::{Mutex, RwLock};
use taskpass_core::{Clock, Digest, Event, Timestamp};
use taskpass_ledger::{Ledger, Options, Reader, SigningKey};
use tokio::sync::{Semaphore, oneshot, watch};

use super::{Config, EmbeddedStore, QUEUE_EVENTS_MAX};
use crate::{
    Batch, OpenError,
    applier::{Applier, Backlog, FLUSH_CHANGES, Progress, Wanted},
    decider::Decider,
    entry::{self, Entry},
    index::{Index, IndexError, Portion, is_full},
    past::Past,
    state::{Change, State},
    writer::{Request, Shared, Writer},
};

/// Entries replayed into the index in one batch.
const REPLAY_ENTRIES: u64 = 512;

/// What was found on opening.
#[derive(Debug)]
pub struct OpenReport {
    /// About the ledger.
    pub ledger: taskpass_ledger::OpenReport,
    /// About the index.
    pub index: IndexReport,
}

/// What was found of the index.
#[derive(Debug, Default)]
pub struct IndexReport {
    /// Why it was built again, if it was.
    pub rebuilt: Option<String>,
    /// Where the old one is now.
    pub moved_to: Option<PathBuf>,
    /// Entries it had not seen.
    pub replayed: u64,
    /// Why it cannot be opened or written; history cannot be read until this is mended and the broker restarted.
    pub failed: Option<String>,
}

impl EmbeddedStore {
    /// Opens the store in `config.dir`, or makes one. `key` signs the ledger's checkpoints; its name is the ledger's
    /// origin. Blocks: call it before serving.
    pub fn open(
        config: &Config,
        key: SigningKey,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, OpenReport), OpenError> {
        let origin = key.verifying_key().name().to_owned();
        let directory = config.dir.join("ledger");
        let options = Options {
            damage: config.damage,
            disk: Arc::clone(&config.disk),
            ..Options::new(key)
        };
        let opened = Ledger::open(&directory, options);
        let (ledger, ledger_report) = opened.map_err(|source| OpenError::Ledger {
            dir: directory.display().to_string(),
            source: Box::new(source),
        })?;
        let reader = ledger.reader();
        let (index, mut state, mut report) = open_index(config, &origin, &reader);
        let index = Arc::new(index);
        let mut past = Past::new(Arc::clone(&index)).map_err(|e| OpenError::Index {
            path: config.dir.join("index").display().to_string(),
            reason: e.0,
        })?;
        replay(&mut state, &mut past, &index, &reader, &mut report)?;
        let ahead = Decider { state, past };
        let store = Self::start(ledger, index, ahead, clock, &report)?;
        let report = OpenReport {
            ledger: ledger_report,
            index: report,
        };
        Ok((store, report))
    }

    fn start(
        ledger: Ledger,
        index: Arc<Index>,
        ahead: Decider<Past>,
        clock: Arc<dyn Clock>,
        report: &IndexReport,
    ) -> Result<Self, OpenError> {
        let reader = ledger.reader();
        let state = &ahead.state;
        let progress = watch::Sender::new(Progress {
            applied: state.next(),
            failed: report.failed.as_deref().map(Arc::from),
        });
        let watched = progress.subscribe();
        let shared = Arc::new(Shared {
            size: watch::Sender::new(state.next()),
            broken: watch::Sender::new(false),
            state: RwLock::new(state.clone()),
        });
        let (portions, portions_inbox) = mpsc::channel();
        let backlog = Arc::new(Backlog::default());
        let wanted = Arc::new(Wanted::new(portions.clone()));
        let (inbox, messages) = mpsc::channel();
        let mut writer = Writer {
            ahead,
            shared: Arc::clone(&shared),
            ledger,
            clock: Arc::clone(&clock),
            applier: portions,
            backlog: Arc::clone(&backlog),
            progress: watched.clone(),
            pruned: Vec::new(),
            pruned_at: Timestamp::EPOCH,
            // Entries that a crash left unsigned are signed soon.
            unsigned_since: (reader.checkpoint().size() < reader.size()).then(|| clock.monotonic()),
        };
        let room = Arc::new(Semaphore::new(QUEUE_EVENTS_MAX));
        record_rebuild(&mut writer, &room, report);
        let applier = Applier {
            index: Arc::clone(&index),
            clock: Arc::clone(&clock),
            progress,
            backlog,
            wanted: Arc::clone(&wanted),
            shared: Arc::clone(&shared),
        };
        let threads = vec![
            spawn("store-writer", move || writer.run(&messages))?,
            spawn("store-index", move || applier.run(&portions_inbox))?,
        ];
        Ok(Self {
            shared,
            index,
            progress: watched,
            wanted,
            reader,
            clock,
            room,
            inbox,
            threads: Mutex::new(threads),
        })
    }
}

fn spawn(
    name: &str,
    run: impl FnOnce() + Send + 'static,
) -> Result<thread::JoinHandle<()>, OpenError> {
    let thread = thread::Builder::new().name(name.to_owned());
    thread.spawn(run).map_err(OpenError::Threads)
}

/// Auditors see that the index was lost; that it could not be said on a full disk is no reason not to serve.
fn record_rebuild(writer: &mut Writer, room: &Arc<Semaphore>, report: &IndexReport) {
    let (Some(reason), Some(_)) = (&report.rebuilt, writer.ahead.state.trust_domain()) else {
        return;
    };
    let event = Event::IndexRebuilt {
        reason: reason.clone(),
    };
    let (Ok(json), Ok(room)) = (entry::encode(&event), Arc::clone(room).try_acquire_owned()) else {
        return;
    };
    let (reply, mut outcome) = oneshot::channel();
    writer.process(vec![Request {
        batch: Batch::new([event]),
        json: vec![json],
        reply,
        room,
    }]);
    if let Ok(Err(error)) = outcome.try_recv() {
        tracing::warn!(%error, "that the index was built again could not be recorded");
    }
}

/// The index and the state it holds; a new one when the old does not fit, and none when that cannot be made either.
fn open_index(config: &Config, origin: &str, ledger: &Reader) -> (Index, State, IndexReport) {
    let path = config.dir.join("index");
    let mut report = IndexReport::default();
    let existed = path.symlink_metadata().is_ok();
    if is_full(&path) && (existed || was_served(ledger)) {
        return without_index(&path, origin, no_room(), report);
    }
    if existed {
        match load(&path, config, origin, ledger) {
            Ok(Some((index, state))) => return (index, state, report),
            // Nothing was ever written to it: the broker stopped right after it was made.
            Ok(None) if ledger.size() == 0 => {}
            Ok(None) => report.rebuilt = Some("it is empty".to_owned()),
            // Somebody filled the disk meanwhile: that says nothing about the index, which stays where it is.
            Err(_) if is_full(&path) => return without_index(&path, origin, no_room(), report),
            Err(error) => report.rebuilt = Some(error.0),
        }
    } else if was_served(ledger) {
        report.rebuilt = Some("it was missing".to_owned());
    }
    if let Some(reason) = &report.rebuilt {
        tracing::warn!(reason, "the index is built again from the ledger");
    }
    let opened = match existed && report.rebuilt.is_some() {
        true => move_aside(&path).map(|aside| report.moved_to = Some(aside)),
        false => Ok(()),
    };
    match opened.and_then(|()| Index::open(&path, config.index_cache_bytes, origin)) {
        Ok(index) => (index, State::new(), report),
        Err(error) => without_index(&path, origin, error, report),
    }
}

fn no_room() -> IndexError {
    IndexError("there is no room on the disk to open it".to_owned())
}

/// What is alive is served from memory all the same, so that revoking goes on.
fn without_index(
    path: &Path,
    origin: &str,
    error: IndexError,
    report: IndexReport,
) -> (Index, State, IndexReport) {
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
    let index = Index::absent(path, origin, waits_for_room);
    (index, State::new(), report)
}

/// Whether a broker ever ran on this ledger. Before the first one there is no index, and none was lost.
fn was_served(ledger: &Reader) -> bool {
    /// A new installation has a handful of entries.
    const FIRST_ENTRIES: u64 = 16;
    let started = |index| {
        let entry = ledger.entry(index).ok()?;
        let event = entry::Entry::parse(&entry).ok()?.event;
        matches!(event, Event::BrokerStarted { .. }).then_some(())
    };
    ledger.size() > FIRST_ENTRIES || (0..ledger.size()).any(|index| started(index).is_some())
}

fn load(
    path: &Path,
    config: &Config,
    origin: &str,
    ledger: &Reader,
) -> Result<Option<(Index, State)>, IndexError> {
    let index = Index::open(path, config.index_cache_bytes, origin)?;
    let Some(meta) = index.checked_meta(ledger)? else {
        return Ok(None);
    };
    let state = index.load(&meta)?;
    Ok(Some((index, state)))
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

/// Brings the state, and the index with it, to the end of the ledger.
fn replay(
    state: &mut State,
    past: &mut Past,
    index: &Index,
    ledger: &Reader,
    report: &mut IndexReport,
) -> Result<(), OpenError> {
    let mut dirty = 0;
    while state.next() < ledger.size() {
        let from = state.next();
        let portion = replay_portion(state, ledger, from)?;
        report.replayed += state.next() - from;
        portion.changes.iter().for_each(|change| past.saw(change));
        if report.failed.is_some() {
            continue;
        }
        dirty += portion.changes.len();
        let mut written = index.write(&[portion]);
        if written.is_ok() && (dirty >= FLUSH_CHANGES || state.next() == ledger.size()) {
            written = index.flush();
            dirty = 0;
        }
        if let Err(error) = written {
            // What is alive is served from memory all the same, so that revoking goes on.
            tracing::error!(%error, "the index of history cannot be written; mend this and restart the broker");
            report.failed = Some(error.0);
            past.leave_gaps();
        }
    }
    Ok(())
}

fn replay_portion(state: &mut State, ledger: &Reader, from: u64) -> Result<Portion, OpenError> {
    let broken = |index: u64, reason: String| OpenError::Entry { index, reason };
    let to = ledger.size().min(from + REPLAY_ENTRIES);
    let entries = ledger.entries(from..to);
    let mut entries = entries.map_err(|e| broken(from, e.to_string()))?;
    let mut portion = Portion {
        position: to,
        last: Digest::of(b""),
        time: state.last_time(),
        trust_domain: None,
        changes: Vec::new(),
        ended: Vec::new(),
        about: Vec::new(),
    };
    while let Some((at, bytes)) = entries
        .next_entry()
        .map_err(|e| broken(from, e.to_string()))?
    {
        let entry = Entry::parse(bytes).map_err(|e| broken(at, e.to_string()))?;
        let effects = state.effects(&entry.event, entry.time);
        let mut effects = effects.map_err(|e| broken(at, e.to_string()))?;
        effects.changes.push(Change::Position(at + 1, entry.time));
        for change in &effects.changes {
            state.set(change);
        }
        if at + 1 == to {
            portion.last = Digest::of(bytes);
        }
        portion.time = entry.time;
        portion.changes.extend(effects.changes);
        portion.ended.extend(effects.ended);
        let about = effects.about.into_iter().map(|task| (task, at));
        portion.about.extend(about);
    }
    // Long replays would otherwise hold every SVID there ever was.
    for change in state.stale(portion.time) {
        state.set(&change);
        portion.changes.push(change);
    }
    portion.trust_domain = state.trust_domain().cloned();
    Ok(portion)
}
