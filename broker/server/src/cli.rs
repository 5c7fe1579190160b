//! The command line of `taskpassd`: its commands, arguments and help texts. `main.rs` carries them
//! out.

mod texts;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use taskpass_core::{OperatorName, Text, Timestamp, TrustDomain};

use self::texts::{
    ACCEPT_AFTER, ARCHIVE_AFTER, CHECK_EXAMPLES, COMPLETIONS_EXAMPLES, DEV_AFTER, DOCTOR_EXAMPLES,
    EXAMPLES, INIT_EXAMPLES, ISSUE_AFTER, REFERENCE_EXAMPLES, RELOAD_AFTER, RESEAL_AFTER,
    ROOT_ACTIVATE_AFTER, ROOT_AFTER, ROOT_PREPARE_AFTER, ROOT_RETIRE_AFTER, ROOT_STEP_AFTER,
    RUN_AFTER, SCHEMA_EXAMPLES, SEAL_AFTER, STATUS_AFTER, UNSEAL_AFTER, WITHDRAW_AFTER,
};

/// The Taskpass broker: credentials that live exactly as long as the task
#[derive(Debug, Parser)]
#[command(name = "taskpassd", version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    /// The command to run.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a new installation: configuration, keys, starter policy, first operator
    #[command(after_help = INIT_EXAMPLES)]
    Init(Init),
    /// Run the broker
    #[command(after_help = RUN_AFTER)]
    Run(ConfigFile),
    /// Have a running broker read policy and configuration again
    #[command(after_help = RELOAD_AFTER)]
    Reload(ConfigFile),
    /// Check or explain the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Check an installation and say what to do about each problem
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor(Doctor),
    /// Issue and withdraw identities of operators, on this machine
    #[command(subcommand)]
    Operator(OperatorCommand),
    /// Replace the root certificate of a running broker, on this machine
    #[command(subcommand, after_help = ROOT_AFTER)]
    Root(RootCommand),
    /// Go on after the machine's clock had been wrong, on this machine while no broker runs
    #[command(subcommand)]
    Clock(ClockCommand),
    /// Seal the private keys on the disk, on this machine while no broker runs
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Keep the ledger from filling the disk
    #[command(subcommand)]
    Ledger(LedgerCommand),
    /// Run a broker in a temporary directory, for a first look
    #[command(after_help = DEV_AFTER)]
    Dev(Dev),
    /// Print a completion script for a shell
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// `taskpassd init`
#[derive(Debug, Args)]
pub struct Init {
    /// The directory to make; it must not hold an installation
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// The SPIFFE trust domain; it cannot be changed later
    #[arg(long, value_name = "NAME")]
    pub trust_domain: TrustDomain,
    /// The first operator, who may do everything that operators can do
    #[arg(long, value_name = "NAME", default_value = "admin")]
    pub operator: OperatorName,
    /// A file with the table `[keys]` for the new taskpass.toml, to seal the broker's private keys
    /// from the start; paths in it begin at DIR. DIR/operator/key.pem is never sealed: move it away
    #[arg(long, value_name = "FILE")]
    pub keys: Option<PathBuf>,
}

/// `--config FILE`
#[derive(Debug, Args)]
pub struct ConfigFile {
    /// The configuration, `taskpass.toml`
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// `taskpassd config …`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check the configuration and print a summary, or all mistakes
    #[command(after_help = CHECK_EXAMPLES)]
    Check(ConfigFile),
    /// Print every key with unit and default, as Markdown
    #[command(after_help = REFERENCE_EXAMPLES)]
    Reference,
    /// Print the JSON schema of the configuration
    #[command(after_help = SCHEMA_EXAMPLES)]
    Schema,
}

/// `taskpassd doctor`
#[derive(Debug, Args)]
pub struct Doctor {
    /// The configuration, `taskpass.toml`
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The form of the report
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// `taskpassd operator …`
#[derive(Debug, Subcommand)]
pub enum OperatorCommand {
    /// Issue a new identity to an operator, in place of all its others
    #[command(after_help = ISSUE_AFTER)]
    Issue(Issue),
    /// End every identity of an operator, in the running broker
    #[command(after_help = WITHDRAW_AFTER)]
    Withdraw(Withdraw),
}

/// `taskpassd operator withdraw`
#[derive(Debug, Args)]
pub struct Withdraw {
    /// The operator
    #[arg(value_name = "NAME")]
    pub operator: OperatorName,
    /// The configuration, `taskpass.toml`
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Why, for the ledger
    #[arg(long, value_name = "TEXT")]
    pub reason: Text,
    /// The form of the report
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// `taskpassd root …`
#[derive(Debug, Subcommand)]
pub enum RootCommand {
    /// Show the roots, and what hangs on each
    #[command(after_help = ROOT_STEP_AFTER)]
    Status(RootStep),
    /// Make another root and publish it beside the present one
    #[command(after_help = ROOT_PREPARE_AFTER)]
    Prepare(RootStep),
    /// Have the prepared root sign from now on
    #[command(after_help = ROOT_ACTIVATE_AFTER)]
    Activate(RootStep),
    /// Take the outgoing root out of the bundle
    #[command(after_help = ROOT_RETIRE_AFTER)]
    Retire(RootRetire),
}

/// `taskpassd root status`, `prepare` and `activate`
#[derive(Debug, Args)]
pub struct RootStep {
    /// The configuration, `taskpass.toml`
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The form of the report
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// `taskpassd root retire`
#[derive(Debug, Args)]
pub struct RootRetire {
    /// The broker and the form of the report
    #[command(flatten)]
    pub step: RootStep,
    /// Retire it although something hangs on it, and end that
    #[arg(long)]
    pub force: bool,
}

/// `taskpassd operator issue`
#[derive(Debug, Args)]
pub struct Issue {
    /// The operator, known or new
    #[arg(value_name = "NAME")]
    pub operator: OperatorName,
    /// The configuration, `taskpass.toml`
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The directory to make for the identity; it must not exist yet
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// The form of the report
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// `taskpassd clock …`
#[derive(Debug, Subcommand)]
pub enum ClockCommand {
    /// Confirm the time of this machine; the ledger goes on from there, even if it was ahead
    #[command(after_help = ACCEPT_AFTER)]
    Accept(Accept),
}

/// `taskpassd clock accept`
#[derive(Debug, Args)]
pub struct Accept {
    /// The configuration, `taskpass.toml`
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The time by a clock that you trust, as in 2026-11-28T09:30:00Z
    #[arg(long, value_name = "TIME")]
    pub time: Option<Timestamp>,
    /// The form of the report
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// `taskpassd keys …`
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Say how the private keys lie on the disk, and whether the seal opens
    #[command(after_help = STATUS_AFTER)]
    Status(KeysStatus),
    /// Seal keys that lie in plain text
    #[command(after_help = SEAL_AFTER)]
    Seal(KeysStatus),
    /// Seal the keys anew, by another seal or with a new data key
    #[command(after_help = RESEAL_AFTER)]
    Reseal(Reseal),
    /// Bring the keys back to plain text
    #[command(after_help = UNSEAL_AFTER)]
    Unseal(Unseal),
}

/// `taskpassd keys status` and `taskpassd keys seal`
#[derive(Debug, Args)]
pub struct KeysStatus {
    /// The configuration, `taskpass.toml`
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The form of the report
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// `taskpassd keys reseal`
#[derive(Debug, Args)]
pub struct Reseal {
    /// The configuration, `taskpass.toml`
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// A configuration whose `[keys]` has the seal of before
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// The form of the report
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// `taskpassd keys unseal`
#[derive(Debug, Args)]
pub struct Unseal {
    /// The configuration, `taskpass.toml`
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// A configuration whose `[keys]` has the seal, if it is gone from the other
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// The form of the report
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// `taskpassd ledger …`
#[derive(Debug, Subcommand)]
pub enum LedgerCommand {
    /// Move old segments of the ledger to a directory, best on another disk
    #[command(after_help = ARCHIVE_AFTER)]
    Archive(Archive),
}

/// `taskpassd ledger archive`
#[derive(Debug, Args)]
pub struct Archive {
    /// The configuration, `taskpass.toml`
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Only entries from before this time leave, as in 2026-09-01T00:00:00Z
    #[arg(long, value_name = "TIME")]
    pub before: Timestamp,
    /// The archive's directory; it is made if it is not there
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// The form of the report
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// The form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Text,
    /// For programs
    Json,
}

/// `taskpassd dev`
#[derive(Debug, Args)]
pub struct Dev {
    /// The SPIFFE trust domain
    #[arg(long, value_name = "NAME", default_value = "dev.test")]
    pub trust_domain: TrustDomain,
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use clap::CommandFactory as _;

    use super::*;

    fn render(command: &mut clap::Command, path: &str, out: &mut String) {
        let name = format!("{path} {}", command.get_name()).trim().to_owned();
        let help = command
            .clone()
            .bin_name(&name)
            .term_width(100)
            .render_help();
        writeln!(out, "$ {name} --help\n{help}").unwrap();
        let names: Vec<String> = command
            .get_subcommands()
            .map(|c| c.get_name().to_owned())
            .collect();
        for below in names.iter().filter(|n| *n != "help") {
            render(command.find_subcommand_mut(below).unwrap(), &name, out);
        }
    }

    /// The help is part of the contract, so a change must be made on purpose.
    #[test]
    fn the_help_is_as_checked_in() {
        let mut help = String::new();
        render(&mut Cli::command(), "", &mut help);
        let expected = include_str!("cli/help.txt");
        assert!(
            help.trim() == expected.trim(),
            "src/cli/help.txt is stale; it is now:\n{help}"
        );
    }

    #[test]
    fn the_definition_is_sound_and_every_command_has_an_example() {
        Cli::command().debug_assert();
        let help = include_str!("cli/help.txt");
        let commands = help.split("$ taskpassd").skip(1);
        let is_group = |text: &str| {
            let groups = [
                " config --help",
                " operator --help",
                " clock --help",
                " keys --help",
                " ledger --help",
            ];
            groups.iter().any(|group| text.starts_with(group))
        };
        for command in commands.filter(|text| !is_group(text)) {
            assert!(command.contains("EXAMPLES:\n"), "{command}");
        }
    }

    #[test]
    fn usage_table() {
        let parses = |line: &str| Cli::try_parse_from(line.split(' ')).is_ok();
        for good in [
            "taskpassd init --dir d --trust-domain acme.test",
            "taskpassd init --dir d --trust-domain acme.test --operator bob",
            "taskpassd run --config f",
            "taskpassd reload --config f",
            "taskpassd config check --config f",
            "taskpassd config reference",
            "taskpassd config schema",
            "taskpassd doctor --config f -o json",
            "taskpassd operator issue ann --config f --dir d",
            "taskpassd operator issue ann --config f --dir d -o json",
            "taskpassd operator withdraw ann --config f --reason stolen",
            "taskpassd root status --config f -o json",
            "taskpassd root prepare --config f",
            "taskpassd root activate --config f",
            "taskpassd root retire --config f",
            "taskpassd root retire --config f --force",
            "taskpassd clock accept --config f",
            "taskpassd clock accept --config f --time 2026-11-28T09:30:00Z -o json",
            "taskpassd ledger archive --config f --before 2026-09-01T00:00:00Z --to d",
            "taskpassd ledger archive --config f --before 2026-09-01T00:00:00Z --to d -o json",
            "taskpassd dev",
            "taskpassd completions zsh",
        ] {
            assert!(parses(good), "{good}");
        }
        for bad in [
            "taskpassd",
            "taskpassd init --dir d",
            "taskpassd init --dir d --trust-domain Acme",
            "taskpassd init --dir d --trust-domain a.test --operator A",
            "taskpassd run",
            "taskpassd reload",
            "taskpassd doctor --config f -o xml",
            "taskpassd operator add x",
            "taskpassd operator withdraw ann --config f",
            "taskpassd root",
            "taskpassd root retire",
            "taskpassd root prepare --config f --force",
            "taskpassd clock",
            "taskpassd clock accept",
            "taskpassd ledger",
            "taskpassd ledger archive --config f --to d",
            "taskpassd ledger archive --config f --before yesterday --to d",
            "taskpassd ledger archive --config f --before 2026-09-01T00:00:00Z",
            "taskpassd clock accept --config f --time today",
            "taskpassd operator issue ann --config f",
            "taskpassd operator issue Ann --config f --dir d",
        ] {
            assert!(!parses(bad), "{bad}");
        }
    }
}
