//! Opening: the log, the index if it fits, and the entries that the index has not seen.

mod accepted;
mod imaged;
mod index;

use std::{
    path::PathBuf,
    sync::{Arc, mpsc},
    thread,
};

use parking_lot::Mutex;
use ring::hmac;
use taskpass_core::{Clock, Event};
use taskpass_ledger::{Archiver, Ledger, Options, Reader, RootsSigner, SigningKey, Unhashed};
use tokio::sync::{Semaphore, watch};

pub use self::index::indexes_set_aside;
use self::{accepted::AcceptedTimes, imaged::Reading, index::open_index};
use super::{Commits, Config, LogStore, QUEUE_EVENTS_MAX, Queue, UNINDEXED_EVENTS_MAX};
use crate::{
    Batch, MemoryLog, OpenError,
    applier::{Applier, FLUSH_CHANGES, Feed, Progress},
    decider::Decider,
    image::ImageKey,
    imager::{self, Imager},
    index::{Comparison, Index, IndexError},
    log::{InMemory, LocalLog, Log, LogError, Position},
    past::Past,
    portion::{self, replayed},
    sequencer::{self, Sequencer},
    shared::Shared,
    state::State,
    writer::Writer,
};

/// The use of the key that seals the index, derived from the ledger's.
const SEAL_PURPOSE: &str = "taskpass index v1";
/// The use of the key that seals the image of the live records.
const IMAGE_PURPOSE: &str = "taskpass image v1";

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
