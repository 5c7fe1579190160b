//! `taskpass join-token`: lists join tokens, and withdraws them. `taskpass agent token` issues one.

use clap::Subcommand;
use taskpass_client::RPC_TIMEOUT;
use taskpass_core::{AgentName, JoinTokenId};
use taskpass_proto::v1::{
    ListJoinTokensRequest, WithdrawJoinTokenRequest, agent_service_client::AgentServiceClient,
};

use super::{
    context::{Context, pages},
    output,
    views::{KnownJoinTokenView, shown},
};

#[derive(Debug, Subcommand)]
pub(crate) enum JoinTokenCommand {
    /// List join tokens, newest first, until a day after their end.
    #[command(
        after_help = "EXAMPLES:\n  taskpass join-token list\n  taskpass join-token list nightly-builder -o json"
    )]
    List {
        /// Only tokens for this agent.
        agent: Option<AgentName>,
        /// At most N rows [default: all]
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Withdraw a join token that is not used, so that no agent logs in with it.
    #[command(
        visible_alias = "revoke",
        after_help = "EXAMPLES:\n  taskpass join-token withdraw j06h1wrbrec46m5hj"
    )]
    Withdraw {
        /// The token's id: the part between the first two dots, which is no secret.
        id: JoinTokenId,
    },
}

pub(crate) async fn run(command: JoinTokenCommand, context: &Context) -> anyhow::Result<()> {
    match command {
        JoinTokenCommand::List { agent, limit } => list(agent.as_ref(), limit, context).await,
        JoinTokenCommand::Withdraw { id } => withdraw(id, context).await,
    }
}

async fn list(
    agent: Option<&AgentName>,
    limit: Option<usize>,
    context: &Context,
) -> anyhow::Result<()> {
    let client = context.connect().await?;
    let agent = agent.map(ToString::to_string).unwrap_or_default();
    let tokens = pages(limit, async |page| {
        let request = ListJoinTokensRequest {
            page: Some(page),
            agent: agent.clone(),
        };
        let reply = client
            .send(RPC_TIMEOUT, request, |channel, request| async move {
                AgentServiceClient::new(channel)
                    .list_join_tokens(request)
                    .await
            })
            .await?;
        Ok((reply.join_tokens, reply.next_page_token))
    })
    .await?;
    let views: Vec<_> = tokens.into_iter().map(KnownJoinTokenView::from).collect();
    context.print(&views, || {
        let rows = views.iter().map(|token| {
            vec![
                token.id.clone(),
                token.agent.clone(),
                token.state.clone(),
                shown(token.expires_at),
                token.created_by.clone(),
            ]
        });
        let headings = ["id", "agent", "state", "expires", "made by"];
        output::table(&headings, rows.collect())
    })
}

async fn withdraw(id: JoinTokenId, context: &Context) -> anyhow::Result<()> {
    let client = context.connect().await?;
    let request = WithdrawJoinTokenRequest { id: id.to_string() };
    let reply = client
        .send(RPC_TIMEOUT, request, |channel, request| async move {
            AgentServiceClient::new(channel)
                .withdraw_join_token(request)
                .await
        })
        .await?;
    let view = KnownJoinTokenView::from(reply.join_token.unwrap_or_default());
    context.print(&view, || {
        format!(
            "join token {} for `{}` is {}",
            view.id, view.agent, view.state
        )
    })
}
