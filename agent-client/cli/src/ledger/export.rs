//! Streams an export to a file or to standard output, with progress on standard error.

use std::{
    fs::File,
    io::{self, BufWriter, IsTerminal, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use taskpass_client::{Client, Error, Refusal};
use taskpass_files::{Access, Draft};
use taskpass_proto::v1::{
    ExportLedgerRequest, ExportLedgerResponse, ledger_service_client::LedgerServiceClient,
};
use tonic::Streaming;

use super::{ExportArgs, ExportFormat, older, stored_key, tiles};
use crate::{context::Context, failure::Usage, output, wire};

/// A stream without a message for so long counts as broken.
const SILENCE_MAX: Duration = Duration::from_secs(60);

pub(super) async fn run(args: ExportArgs, context: &Context) -> anyhow::Result<()> {
    if let (ExportFormat::Jsonl, Some(path), false) = (args.format, &args.to, args.force) {
        anyhow::ensure!(
            !path.exists(),
            "`{}` exists already; give another name, or overwrite it with `--force`",
            path.display()
        );
    }
    let mut request = ExportLedgerRequest {
        since: args.since.map(wire::from_time),
        task_id: args.task.map(|t| t.to_string()).unwrap_or_default(),
        consistent_with: 0,
    };
    if let Some(path) = &args.checkpoint {
        request.consistent_with = older(path, &stored_key(context)?)?.size();
    }
    match (args.format, args.to) {
        (ExportFormat::Jsonl, None) => {
            stream(request, &mut io::stdout(), context).await?;
            Ok(())
        }
        (ExportFormat::Jsonl, Some(path)) => to_file(request, &path, context).await,
        (ExportFormat::TlogTiles, to) => {
            if args.since.is_some() || args.task.is_some() {
                return Err(Usage(
                    "tlog-tiles hold the whole history; leave out --since and --task".to_owned(),
                )
                .into());
            }
            let directory = to.ok_or_else(|| {
                Usage("tlog-tiles are a directory; name it with --to DIR".to_owned())
            })?;
            to_tiles(request, directory, context).await
        }
    }
}

/// Writes the export; the file is there once it is complete.
async fn to_file(
    request: ExportLedgerRequest,
    path: &Path,
    context: &Context,
) -> anyhow::Result<()> {
    let place = || format!("cannot write `{}`", path.display());
    let mut out = BufWriter::new(Draft::begin(path, Access::Ordinary).with_context(place)?);
    let entries = stream(request, &mut out, context).await?;
    let draft = out
        .into_inner()
        .map_err(io::IntoInnerError::into_error)
        .with_context(place)?;
    draft.replace().with_context(place)?;
    let next = format!("verify it with: taskpass ledger verify {}", path.display());
    output::note(&format!(
        "exported {entries} entries to {}; {next}",
        path.display()
    ));
    Ok(())
}

async fn to_tiles(
    request: ExportLedgerRequest,
    directory: PathBuf,
    context: &Context,
) -> anyhow::Result<()> {
    let scratch = tempfile::tempdir()?;
    let export = scratch.path().join("export.jsonl");
    let mut out = BufWriter::new(File::create(&export)?);
    stream(request, &mut out, context).await?;
    out.flush()?;
    let key = stored_key(context)?;
    let (work, target) = (scratch.path().to_owned(), directory.clone());
    let entries =
        tokio::task::spawn_blocking(move || tiles::write(&export, &key, &work, &target)).await??;
    output::note(&format!(
        "exported {entries} entries to {}",
        directory.display()
    ));
    Ok(())
}

/// Copies the lines as they arrive and returns the number of entries.
async fn stream(
    request: ExportLedgerRequest,
    out: &mut (dyn Write + Send),
    context: &Context,
) -> anyhow::Result<u64> {
    let client = context.connect().await?;
    let mut messages = open(&client, request).await?;
    let bar = progress_bar();
    let mut entries = 0;
    while let Some(message) = next(&client, &mut messages).await? {
        bar.set_length(message.total);
        bar.set_position(message.done);
        entries = message.done;
        match out.write_all(&message.lines) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(entries),
            other => other.context("cannot write the export")?,
        }
    }
    out.flush().context("cannot write the export")?;
    bar.finish_and_clear();
    Ok(entries)
}

async fn open(
    client: &Client,
    request: ExportLedgerRequest,
) -> Result<Streaming<ExportLedgerResponse>, Error> {
    client
        .send(SILENCE_MAX, request, |channel, request| async move {
            LedgerServiceClient::new(channel)
                .export_ledger(request)
                .await
        })
        .await
}

async fn next(
    client: &Client,
    messages: &mut Streaming<ExportLedgerResponse>,
) -> Result<Option<ExportLedgerResponse>, Error> {
    let addr = client.config().addr.to_string();
    match tokio::time::timeout(SILENCE_MAX, messages.message()).await {
        Ok(Ok(message)) => Ok(message),
        Ok(Err(status)) => Err(Error::Refused(Box::new(Refusal::from(status)))),
        Err(_elapsed) => Err(Error::Timeout {
            addr,
            seconds: SILENCE_MAX.as_secs(),
        }),
    }
}

/// Shown on a terminal only.
fn progress_bar() -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} entries, {eta} left") {
        bar.set_style(style);
    }
    bar
}
