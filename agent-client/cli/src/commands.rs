//! The commands of `taskpass`: their arguments, and the file that carries out each.
//!
//! A command parses its arguments into types that cannot be wrong, calls the broker through the
//! library, and passes rows or a value to [`output`]. Only `credential issue` and `agent token`
//! print secrets.

use std::{ffi::OsString, path::PathBuf, process::ExitCode, sync::Arc};

use clap::{CommandFactory, Parser, Subcommand, ValueHint};
use taskpass_client::BrokerAddr;
use taskpass_core::Clock;

use crate::{
    agent,
    context::Context,
    credential, doctor, failure, join_token, ledger, login,
    output::{self, Format},
    policy, provider, run, svid, task,
};

/// Credentials that live exactly as long as the task.
#[derive(Debug, Parser)]
#[command(
    name = "taskpass",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "EXAMPLES:\n  \
        taskpass login --join-token-file token\n  \
        taskpass run --purpose \"nightly build\" --role vault-main/ci-db -- make test\n  \
        taskpass task list -o json\n\n\
        EXIT CODES:\n  \
        0 done, 1 failed, 2 wrong usage, 3 denied, 5 unreachable"
)]
pub(crate) struct Cli {
    /// Where the broker listens.
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT",
        env = "TASKPASS_ADDR",
        default_value = "127.0.0.1:7443"
    )]
    addr: BrokerAddr,
    /// Directory with svid.pem, key.pem and bundle.pem [default: ~/.config/taskpass]
    #[arg(long, global = true, value_name = "DIR", env = "TASKPASS_IDENTITY", value_hint = ValueHint::DirPath)]
    identity: Option<PathBuf>,
    /// Print for people (table) or for programs (json).
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Register, freeze, release and retire agents, and issue join tokens for them.
    #[command(subcommand)]
    Agent(agent::AgentCommand),
    /// List join tokens, and withdraw them.
    #[command(subcommand, name = "join-token")]
    JoinToken(join_token::JoinTokenCommand),
    /// Get the first identity of an agent and store it.
    Login(login::LoginArgs),
    /// Start, end and show tasks.
    #[command(subcommand)]
    Task(task::TaskCommand),
    /// Issue, renew, revoke and show credentials.
    #[command(subcommand)]
    Credential(credential::CredentialCommand),
    /// Run a command inside a task, with credentials in its environment.
    Run(run::RunArgs),
    /// Show and check the configured providers and their roles.
    #[command(subcommand)]
    Provider(provider::ProviderCommand),
    /// Check policies, and show the policies in force.
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Export the history, verify it, and prove entries.
    #[command(subcommand)]
    Ledger(ledger::LedgerCommand),
    /// Show the stored identity, or renew it.
    #[command(subcommand)]
    Svid(svid::SvidCommand),
    /// Find out why something does not work.
    #[command(
        after_help = "EXAMPLES:\n  taskpass doctor\n  taskpass doctor --addr broker.acme.test:7443 -o json"
    )]
    Doctor,
    /// Print a script that completes commands in a shell.
    #[command(
        after_help = "EXAMPLES:\n  taskpass completions bash > /etc/bash_completion.d/taskpass\n  taskpass completions zsh > ~/.zfunc/_taskpass"
    )]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Carries out the command and says how it went.
pub(crate) async fn main(
    cli: Cli,
    default_identity: Option<PathBuf>,
    clock: Option<Arc<dyn Clock>>,
    environment: Vec<(OsString, OsString)>,
) -> ExitCode {
    let context = Context {
        addr: cli.addr,
        identity: cli.identity.or(default_identity),
        format: cli.output,
        clock,
        environment,
    };
    match dispatch(cli.command, &context).await {
        Ok(code) => code,
        Err(error) => failure::report(&error, &context),
    }
}

async fn dispatch(command: Command, context: &Context) -> anyhow::Result<ExitCode> {
    match command {
        Command::Agent(command) => agent::run(command, context).await?,
        Command::JoinToken(command) => join_token::run(command, context).await?,
        Command::Login(args) => login::run(args, context).await?,
        Command::Task(command) => task::run(command, context).await?,
        Command::Credential(command) => credential::run(command, context).await?,
        Command::Run(args) => return Box::pin(run::run(args, context)).await,
        Command::Provider(command) => return provider::run(command, context).await,
        Command::Policy(command) => return policy::run(command, context).await,
        Command::Ledger(command) => ledger::run(command, context).await?,
        Command::Svid(command) => svid::run(command, context).await?,
        Command::Doctor => return doctor::run(context).await,
        Command::Completions { shell } => completions(shell)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "taskpass", &mut script);
    output::write_bytes(&script)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_explains_itself_with_an_example() {
        fn check(command: &clap::Command, path: &str) {
            assert!(command.get_about().is_some(), "`{path}` has no description");
            for argument in command.get_arguments() {
                assert!(
                    argument.get_help().is_some(),
                    "`{path}` does not explain {argument}"
                );
            }
            let mut leaf = true;
            for sub in command.get_subcommands().filter(|c| c.get_name() != "help") {
                leaf = false;
                check(sub, &format!("{path} {}", sub.get_name()));
            }
            if leaf {
                let help = command
                    .get_after_help()
                    .map(ToString::to_string)
                    .unwrap_or_default();
                assert!(help.starts_with("EXAMPLES:\n"), "`{path}` has no examples");
                assert!(
                    help.contains(path),
                    "the examples of `{path}` are of another command"
                );
            }
        }
        let mut command = Cli::command();
        command.build();
        check(&command, "taskpass");
    }
}
