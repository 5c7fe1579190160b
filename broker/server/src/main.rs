//! `taskpassd`, the Taskpass broker: the command line, the process, and nothing else.

mod dev;
mod process;
mod progress;

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser as _};
use taskpass_broker::{
    App, Deps, archive,
    cli::{
        Accept, Archive, Cli, ClockCommand, Command, ConfigCommand, Doctor, Init, Issue,
        KeysCommand, KeysStatus, LedgerCommand, OperatorCommand, Output, Reseal, RootCommand,
        Unseal, Withdraw,
    },
    clock,
    config::{Config, ProviderConfig, check, reference},
    doctor, init, keys,
    observe::logging,
    operator,
    order::{self, Order},
    provider_kinds, reload,
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
        Command::Operator(OperatorCommand::Withdraw(arguments)) => operator_withdraw(arguments),
        Command::Root(command) => root(&command),
        Command::Clock(ClockCommand::Accept(arguments)) => clock_accept(arguments),
        Command::Keys(command) => keys_command(command),
        Command::Ledger(LedgerCommand::Archive(arguments)) => ledger_archive(arguments),
        Command::Dev(arguments) => dev::run(arguments.trust_domain, deps()),
        Command::Completions { shell } => completions(shell),
    }
}

fn init(arguments: Init) -> anyhow::Result<ExitCode> {
    let deps = deps();
    let Init {
        dir,
        trust_domain,
        operator,
        keys,
    } = arguments;
    let plan = init::Plan {
        dir,
        trust_domain,
        operator,
    };
    let kinds = provider_kinds();
    let installed = match keys {
        None => init::install(plan, &kinds, &deps.clock, &deps.entropy)?,
        Some(file) => {
            let installing = init::install_sealed(plan, &file, &kinds, &deps);
            process::runtime()?.block_on(installing)?
        }
    };
    print(&installed.to_string())
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
    let deps = deps();
    let kinds = provider_kinds();
    let build = |config: &Config| build_providers(config, &deps.clock);
    let diagnosing = doctor::diagnose(&arguments.config, &kinds, &deps, build);
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

fn operator_withdraw(arguments: Withdraw) -> anyhow::Result<ExitCode> {
    let Withdraw {
        operator,
        config,
        reason,
        output,
    } = arguments;
    give(
        &config,
        output,
        &Order::WithdrawOperator { operator, reason },
    )
}

fn root(command: &RootCommand) -> anyhow::Result<ExitCode> {
    let (step, order) = match command {
        RootCommand::Status(step) => (step, Order::RootStatus),
        RootCommand::Prepare(step) => (step, Order::RootPrepare),
        RootCommand::Activate(step) => (step, Order::RootActivate),
        RootCommand::Retire(retire) => {
            let force = retire.force;
            (&retire.step, Order::RootRetire { force })
        }
    };
    give(&step.config, step.output, &order)
}

/// Has the running broker carry out an order.
fn give(config: &Path, output: Output, order: &Order) -> anyhow::Result<ExitCode> {
    let done = order::give(&Config::data_dir_of(config), order)?;
    match output {
        Output::Text => print(&done.to_string()),
        Output::Json => print(&done.to_json()),
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

fn keys_command(command: KeysCommand) -> anyhow::Result<ExitCode> {
    let load = |file: &Path| Config::load(file, &provider_kinds());
    let load_boxed = |file: &PathBuf| load(file).map(Box::new);
    let (config, change, output) = match command {
        KeysCommand::Status(KeysStatus { config, output }) => {
            return keys_status(&load(&config)?, output);
        }
        KeysCommand::Seal(KeysStatus { config, output }) => {
            (load(&config)?, keys::Change::Seal, output)
        }
        KeysCommand::Reseal(Reseal {
            config,
            from,
            output,
        }) => {
            let from = from.as_ref().map(load_boxed).transpose()?;
            (load(&config)?, keys::Change::Reseal { from }, output)
        }
        KeysCommand::Unseal(Unseal {
            config,
            from,
            output,
        }) => {
            let from = from.as_ref().map(load_boxed).transpose()?;
            (load(&config)?, keys::Change::Unseal { from }, output)
        }
    };
    let request = keys::Request {
        config,
        change,
        user: rustix::process::geteuid().as_raw(),
    };
    let changed = process::runtime()?.block_on(keys::change(request, &deps()))?;
    match output {
        Output::Text => print(&changed.to_string()),
        Output::Json => print(&changed.to_json()),
    }
}

fn keys_status(config: &Config, output: Output) -> anyhow::Result<ExitCode> {
    let status = process::runtime()?.block_on(keys::status(config, &deps()))?;
    match output {
        Output::Text => print(&status.to_string())?,
        Output::Json => print(&status.to_json())?,
    };
    Ok(if status.is_good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
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
        credentials: process::environment("CREDENTIALS_DIRECTORY").map(PathBuf::from),
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
