//! The socket through which `taskpassd reload`, `doctor`, `root`, `operator withdraw` and `ledger
//! archive` talk to the broker on the same machine.
//!
//! It is a file of mode 0600 in the data directory, which only the broker's user can enter, and the
//! broker checks the user of each peer as well: root or its own. A connection carries one line, the
//! command, and one answer in JSON: `reload` does what SIGHUP does, `reconcilers` asks how the
//! reconcilers stand, `breakers` which breakers are open, `archive` moves old segments of the
//! ledger away, with a line of JSON for each progress, and an [`Order`] in JSON is carried out.
//! Nothing else can be asked for.

use std::{
    fs, io,
    io::{Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream as BlockingStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::process::geteuid;
use serde::de::DeserializeOwned;
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
    certificate::ShownCertificate,
    observe::{breaker::BreakerReport, reconciler::ReconcilerReport},
    order::{self, Answer, Order},
};

const SOCKET: &str = "control.sock";
const RELOAD: &[u8] = b"reload\n";
const RECONCILERS: &[u8] = b"reconcilers\n";
const BREAKERS: &[u8] = b"breakers\n";
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

/// The parts of the broker that commands reach.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) engine: Arc<Engine>,
    pub(crate) certificate: Arc<ShownCertificate>,
    pub(crate) archiving: Arc<Archiving>,
}

/// The broker's end.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    parts: Parts,
}

impl ControlSocket {
    /// Listens in a data directory. The caller holds the directory's lock, so a socket that is
    /// there was left by a broker that is dead.
    pub(crate) fn bind(data_dir: &Path, parts: Parts) -> io::Result<Self> {
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
            parts,
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
            let parts = self.parts.clone();
            let (reloads, stop) = (reloads.clone(), stop.clone());
            tracker.spawn(async move {
                let answering = answer(socket, &reloads, parts);
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
async fn answer(mut socket: UnixStream, reloads: &Reloads, parts: Parts) -> io::Result<()> {
    let Parts {
        engine,
        certificate,
        archiving,
    } = parts;
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
        RECONCILERS => serde_json::to_vec(&ReconcilerReport::all(&engine))?,
        BREAKERS => serde_json::to_vec(&BreakerReport::open(&engine))?,
        line => {
            let order: Order = serde_json::from_slice(line)?;
            serde_json::to_vec(&order::carry_out(order, &engine, &certificate).await)?
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
    #[error("the broker gave no answer; its log and `taskpassd doctor` say how the command ended")]
    NoAnswer(#[source] io::Error),
}

/// Where the broker that runs with a data directory listens.
pub(crate) fn socket(data_dir: &Path) -> PathBuf {
    data_dir.join(SOCKET)
}

/// Asks the broker that runs with a data directory for a reload, and waits for its outcome.
pub fn ask(data_dir: &Path) -> Result<Outcome, AskError> {
    exchange(&mut connect(data_dir)?, RELOAD).map_err(AskError::NoAnswer)
}

/// Gives the broker that runs with a data directory an order, and waits for its answer.
pub(crate) fn order(data_dir: &Path, order: &Order) -> Result<Answer, AskError> {
    // Cannot fail: the fields are texts, which JSON can always represent.
    let mut line = serde_json::to_vec(order).unwrap_or_default();
    line.push(b'\n');
    exchange(&mut connect(data_dir)?, &line).map_err(AskError::NoAnswer)
}

fn connect(data_dir: &Path) -> Result<BlockingStream, AskError> {
    let socket = data_dir.join(SOCKET);
    BlockingStream::connect(&socket).map_err(|source| AskError::NotRunning { socket, source })
}

/// Asks the broker that runs with a data directory how its reconcilers stand.
pub(crate) async fn look(data_dir: &Path) -> Result<Vec<ReconcilerReport>, AskError> {
    look_at(data_dir, RECONCILERS).await
}

/// Asks the broker that runs with a data directory which breakers are open.
pub(crate) async fn look_at_breakers(data_dir: &Path) -> Result<Vec<BreakerReport>, AskError> {
    look_at(data_dir, BREAKERS).await
}

async fn look_at<T: DeserializeOwned>(data_dir: &Path, command: &[u8]) -> Result<T, AskError> {
    let socket = data_dir.join(SOCKET);
    let looking = async {
        let mut stream = UnixStream::connect(&socket)
            .await
            .map_err(|source| AskError::NotRunning { socket, source })?;
        let exchange = exchange_look(&mut stream, command);
        exchange.await.map_err(AskError::NoAnswer)
    };
    let looked = timeout(LOOK_DEADLINE, looking).await;
    looked.unwrap_or_else(|late| Err(AskError::NoAnswer(late.into())))
}

async fn exchange_look<T: DeserializeOwned>(
    stream: &mut UnixStream,
    command: &[u8],
) -> io::Result<T> {
    stream.write_all(command).await?;
    let mut text = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut text).await?;
    Ok(serde_json::from_slice(&text)?)
}

fn exchange<T: serde::de::DeserializeOwned>(
    stream: &mut BlockingStream,
    command: &[u8],
) -> io::Result<T> {
    stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
    stream.write_all(command)?;
    let mut text = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}
