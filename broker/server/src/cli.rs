//! The command line of `taskpassd`: its commands, arguments and help texts. `main.rs` carries them
//! out.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use taskpass_core::{OperatorName, Text, Timestamp, TrustDomain};

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
  End the identities of an operator whose laptop was stolen:
    taskpassd operator withdraw ann --config /var/lib/taskpass/taskpass.toml --reason stolen
  See how the root certificate stands, and replace it while agents are served:
    taskpassd root status --config /var/lib/taskpass/taskpass.toml
  Seal the private keys, so that a stolen backup holds none:
    taskpassd keys seal --config /var/lib/taskpass/taskpass.toml
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
  taskpassd init --dir ./tp --trust-domain dev.example --operator alice
  taskpassd init --dir /var/lib/taskpass --trust-domain acme.test --keys ./keys.toml";

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

The identity lives for `[identity] operator_svid_ttl`, 30 days by default, and `taskpass` renews it
when it is used in the last third of its life, if policy permits `svid.renew`.

Stop the broker, run the command as the user that the broker runs as, and start the broker
again. Every other certificate of this operator stops counting. Policy says what operators may
do; for a new name there is none yet. The ledger gets an entry, marked as `local`.

EXAMPLES:
  taskpassd operator issue admin --config /var/lib/taskpass/taskpass.toml --dir ./admin
  taskpassd operator issue ann --config /var/lib/taskpass/taskpass.toml --dir ./ann -o json";

const WITHDRAW_AFTER: &str = "\
The running broker refuses the operator from now on, also on open connections. The use of a
withdrawn identity is on record as `identity_conflict`. Afterwards, `taskpassd operator issue` makes
the operator another identity.

Run it on the broker's machine as the user that the broker runs as, or as root.

EXAMPLES:
  taskpassd operator withdraw ann --config /var/lib/taskpass/taskpass.toml --reason stolen";

const ROOT_AFTER: &str = "\
A root is replaced in three steps, while the broker serves old and new agents throughout:
  prepare   makes another root and publishes it in the trust bundle beside the present one
  activate  has the new root sign everything from then on; the old one's key is erased
  retire    takes the old root out of the bundle, once nothing hangs on it

Agents and operators get the new bundle when they renew; `taskpass` renews with its next command
where the bundle has changed. The old root has signed the new one across, so a client that knows
only the old root is served as well until it is retired.

EXAMPLES:
  taskpassd root status --config /var/lib/taskpass/taskpass.toml
  taskpassd root prepare --config /var/lib/taskpass/taskpass.toml
  taskpassd root activate --config /var/lib/taskpass/taskpass.toml
  taskpassd root retire --config /var/lib/taskpass/taskpass.toml";

const ROOT_STEP_AFTER: &str = "\
Ask the running broker, on its machine, as the user that it runs as, or as root.

EXAMPLES:
  taskpassd root status --config /var/lib/taskpass/taskpass.toml
  taskpassd root status --config /var/lib/taskpass/taskpass.toml -o json";

const ROOT_PREPARE_AFTER: &str = "\
Nothing is signed by the new root yet. Where nothing presses, wait for an hour before you activate
it: by then every agent that is at work has fetched the new bundle.

EXAMPLES:
  taskpassd root prepare --config /var/lib/taskpass/taskpass.toml";

const ROOT_ACTIVATE_AFTER: &str = "\
The broker's own certificate, new certificates of agents and operators and new join tokens hang on
the new root from then on. What hangs on the old one goes on working until the old root is retired.

EXAMPLES:
  taskpassd root activate --config /var/lib/taskpass/taskpass.toml";

const ROOT_RETIRE_AFTER: &str = "\
Refused while certificates that count or unused join tokens hang on the outgoing root; the refusal
says how many, and `status` which. Agents move to the new root within an hour, operators with the
next command of `taskpass`, and join tokens end after a day at most.

With --force all of these end at once, for a root that was stolen. Agents then log in anew with join
tokens that are made afterwards, which ends the tasks that they had, and operators get an identity
from `taskpassd operator issue`.

EXAMPLES:
  taskpassd root retire --config /var/lib/taskpass/taskpass.toml
  taskpassd root retire --force --config /var/lib/taskpass/taskpass.toml";

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

const STATUS_AFTER: &str = "\
It asks the seal for the data key, changes nothing and can run beside a broker. It exits with 1 if a
broker could not start with these keys.

EXAMPLES:
  taskpassd keys status --config /var/lib/taskpass/taskpass.toml
  taskpassd keys status --config /var/lib/taskpass/taskpass.toml -o json";

const SEAL_AFTER: &str = "\
Name the seal in [keys] of the configuration first: a passphrase in a file, a credential of systemd,
AWS KMS, or Vault's transit engine. Stop the broker, run the command as the user that the broker runs
as, and start the broker again. Each file is sealed beside the old one, read back, and only then
replaced, and the old bytes are overwritten. After a crash, run it again. The ledger gets an entry.

Backups and snapshots of before hold the keys in plain text. A backup of after cannot be restored
without the passphrase, or without the key of the key service.

EXAMPLES:
  taskpassd keys seal --config /var/lib/taskpass/taskpass.toml";

const RESEAL_AFTER: &str = "\
Changes the seal, or the passphrase: keep a copy of the configuration, write the new seal into [keys],
and give the copy as `--from`. A new passphrase needs a file of its own. Without `--from`, the keys
get a new data key by the same seal. What was sealed before opens with the old seal as before, so keep
old backups as secret as that.

EXAMPLES:
  taskpassd keys reseal --config /var/lib/taskpass/taskpass.toml --from ./old-taskpass.toml
  taskpassd keys reseal --config /var/lib/taskpass/taskpass.toml";

const UNSEAL_AFTER: &str = "\
A copy of the data directory then signs as this broker. Stop the broker, run the command, write
`seal = \"plain\"` into [keys], and start the broker. The ledger gets an entry.

EXAMPLES:
  taskpassd keys unseal --config /var/lib/taskpass/taskpass.toml";

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
    /// A file with the table [keys] for the new taskpass.toml, to seal the private keys from the
    /// start; paths in it begin at DIR
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
    /// A configuration whose [keys] has the seal of before
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
    /// A configuration whose [keys] has the seal, if it is gone from the other
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
