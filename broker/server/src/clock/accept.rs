//! `taskpassd clock accept`: a person confirms the time of the broker's machine, while no broker
//! runs.
//!
//! Two installations need it. One was brought years ahead by a wrong clock, and its ledger would
//! have to wait until that time has come. The other one's clock is in doubt although it is right: a
//! virtual machine that its host had paused, or a broker that was stopped for months. An entry of
//! the ledger keeps both times, and nothing that was recorded is lost.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Serialize;
use taskpass_core::{CLOCK_DISAGREEMENT_MAX, ClockMark, Event, Timestamp};
use taskpass_ledger::{Reader, disk::SystemDisk};
use taskpass_store::{Batch, CommitError, Entry, Store as _, StoreError};

use super::leave;
use crate::{
    app::{self, Deps},
    config::Config,
    init::quoted,
    operator::{self, check_user, open_failed},
};

/// The time that a person confirms.
#[derive(Debug, Clone)]
pub struct Request {
    /// The installation.
    pub config: Config,
    /// The time by a clock that the person trusts.
    pub time: Option<Timestamp>,
    /// The effective user id of this process.
    pub user: u32,
}

/// Why the time was not accepted, or not in whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The person did not look at a clock.
    #[error(
        "this machine's clock says {clock}, and the newest entry of the ledger is of {ledger}; \
         if a clock that you trust agrees with the machine's, run \
         `taskpassd clock accept --config {config} --time {clock}`, else set the machine's clock first"
    )]
    TimeMissing {
        /// The machine's clock.
        clock: Timestamp,
        /// The newest entry.
        ledger: Timestamp,
        /// The configuration, as an argument of a command.
        config: String,
    },
    /// The machine's clock shows another time than the person's.
    #[error(
        "this machine's clock says {clock}, which is more than {} minutes from {time}; \
         set the machine's clock, and run this again",
        CLOCK_DISAGREEMENT_MAX.as_secs() / 60
    )]
    AnotherTime {
        /// The machine's clock.
        clock: Timestamp,
        /// The person's.
        time: Timestamp,
    },
    /// The installation did not open.
    #[error(transparent)]
    Open(#[from] operator::Error),
    /// The last entry of the ledger cannot be read.
    #[error("the last entry of the ledger cannot be read")]
    LastEntry(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The index has to be built again, and not all entries are here.
    #[error(
        "the ledger's entries before {first} are in an archive, and the broker needs them after its time went back; name the archive's directory as `[ledger] archive` in the configuration, and run this again"
    )]
    Archived {
        /// The first entry that this machine keeps.
        first: u64,
    },
    /// The entry was not recorded.
    #[error("the time could not be recorded, and nothing is changed")]
    Record(#[source] CommitError),
    /// The ledger was not closed in good order.
    #[error("the time is accepted, but closing the store failed; the next start checks the files")]
    Close(#[source] StoreError),
    /// An authority that begins in the future stays in use.
    #[error("the time is accepted, but the certificate authority is of another; run this again")]
    Authority(#[source] taskpass_ca::Error),
    /// The index of the wrong time stays.
    #[error("the time is accepted, but `{}` could not be removed; remove it before the broker starts", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The next broker does not know that the time was accepted.
    #[error("the time is accepted, but the clock's mark was not written ({0}); run this again")]
    Mark(String),
}

/// An accepted time.
#[derive(Debug, Clone, Serialize)]
pub struct Accepted {
    /// The time of the newest entry before.
    pub previous: Timestamp,
    /// The time from which the ledger goes on.
    pub accepted: Timestamp,
    /// The ledger entry that records it.
    pub ledger_index: u64,
    #[serde(skip)]
    config: Config,
}

/// Records that the machine's clock is right, and brings the files in line with it. Takes the locks
/// that a running broker holds. To run it again does no harm.
pub async fn accept(request: Request, deps: &Deps) -> Result<Accepted, Error> {
    let Request { config, time, user } = request;
    check_user(&config.data_dir, user)?;
    let keys = app::open_keys(&config, deps).await;
    let keys = keys.map_err(operator::Error::Open)?;
    let authority = app::open_authority(&config, deps, &keys);
    let authority = authority.map_err(|e| open_failed(e, &config))?;
    // Until the time is accepted, nothing may be recorded at the machine's time: opening the store
    // may record that its index is built again.
    let standing = Deps {
        clock: super::trusted(&config.data_dir, Arc::clone(&deps.clock)),
        ..deps.clone()
    };
    let opened = app::open_store(&config, &standing, Arc::new(SystemDisk), &keys).await;
    let app::OpenStore { store, ledger, .. } = opened.map_err(|e| open_failed(e, &config))?;
    let previous = store.last_time();
    let accepted = deps.clock.now();
    let checked = check_time(time, accepted, previous, &config).and_then(|()| {
        match ledger.first_readable() {
            first if first > 0 && accepted < previous => Err(Error::Archived { first }),
            _ => Ok(()),
        }
    });
    let recorded = match checked {
        Ok(()) => {
            let was_interrupted = was_accepted(&ledger)?;
            let event = Event::ClockAccepted { previous, accepted };
            let recorded = store.commit(Batch::reserved([event])).await;
            recorded
                .map(|recorded| (recorded.first_index, was_interrupted))
                .map_err(Error::Record)
        }
        Err(error) => Err(error),
    };
    let closed = store.close().await;
    let (ledger_index, was_interrupted) = recorded?;
    closed.map_err(Error::Close)?;
    authority.retire_future().map_err(Error::Authority)?;
    if accepted < previous || was_interrupted {
        remove_index(&config.data_dir.join("index"))?;
    }
    mark(&config.data_dir, deps, accepted)?;
    Ok(Accepted {
        previous,
        accepted,
        ledger_index,
        config,
    })
}

/// A person has to name the time, since a machine with a wrong clock believes it.
fn check_time(
    time: Option<Timestamp>,
    clock: Timestamp,
    ledger: Timestamp,
    config: &Config,
) -> Result<(), Error> {
    let Some(time) = time else {
        let config = quoted(&config.path);
        return Err(Error::TimeMissing {
            clock,
            ledger,
            config,
        });
    };
    let apart = clock.since(time).max(time.since(clock));
    if apart > CLOCK_DISAGREEMENT_MAX {
        return Err(Error::AnotherTime { clock, time });
    }
    Ok(())
}

/// Whether an earlier run was the last to record anything; it may have been interrupted.
fn was_accepted(ledger: &Reader) -> Result<bool, Error> {
    let failed = |error| Error::LastEntry(Box::new(error));
    let Some(last) = ledger.size().checked_sub(1) else {
        return Ok(false);
    };
    let mut entries = ledger.genuine_entries(last..last + 1).map_err(failed)?;
    let Some((_, entry)) = entries.next_entry().map_err(failed)? else {
        return Ok(false);
    };
    let entry = Entry::parse(entry).map_err(|error| Error::LastEntry(Box::new(error)))?;
    Ok(matches!(entry.event, Event::ClockAccepted { .. }))
}

/// The next start builds the index again from the ledger, with every SVID and token in it that the
/// wrong time had made the broker forget.
fn remove_index(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::Index {
            path: path.to_owned(),
            source: error,
        }),
        _ => Ok(()),
    }
}

/// Without the mark, the next broker would go by the mark of the time before.
fn mark(data_dir: &Path, deps: &Deps, accepted: Timestamp) -> Result<(), Error> {
    let mark = ClockMark {
        // A machine that does not name its runs matches no mark, as after it was switched off.
        boot: deps.clock.boot().unwrap_or_default().to_owned(),
        monotonic_ms: u64::try_from(deps.clock.monotonic().as_millis()).unwrap_or(u64::MAX),
        time: accepted,
        ahead_ms: 0,
    };
    leave(data_dir, &mark).map_err(Error::Mark)
}

impl Accepted {
    /// The accepted time as JSON with stable names.
    pub fn to_json(&self) -> String {
        // Cannot fail: the fields are times and numbers, which JSON can always represent.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

/// The accepted time, and the next steps.
impl fmt::Display for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            previous,
            accepted,
            ledger_index,
            config,
        } = self;
        let config = quoted(&config.path);
        write!(
            f,
            "\
The ledger goes on from {accepted}; its newest entry before was of {previous}.
Entry {ledger_index} of the ledger says so. Nothing that was recorded is lost.

Start the broker:

  taskpassd run --config {config}"
        )?;
        if accepted < previous {
            write!(
                f,
                "

The first start takes longer, since it builds the index again from the ledger. Operators and agents
whose identity was made while the clock was ahead need another one:

  taskpassd operator issue NAME --config {config} --dir DIR
  taskpass agent token NAME"
            )?;
        }
        Ok(())
    }
}
