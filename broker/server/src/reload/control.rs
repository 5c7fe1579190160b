//! The socket through which `taskpassd reload`, `taskpassd ledger archive` and `taskpassd doctor`
//! talk to the broker on the same machine.
//!
//! It is a file of mode 0600 in the data directory, which only the broker's user can enter, and the
//! broker checks the user of each peer as well: root or its own. A connection carries one line, the
//! command, and one answer in JSON: `reload` does what SIGHUP does, `reconcilers` asks how the
//! reconcilers stand, and `archive` moves old segments of the ledger away, with a line of JSON for
//! each progress. Nothing else can be asked for.

use std::{
    fs, io,
    io::{Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream as BlockingStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::process::geteuid;
use taskpass_engine::Engine;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Outcome, Reloads};
use crate::{
    archive::{self, Archiving},
    observe::reconciler::ReconcilerReport,
};

const SOCKET: &str = "control.sock";
const RELOAD: &[u8] = b"reload\n";
const RECONCILERS: &[u8] = b"reconcilers\n";
/// Stands before the order of `taskpassd ledger archive`, which is JSON.
pub(crate) const ARCHIVE: &str = "archive ";
/// No command is as long; the longest one names a directory.
const COMMAND_BYTES_MAX: u64 = 16 * 1024;
/// Connections at the same time. A person needs one.
const CONNECTIONS: usize = 8;
/// How long a peer may take to send its command, and to read the answer.
const PEER_DEADLINE: Duration = Duration::from_secs(5);
/// The pause after the system refused to accept a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long `taskpassd reload` waits for the answer. Several reloads may be ahead of its own.
const ANSWER_DEADLINE: Duration = Duration::from_secs(300);
/// No answer is as long.
const ANSWER_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// How long `taskpassd doctor` waits for the whole of an answer.
const LOOK_DEADLINE: Duration = Duration::from_secs(5);

/// The broker's end.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    engine: Arc<Engine>,
    archiving: Arc<Archiving>,
}

impl ControlSocket {
    /// Listens in a data directory. The caller holds the directory's lock, so a socket that is
    /// there was left by a broker that is dead.
    pub(crate) fn bind(
        data_dir: &Path,
        engine: &Arc<Engine>,
        archiving: &Arc<Archiving>,
    ) -> io::Result<Self> {
        let path = data_dir.join(SOCKET);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(Self {
            listener,
            path,
            engine: Arc::clone(engine),
            archiving: Arc::clone(archiving),
        })
    }

    /// Answers until `stop`, then removes the socket.
    pub(crate) async fn serve(self, reloads: Reloads, stop: CancellationToken) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        let tracker = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            let socket = match accepted {
                Ok((socket, _)) => socket,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept commands; trying again");
                    stop.run_until_cancelled(sleep(ACCEPT_PAUSE)).await;
                    continue;
                }
            };
            // Dropping the socket closes it.
            let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
                continue;
            };
            let (engine, archiving) = (Arc::clone(&self.engine), Arc::clone(&self.archiving));
            let (reloads, stop) = (reloads.clone(), stop.clone());
            tracker.spawn(async move {
                let answering = answer(socket, &reloads, &engine, archiving);
                if let Some(Err(error)) = stop.run_until_cancelled(answering).await {
                    tracing::debug!(%error, "a command was not answered");
                }
                drop(permit);
            });
        }
        tracker.close();
        tracker.wait().await;
        let _gone = fs::remove_file(&self.path);
    }
}

/// Serves one connection.
async fn answer(
    mut socket: UnixStream,
    reloads: &Reloads,
    engine: &Engine,
    archiving: Arc<Archiving>,
) -> io::Result<()> {
    let peer = socket.peer_cred()?.uid();
    if peer != geteuid().as_raw() && peer != 0 {
        tracing::warn!(user = peer, "a command of another user was refused");
        return Ok(());
    }
    let mut command = Vec::new();
    let mut line = BufReader::new(&mut socket).take(COMMAND_BYTES_MAX);
    let read = timeout(PEER_DEADLINE, line.read_until(b'\n', &mut command));
    read.await.map_err(io::Error::from)??;
    if let Some(order) = command.strip_prefix(ARCHIVE.as_bytes()) {
        return archive::answer(archiving, order, peer, &mut socket).await;
    }
    let text = match command.as_slice() {
        RELOAD => match reloads.perform().await {
            Some(outcome) => serde_json::to_vec(&outcome)?,
            // The broker stops, and the peer sees an answer that ends before it began.
            None => return Ok(()),
        },
        RECONCILERS => serde_json::to_vec(&ReconcilerReport::all(engine))?,
        _ => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the command is not known",
            ));
        }
    };
    let written = timeout(PEER_DEADLINE, socket.write_all(&text));
    written.await.map_err(io::Error::from)?
}

/// Why a broker did not answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// There is no broker to be asked.
    #[error(
        "no broker can be reached through `{}`; is it running, as which user, and was it started with this data directory?",
        socket.display()
    )]
    NotRunning {
        /// Where it would listen.
        socket: PathBuf,
        /// Why it cannot be reached.
        #[source]
        source: io::Error,
    },
    /// The broker did not answer.
    #[error("the broker gave no answer; its log and `taskpassd doctor` say how the reload ended")]
    NoAnswer(#[source] io::Error),
}

/// Where the broker that runs with a data directory listens.
pub(crate) fn socket(data_dir: &Path) -> PathBuf {
    data_dir.join(SOCKET)
}

/// Asks the broker that runs with a data directory for a reload, and waits for its outcome.
pub fn ask(data_dir: &Path) -> Result<Outcome, AskError> {
    let socket = data_dir.join(SOCKET);
    let mut stream = BlockingStream::connect(&socket)
        .map_err(|source| AskError::NotRunning { socket, source })?;
    exchange(&mut stream).map_err(AskError::NoAnswer)
}

/// Asks the broker that runs with a data directory how its reconcilers stand.
pub(crate) async fn look(data_dir: &Path) -> Result<Vec<ReconcilerReport>, AskError> {
    let socket = data_dir.join(SOCKET);
    let looking = async {
        let mut stream = UnixStream::connect(&socket)
            .await
            .map_err(|source| AskError::NotRunning { socket, source })?;
        exchange_look(&mut stream).await.map_err(AskError::NoAnswer)
    };
    let looked = timeout(LOOK_DEADLINE, looking).await;
    looked.unwrap_or_else(|late| Err(AskError::NoAnswer(late.into())))
}

async fn exchange_look(stream: &mut UnixStream) -> io::Result<Vec<ReconcilerReport>> {
    stream.write_all(RECONCILERS).await?;
    let mut text = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut text).await?;
    Ok(serde_json::from_slice(&text)?)
}

fn exchange(stream: &mut BlockingStream) -> io::Result<Outcome> {
    stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
    stream.write_all(RELOAD)?;
    let mut text = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}
