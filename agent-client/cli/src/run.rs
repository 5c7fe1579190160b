//! `taskpass run`: a task around one command.
//!
//! The task is ended when the command exits, when this process gets a signal that it can catch, and
//! when starting the command fails. After SIGKILL or a power cut the broker ends it, one heartbeat
//! later.

mod child;
mod environment;
mod hide;
mod lapse;

use std::{ffi::OsString, path::Path, process::ExitCode};

use clap::Args;
use taskpass_client::{
    Client, CredentialState, EndMode, EndedTask, IssuedCredential, TaskGuard, TaskOptions,
};
use taskpass_core::{Text, Ttl};

use super::{
    context::{Context, refresh},
    failure::{self, Usage},
    output::note,
    parse::{self, Pair, PinnedRole, RolePair},
    views::{NOTHING_ISSUED, ReceiptView, identity_words, shown},
};
use child::{Outcome, Signals, Surroundings};
use environment::{Inherited, KeptName};
use hide::{Hide, Screen, Sight};
use lapse::Lapses;

#[derive(Debug, Args)]
#[command(after_help = include_str!("run/help.txt"))]
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
    /// Pass this variable of yours on, although its name looks like that of a secret; may be
    /// repeated.
    #[arg(long = "keep-env", value_name = "NAME")]
    keep: Vec<KeptName>,
    /// Whether the kernel keeps the command from reading the identity directory.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Hide::Auto)]
    hide_identity: Hide,
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
    let config = context.config()?;
    let mut place = Place {
        inherited: environment::inherited(&context.environment, &args.keep),
        screen: screen(args.hide_identity, config.directory.path())?,
    };
    let client = Client::connect(config).await?;
    // The ledger of another history would have the task and its credentials on record, and the one
    // that this agent knows would not.
    refresh(&client).await?;
    client.check_ledger_key().await?;
    let mut options = TaskOptions::new(args.purpose.as_str()).heartbeat(args.heartbeat);
    for Wanted { pinned, .. } in &wanted {
        options = options.role_within(pinned.role.clone(), pinned.scope.clone());
    }
    if let Some(ttl) = args.ttl {
        options = options.ttl(ttl);
    }
    // From here on the agent's own identity is not used: another process that gets hold of this
    // one's connections reaches the task and nothing else.
    let task = client.start_bound_task(options).await?;
    let outcome = work(&task, &wanted, &args, &mut place, &mut signals).await;
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

/// The surroundings of the command: everything that it finds besides its credentials.
struct Place {
    inherited: Inherited,
    screen: Option<Screen>,
}

/// The screen before the identity directory; without one, says why the command can read it.
fn screen(hide: Hide, directory: &Path) -> anyhow::Result<Option<Screen>> {
    let directory_shown = directory.display();
    match hide::prepare(hide, directory) {
        Ok(Sight::Hidden(screen)) => Ok(Some(screen)),
        Ok(Sight::Unasked) => Ok(None),
        Ok(Sight::Open(why)) => {
            note(&format!(
                "note: the command can read the identity in `{directory_shown}`: {why}"
            ));
            Ok(None)
        }
        Err(why) => Err(anyhow::Error::new(why).context(format!(
            "the identity in `{directory_shown}` cannot be hidden"
        ))),
    }
}

/// Issues the credentials and runs the command: all between the start of the task and its end.
async fn work(
    task: &TaskGuard,
    wanted: &[Wanted],
    args: &RunArgs,
    place: &mut Place,
    signals: &mut Signals,
) -> anyhow::Result<Outcome> {
    let issued = tokio::select! {
        issued = issue(task, wanted) => issued?,
        signal = signals.next() => return Ok(Outcome::Signalled(signal)),
    };
    let lapses = Lapses::of(&issued, task.deadline());
    if args.ttl.is_some() {
        lapses.warn(task.deadline());
    }
    let variables = environment::variables(&issued)?;
    let Inherited { passed, withheld } = &mut place.inherited;
    if !withheld.is_empty() {
        note(&format!(
            "taskpass: the command does not get your {} (keep one with --keep-env NAME)",
            withheld.join(", ")
        ));
    }
    let surroundings = Surroundings {
        inherited: std::mem::take(passed),
        variables,
        screen: place.screen.take(),
    };
    let child = match child::spawn(&args.command, surroundings, task.id()) {
        Ok(child) => child,
        Err((code, message)) => {
            note(&format!("error: {message}"));
            return Ok(Outcome::Exited(code));
        }
    };
    // The child has copies of its own. The starter wiped its; these are wiped now.
    drop(issued);
    child.supervise(task, signals, lapses).await
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

/// Prints one line. Each credential that is not proven dead, or that leaves an identity behind,
/// gets another line.
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
