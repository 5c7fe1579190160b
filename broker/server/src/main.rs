//! `taskpassd`, the Taskpass broker: the command line, the process, and nothing else.

mod dev;
mod process;

use std::{
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser as _};
use taskpass_broker::{
    App, Deps,
    cli::{Cli, Command, ConfigCommand, Doctor, Init, Issue, OperatorCommand, Output},
    config::{Config, check, reference},
    doctor, init,
    observe::logging,
    operator,
};
use taskpass_core::{Clock, SystemClock, SystemEntropy};

fn main() -> ExitCode {
    process::harden();
    process::choose_crypto();
    #[cfg(feature = "failpoints")]
    if let Some(place) = process::environment("TASKPASS_FAILPOINT") {
        taskpass_engine::failpoint::arm(&place);
    }
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            // With every cause, on one line. Standard error may be closed, and then there is nobody to tell.
            let _closed = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Init(arguments) => make(arguments),
        Command::Run(arguments) => serve(&arguments.config),
        Command::Config(ConfigCommand::Check(arguments)) => check_config(&arguments.config),
        Command::Config(ConfigCommand::Reference) => print(reference::markdown().trim_end()),
        Command::Doctor(arguments) => examine(&arguments),
        Command::Operator(OperatorCommand::Issue(arguments)) => let_in(arguments),
        Command::Dev(arguments) => dev::run(arguments.trust_domain, deps()),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "taskpassd", &mut script);
            print(String::from_utf8_lossy(&script).trim_end())
        }
    }
}

fn make(arguments: Init) -> anyhow::Result<ExitCode> {
    let Deps { clock, entropy } = deps();
    let Init {
        dir,
        trust_domain,
        operator,
    } = arguments;
    let plan = init::Plan {
        dir,
        trust_domain,
        operator,
    };
    print(&init::install(plan, &clock, &entropy)?.to_string())
}

fn serve(path: &Path) -> anyhow::Result<ExitCode> {
    let mut config = Config::load(path)?;
    logging::start(
        &config.log,
        process::environment(logging::ENVIRONMENT).as_deref(),
    )?;
    #[cfg(feature = "failpoints")]
    if let Some(place) = process::environment("TASKPASS_FAILPOINT") {
        taskpass_engine::failpoint::arm(&place);
    }
    process::fit_connections(&mut config.limits);
    process::runtime()?.block_on(async {
        // Before anything is opened: a signal that comes while the ledger is read is not lost.
        let signals = process::Signals::new().context("listening for signals")?;
        let trust_domain = config.trust_domain.clone();
        let app = App::build(config, deps()).await?;
        let ready = format!(
            "ready addr={} trust_domain={trust_domain}",
            app.local_addr()
        );
        process::run(app, signals, || print(&ready).map(|_| ())).await
    })
}

fn check_config(path: &Path) -> anyhow::Result<ExitCode> {
    let clock = deps().clock;
    // Providers make their clients when they are built, and clients have timers; nothing is called.
    let runtime = process::runtime()?;
    let _inside = runtime.enter();
    let report = check::check(path, &|config| {
        let patients = patients(config, &clock).into_iter();
        patients
            .filter_map(|(_, provider)| provider.err())
            .collect()
    });
    print(&report.to_string())?;
    Ok(if report.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn examine(arguments: &Doctor) -> anyhow::Result<ExitCode> {
    let clock = deps().clock;
    let looking = doctor::diagnose(&arguments.config, clock.as_ref(), |c| patients(c, &clock));
    let diagnosis = process::runtime()?.block_on(looking);
    match arguments.output {
        Output::Text => print(&diagnosis.to_string())?,
        Output::Json => print(&diagnosis.to_json())?,
    };
    Ok(if diagnosis.has_failed() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn let_in(arguments: Issue) -> anyhow::Result<ExitCode> {
    let Issue {
        operator,
        config,
        dir,
        output,
    } = arguments;
    let order = operator::Order {
        config: Config::load(&config)?,
        operator,
        dir,
        user: rustix::process::geteuid().as_raw(),
    };
    let issued = process::runtime()?.block_on(operator::issue(order, &deps()))?;
    match output {
        Output::Text => print(&issued.to_string()),
        Output::Json => print(&issued.to_json()),
    }
}

/// Every configured provider, or why it cannot be built.
fn patients(config: &Config, clock: &Arc<dyn Clock>) -> Vec<doctor::Patient> {
    let build = |configured| {
        taskpass_broker::provider(config, configured, Arc::clone(clock))
            .map_err(|e| check::with_sources(&e))
    };
    config
        .providers
        .iter()
        .map(|c| (c.name.clone(), build(c)))
        .collect()
}

/// The machine's clock and randomness: this is where they come in.
fn deps() -> Deps {
    Deps {
        clock: clock(),
        entropy: Arc::new(SystemEntropy::new()),
    }
}

fn clock() -> Arc<dyn Clock> {
    #[cfg(feature = "failpoints")]
    if let Some(file) = process::environment("TASKPASS_CLOCK_SHIFT") {
        return Arc::new(taskpass_core::ShiftedClock::new(file));
    }
    Arc::new(SystemClock::new())
}

/// Prints for whoever called; a reader that has gone away is not an error worth a message.
fn print(text: &str) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e).context("writing the output"),
        _ => Ok(ExitCode::SUCCESS),
    }
}
