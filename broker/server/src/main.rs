//! `taskpassd`, the Taskpass broker: the command line, the process, and nothing else.

mod dev;
mod process;
mod progress;

use std::{
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser as _};
use taskpass_broker::{
    App, Deps, archive,
    cli::{
        Accept, Archive, Cli, ClockCommand, Command, ConfigCommand, Doctor, Init, Issue,
        LedgerCommand, OperatorCommand, Output,
    },
    clock,
    config::{Config, ProviderConfig, check, reference},
    doctor, init,
    observe::logging,
    operator, provider_kinds, reload,
};
use taskpass_core::{Clock, SystemClock, SystemEntropy, with_sources};

fn main() -> ExitCode {
    process::harden();
    process::choose_crypto();
    #[cfg(feature = "failpoints")]
    if let Some(place) = process::environment("TASKPASS_FAILPOINT") {
        taskpass_engine::failpoint::arm(&place);
    }
    let cli = Cli::parse();
    match dispatch(cli.command) {
        Ok(code) => code,
        Err(error) => {
            // The message has every cause, on one line. Standard error may be closed; then the
            // exit code alone tells of the failure.
            let _closed = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Each command has a function of its name.
fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Init(arguments) => init(arguments),
        Command::Run(arguments) => run(&arguments.config),
        Command::Reload(arguments) => reload(&arguments.config),
        Command::Config(ConfigCommand::Check(arguments)) => config_check(&arguments.config),
        Command::Config(ConfigCommand::Reference) => {
            print(reference::markdown(&provider_kinds()).trim_end())
        }
        Command::Config(ConfigCommand::Schema) => print(&reference::json_schema(&provider_kinds())),
        Command::Doctor(arguments) => doctor(&arguments),
        Command::Operator(OperatorCommand::Issue(arguments)) => operator_issue(arguments),
        Command::Clock(ClockCommand::Accept(arguments)) => clock_accept(arguments),
        Command::Ledger(LedgerCommand::Archive(arguments)) => ledger_archive(arguments),
        Command::Dev(arguments) => dev::run(arguments.trust_domain, deps()),
        Command::Completions { shell } => completions(shell),
    }
}

fn init(arguments: Init) -> anyhow::Result<ExitCode> {
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
    print(&init::install(plan, &provider_kinds(), &clock, &entropy)?.to_string())
}

fn run(path: &Path) -> anyhow::Result<ExitCode> {
    let mut config = Config::load(path, &provider_kinds())?;
    logging::start(
        &config.log,
        process::environment(logging::ENVIRONMENT).as_deref(),
    )?;
    process::fit_connections(&mut config.limits);
    process::runtime()?.block_on(async {
        // Signals are listened for before the ledger is opened: reading it takes long, and a
        // SIGTERM meanwhile must end the broker in good order.
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

fn reload(path: &Path) -> anyhow::Result<ExitCode> {
    // The file may be wrong: then the broker says so, and its log and `doctor` do, too.
    let outcome = reload::ask(&Config::data_dir_of(path))?;
    if outcome.is_in_force() {
        return print(&outcome.to_string());
    }
    let _closed = writeln!(io::stderr(), "error: {outcome}");
    Ok(ExitCode::FAILURE)
}

fn config_check(path: &Path) -> anyhow::Result<ExitCode> {
    let clock = deps().clock;
    // A provider makes its HTTP client when it is built, and the client's timers need a runtime.
    // No back end is called.
    let runtime = process::runtime()?;
    let _inside = runtime.enter();
    let report = check::check(path, &provider_kinds(), &|config| {
        let built = build_providers(config, &clock).into_iter();
        built.filter_map(|(_, provider)| provider.err()).collect()
    });
    print(&report.to_string())?;
    Ok(if report.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn doctor(arguments: &Doctor) -> anyhow::Result<ExitCode> {
    let clock = deps().clock;
    let kinds = provider_kinds();
    let build = |config: &Config| build_providers(config, &clock);
    let diagnosing = doctor::diagnose(&arguments.config, &kinds, &clock, build);
    let diagnosis = process::runtime()?.block_on(diagnosing);
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

fn operator_issue(arguments: Issue) -> anyhow::Result<ExitCode> {
    let Issue {
        operator,
        config,
        dir,
        output,
    } = arguments;
    let request = operator::Request {
        config: Config::load(&config, &provider_kinds())?,
        operator,
        dir,
        user: rustix::process::geteuid().as_raw(),
    };
    let issued = process::runtime()?.block_on(operator::issue(request, &deps()))?;
    match output {
        Output::Text => print(&issued.to_string()),
        Output::Json => print(&issued.to_json()),
    }
}

fn clock_accept(arguments: Accept) -> anyhow::Result<ExitCode> {
    let Accept {
        config,
        time,
        output,
    } = arguments;
    let request = clock::Request {
        config: Config::load(&config, &provider_kinds())?,
        time,
        user: rustix::process::geteuid().as_raw(),
    };
    let accepted = process::runtime()?.block_on(clock::accept(request, &deps()))?;
    match output {
        Output::Text => print(&accepted.to_string()),
        Output::Json => print(&accepted.to_json()),
    }
}

fn ledger_archive(arguments: Archive) -> anyhow::Result<ExitCode> {
    let Archive {
        config,
        before,
        to,
        output,
    } = arguments;
    let request = archive::Request {
        config: Config::load(&config, &provider_kinds())?,
        before,
        to,
        user: rustix::process::geteuid().as_raw(),
    };
    let mut shown = progress::ProgressLine::new();
    let deps = deps();
    let mut show = |now: archive::Progress| shown.show(now.done, now.total);
    let archiving = archive::archive(request, &deps, &mut show);
    let archived = process::runtime()?.block_on(archiving);
    shown.clear();
    let archived = archived?;
    match output {
        Output::Text => print(&archived.to_string()),
        Output::Json => print(&archived.to_json()),
    }
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "taskpassd", &mut script);
    print(String::from_utf8_lossy(&script).trim_end())
}

/// Every configured provider, or the reason why it cannot be built.
fn build_providers(config: &Config, clock: &Arc<dyn Clock>) -> Vec<doctor::BuiltProvider> {
    let build = |configured: &ProviderConfig| {
        configured.build(Arc::clone(clock)).map_err(|e| {
            let source = with_sources(e.as_ref());
            format!("setting up provider `{}` failed: {source}", configured.name)
        })
    };
    config
        .providers
        .iter()
        .map(|c| (c.name.clone(), build(c)))
        .collect()
}

/// The machine's clock and randomness. The rest of the broker gets them from here.
fn deps() -> Deps {
    Deps {
        clock: machine_clock(),
        entropy: Arc::new(SystemEntropy::new()),
    }
}

fn machine_clock() -> Arc<dyn Clock> {
    #[cfg(feature = "failpoints")]
    if let Some(file) = process::environment("TASKPASS_CLOCK_SHIFT") {
        return Arc::new(taskpass_core::ShiftedClock::new(file));
    }
    let clock = SystemClock::new();
    Arc::new(match process::environment("TASKPASS_BOOT_ID") {
        Some(boot) => clock.in_run(&boot),
        None => clock,
    })
}

/// Prints to standard output. A reader that closed the pipe, such as `head`, is not an error.
fn print(text: &str) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e).context("writing the output"),
        _ => Ok(ExitCode::SUCCESS),
    }
}
