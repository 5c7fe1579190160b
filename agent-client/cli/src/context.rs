//! Shared by all commands: the address of the broker, the identity, and the output format.

use std::{ffi::OsString, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use serde::Serialize;
use taskpass_client::{BrokerAddr, Client, ClientConfig, Error, IdentityDirectory, Renewal};
use taskpass_core::{Clock, Identity};
use taskpass_proto::v1::PageRequest;

use super::output::{self, Format};

/// Rows in one page.
const PAGE_ROWS: usize = 1000;

pub(crate) struct Context {
    pub(crate) addr: BrokerAddr,
    pub(crate) identity: Option<PathBuf>,
    pub(crate) format: Format,
    /// A clock in place of the machine's.
    pub(crate) clock: Option<Arc<dyn Clock>>,
    /// The environment of this process, from which `taskpass run` makes that of its command.
    pub(crate) environment: Vec<(OsString, OsString)>,
}

impl Context {
    /// How to connect, and with which identity.
    pub(crate) fn config(&self) -> anyhow::Result<ClientConfig> {
        let directory = self.identity.as_ref().context(
            "there is no home directory; name the identity directory with --identity or TASKPASS_IDENTITY",
        )?;
        let mut config = ClientConfig::new(self.addr.clone(), directory);
        if let Some(clock) = &self.clock {
            config.clock = Arc::clone(clock);
        }
        Ok(config)
    }

    /// Whether the stored identity is an operator's.
    pub(crate) fn is_operator(&self) -> bool {
        let holder = self
            .identity
            .as_ref()
            .and_then(|path| IdentityDirectory::new(path).holder());
        holder.is_some_and(|leaf| {
            let identity = Identity::parse(leaf.spiffe_id.as_str(), &leaf.trust_domain);
            matches!(identity, Ok(Identity::Operator(_)))
        })
    }

    /// Connects for one command. It also renews an SVID that is due: an agent that only uses this
    /// tool would otherwise lose its identity.
    pub(crate) async fn connect(&self) -> anyhow::Result<Client> {
        let mut config = self.config()?;
        config.renewal = Renewal::OnDemand;
        let client = Client::connect(config).await?;
        refresh(&client).await?;
        Ok(client)
    }

    /// Prints a value: as JSON, or as `human` words it.
    pub(crate) fn print<T: Serialize>(
        &self,
        value: &T,
        human: impl FnOnce() -> String,
    ) -> anyhow::Result<()> {
        match self.format {
            Format::Json => output::write_json(value),
            Format::Table => output::write_text(&human()),
        }
    }
}

/// Renews an SVID that is due, an agent's or an operator's. A renewal that fails is told once, and
/// the command goes on with the present SVID. Fails only if the broker shows another ledger, or if
/// the files that tell this ledger from another cannot be used.
pub(crate) async fn refresh(client: &Client) -> Result<(), Error> {
    client.config().directory.pinned()?;
    match client.renew_svid_if_due().await {
        // Going on would hide the other history until the identity has expired.
        Err(error) if error.is_other_ledger() => Err(error),
        Err(error) => {
            // Where no broker answers, or it does not know the identity, the command says so
            // itself.
            if error.is_unavailable() || error.reason() == Some("UNAUTHENTICATED") {
                tracing::debug!(%error, "the identity could not be renewed");
            } else {
                let until = client.svid().not_after;
                tracing::warn!(%error, %until, "the identity could not be renewed, and ends soon");
            }
            Ok(())
        }
        Ok(_leaf) => Ok(()),
    }
}

/// Reads page after page, up to `limit` rows.
pub(crate) async fn pages<T>(
    limit: Option<usize>,
    fetch: impl AsyncFn(PageRequest) -> Result<(Vec<T>, String), Error>,
) -> anyhow::Result<Vec<T>> {
    let mut rows: Vec<T> = Vec::new();
    let mut page_token = String::new();
    loop {
        let wanted = limit.map_or(PAGE_ROWS, |l| l.saturating_sub(rows.len()).min(PAGE_ROWS));
        if wanted == 0 {
            return Ok(rows);
        }
        let (page, next) = fetch(PageRequest {
            page_size: u32::try_from(wanted)?,
            page_token: page_token.clone(),
        })
        .await?;
        rows.extend(page.into_iter().take(wanted));
        if next.is_empty() {
            return Ok(rows);
        }
        anyhow::ensure!(
            next != page_token,
            "the broker sends the same page again and again"
        );
        page_token = next;
    }
}
