//! `taskpass agent`: registers and shows agents, and issues join tokens.

use clap::Subcommand;
use taskpass_client::RPC_TIMEOUT;
use taskpass_core::{AgentName, Owner, Ttl};
use taskpass_proto::v1::{
    CreateJoinTokenRequest, GetAgentRequest, ListAgentsRequest, RegisterAgentRequest,
    agent_service_client::AgentServiceClient,
};

use super::{
    context::{Context, pages},
    output::{self, pairs},
    parse::{Pair, label_map},
    views::{AgentView, JoinTokenView, shown},
    wire::time,
};

#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// Register an agent and the person who answers for it.
    #[command(
        after_help = "EXAMPLES:\n  taskpass agent register nightly-builder --owner alice@acme.test --team build --label repo=acme/app"
    )]
    Register {
        /// 1 to 63 of a-z, 0-9 and inner `-`; part of its SPIFFE ID.
        name: AgentName,
        /// E-mail address of the person who answers for it.
        #[arg(long, value_name = "EMAIL")]
        owner: Owner,
        /// The owner's team.
        #[arg(long, default_value = "")]
        team: String,
        /// The class that policies speak about.
        #[arg(long, default_value = "")]
        class: String,
        /// A label; may be repeated.
        #[arg(long = "label", value_name = "KEY=VALUE")]
        labels: Vec<Pair>,
    },
    /// Issue a single-use join token, with which the agent logs in.
    ///
    /// The token is a secret and is shown once.
    #[command(
        after_help = "EXAMPLES:\n  taskpass agent token nightly-builder --ttl 10m\n  (umask 077; taskpass agent token nightly-builder > token)"
    )]
    Token {
        /// The agent.
        name: AgentName,
        /// How long it can be used, at most 1d [default: 10m]
        #[arg(long, value_name = "TTL")]
        ttl: Option<Ttl>,
    },
    /// List the registered agents.
    #[command(
        after_help = "EXAMPLES:\n  taskpass agent list\n  taskpass agent list --limit 10 -o json"
    )]
    List {
        /// At most N rows [default: all]
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Show one agent.
    #[command(after_help = "EXAMPLES:\n  taskpass agent show nightly-builder")]
    Show {
        /// The agent.
        name: AgentName,
    },
}

pub(crate) async fn run(command: AgentCommand, context: &Context) -> anyhow::Result<()> {
    match command {
        AgentCommand::Register {
            name,
            owner,
            team,
            class,
            labels,
        } => {
            let request = RegisterAgentRequest {
                idempotency_key: String::new(),
                name: name.to_string(),
                owner: owner.to_string(),
                team,
                class,
                labels: label_map(labels)?,
            };
            register(request, context).await
        }
        AgentCommand::Token { name, ttl } => token(&name, ttl, context).await,
        AgentCommand::List { limit } => list(limit, context).await,
        AgentCommand::Show { name } => show(&name, context).await,
    }
}

async fn register(mut request: RegisterAgentRequest, context: &Context) -> anyhow::Result<()> {
    let client = context.connect().await?;
    request.idempotency_key = client.new_idempotency_key()?;
    let reply = client
        .send(RPC_TIMEOUT, request, |channel, request| async move {
            AgentServiceClient::new(channel)
                .register_agent(request)
                .await
        })
        .await?;
    let view = AgentView::from(reply.agent.unwrap_or_default());
    context.print(&view, || {
        format!(
            "registered `{}`; next: taskpass agent token {}",
            view.name, view.name
        )
    })
}

async fn token(name: &AgentName, ttl: Option<Ttl>, context: &Context) -> anyhow::Result<()> {
    let client = context.connect().await?;
    let request = CreateJoinTokenRequest {
        agent: name.to_string(),
        ttl_seconds: ttl.map_or(0, Ttl::seconds),
        idempotency_key: client.new_idempotency_key()?,
    };
    let reply = client
        .send(RPC_TIMEOUT, request, |channel, request| async move {
            AgentServiceClient::new(channel)
                .create_join_token(request)
                .await
        })
        .await?;
    let view = JoinTokenView {
        join_token: reply.join_token,
        agent: reply.agent,
        expires_at: time(reply.expires_at),
    };
    context.print(&view, || view.join_token.clone())
}

async fn list(limit: Option<usize>, context: &Context) -> anyhow::Result<()> {
    let client = context.connect().await?;
    let agents = pages(limit, async |page| {
        let request = ListAgentsRequest { page: Some(page) };
        let reply = client
            .send(RPC_TIMEOUT, request, |channel, request| async move {
                AgentServiceClient::new(channel).list_agents(request).await
            })
            .await?;
        Ok((reply.agents, reply.next_page_token))
    })
    .await?;
    let views: Vec<AgentView> = agents.into_iter().map(AgentView::from).collect();
    context.print(&views, || {
        let rows = views.iter().map(|a| {
            vec![
                a.name.clone(),
                a.owner.clone(),
                a.team.clone().unwrap_or_default(),
                a.class.clone().unwrap_or_default(),
                a.open_tasks.to_string(),
                a.live_credentials.to_string(),
            ]
        });
        let headings = ["name", "owner", "team", "class", "tasks", "credentials"];
        output::table(&headings, rows.collect())
    })
}

async fn show(name: &AgentName, context: &Context) -> anyhow::Result<()> {
    let client = context.connect().await?;
    let request = GetAgentRequest {
        name: name.to_string(),
    };
    let reply = client
        .send(RPC_TIMEOUT, request, |channel, request| async move {
            AgentServiceClient::new(channel).get_agent(request).await
        })
        .await?;
    let agent = reply.agent.unwrap_or_default();
    let registered_at = shown(time(agent.registered_at));
    let view = AgentView::from(agent);
    context.print(&view, || {
        output::fields(&[
            ("name", view.name.clone()),
            ("owner", view.owner.clone()),
            ("team", view.team.clone().unwrap_or_default()),
            ("class", view.class.clone().unwrap_or_default()),
            ("labels", pairs(&view.labels)),
            ("registered", registered_at),
            ("by", view.registered_by.clone()),
            ("open tasks", view.open_tasks.to_string()),
            ("live credentials", view.live_credentials.to_string()),
        ])
    })
}
