//! `taskpass agent`: registers and shows agents, issues join tokens, stops agents and releases
//! them.

mod stop;

use clap::Subcommand;
use taskpass_client::RPC_TIMEOUT;
use taskpass_core::{AgentName, Owner, Text, Ttl};
use taskpass_proto::v1::{
    CreateJoinTokenRequest, GetAgentRequest, ListAgentsRequest, RegisterAgentRequest,
    agent_service_client::AgentServiceClient,
};

use super::{
    context::{Context, pages},
    failure::Usage,
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
    /// Stop an agent at once, until a person releases it.
    ///
    /// Its tasks end and their credentials are revoked. Its identities and unused join tokens stop
    /// counting for good, and its open connections are closed. The broker refuses it everything.
    #[command(
        after_help = "EXAMPLES:\n  taskpass agent freeze nightly-builder --reason \"deletes branches that are not its own\"\n  taskpass agent freeze nightly-builder --reason \"laptop lost\" -o json"
    )]
    Freeze {
        /// The agent.
        name: AgentName,
        /// Why, in one line; for people and the ledger.
        #[arg(long, value_name = "TEXT")]
        reason: Text,
    },
    /// Let a frozen agent log in and work again.
    ///
    /// Nothing of what it had comes back: it needs a new join token.
    #[command(
        after_help = "EXAMPLES:\n  taskpass agent release nightly-builder --reason \"the prompt was fixed\"\n  taskpass agent token nightly-builder"
    )]
    Release {
        /// The agent.
        name: AgentName,
        /// Why, in one line; for people and the ledger.
        #[arg(long, value_name = "TEXT")]
        reason: Text,
    },
    /// Stop an agent for good.
    ///
    /// As freeze, and no person can release it. Its name is never given out again.
    #[command(
        after_help = "EXAMPLES:\n  taskpass agent retire nightly-builder --reason \"replaced by weekly-builder\""
    )]
    Retire {
        /// The agent.
        name: AgentName,
        /// Why, in one line; for people and the ledger.
        #[arg(long, value_name = "TEXT")]
        reason: Text,
    },
    /// Name another owner of an agent, or say that an owner left.
    ///
    /// When an owner left, all agents of this person are frozen. None can be released before it has
    /// another owner.
    #[command(
        after_help = "EXAMPLES:\n  taskpass agent owner nightly-builder bob@acme.test\n  taskpass agent owner --departed alice@acme.test --reason \"left the company\""
    )]
    Owner {
        /// The agent.
        #[arg(required_unless_present = "departed")]
        name: Option<AgentName>,
        /// E-mail address of the person who answers for it from now on.
        #[arg(value_name = "EMAIL", required_unless_present = "departed")]
        owner: Option<Owner>,
        /// The person who left.
        #[arg(long, value_name = "EMAIL", conflicts_with_all = ["name", "owner"], requires = "reason")]
        departed: Option<Owner>,
        /// Why the agents are frozen, in one line; for people and the ledger.
        #[arg(long, value_name = "TEXT", requires = "departed")]
        reason: Option<Text>,
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
        AgentCommand::Freeze { name, reason } => stop::freeze(&name, &reason, context).await,
        AgentCommand::Release { name, reason } => stop::release(&name, &reason, context).await,
        AgentCommand::Retire { name, reason } => stop::retire(&name, &reason, context).await,
        AgentCommand::Owner {
            name,
            owner,
            departed,
            reason,
        } => match (name.zip(owner), departed.zip(reason)) {
            (Some((name, owner)), None) => stop::change_owner(&name, &owner, context).await,
            (None, Some((owner, reason))) => stop::depart(&owner, &reason, context).await,
            _ => Err(
                Usage("name an agent and its owner, or --departed and --reason".to_owned()).into(),
            ),
        },
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
        id: reply.id,
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
                a.state.clone(),
                a.owner.clone(),
                a.team.clone().unwrap_or_default(),
                a.class.clone().unwrap_or_default(),
                a.open_tasks.to_string(),
                a.live_credentials.to_string(),
            ]
        });
        let headings = [
            "name",
            "state",
            "owner",
            "team",
            "class",
            "tasks",
            "credentials",
        ];
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
            ("state", state(&view)),
            ("since", shown(view.changed_at)),
            ("changed by", view.changed_by.clone().unwrap_or_default()),
            ("reason", view.change_reason.clone().unwrap_or_default()),
            ("owner", owner(&view)),
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

/// The state, with the next command where a person has to act.
fn state(agent: &AgentView) -> String {
    match agent.state.as_str() {
        "frozen" => format!(
            "frozen; `taskpass agent release {} --reason …` lets it work again",
            agent.name
        ),
        other => other.to_owned(),
    }
}

fn owner(agent: &AgentView) -> String {
    if agent.owner_departed {
        format!(
            "{} (left; name another with `taskpass agent owner {} EMAIL`)",
            agent.owner, agent.name
        )
    } else {
        agent.owner.clone()
    }
}
