//! `taskpass provider`: shows and checks the back ends and their roles.

use std::process::ExitCode;

use clap::Subcommand;
use serde::Serialize;
use taskpass_client::RPC_TIMEOUT;
use taskpass_core::{ProviderName, Ttl};
use taskpass_proto::v1::{
    CheckProviderRequest, GetProviderRequest, ListProvidersRequest,
    provider_service_client::ProviderServiceClient,
};

use super::{
    context::{Context, pages},
    failure,
    output::{self, pairs},
    views::{ProviderView, RoleView},
};

#[derive(Debug, Subcommand)]
pub(crate) enum ProviderCommand {
    /// List the providers.
    #[command(after_help = "EXAMPLES:\n  taskpass provider list")]
    List {
        /// At most N rows [default: all]
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Show one provider and its roles.
    #[command(
        after_help = "EXAMPLES:\n  taskpass provider show vault-main\n  taskpass provider show aws-prod -o json"
    )]
    Show {
        /// The provider.
        name: ProviderName,
    },
    /// Try the calls that issuing and revoking need, and mint nothing that lasts.
    ///
    /// Fails when the provider is not healthy.
    #[command(after_help = "EXAMPLES:\n  taskpass provider check vault-main")]
    Check {
        /// The provider.
        name: ProviderName,
    },
}

#[derive(Serialize)]
struct CheckView {
    provider: String,
    healthy: bool,
    findings: Vec<String>,
    warnings: Vec<String>,
    error: Option<String>,
}

pub(crate) async fn run(command: ProviderCommand, context: &Context) -> anyhow::Result<ExitCode> {
    match command {
        ProviderCommand::List { limit } => list(limit, context).await?,
        ProviderCommand::Show { name } => show(&name, context).await?,
        ProviderCommand::Check { name } => return check(&name, context).await,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(limit: Option<usize>, context: &Context) -> anyhow::Result<()> {
    let client = context.connect().await?;
    let providers = pages(limit, async |page| {
        let request = ListProvidersRequest { page: Some(page) };
        let reply = client
            .send(RPC_TIMEOUT, request, |channel, request| async move {
                ProviderServiceClient::new(channel)
                    .list_providers(request)
                    .await
            })
            .await?;
        Ok((reply.providers, reply.next_page_token))
    })
    .await?;
    let views: Vec<ProviderView> = providers.into_iter().map(ProviderView::from).collect();
    context.print(&views, || {
        let rows = views.iter().map(|p| {
            vec![
                p.name.clone(),
                p.kind.clone(),
                p.state.clone(),
                p.circuit.clone(),
                p.paused_roles.len().to_string(),
                p.roles.len().to_string(),
                p.live_credentials.to_string(),
                p.pending_revocations.to_string(),
            ]
        });
        let headings = [
            "name",
            "kind",
            "state",
            "circuit",
            "paused roles",
            "roles",
            "live",
            "revoking",
        ];
        output::table(&headings, rows.collect())
    })
}

async fn show(name: &ProviderName, context: &Context) -> anyhow::Result<()> {
    let client = context.connect().await?;
    let request = GetProviderRequest {
        name: name.to_string(),
    };
    let reply = client
        .send(RPC_TIMEOUT, request, |channel, request| async move {
            ProviderServiceClient::new(channel)
                .get_provider(request)
                .await
        })
        .await?;
    let view = ProviderView::from(reply.provider.unwrap_or_default());
    context.print(&view, || {
        let head = output::fields(&[
            ("name", view.name.clone()),
            ("kind", view.kind.clone()),
            ("state", view.state.clone()),
            ("circuit", view.circuit.clone()),
            ("paused roles", view.paused_roles.join(", ")),
            ("calls in flight", view.in_flight.to_string()),
            ("live credentials", view.live_credentials.to_string()),
            ("pending revocations", view.pending_revocations.to_string()),
        ]);
        let headings = [
            "role",
            "type",
            "max ttl",
            "impact",
            "revocation",
            "parameters",
            "environment variables",
        ];
        let rows = view.roles.iter().map(role_row).collect();
        format!("{head}\n{}", output::table(&headings, rows))
    })
}

fn role_row(role: &RoleView) -> Vec<String> {
    let ttl = Ttl::from_seconds(u64::from(role.max_ttl_seconds));
    let mut params = pairs(&role.params);
    if !role.required_params.is_empty() {
        params = format!("{params} (required: {})", role.required_params.join(", "));
    }
    vec![
        role.role.clone(),
        role.r#type.clone(),
        ttl.map(|t| t.to_string()).unwrap_or_default(),
        role.impact.to_string(),
        role.revocation_class.clone(),
        params,
        pairs(&role.env),
    ]
}

async fn check(name: &ProviderName, context: &Context) -> anyhow::Result<ExitCode> {
    let client = context.connect().await?;
    let request = CheckProviderRequest {
        name: name.to_string(),
    };
    let reply = client
        .send(RPC_TIMEOUT, request, |channel, request| async move {
            ProviderServiceClient::new(channel)
                .check_provider(request)
                .await
        })
        .await?;
    let view = CheckView {
        provider: name.to_string(),
        healthy: reply.healthy,
        findings: reply.findings,
        warnings: reply.warnings,
        error: Some(reply.error).filter(|e| !e.is_empty()),
    };
    context.print(&view, || {
        let verdict = if view.healthy {
            "healthy"
        } else {
            "NOT healthy"
        };
        let mut text = format!("{name} is {verdict}\n");
        for finding in &view.findings {
            text += &format!("ok       {}\n", output::printable(finding));
        }
        for warning in &view.warnings {
            text += &format!("warning  {}\n", output::printable(warning));
        }
        if let Some(error) = &view.error {
            text += &format!("error    {}\n", output::printable(error));
        }
        text
    })?;
    let code = if view.healthy { 0 } else { failure::FAILED };
    Ok(ExitCode::from(code))
}
