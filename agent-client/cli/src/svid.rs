//! `taskpass svid`: shows and renews the stored identity.

use clap::Subcommand;
use serde::Serialize;
use taskpass_client::Leaf;
use taskpass_core::Timestamp;

use super::{context::Context, output};

#[derive(Debug, Subcommand)]
pub(crate) enum SvidCommand {
    /// Show the stored identity, without asking the broker.
    #[command(after_help = "EXAMPLES:\n  taskpass svid show\n  taskpass svid show -o json")]
    Show,
    /// Renew the identity now.
    #[command(after_help = "EXAMPLES:\n  taskpass svid renew")]
    Renew,
}

#[derive(Serialize)]
struct SvidView {
    spiffe_id: String,
    trust_domain: String,
    serial: String,
    not_before: Timestamp,
    renew_at: Timestamp,
    expires_at: Timestamp,
    expired: bool,
}

pub(crate) async fn run(command: SvidCommand, context: &Context) -> anyhow::Result<()> {
    let config = context.config()?;
    let leaf = match command {
        SvidCommand::Show => {
            let directory = config.directory.clone();
            tokio::task::spawn_blocking(move || directory.leaf()).await??
        }
        SvidCommand::Renew => context.connect().await?.renew_svid().await?,
    };
    let view = view(&leaf, config.clock.now());
    context.print(&view, || {
        let end = if view.expired { "expired" } else { "expires" };
        output::fields(&[
            ("spiffe id", view.spiffe_id.clone()),
            ("serial", view.serial.clone()),
            ("valid from", view.not_before.to_string()),
            ("renewed at", view.renew_at.to_string()),
            (end, view.expires_at.to_string()),
        ])
    })
}

fn view(leaf: &Leaf, now: Timestamp) -> SvidView {
    SvidView {
        spiffe_id: leaf.spiffe_id.to_string(),
        trust_domain: leaf.trust_domain.to_string(),
        serial: leaf.serial.clone(),
        not_before: leaf.not_before,
        renew_at: leaf.renew_at(),
        expires_at: leaf.not_after,
        expired: leaf.not_after <= now,
    }
}
