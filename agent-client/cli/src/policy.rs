//! `taskpass policy`: checks a directory offline, shows the policy in force, and asks it.

use std::{net::IpAddr, path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand, ValueHint};
use serde::Serialize;
use taskpass_client::RPC_TIMEOUT;
use taskpass_core::{AgentName, RoleName, Ttl};
use taskpass_policy::Finding;
use taskpass_proto::v1::{
    AccessDecision, AccessQuestion, ExplainAccessRequest, GetPolicyRequest, ListAccessRequest,
    policy_service_client::PolicyServiceClient,
};

use super::{
    context::{Context, pages},
    failure, output,
    parse::{self, Pair},
};

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Check the policies of a directory, without a broker.
    ///
    /// Exits with 1 when a broker would refuse them.
    #[command(
        after_help = "EXAMPLES:\n  taskpass policy check policy/\n  taskpass policy check policy/ -o json"
    )]
    Check {
        /// The directory with the .cedar files.
        #[arg(value_hint = ValueHint::DirPath)]
        dir: PathBuf,
    },
    /// Say what the policy in force allows an agent, and why.
    ///
    /// Asks about a new task with the role, started now. Grants nothing. Exits with 1 when one of
    /// the three actions is denied.
    #[command(
        after_help = "EXAMPLES:\n  taskpass policy explain --agent nightly-builder --role vault-main/ci-db\n  taskpass policy explain --agent nightly-builder --role aws-prod/artifact-reader --scope bucket=releases --address 10.0.0.7 -o json"
    )]
    Explain {
        /// The agent.
        #[arg(long)]
        agent: AgentName,
        /// The role.
        #[arg(long)]
        role: RoleName,
        #[command(flatten)]
        request: Request,
    },
    /// List the agents that the policy in force lets have a role.
    ///
    /// Each agent is asked about as `taskpass policy explain` does, with the same scope and
    /// address. Agents that are denied all three actions are left out.
    #[command(
        after_help = "EXAMPLES:\n  taskpass policy who vault-main/ci-db\n  taskpass policy who aws-prod/artifact-reader --scope bucket=releases -o json"
    )]
    Who {
        /// The role.
        role: RoleName,
        #[command(flatten)]
        request: Request,
        /// At most N rows [default: all]
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Show the policies in force.
    #[command(after_help = "EXAMPLES:\n  taskpass policy show\n  taskpass policy show -o json")]
    Show,
}

/// The request that policy is asked about.
#[derive(Debug, Args)]
pub(crate) struct Request {
    /// A parameter that the agent narrows the role to; may be repeated.
    #[arg(long = "scope", value_name = "KEY=VALUE")]
    scope: Vec<Pair>,
    /// The life that the agent asks for [default: the role's longest]
    #[arg(long, value_name = "TTL")]
    ttl: Option<Ttl>,
    /// The agent's IP address [default: none, as if it came over no network]
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
}

#[derive(Serialize)]
struct ExplainView {
    policy_set: String,
    agent: String,
    role: String,
    allowed: bool,
    decisions: Vec<DecisionView>,
}

#[derive(Serialize)]
struct DecisionView {
    action: String,
    allowed: bool,
    reason: String,
    policies: Vec<String>,
    errors: Vec<String>,
}

#[derive(Serialize)]
struct AccessView {
    agent: String,
    decisions: Vec<DecisionView>,
}

#[derive(Serialize)]
struct CheckView {
    files: usize,
    policies: usize,
    valid: bool,
    findings: Vec<FindingView>,
}

#[derive(Serialize)]
struct FindingView {
    file: Option<String>,
    line: Option<usize>,
    column: Option<usize>,
    severity: String,
    message: String,
    hint: Option<String>,
}

#[derive(Serialize)]
struct PolicyView {
    policy_set: String,
    files: Vec<FileView>,
}

#[derive(Serialize)]
struct FileView {
    name: String,
    content: String,
}

pub(crate) async fn run(command: PolicyCommand, context: &Context) -> anyhow::Result<ExitCode> {
    match command {
        PolicyCommand::Check { dir } => check(dir, context).await,
        PolicyCommand::Explain {
            agent,
            role,
            request,
        } => explain(&agent, &role, &request, context).await,
        PolicyCommand::Who {
            role,
            request,
            limit,
        } => {
            let question = request.about(&role)?;
            who(&question, limit, context)
                .await
                .map(|()| ExitCode::SUCCESS)
        }
        PolicyCommand::Show => show(context).await.map(|()| ExitCode::SUCCESS),
    }
}

async fn check(dir: PathBuf, context: &Context) -> anyhow::Result<ExitCode> {
    let report = tokio::task::spawn_blocking(move || taskpass_policy::check(&dir, None)).await??;
    let view = CheckView {
        files: report.files,
        policies: report.policies,
        valid: !report.has_errors(),
        findings: report.findings.iter().map(FindingView::from).collect(),
    };
    context.print(&view, || {
        let verdict = if view.valid { "valid" } else { "NOT valid" };
        format!(
            "{report}{} in {}: {verdict}",
            count(view.policies, "policy", "policies"),
            count(view.files, "file", "files")
        )
    })?;
    let code = if view.valid { 0 } else { failure::FAILED };
    Ok(ExitCode::from(code))
}

fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

async fn explain(
    agent: &AgentName,
    role: &RoleName,
    request: &Request,
    context: &Context,
) -> anyhow::Result<ExitCode> {
    let client = context.connect().await?;
    let message = ExplainAccessRequest {
        agent: agent.to_string(),
        question: Some(request.about(role)?),
    };
    let reply = client
        .send(RPC_TIMEOUT, message, |channel, message| async move {
            PolicyServiceClient::new(channel)
                .explain_access(message)
                .await
        })
        .await?;
    let decisions: Vec<_> = reply
        .decisions
        .into_iter()
        .map(DecisionView::from)
        .collect();
    let view = ExplainView {
        policy_set: reply.policy_set,
        agent: agent.to_string(),
        role: role.to_string(),
        allowed: !decisions.is_empty() && decisions.iter().all(|decision| decision.allowed),
        decisions,
    };
    context.print(&view, || {
        let rows = view.decisions.iter().map(|decision| {
            vec![
                decision.action.clone(),
                outcome(decision).to_owned(),
                decision.reason.clone(),
                decision.policies.join(", "),
            ]
        });
        output::table(&["action", "outcome", "reason", "policies"], rows.collect())
    })?;
    let code = if view.allowed { 0 } else { failure::FAILED };
    Ok(ExitCode::from(code))
}

async fn who(
    question: &AccessQuestion,
    limit: Option<usize>,
    context: &Context,
) -> anyhow::Result<()> {
    let client = context.connect().await?;
    let agents = pages(limit, async |page| {
        let request = ListAccessRequest {
            page: Some(page),
            question: Some(question.clone()),
        };
        let reply = client
            .send(RPC_TIMEOUT, request, |channel, request| async move {
                PolicyServiceClient::new(channel).list_access(request).await
            })
            .await?;
        Ok((reply.agents, reply.next_page_token))
    })
    .await?;
    let views: Vec<AccessView> = agents
        .into_iter()
        .map(|row| AccessView {
            agent: row.agent,
            decisions: row.decisions.into_iter().map(DecisionView::from).collect(),
        })
        .collect();
    context.print(&views, || {
        let rows = views.iter().map(|view| {
            let name = std::iter::once(view.agent.clone());
            let outcomes = view.decisions.iter().map(|d| outcome(d).to_owned());
            name.chain(outcomes).collect()
        });
        output::table(&["agent", "start", "issue", "renew"], rows.collect())
    })
}

const fn outcome(decision: &DecisionView) -> &'static str {
    if decision.allowed { "allow" } else { "deny" }
}

impl Request {
    fn about(&self, role: &RoleName) -> anyhow::Result<AccessQuestion> {
        let scope = parse::scope(&self.scope).map_err(taskpass_client::Error::Invalid)?;
        let scope = scope
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()));
        Ok(AccessQuestion {
            role: role.to_string(),
            scope: scope.collect(),
            ttl_seconds: self.ttl.map_or(0, Ttl::seconds),
            address: self.address.map(|it| it.to_string()).unwrap_or_default(),
        })
    }
}

impl From<AccessDecision> for DecisionView {
    fn from(decision: AccessDecision) -> Self {
        Self {
            action: decision.action,
            allowed: decision.allowed,
            reason: decision.reason,
            policies: decision.policies,
            errors: decision.errors,
        }
    }
}

async fn show(context: &Context) -> anyhow::Result<()> {
    let client = context.connect().await?;
    let reply = client
        .call(RPC_TIMEOUT, |channel| async move {
            PolicyServiceClient::new(channel)
                .get_policy(GetPolicyRequest {})
                .await
        })
        .await?;
    let view = PolicyView {
        policy_set: reply.policy_set,
        files: reply
            .files
            .into_iter()
            .map(|file| FileView {
                name: file.name,
                content: file.content,
            })
            .collect(),
    };
    context.print(&view, || {
        let mut text = format!("// policy set {}\n", view.policy_set);
        for file in &view.files {
            text += &format!("\n// {}\n{}\n", file.name, file.content.trim_end());
        }
        text
    })
}

impl From<&Finding> for FindingView {
    fn from(finding: &Finding) -> Self {
        Self {
            file: Some(finding.file.clone()).filter(|f| !f.is_empty()),
            line: Some(finding.line).filter(|line| *line > 0),
            column: Some(finding.column).filter(|column| *column > 0),
            severity: finding.severity.to_string(),
            message: finding.message.clone(),
            hint: finding.hint.clone(),
        }
    }
}
