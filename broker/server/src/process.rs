//! The process around a broker: its protection from other processes, its threads, its signals, its
//! service manager.

use std::{io, process::ExitCode};

use anyhow::Context as _;
use rustix::{
    fs::Mode,
    process::{DumpableBehavior, Resource, Rlimit},
};
use sd_notify::NotifyState;
use taskpass_broker::{App, reload::Reloads, transport::Limits};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};

/// Keeps other processes away from the secrets in this memory: no core dumps, no debugger of the
/// same user, no files that other users can read.
pub(crate) fn harden() {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    // Only a sandbox refuses these two calls, and such a sandbox forbids dumps too.
    let _refused = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let _refused = rustix::process::setrlimit(Resource::Core, none);
}

/// Raises the limit of open files as far as the system allows, and lowers the limit of connections
/// to fit into them. The soft limit is mostly 1,024, for the sake of programs that use `select`.
pub(crate) fn fit_connections(limits: &mut Limits) {
    let files = rustix::process::getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: files.maximum,
        maximum: files.maximum,
    };
    let usable = match rustix::process::setrlimit(Resource::Nofile, all) {
        Ok(()) => files.maximum,
        // Only a sandbox refuses this.
        Err(_) => files.current,
    };
    let usable = usable.unwrap_or(u64::MAX);
    let fitting = limits.connections_within(usable);
    if fitting < limits.connections {
        tracing::warn!(
            connections = limits.connections,
            files = usable,
            "only {fitting} connections are taken, since no more fit into the open files that the system \
             allows; raise LimitNOFILE= or `ulimit -n`, or lower `connections` in [limits]"
        );
        limits.connections = fitting;
    }
}

/// A variable of the environment.
#[expect(
    clippy::disallowed_methods,
    reason = "the environment is read where the program starts"
)]
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Installs ring as the crypto provider of libraries that use rustls' default.
pub(crate) fn choose_crypto() {
    // This fails only when a provider is installed already, and the build contains no other.
    let _installed = rustls::crypto::ring::default_provider().install_default();
}

/// The runtime of all asynchronous work.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("taskpassd")
        .build()
        .context("starting the threads")
}

/// The signals that the broker reacts to.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits until the process is asked to stop. SIGHUP has the configuration read again meanwhile.
    async fn stop(&mut self, reloads: &Reloads) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hang_up.recv() => reloads.request(),
            }
        }
    }
}

/// Serves until a signal, then drains; a second signal ends the process at once. `announce` runs
/// when the broker serves.
pub(crate) async fn run(
    app: App,
    mut signals: Signals,
    announce: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    let reloads = app.reloads();
    let (stop, stopped) = oneshot::channel::<()>();
    let mut serving = std::pin::pin!(app.run(async {
        // An error means that the sender was dropped, which is a reason to stop, too.
        let _either = stopped.await;
    }));
    // The socket listens already: a client that connects from now on is served.
    announce()?;
    notify(&[NotifyState::Ready]);
    tokio::select! {
        ended = &mut serving => {
            ended?;
            anyhow::bail!("the broker stopped serving without being asked to");
        }
        () = signals.stop(&reloads) => {}
    }
    tracing::info!("stopping: requests in flight may finish; a second signal stops at once");
    notify(&[NotifyState::Stopping]);
    // The receiver lives as long as `serving`.
    let _stopping = stop.send(());
    tokio::select! {
        ended = &mut serving => ended.map(|()| ExitCode::SUCCESS).map_err(Into::into),
        () = signals.stop(&reloads) => {
            tracing::warn!("stopped by a second signal; the next start completes what was in flight");
            anyhow::bail!("stopped by a second signal before the drain was complete")
        }
    }
}

/// Tells the service manager the state of the broker, if the process has a service manager.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        tracing::warn!(error = %e, "the service manager could not be notified");
    }
}
