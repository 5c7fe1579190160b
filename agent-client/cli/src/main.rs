//! `taskpass`: the command line tool for agents, operators and auditors.
//!
//! Reads the environment and leaves everything else to [`commands`], which returns the exit code.

mod agent;
mod commands;
mod context;
mod credential;
mod doctor;
mod failure;
mod join_token;
mod ledger;
mod login;
mod output;
mod parse;
mod policy;
mod provider;
mod run;
mod svid;
mod task;
mod views;
mod wire;

use std::{io::IsTerminal, path::PathBuf, process::ExitCode, sync::Arc};

use clap::{CommandFactory, FromArgMatches};
use taskpass_core::Clock;

use commands::Cli;

fn main() -> ExitCode {
    // First of all: from here on secrets may be in memory.
    harden();
    run()
}

#[tokio::main]
async fn run() -> ExitCode {
    let arguments = arguments();
    tracing_subscriber::fmt()
        .with_ansi(std::io::stderr().is_terminal())
        .with_max_level(tracing::Level::WARN)
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .init();
    let environment = std::env::vars_os().collect();
    commands::main(arguments, default_identity(), clock(), environment).await
}

/// Reads the arguments, some of which the environment may give instead. An empty variable counts as
/// unset.
#[expect(
    clippy::disallowed_methods,
    reason = "the environment is read where the program starts"
)]
fn arguments() -> Cli {
    let mut command = Cli::command();
    for (argument, variable) in [("addr", "TASKPASS_ADDR"), ("identity", "TASKPASS_IDENTITY")] {
        if std::env::var_os(variable).is_some_and(|value| value.is_empty()) {
            command = command.mut_arg(argument, |argument| argument.env(None));
        }
    }
    let matches = command.get_matches();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// A clock in place of the machine's, with which tests put the time wrong.
fn clock() -> Option<Arc<dyn Clock>> {
    #[cfg(feature = "failpoints")]
    #[expect(
        clippy::disallowed_methods,
        reason = "the environment is read where the program starts"
    )]
    if let Some(file) = std::env::var_os("TASKPASS_CLOCK_SHIFT") {
        return Some(Arc::new(taskpass_core::ShiftedClock::new(file)));
    }
    None
}

/// Forbids core dumps of this process, and debuggers of the same user: keys and credentials pass
/// through this memory, and that user may be the agent itself. The limit on core dumps is left
/// alone, since the command of `taskpass run` would inherit it.
fn harden() {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    // Refused only where a sandbox forbids the call, and then it forbids dumps too.
    let _refused = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// `$XDG_CONFIG_HOME/taskpass`, else `~/.config/taskpass`.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the environment apart from the arguments"
)]
fn default_identity() -> Option<PathBuf> {
    let directory = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    directory("XDG_CONFIG_HOME")
        .or_else(|| directory("HOME").map(|home| home.join(".config")))
        .map(|config| config.join("taskpass"))
}
