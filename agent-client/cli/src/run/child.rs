//! The command as a child process: started, fed with signals, and stopped when its task is over.
//!
//! Away from a terminal the child leads a process group of its own, so that signals reach
//! everything it has started. At a terminal it shares the group of this process: in another one it
//! could not read from the terminal. There the terminal itself sends Ctrl-C to both.

use std::{
    ffi::OsString,
    io::{self, IsTerminal},
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use taskpass_client::TaskGuard;
use taskpass_core::TaskId;
use tokio::{
    process::{Child, Command},
    runtime::Handle,
    signal::unix::{self, SignalKind},
    time::sleep,
};

use super::{environment::Variables, hide::Screen, lapse::Lapses};
use crate::output::note;

/// The time between TERM and KILL.
const GRACE: Duration = Duration::from_secs(10);
/// The exit codes of shells: the command was found and cannot run, or was not found.
const CANNOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

/// How the command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Exited(u8),
    Signalled(i32),
}

/// Signals that this process acts on or passes on.
pub(super) struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    hangup: unix::Signal,
    quit: unix::Signal,
}

pub(super) struct Running {
    child: Child,
    pid: Option<Pid>,
    group: Group,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    Own,
    Shared,
}

impl Signals {
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: unix::signal(SignalKind::interrupt())?,
            terminate: unix::signal(SignalKind::terminate())?,
            hangup: unix::signal(SignalKind::hangup())?,
            quit: unix::signal(SignalKind::quit())?,
        })
    }

    /// The number of the next one.
    pub(super) async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::INT.as_raw(),
            _ = self.terminate.recv() => Signal::TERM.as_raw(),
            _ = self.hangup.recv() => Signal::HUP.as_raw(),
            _ = self.quit.recv() => Signal::QUIT.as_raw(),
        }
    }
}

/// The credentials and the rest of the command's environment.
pub(super) struct Surroundings {
    pub(super) inherited: Vec<(OsString, OsString)>,
    pub(super) variables: Variables,
    /// What hides the identity directory.
    pub(super) screen: Option<Screen>,
}

/// Starts the command; on failure the exit code and the message.
pub(super) fn spawn(
    command: &[OsString],
    surroundings: Surroundings,
    task: TaskId,
) -> Result<Running, (u8, String)> {
    let Surroundings {
        inherited,
        variables,
        screen,
    } = surroundings;
    let Some((program, arguments)) = command.split_first() else {
        return Err((NOT_FOUND, "there is no command".to_owned()));
    };
    let group = if io::stdin().is_terminal() {
        Group::Shared
    } else {
        Group::Own
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(inherited)
        .env("TASKPASS_TASK", task.to_string())
        .envs(variables.iter().map(|(name, value)| (name, value.expose())))
        .kill_on_drop(true);
    if group == Group::Own {
        command.process_group(0);
    }
    let started = match screen {
        None => command.spawn(),
        Some(screen) => spawn_behind(screen, command),
    };
    let child = started.map_err(|e| {
        let code = match e.kind() {
            io::ErrorKind::NotFound => NOT_FOUND,
            _ => CANNOT_RUN,
        };
        (code, format!("cannot run `{}`: {e}", program.display()))
    })?;
    let pid = child
        .id()
        .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    Ok(Running { child, pid, group })
}

/// Starts the command from a thread of its own: a screen holds the thread that enters it for ever.
fn spawn_behind(screen: Screen, mut command: Command) -> io::Result<Child> {
    let runtime = Handle::current();
    let start = move || {
        let _runtime = runtime.enter();
        screen.enter().map_err(io::Error::other)?;
        command.spawn()
    };
    std::thread::Builder::new()
        .name("start".to_owned())
        .spawn(start)?
        .join()
        .map_err(|_panic| io::Error::other("the thread that starts it panicked"))?
}

impl Running {
    /// Waits for the command to exit, passing signals on. Stops it when its task is over.
    pub(super) async fn supervise(
        mut self,
        task: &TaskGuard,
        signals: &mut Signals,
        mut lapses: Lapses,
    ) -> anyhow::Result<Outcome> {
        let over = loop {
            tokio::select! {
                status = self.child.wait() => return Ok(outcome(status?)),
                signal = signals.next() => self.pass_on(signal),
                () = lapses.next() => {}
                why = task.ended() => break why,
            }
        };
        note(&format!(
            "taskpass: stopping the command, since {} is over or cannot be kept alive ({over})",
            task.id()
        ));
        self.send(Signal::TERM);
        tokio::select! {
            status = self.child.wait() => {
                self.send_to_rest(Signal::KILL);
                return Ok(outcome(status?));
            }
            () = sleep(GRACE) => {}
        }
        self.send(Signal::KILL);
        Ok(outcome(self.child.wait().await?))
    }

    fn pass_on(&self, signal: i32) {
        let from_terminal = [Signal::INT.as_raw(), Signal::QUIT.as_raw()].contains(&signal);
        if self.group == Group::Shared && from_terminal {
            return;
        }
        if let Some(signal) = Signal::from_named_raw(signal) {
            self.send(signal);
        }
    }

    /// Sends to the whole group if the group is the command's own.
    fn send(&self, signal: Signal) {
        let Some(pid) = self.pid else { return };
        let sent = match self.group {
            Group::Own => kill_process_group(pid, signal),
            Group::Shared => kill_process(pid, signal),
        };
        if let Err(error) = sent {
            tracing::debug!(%error, "the signal did not reach the command; it has probably exited");
        }
    }

    /// Signals the processes that the command left behind. The kernel may have reused the command's
    /// own id by now, but not its group's.
    fn send_to_rest(&self, signal: Signal) {
        if self.group == Group::Own {
            self.send(signal);
        }
    }
}

fn outcome(status: ExitStatus) -> Outcome {
    match (status.code(), status.signal()) {
        (Some(code), _) => Outcome::Exited(u8::try_from(code & 0xff).unwrap_or(1)),
        (None, Some(signal)) => Outcome::Signalled(signal),
        (None, None) => Outcome::Exited(1),
    }
}
