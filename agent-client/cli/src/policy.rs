//! `taskpass policy`: checks a directory offline, and shows the policy in force.

use std::{path::PathBuf, process::ExitCode};

use clap::{Subcommand, ValueHint};
use serde::Serialize;
use taskpass_client::RPC_TIMEOUT;
use taskpass_policy::Finding;
use taskpass_proto::v1::{GetPolicyRequest, policy_service_client::PolicyServiceClient};

use super::{context::Context, failure};

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
    /// Show the policies in force.
    #[command(after_help = "EXAMPLES:\n  taskpass policy show\n  taskpass policy show -o json")]
    Show,
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
