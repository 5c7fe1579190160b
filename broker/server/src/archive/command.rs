//! `taskpassd ledger archive`: asks the broker that runs with the data directory, or does the work
//! itself while no broker runs.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use taskpass_core::{Timestamp, with_sources};
use taskpass_ledger::disk::SystemDisk;
use taskpass_store::StoreError;
use tokio::{io::AsyncWriteExt as _, sync::watch};
use tokio_util::task::TaskTracker;

use super::{Archived, Archiving, Order, Progress, in_words};
use crate::{
    app::{self, Deps},
    clock,
    config::Config,
    operator::{self, check_user, open_failed},
    reload::control,
};

/// The broker tells how far it is more often than this.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How often the broker tells how far it is.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// How long a peer may take to read a line.
const TELL_DEADLINE: Duration = Duration::from_secs(5);

/// The segments that a person wants in an archive.
#[derive(Debug)]
pub struct Request {
    /// The installation.
    pub config: Config,
    /// Only entries from before this time leave.
    pub before: Timestamp,
    /// The archive's directory.
    pub to: PathBuf,
    /// The effective user id of this process.
    pub user: u32,
}

/// Why the segments did not leave.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The archive's path has no absolute form.
    #[error("`{}` cannot be used as a directory", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The installation did not open.
    #[error(transparent)]
    Open(#[from] operator::Error),
    /// The broker does not answer.
    #[error(
        "the broker gave no answer; its log says how far it came, and to run this again does no harm"
    )]
    NoAnswer(#[source] io::Error),
    /// It refused, or failed.
    #[error("{0}")]
    Refused(String),
    /// The store was not closed in good order.
    #[error(
        "the segments are in the archive, but closing the store failed; the next start checks the files"
    )]
    Close(#[source] StoreError),
}

/// One line of a broker's answer.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// How far it is.
    Progress(Progress),
    /// It is done.
    Archived(Archived),
    /// It failed.
    Failed(String),
}

/// Moves the segments to the archive. Calls `progress` now and then.
pub async fn archive(
    request: Request,
    deps: &Deps,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Archived, CommandError> {
    let path = request.to.clone();
    let to = std::path::absolute(&path).map_err(|source| CommandError::Path { path, source })?;
    let before = request.before;
    let order = Order { before, to };
    let data_dir = &request.config.data_dir;
    match UnixStream::connect(control::socket(data_dir)) {
        Ok(mut stream) => {
            let asked = ask(&mut stream, &order, progress).map_err(CommandError::NoAnswer)?;
            asked.map_err(CommandError::Refused)
        }
        // No broker listens there, or this user may not ask it. The lock of the ledger shows
        // whether one runs.
        Err(_) => alone(request, order, deps, progress).await,
    }
}

fn ask(
    stream: &mut UnixStream,
    order: &Order,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> io::Result<Result<Archived, String>> {
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    let order = serde_json::to_string(order)?;
    writeln!(stream, "{}{order}", control::ARCHIVE)?;
    for line in BufReader::new(stream).lines() {
        match serde_json::from_str(&line?)? {
            Told::Progress(now) => progress(now),
            Told::Archived(archived) => return Ok(Ok(archived)),
            Told::Failed(why) => return Ok(Err(why)),
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

/// Opens the installation, and takes the lock that a running broker holds.
async fn alone(
    request: Request,
    order: Order,
    deps: &Deps,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Archived, CommandError> {
    let Request { config, user, .. } = request;
    check_user(&config.data_dir, user)?;
    let deps = &Deps {
        clock: clock::trusted(&config.data_dir, Arc::clone(&deps.clock)),
        ..deps.clone()
    };
    let keys = app::open_keys(&config, deps).await;
    let keys = keys.map_err(operator::Error::Open)?;
    let opened = app::open_store(&config, deps, Arc::new(SystemDisk), &keys).await;
    let opened = opened.map_err(|e| open_failed(e, &config))?;
    let store = Arc::clone(&opened.store);
    let archiving = Archiving::new(
        opened.store,
        opened.ledger,
        opened.archiver,
        Arc::clone(&deps.clock),
        TaskTracker::new(),
    );
    let archived = followed(Arc::new(archiving), order, Some(user), progress).await;
    let closed = store.close().await;
    let archived = archived.map_err(CommandError::Refused)?;
    closed.map_err(CommandError::Close)?;
    Ok(archived)
}

async fn followed(
    archiving: Arc<Archiving>,
    order: Order,
    user: Option<u32>,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Archived, String> {
    let (sender, mut watched) = watch::channel(Progress::default());
    let work = archiving.archive(order, user, sender);
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done.map_err(|error| in_words(&error)),
            Ok(()) = watched.changed() => progress(*watched.borrow_and_update()),
        }
    }
}

/// The broker's end: carries out the order that a person sent, and tells how it goes.
pub(crate) async fn answer(
    archiving: Arc<Archiving>,
    order: &[u8],
    user: u32,
    socket: &mut tokio::net::UnixStream,
) -> io::Result<()> {
    let order = match serde_json::from_slice(order) {
        Ok(order) => order,
        Err(error) => return tell(socket, &Told::Failed(with_sources(&error))).await,
    };
    let (sender, watched) = watch::channel(Progress::default());
    let work = archiving.archive(order, Some(user), sender);
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => {
                let told = match done {
                    Ok(archived) => Told::Archived(archived),
                    Err(error) => Told::Failed(in_words(&error)),
                };
                return tell(socket, &told).await;
            }
            () = tokio::time::sleep(TELL_EVERY) => {
                let now = *watched.borrow();
                tell(socket, &Told::Progress(now)).await?;
            }
        }
    }
}

async fn tell(socket: &mut tokio::net::UnixStream, told: &Told) -> io::Result<()> {
    let mut line = serde_json::to_vec(told)?;
    line.push(b'\n');
    let written = tokio::time::timeout(TELL_DEADLINE, socket.write_all(&line));
    written.await.map_err(io::Error::from)?
}
