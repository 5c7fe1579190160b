//! `taskpass ledger verify`: needs the ledger's key, but no broker and no identity.

use std::{
    fs::File,
    io::{self, BufReader},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::{Args, ValueHint};
use serde::Serialize;
use taskpass_client::Error;
use taskpass_ledger::{
    Checkpoint, VerifyingKey,
    verify::{Directory, Extent, Verified, verify_export},
};

use super::{key, older, stored_key, tiles};
use crate::context::Context;

const NAME_KEY: &str = "name it with `--key FILE`: it is `ledger.vkey` in every identity directory, such as `operator/` beside the broker's `taskpass.toml`; ask an operator for it, not the person who gave you the history";

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// An export, `-` for standard input, or the directory of a ledger.
    #[arg(value_hint = ValueHint::AnyPath)]
    path: PathBuf,
    /// A directory with the ledger's old segments, as `taskpassd ledger archive` wrote it; may be
    /// given more than once. It is verified together with the ledger's own directory.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    archive: Vec<PathBuf>,
    /// An older checkpoint that the history must continue.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    checkpoint: Option<PathBuf>,
    /// The ledger's public key (C2SP vkey), or a file with it [default: ledger.vkey of the
    /// identity]
    #[arg(long, value_name = "VKEY|FILE", value_hint = ValueHint::FilePath)]
    key: Option<String>,
}

#[derive(Serialize)]
struct VerifiedView {
    valid: bool,
    entries: u64,
    complete: bool,
    /// The first verified entry; the entries before it are in an archive that was not named.
    first: u64,
    origin: String,
    ledger_size: u64,
    continues: Option<u64>,
    unsigned: u64,
}

pub(super) async fn run(args: VerifyArgs, context: &Context) -> anyhow::Result<()> {
    let key = match &args.key {
        // An auditor needs no identity, so the library's advice to log in would mislead.
        None => stored_key(context).map_err(|error| {
            let why = match error.downcast_ref() {
                Some(Error::NoIdentity { dir }) => format!("there is none in `{}`", dir.display()),
                _ => format!("{error:#}"),
            };
            anyhow::anyhow!("the ledger's public key is missing ({why}); {NAME_KEY}")
        })?,
        Some(text) => key(text)?,
    };
    let older = args
        .checkpoint
        .as_deref()
        .map(|path| older(path, &key))
        .transpose()?;
    let VerifyArgs { path, archive, .. } = args;
    let work = move || verify(&path, &archive, &key, older.as_ref());
    let verified = tokio::task::spawn_blocking(work).await??;
    let view = VerifiedView {
        valid: true,
        entries: verified.entries,
        complete: verified.extent == Extent::Full,
        first: match verified.extent {
            Extent::From(first) => first,
            Extent::Full | Extent::Selection => 0,
        },
        origin: verified.checkpoint.origin().to_owned(),
        ledger_size: verified.checkpoint.size(),
        continues: verified.continues,
        unsigned: verified.unsigned,
    };
    context.print(&view, || sentence(&view))
}

fn sentence(view: &VerifiedView) -> String {
    let (entries, size, origin) = (view.entries, view.ledger_size, &view.origin);
    let mut text = if view.complete {
        format!("valid: all {entries} entries of {origin}, nothing changed, removed or added")
    } else if view.first > 0 {
        format!(
            "valid: all {entries} entries of {origin} from entry {} on, nothing changed, removed or added\nthe {} entries before are in an archive; verify both with `--archive DIR`",
            view.first, view.first
        )
    } else {
        format!("valid: {entries} of the {size} entries of {origin}, each one proven")
    };
    match view.continues {
        Some(older) => text += &format!("\nit continues the older checkpoint of {older} entries"),
        None => text += "\nnot compared with an older checkpoint (--checkpoint FILE)",
    }
    if view.unsigned > 0 {
        text += &format!("\n{} younger entries have no checkpoint yet", view.unsigned);
    }
    text
}

fn verify(
    path: &Path,
    archives: &[PathBuf],
    key: &VerifyingKey,
    older: Option<&Checkpoint>,
) -> anyhow::Result<Verified> {
    let silent = &mut |_| ();
    anyhow::ensure!(
        archives.is_empty() || path.is_dir(),
        "`--archive` goes with the directory of a ledger, and `{}` is none",
        path.display()
    );
    if path.as_os_str() == "-" {
        return Ok(verify_export(io::stdin().lock(), key, older, silent)?);
    }
    anyhow::ensure!(
        !tiles::are_in(path),
        "`{}` holds tlog-tiles, a format for the verifiers of others; `taskpass` verifies what `taskpass ledger export --to history.jsonl` writes, and a broker's own directory `ledger/`",
        path.display()
    );
    if path.is_dir() {
        let directory = Directory {
            ledger: path,
            archives,
        };
        return Ok(directory.verify(key, older, silent)?);
    }
    let file = File::open(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    Ok(verify_export(BufReader::new(file), key, older, silent)?)
}
