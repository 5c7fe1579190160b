//! `taskpass task`: starts, ends and shows tasks, and sends heartbeats.

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use taskpass_client::{EndMode, TaskFilter, TaskOptions, TaskState};
use taskpass_core::{AgentName, TaskId, Text, Timestamp, Ttl};

use super::{
    context::{Context, pages},
    output::{self, pairs},
    parse::{Pair, PinnedRole, label_map},
    views::{AnchorView, EndedView, TaskView, receipt_table, shown},
};

#[derive(Debug, Subcommand)]
pub(crate) enum TaskCommand {
    /// Start a task and leave it open.
    ///
    /// It ends with `task end`, at its deadline, or when its heartbeats stop.
    #[command(
        after_help = "EXAMPLES:\n  taskpass task start --purpose \"migrate orders\" --role vault-main/ci-db --ttl 30m\n  taskpass task start --purpose \"fetch\" --role aws-prod/artifact-reader:bucket=releases\n  TASKPASS_TASK=$(taskpass task start --purpose p --role vault-main/ci-db -o json | jq -r .task_id)"
    )]
    Start(Box<StartArgs>),
    /// End a task and everything below it, and revoke all of its credentials.
    #[command(
        after_help = "EXAMPLES:\n  taskpass task end t06f3k2m9q7v4d8e1\n  taskpass task end t06f3k2m9q7v4d8e1 --cancel -o json"
    )]
    End {
        /// The task.
        id: TaskId,
        /// The work is stopped before its end.
        #[arg(long)]
        cancel: bool,
    },
    /// List tasks. An agent sees its own, an operator all.
    #[command(
        after_help = "EXAMPLES:\n  taskpass task list --state open\n  taskpass task list --agent nightly-builder --limit 20 -o json"
    )]
    List {
        /// Only tasks of this agent.
        #[arg(long, value_name = "NAME")]
        agent: Option<AgentName>,
        /// Only tasks in this state.
        #[arg(long, value_enum)]
        state: Option<StateFilter>,
        /// At most N rows [default: all]
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Show one task, with a receipt for each credential once it ends.
    #[command(after_help = "EXAMPLES:\n  taskpass task show t06f3k2m9q7v4d8e1")]
    Show {
        /// The task.
        #[arg(env = "TASKPASS_TASK")]
        id: TaskId,
    },
    /// Tell the broker that a task is still being worked on.
    #[command(after_help = "EXAMPLES:\n  taskpass task heartbeat t06f3k2m9q7v4d8e1")]
    Heartbeat {
        /// The task.
        #[arg(env = "TASKPASS_TASK")]
        id: TaskId,
    },
}

/// The states of a task that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StateFilter {
    Open,
    Ending,
    Ended,
}

impl From<StateFilter> for TaskState {
    fn from(state: StateFilter) -> Self {
        match state {
            StateFilter::Open => Self::Open,
            StateFilter::Ending => Self::Ending,
            StateFilter::Ended => Self::Ended,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// What the task is for, in one line; people and policies read it.
    #[arg(long, value_name = "TEXT")]
    purpose: Text,
    /// Allow credentials of this role, with scope parameters fixed for the whole task; may be
    /// repeated.
    #[arg(long = "role", value_name = "ROLE[:k=v,…]", required = true)]
    roles: Vec<PinnedRole>,
    /// How long the task lives at most [default: as the broker is configured]
    #[arg(long, value_name = "TTL")]
    ttl: Option<Ttl>,
    /// The broker ends the task when no heartbeat comes for so long [default: needs none]
    #[arg(long, value_name = "INTERVAL")]
    heartbeat: Option<Ttl>,
    /// The task that delegates this one.
    #[arg(long, value_name = "TASK")]
    parent: Option<TaskId>,
    /// The person or system that asked for it. The ledger records this as self-declared.
    #[arg(long, value_name = "NAME")]
    requester: Option<String>,
    /// A label; may be repeated.
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<Pair>,
}

#[derive(Serialize)]
struct HeartbeatView {
    task_id: String,
    next_before: Option<Timestamp>,
    deadline: Option<Timestamp>,
}

pub(crate) async fn run(command: TaskCommand, context: &Context) -> anyhow::Result<()> {
    match command {
        TaskCommand::Start(args) => start(*args, context).await,
        TaskCommand::End { id, cancel } => {
            let mode = if cancel {
                EndMode::Cancelled
            } else {
                EndMode::Completed
            };
            end(id, mode, context).await
        }
        TaskCommand::List {
            agent,
            state,
            limit,
        } => {
            let filter = TaskFilter {
                agent,
                state: state.map(TaskState::from),
            };
            list(&filter, limit, context).await
        }
        TaskCommand::Show { id } => show(id, context).await,
        TaskCommand::Heartbeat { id } => heartbeat(id, context).await,
    }
}

async fn start(args: StartArgs, context: &Context) -> anyhow::Result<()> {
    let mut options = TaskOptions::new(args.purpose.as_str());
    for PinnedRole { role, scope } in args.roles {
        options = options.role_within(role, scope);
    }
    if let Some(ttl) = args.ttl {
        options = options.ttl(ttl);
    }
    if let Some(interval) = args.heartbeat {
        options = options.heartbeat(interval);
    }
    if let Some(parent) = args.parent {
        options = options.parent(parent);
    }
    if let Some(requester) = args.requester {
        options = options.requester(requester);
    }
    for (key, value) in label_map::<Vec<_>>(args.labels)? {
        options = options.label(key, value);
    }
    let client = context.connect().await?;
    let view = TaskView::from(client.open_task(options).await?);
    context.print(&view, || {
        format!(
            "started {}, which ends by itself at {}",
            view.task_id,
            shown(view.deadline)
        )
    })
}

async fn end(id: TaskId, mode: EndMode, context: &Context) -> anyhow::Result<()> {
    let client = context.connect().await?;
    let view = EndedView::from(client.end_task(id, mode, None).await?);
    context.print(&view, || {
        let cause = view.end_cause.as_deref().unwrap_or("not yet");
        let head = format!("{} {} ({cause})\n", view.task_id, view.state);
        match view.receipts.as_slice() {
            [] => head,
            receipts => head + &receipt_table(receipts),
        }
    })
}

async fn list(filter: &TaskFilter, limit: Option<usize>, context: &Context) -> anyhow::Result<()> {
    let client = context.connect().await?;
    let tasks = pages(limit, async |page| {
        let page = client
            .list_tasks(filter, page.page_size, &page.page_token)
            .await?;
        Ok((page.tasks, page.next_page_token))
    })
    .await?;
    let views: Vec<TaskView> = tasks.into_iter().map(TaskView::from).collect();
    context.print(&views, || {
        let rows = views.iter().map(|t| {
            vec![
                t.task_id.clone(),
                t.agent.clone(),
                t.state.clone(),
                t.end_cause.clone().unwrap_or_default(),
                shown(t.deadline),
                t.purpose.clone(),
            ]
        });
        let headings = ["task", "agent", "state", "cause", "deadline", "purpose"];
        output::table(&headings, rows.collect())
    })
}

async fn show(id: TaskId, context: &Context) -> anyhow::Result<()> {
    let client = context.connect().await?;
    let view = TaskView::from(client.task(id).await?);
    context.print(&view, || human(&view))
}

fn human(task: &TaskView) -> String {
    let roles: Vec<String> = task
        .roles
        .iter()
        .map(|r| match pairs(&r.scope) {
            pins if pins.is_empty() => r.role.clone(),
            pins => format!("{} ({pins})", r.role),
        })
        .collect();
    let heartbeat = match task.heartbeat_seconds {
        0 => String::new(),
        seconds => format!("every {seconds} s"),
    };
    let declared = if task.self_declared {
        " (self-declared)"
    } else {
        ""
    };
    let text = output::fields(&[
        ("task", task.task_id.clone()),
        ("agent", task.agent.clone()),
        ("purpose", task.purpose.clone()),
        (
            "requester",
            task.requester
                .as_ref()
                .map(|r| format!("{r}{declared}"))
                .unwrap_or_default(),
        ),
        ("roles", roles.join("; ")),
        ("state", task.state.clone()),
        ("end cause", task.end_cause.clone().unwrap_or_default()),
        ("started", shown(task.started_at)),
        ("deadline", shown(task.deadline)),
        ("ended", shown(task.ended_at)),
        ("heartbeat", heartbeat),
        ("parent", task.parent.clone().unwrap_or_default()),
        ("labels", pairs(&task.labels)),
        ("waits for", waits_for(&task.anchors)),
    ]);
    match task.receipts.as_deref() {
        None | Some([]) => text,
        Some(receipts) => format!("{text}\n{}", receipt_table(receipts)),
    }
}

/// Why an ending task has not ended, and what to do next.
fn waits_for(anchors: &[AnchorView]) -> String {
    let each = anchors.iter().map(|anchor| {
        let (provider, until) = (&anchor.provider, shown(anchor.may_live_until));
        format!("its anchor at {provider} to be revoked (it may live until {until}); an operator sees why with `taskpass provider check {provider}`")
    });
    each.collect::<Vec<_>>().join("; ")
}

async fn heartbeat(id: TaskId, context: &Context) -> anyhow::Result<()> {
    let client = context.connect().await?;
    let beat = client.heartbeat(id).await?;
    let view = HeartbeatView {
        task_id: id.to_string(),
        next_before: beat.next_before,
        deadline: beat.deadline,
    };
    context.print(&view, || match view.next_before {
        Some(before) => format!("{id} lives on; the next heartbeat is due before {before}"),
        None => format!("{id} lives until {}", shown(view.deadline)),
    })
}
