//! `taskpass ledger`: exports the history, and verifies it without trusting the broker.

mod export;
mod tiles;
mod verify;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum, ValueHint};
use serde::Serialize;
use taskpass_client::RPC_TIMEOUT;
use taskpass_core::{TaskId, Timestamp};
use taskpass_ledger::{Checkpoint, ProofFile, VerifyingKey};
use taskpass_proto::v1::{
    GetCheckpointRequest, ProveEntryRequest, ledger_service_client::LedgerServiceClient,
};

use super::{context::Context, output};

#[derive(Debug, Subcommand)]
pub(crate) enum LedgerCommand {
    /// Write the history, or a part of it, to a file that others can verify.
    #[command(
        after_help = "EXAMPLES:\n  taskpass ledger export --to history.jsonl\n  taskpass ledger export --task t06f3k2m9q7v4d8e1 > task.jsonl\n  taskpass ledger export --format tlog-tiles --to tiles/"
    )]
    Export(ExportArgs),
    /// Verify an export or a ledger's directory, offline.
    ///
    /// Trusts nothing but the ledger's public key and, with --checkpoint, an older checkpoint.
    #[command(
        after_help = "EXAMPLES:\n  taskpass ledger verify history.jsonl\n  taskpass ledger export | taskpass ledger verify -\n  taskpass ledger verify --checkpoint last-month.txt --key ledger.vkey history.jsonl"
    )]
    Verify(verify::VerifyArgs),
    /// Prove that the ledger has an entry (C2SP tlog-proof).
    #[command(
        after_help = "EXAMPLES:\n  taskpass ledger prove 42\n  taskpass ledger prove 42 -o json"
    )]
    Prove {
        /// The entry's index, from 0.
        index: u64,
    },
    /// Show the newest signed checkpoint.
    ///
    /// Keep it away from the broker's machine: with it `ledger verify` shows later that no entry
    /// was rewritten.
    #[command(after_help = "EXAMPLES:\n  taskpass ledger checkpoint > checkpoint-2026-11.txt")]
    Checkpoint,
    /// Pin another ledger key, after a person has compared it.
    ///
    /// The identity directory pins the ledger's key at the first login and keeps the newest
    /// checkpoint it saw. A broker with another key or a rewritten history is refused until this
    /// command. It needs no broker, and keeps the old key and checkpoint as `ledger.vkey.old` and
    /// `ledger.checkpoint.old`. After a restore from a backup, name the same key again.
    #[command(
        after_help = "EXAMPLES:\n  taskpass ledger accept-key taskpass/acme.test+1a2b3c4d+AbCd…\n  taskpass ledger accept-key ledger.vkey"
    )]
    AcceptKey {
        /// The key as a person reads it from `operator/ledger.vkey` on the broker's machine (C2SP
        /// vkey), or a file with it.
        #[arg(value_name = "VKEY|FILE", value_hint = ValueHint::FilePath)]
        key: String,
    },
}

/// How to write the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ExportFormat {
    /// One JSON object on each line.
    Jsonl,
    /// A directory in C2SP tlog-tiles form, for the verifiers of others.
    TlogTiles,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// How to write it.
    #[arg(long, value_enum, default_value_t = ExportFormat::Jsonl)]
    format: ExportFormat,
    /// The file, or the directory for tlog-tiles [default: standard output]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    to: Option<PathBuf>,
    /// Overwrite a file that exists.
    #[arg(long)]
    force: bool,
    /// Only entries from this time on, like 2026-11-22T10:00:00Z.
    #[arg(long, value_name = "TIME")]
    since: Option<Timestamp>,
    /// Only entries about this task, its credentials and identities.
    #[arg(long, value_name = "TASK")]
    task: Option<TaskId>,
    /// An older checkpoint. The export then proves that it continues that history.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    checkpoint: Option<PathBuf>,
}

#[derive(Serialize)]
struct ProofView {
    index: u64,
    proof: String,
    entry: serde_json::Value,
    ledger_size: u64,
}

#[derive(Serialize)]
struct CheckpointView {
    checkpoint: String,
    vkey: String,
    origin: String,
    size: u64,
}

pub(crate) async fn run(command: LedgerCommand, context: &Context) -> anyhow::Result<()> {
    match command {
        LedgerCommand::Export(args) => export::run(args, context).await,
        LedgerCommand::Verify(args) => verify::run(args, context).await,
        LedgerCommand::Prove { index } => prove(index, context).await,
        LedgerCommand::Checkpoint => checkpoint(context).await,
        LedgerCommand::AcceptKey { key } => accept_key(&key, context),
    }
}

/// The ledger's key as stored at login. A key that came along with a claim would prove nothing.
fn stored_key(context: &Context) -> anyhow::Result<VerifyingKey> {
    Ok(context.config()?.directory.ledger_vkey()?.parse()?)
}

/// A key as text, or the name of a file with one.
pub(crate) fn key(text: &str) -> anyhow::Result<VerifyingKey> {
    if let Ok(key) = text.parse() {
        return Ok(key);
    }
    let content = std::fs::read_to_string(text)
        .with_context(|| format!("`{text}` is neither a vkey nor a file with one"))?;
    Ok(content.trim().parse()?)
}

#[derive(Serialize)]
struct AcceptedView {
    ledger_vkey: String,
    replaced_vkey: Option<String>,
    replaced_checkpoint_size: Option<u64>,
}

fn accept_key(text: &str, context: &Context) -> anyhow::Result<()> {
    let key = key(text)?;
    let before = context.config()?.directory.accept_ledger_key(&key)?;
    let view = AcceptedView {
        ledger_vkey: key.to_string(),
        replaced_vkey: before.key.map(|key| key.to_string()),
        replaced_checkpoint_size: before.newest.map(|checkpoint| checkpoint.size()),
    };
    context.print(&view, || {
        let mut text = format!("pinned {}", view.ledger_vkey);
        if let Some(old) = &view.replaced_vkey {
            text += &format!("\nthe key before is in ledger.vkey.old: {old}");
        }
        if let Some(size) = view.replaced_checkpoint_size {
            text += &format!("\nthe checkpoint of {size} entries is in ledger.checkpoint.old");
        }
        text
    })
}

/// Reads an older checkpoint and checks the ledger's signature on it.
fn older(path: &Path, key: &VerifyingKey) -> anyhow::Result<Checkpoint> {
    let note = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the checkpoint `{}`", path.display()))?;
    Ok(Checkpoint::open(&note, key)?)
}

async fn prove(index: u64, context: &Context) -> anyhow::Result<()> {
    let client = context.connect().await?;
    let reply = client
        .call(RPC_TIMEOUT, |channel| async move {
            LedgerServiceClient::new(channel)
                .prove_entry(ProveEntryRequest { index })
                .await
        })
        .await?;
    let checkpoint = ProofFile::parse(&reply.proof)?.verify(&reply.entry, &stored_key(context)?)?;
    let view = ProofView {
        index,
        entry: serde_json::from_slice(&reply.entry)
            .unwrap_or_else(|_| String::from_utf8_lossy(&reply.entry).into()),
        proof: reply.proof,
        ledger_size: checkpoint.size(),
    };
    context.print(&view, || {
        let entry = String::from_utf8_lossy(&reply.entry);
        output::note(&format!("entry {index}: {entry}"));
        view.proof.clone()
    })
}

async fn checkpoint(context: &Context) -> anyhow::Result<()> {
    let client = context.connect().await?;
    let directory = client.config().directory.clone();
    let consistent_with = directory.pinned()?.newest.map_or(0, |kept| kept.size());
    let reply = client
        .call(RPC_TIMEOUT, |channel| async move {
            LedgerServiceClient::new(channel)
                .get_checkpoint(GetCheckpointRequest { consistent_with })
                .await
        })
        .await?;
    let key = stored_key(context)?;
    let checkpoint = Checkpoint::open(&reply.checkpoint, &key)?;
    directory.keep_proven(&checkpoint, &key, &reply.consistency)?;
    let view = CheckpointView {
        origin: checkpoint.origin().to_owned(),
        size: checkpoint.size(),
        checkpoint: reply.checkpoint,
        vkey: reply.vkey,
    };
    context.print(&view, || view.checkpoint.clone())
}
