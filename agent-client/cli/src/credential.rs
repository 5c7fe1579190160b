//! `taskpass credential`: issues, renews, revokes and shows credentials.

use clap::Subcommand;
use serde::Serialize;
use taskpass_client::{IssuedCredential, RPC_TIMEOUT};
use taskpass_core::{AgentName, CredentialId, RoleName, TaskId, Timestamp, Ttl};
use taskpass_proto::v1::{
    GetCredentialRequest, ListCredentialsRequest,
    credential_service_client::CredentialServiceClient,
};

use super::{
    context::{Context, pages},
    output::{self, pairs},
    parse::{self, Pair},
    views::{CredentialView, IssuedView, ReceiptView, receipt_table, shown},
};

#[derive(Debug, Subcommand)]
pub(crate) enum CredentialCommand {
    /// Issue a credential for a task, and print its secret.
    ///
    /// The broker does not keep the secret, so this shows it once. `taskpass run` gives it to one
    /// command only.
    #[command(
        after_help = "EXAMPLES:\n  taskpass credential issue --task t06f3k2m9q7v4d8e1 --role vault-main/ci-db --ttl 15m\n  taskpass credential issue --role aws-prod/artifact-reader --scope bucket=releases -o json"
    )]
    Issue {
        /// The task that needs it.
        #[arg(long, value_name = "TASK", env = "TASKPASS_TASK")]
        task: TaskId,
        /// One of the task's roles.
        #[arg(long)]
        role: RoleName,
        /// A parameter that narrows the role; may be repeated.
        #[arg(long = "scope", value_name = "KEY=VALUE")]
        scope: Vec<Pair>,
        /// How long it lives [default: as long as role and task allow]
        #[arg(long, value_name = "TTL")]
        ttl: Option<Ttl>,
    },
    /// List credentials, without their secrets.
    #[command(
        after_help = "EXAMPLES:\n  taskpass credential list --live\n  taskpass credential list --task t06f3k2m9q7v4d8e1 -o json"
    )]
    List {
        /// Only credentials of this task.
        #[arg(long, value_name = "TASK")]
        task: Option<TaskId>,
        /// Only credentials of this agent.
        #[arg(long, value_name = "NAME")]
        agent: Option<AgentName>,
        /// Only credentials that are not in a final state. A credential that ended without proof
        /// may still work.
        #[arg(long)]
        live: bool,
        /// At most N rows [default: all]
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Show one credential, without its secret.
    #[command(after_help = "EXAMPLES:\n  taskpass credential show c06f3k2m9q7v4d8e1")]
    Show {
        /// The credential.
        id: CredentialId,
    },
    /// Revoke a credential before its task ends.
    #[command(after_help = "EXAMPLES:\n  taskpass credential revoke c06f3k2m9q7v4d8e1")]
    Revoke {
        /// The credential.
        id: CredentialId,
    },
    /// Renew a renewable credential.
    #[command(after_help = "EXAMPLES:\n  taskpass credential renew c06f3k2m9q7v4d8e1 --ttl 15m")]
    Renew {
        /// The credential.
        id: CredentialId,
        /// How long it lives from now [default: as long as role and task allow]
        #[arg(long, value_name = "TTL")]
        ttl: Option<Ttl>,
    },
}

#[derive(Serialize)]
struct RenewedView {
    credential_id: String,
    expires_at: Timestamp,
}

pub(crate) async fn run(command: CredentialCommand, context: &Context) -> anyhow::Result<()> {
    match command {
        CredentialCommand::Issue {
            task,
            role,
            scope,
            ttl,
        } => {
            let scope = parse::scope(&scope).map_err(taskpass_client::Error::Invalid)?;
            let client = context.connect().await?;
            let issued = client.issue_credential(task, &role, &scope, ttl).await?;
            context.print(&IssuedView::from(&issued), || with_secret(&issued))
        }
        CredentialCommand::List {
            task,
            agent,
            live,
            limit,
        } => {
            let filter = ListCredentialsRequest {
                page: None,
                task_id: task.map(|t| t.to_string()).unwrap_or_default(),
                agent: agent.map(|a| a.to_string()).unwrap_or_default(),
                live,
            };
            list(&filter, limit, context).await
        }
        CredentialCommand::Show { id } => show(id, context).await,
        CredentialCommand::Revoke { id } => {
            let client = context.connect().await?;
            let view = ReceiptView::from(client.revoke_credential(id, None).await?);
            context.print(&view, || receipt_table(std::slice::from_ref(&view)))
        }
        CredentialCommand::Renew { id, ttl } => {
            let client = context.connect().await?;
            let view = RenewedView {
                credential_id: id.to_string(),
                expires_at: client.renew_credential(id, ttl).await?,
            };
            context.print(&view, || format!("{id} lives until {}", view.expires_at))
        }
    }
}

fn with_secret(issued: &IssuedCredential) -> String {
    let mut rows = vec![
        ("credential", issued.id.to_string()),
        ("role", issued.role.to_string()),
        ("expires", issued.expires_at.to_string()),
        ("revocation", issued.revocation_class.to_string()),
    ];
    rows.extend(
        issued
            .fields()
            .map(|(name, value)| (name, value.expose().to_owned())),
    );
    output::fields(&rows)
}

async fn list(
    filter: &ListCredentialsRequest,
    limit: Option<usize>,
    context: &Context,
) -> anyhow::Result<()> {
    let client = context.connect().await?;
    let credentials = pages(limit, async |page| {
        let request = ListCredentialsRequest {
            page: Some(page),
            ..filter.clone()
        };
        let reply = client
            .send(RPC_TIMEOUT, request, |channel, request| async move {
                CredentialServiceClient::new(channel)
                    .list_credentials(request)
                    .await
            })
            .await?;
        Ok((reply.credentials, reply.next_page_token))
    })
    .await?;
    let views: Vec<CredentialView> = credentials.into_iter().map(CredentialView::from).collect();
    context.print(&views, || {
        let rows = views.iter().map(|c| {
            vec![
                c.credential_id.clone(),
                c.task_id.clone(),
                c.agent.clone(),
                c.role.clone(),
                c.state.clone(),
                shown(c.expires_at),
            ]
        });
        let headings = ["credential", "task", "agent", "role", "state", "expires"];
        output::table(&headings, rows.collect())
    })
}

async fn show(id: CredentialId, context: &Context) -> anyhow::Result<()> {
    let client = context.connect().await?;
    let request = GetCredentialRequest {
        credential_id: id.to_string(),
    };
    let reply = client
        .send(RPC_TIMEOUT, request, |channel, request| async move {
            CredentialServiceClient::new(channel)
                .get_credential(request)
                .await
        })
        .await?;
    let view = CredentialView::from(reply.credential.unwrap_or_default());
    context.print(&view, || human(&view))
}

fn human(credential: &CredentialView) -> String {
    let mut rows = vec![
        ("credential", credential.credential_id.clone()),
        ("task", credential.task_id.clone()),
        ("agent", credential.agent.clone()),
        ("role", credential.role.clone()),
        ("scope", pairs(&credential.scope)),
        ("state", credential.state.clone()),
        ("revocation", credential.revocation_class.clone()),
        ("issued", shown(credential.issued_at)),
        ("expires", shown(credential.expires_at)),
    ];
    if let Some(revocation) = &credential.revocation {
        rows.extend([
            ("revoking because", revocation.cause.clone()),
            ("since", shown(revocation.since)),
            ("attempts", revocation.attempts.to_string()),
            ("next attempt", shown(revocation.retry_at)),
            (
                "last error",
                revocation.last_error.clone().unwrap_or_default(),
            ),
            ("proof", revocation.proof.clone().unwrap_or_default()),
            ("done", shown(revocation.done_at)),
            ("may live until", shown(revocation.may_live_until)),
            ("identity until", shown(revocation.identity_until)),
        ]);
    }
    output::fields(&rows)
}
