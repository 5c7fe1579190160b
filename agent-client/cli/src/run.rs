//! `taskpass run`: a task around one command.
//!
//! The task is ended when the command exits, when this process gets a signal that it can catch, and
//! when starting the command fails. After SIGKILL or a power cut the broker ends it, one heartbeat
//! later.

mod child;
mod environment;

use std::{ffi::OsString, process::ExitCode, time::Duration};

use clap::Args;
use taskpass_client::{
    Client, CredentialState, EndMode, EndedTask, IssuedCredential, TaskGuard, TaskOptions,
};
use taskpass_core::{Text, Ttl};

use super::{
    context::Context,
    failure::{self, Usage},
    output::note,
    parse::{self, Pair, PinnedRole, RolePair},
    views::{NOTHING_ISSUED, ReceiptView, identity_words, shown},
};
use child::{Outcome, Signals};

/// A credential that expires less than this before its task's deadline is not worth a warning. Back
/// ends count lifetimes in whole seconds, and issuing takes a moment after the start of the task.
const ROUNDING_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
#[command(
    after_help = "EXAMPLES:\n  taskpass run --purpose \"nightly tests\" --role vault-main/ci-db -- make test\n  taskpass run --purpose fetch --role aws-prod/artifact-reader --scope aws-prod/artifact-reader:bucket=releases -- aws s3 sync s3://releases in\n\n\
        ENVIRONMENT OF THE COMMAND (and of nothing else):\n  \
        as the role says             AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN of an AWS\n  \
                                       role; VAULT_TOKEN of a Vault token; what its key `env` names\n  \
        any other field              <ROLE>_<FIELD>: CI_DB_USERNAME for vault-main/ci-db\n  \
        always                       TASKPASS_TASK\n  \
        never                        VAULT_ADDR, AWS_REGION and the like: set them yourself\n  \
        Roles that would set the same variable are refused; nothing is run then.\n\n\
        The exit code is the command's own, or 128 and the number of the signal that ended it. Signals are\n\
        passed on. The task ends as `completed` when the command exits with 0, else as `cancelled`; its\n\
        credentials are revoked either way.\n\n\
        The command is stopped (TERM, and KILL ten seconds later) when the broker ends the task, or when\n\
        this identity no longer counts because the same agent logged in elsewhere. Give each of several\n\
        runners an agent name of its own.\n\n\
        Credentials in an environment cannot be refreshed: give a --ttl that the roles allow, or use the\n\
        library.\n\n\
        EXIT CODES of taskpass itself, before the command runs:\n  \
        1 failed, 2 wrong usage, 3 denied, 5 unreachable, 126 the command cannot run, 127 it was not found"
)]
pub(crate) struct RunArgs {
    /// What the task is for, in one line; people and policies read it.
    #[arg(long, value_name = "TEXT")]
    purpose: Text,
    /// Issue a credential of this role, with scope parameters fixed for the task; may be repeated.
    #[arg(long = "role", value_name = "ROLE[:k=v,…]", required = true)]
    roles: Vec<PinnedRole>,
    /// A scope parameter of one credential; may be repeated.
    #[arg(long = "scope", value_name = "ROLE:KEY=VALUE")]
    scope: Vec<RolePair>,
    /// How long the task lives at most [default: as the broker is configured]
    #[arg(long, value_name = "TTL")]
    ttl: Option<Ttl>,
    /// The broker ends the task when it gets no heartbeat from this process for so long.
    #[arg(long, value_name = "INTERVAL", default_value = "15s")]
    heartbeat: Ttl,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// One role and the scope to ask it for.
struct Wanted {
    pinned: PinnedRole,
    scope: Vec<Pair>,
}

pub(crate) async fn run(args: RunArgs, context: &Context) -> anyhow::Result<ExitCode> {
    // From here on a signal ends the task first, and not this process at once.
    let mut signals = Signals::listen()?;
    let wanted = plan(&args)?;
    let client = Client::connect(context.config()?).await?;
    let mut options = TaskOptions::new(args.purpose.as_str()).heartbeat(args.heartbeat);
    for Wanted { pinned, .. } in &wanted {
        options = options.role_within(pinned.role.clone(), pinned.scope.clone());
    }
    if let Some(ttl) = args.ttl {
        options = options.ttl(ttl);
    }
    let task = client.start_task(options).await?;
    let outcome = work(&task, &wanted, &args.command, &mut signals).await;
    let mode = match &outcome {
        Ok(Outcome::Exited(0)) => EndMode::Completed,
        _ => EndMode::Cancelled,
    };
    let id = task.id();
    match task.finish(mode).await {
        Ok(ended) => summarise(&ended),
        Err(error) => {
            note(&format!(
                "warning: {id} could not be ended: {error}; without heartbeats the broker ends it within {}",
                args.heartbeat
            ));
        }
    }
    client.shutdown().await;
    Ok(ExitCode::from(outcome?.code()))
}

/// Joins roles and scopes. Each role may be given once, since its variables have one name.
fn plan(args: &RunArgs) -> anyhow::Result<Vec<Wanted>> {
    let mut wanted: Vec<Wanted> = Vec::new();
    for pinned in &args.roles {
        if wanted.iter().any(|w| w.pinned.role == pinned.role) {
            return Err(Usage(format!("role `{}` is given twice", pinned.role)).into());
        }
        wanted.push(Wanted {
            pinned: pinned.clone(),
            scope: Vec::new(),
        });
    }
    for RolePair { role, pair } in &args.scope {
        let Some(entry) = wanted.iter_mut().find(|w| w.pinned.role == *role) else {
            let message = format!("--scope names `{role}`, which is not among the roles");
            return Err(Usage(message).into());
        };
        entry.scope.push(pair.clone());
    }
    for entry in &wanted {
        parse::scope(&entry.scope).map_err(taskpass_client::Error::Invalid)?;
    }
    Ok(wanted)
}

/// Issues the credentials and runs the command: all between the start of the task and its end.
async fn work(
    task: &TaskGuard,
    wanted: &[Wanted],
    command: &[OsString],
    signals: &mut Signals,
) -> anyhow::Result<Outcome> {
    let issued = tokio::select! {
        issued = issue(task, wanted) => issued?,
        signal = signals.next() => return Ok(Outcome::Signalled(signal)),
    };
    for credential in &issued {
        if credential.expires_at.plus(ROUNDING_MAX) < task.deadline() {
            note(&format!(
                "warning: the credential of `{}` expires at {}, before the task does at {}; the command cannot get a fresh one",
                credential.role,
                credential.expires_at,
                task.deadline()
            ));
        }
    }
    let variables = environment::variables(&issued)?;
    let child = match child::spawn(command, &variables, task.id()) {
        Ok(child) => child,
        Err((code, message)) => {
            note(&format!("error: {message}"));
            return Ok(Outcome::Exited(code));
        }
    };
    // The child has copies of its own. These are wiped now.
    drop(variables);
    drop(issued);
    child.supervise(task, signals).await
}

async fn issue(task: &TaskGuard, wanted: &[Wanted]) -> anyhow::Result<Vec<IssuedCredential>> {
    let mut issued = Vec::new();
    for Wanted { pinned, scope } in wanted {
        let mut request = task.credential(pinned.role.clone());
        for Pair { key, value } in scope {
            request = request.scope(key, value);
        }
        issued.push(request.issue_once().await?);
    }
    Ok(issued)
}

/// Prints one line, and one more for each credential that is not proven dead, or of which an identity
/// is left.
fn summarise(ended: &EndedTask) {
    let verified = ended.receipts.iter().filter(|r| r.is_verified()).count();
    let issued = ended
        .receipts
        .iter()
        .filter(|r| r.state != CredentialState::Abandoned);
    note(&format!(
        "taskpass: {} {} ({}): {verified} of {} credentials proven revoked",
        ended.task_id,
        ended.state,
        ended
            .end_cause
            .map(|cause| cause.to_string())
            .unwrap_or_default(),
        issued.count()
    ));
    for receipt in &ended.receipts {
        let view = ReceiptView::from(receipt.clone());
        if let Some(words) = identity_words(&view) {
            let (id, role) = (&view.credential_id, &view.role);
            note(&format!("taskpass: {id} of {role}: {words}"));
        }
        if receipt.is_verified() {
            continue;
        }
        let until = match view.may_live_until {
            Some(_) => format!(", may live until {}", shown(view.may_live_until)),
            None if receipt.state == CredentialState::Abandoned => format!(": {NOTHING_ISSUED}"),
            None => String::new(),
        };
        note(&format!(
            "taskpass: {} of {}: {}{until}",
            view.credential_id, view.role, view.state
        ));
    }
}

impl Outcome {
    /// As shells report it.
    fn code(self) -> u8 {
        match self {
            Self::Exited(code) => code,
            Self::Signalled(signal) => u8::try_from(128 + signal).unwrap_or(failure::FAILED),
        }
    }
}
