//! The command line of `taskpassd`: its commands, arguments and help texts. `main.rs` carries them
//! out.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use taskpass_core::{OperatorName, Timestamp, TrustDomain};

const EXAMPLES: &str = "\
EXAMPLES:
  A first look, in a directory that is removed at the end:
    taskpassd dev
  A new installation:
    taskpassd init --dir /var/lib/taskpass --trust-domain acme.test
    taskpassd run --config /var/lib/taskpass/taskpass.toml
  After a change of policy or configuration:
    taskpassd reload --config /var/lib/taskpass/taskpass.toml
  Look for problems in it:
    taskpassd config check --config /var/lib/taskpass/taskpass.toml
    taskpassd doctor --config /var/lib/taskpass/taskpass.toml
  Issue an identity to an operator who has no valid one, or to a new operator:
    taskpassd operator issue admin --config /var/lib/taskpass/taskpass.toml --dir ./admin
  Move old parts of the ledger to another disk:
    taskpassd ledger archive --config /var/lib/taskpass/taskpass.toml \\
      --before 2026-09-01T00:00:00Z --to /mnt/archive/taskpass
  Go on after the machine's clock had been wrong:
    taskpassd clock accept --config /var/lib/taskpass/taskpass.toml --time 2026-11-28T09:30:00Z

EXIT CODES:
  0 done, 1 failed, 2 wrong usage";

const INIT_EXAMPLES: &str = "\
EXAMPLES:
  taskpassd init --dir /var/lib/taskpass --trust-domain acme.test
  taskpassd init --dir ./tp --trust-domain dev.example --operator alice";

const RUN_AFTER: &str = "\
When the broker serves, it prints one line on standard output:
  ready addr=127.0.0.1:7443 trust_domain=acme.test
Logs go to standard error; TASKPASS_LOG=debug shows more.

SIGNALS:
  TERM, INT  finish requests in flight, then stop; a second one stops at once
  HUP        read policy and configuration again, as `taskpassd reload` does; the log says
             what changed, or why nothing did

EXAMPLES:
  taskpassd run --config /var/lib/taskpass/taskpass.toml";

const RELOAD_AFTER: &str = "\
The broker takes over policy, providers, roles and limits from its files, all or nothing. It
prints what changed. Where it refuses, it prints why with file and line, goes on with what it had
read before, and the command exits with 1. Requests in flight are answered by what was in force
when they began. A provider that is no longer in the file goes on revoking what it minted. Some
keys need a restart; `taskpassd config reference` says which.

Run it on the broker's machine as the user that the broker runs as, or as root. It finds the
broker through `data_dir`.

EXAMPLES:
  taskpassd reload --config /var/lib/taskpass/taskpass.toml";

const DEV_AFTER: &str = "\
The broker keeps everything in a new temporary directory and removes it when it stops. It
listens on a free port of 127.0.0.1 and prints the environment for `taskpass`, to be pasted
into another terminal. It has no providers: agents get identities, but no credentials. For
credentials, make an installation with `init`.

EXAMPLES:
  taskpassd dev
  taskpassd dev --trust-domain demo.example";

const CHECK_EXAMPLES: &str = "\
Reads the file and the policies and session policies that it names. It opens no ledger, calls
no provider and reads no files with secrets; `taskpassd doctor` does.

EXAMPLES:
  taskpassd config check --config /var/lib/taskpass/taskpass.toml";

const REFERENCE_EXAMPLES: &str = "\
EXAMPLES:
  taskpassd config reference | less";

const SCHEMA_EXAMPLES: &str = "\
For editors: they complete keys and mark mistakes with it. In VS Code, the extension Even Better
TOML takes it from a first line `#:schema ./taskpass.schema.json` of taskpass.toml.

EXAMPLES:
  taskpassd config schema > taskpass.schema.json";

const DOCTOR_EXAMPLES: &str = "\
`doctor` only reads, so it can run beside a broker, and asks that broker how its reconcilers
stand. It exits with 1 if any check failed.

EXAMPLES:
  taskpassd doctor --config /var/lib/taskpass/taskpass.toml
  taskpassd doctor --config /var/lib/taskpass/taskpass.toml -o json";

const ISSUE_AFTER: &str = "\
Use it for an operator whose certificate has expired or was renewed by a thief, and for a new
operator. Make sure first that the person is this operator: the command does not check it.

Stop the broker, run the command as the user that the broker runs as, and start the broker
again. Every other certificate of this operator stops counting. Policy says what operators may
do; for a new name there is none yet. The ledger gets an entry, marked as `local`.

EXAMPLES:
  taskpassd operator issue admin --config /var/lib/taskpass/taskpass.toml --dir ./admin
  taskpassd operator issue ann --config /var/lib/taskpass/taskpass.toml --dir ./ann -o json";

const ACCEPT_AFTER: &str = "\
A broker issues nothing while the machine's clock is more than five minutes from the time that has
passed, while it is behind the newest entry of the ledger, and while it is more than 30 days ahead
of that entry at the start. When the clock is set right, the broker goes on by itself. Use this
command where the clock is right and the broker cannot know: after a time in which a wrong clock
dated the ledger ahead, after a virtual machine was paused, after months without a broker.

Look at a clock that you trust, and set this machine's clock first. Without `--time`, the command
prints what it would accept and changes nothing. Stop the broker, run the command as the user that
the broker runs as, and start the broker again. The ledger gets an entry with both times, and no
history is lost. Identities made while the clock was ahead have to be made again.

EXAMPLES:
  taskpassd clock accept --config /var/lib/taskpass/taskpass.toml
  taskpassd clock accept --config /var/lib/taskpass/taskpass.toml --time 2026-11-28T09:30:00Z";

const ARCHIVE_AFTER: &str = "\
The ledger is kept in segments. Whole segments with entries from before the time are copied to the
directory. Each copy is read back and compared with the signed tree. Then the ledger gets an entry,
and only then are the segments deleted here. The tree's tiles and checkpoints stay, so proofs and
verification work as before. To run it again does no harm, also after it was interrupted.

The directory should be on another disk. The user that the broker runs as must be able to write
there; under systemd, name it in `ReadWritePaths=`. Keep it: without it nobody can read the old
entries, and a lost index cannot be built again. Name it as `[ledger] archive`, and the broker
reads old entries there.

Run it on the broker's machine as the user that the broker runs as, or as root. A running broker
does the work; without one the command does it itself.

EXAMPLES:
  taskpassd ledger archive --config /var/lib/taskpass/taskpass.toml \\
    --before 2026-09-01T00:00:00Z --to /mnt/archive/taskpass
  taskpass ledger verify --archive /mnt/archive/taskpass /var/lib/taskpass/data/ledger";

const COMPLETIONS_EXAMPLES: &str = "\
EXAMPLES:
  taskpassd completions bash > /etc/bash_completion.d/taskpassd";

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
    /// Issue identities to operators, on this machine while no broker runs
    #[command(subcommand)]
    Operator(OperatorCommand),
    /// Go on after the machine's clock had been wrong, on this machine while no broker runs
    #[command(subcommand)]
    Clock(ClockCommand),
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
