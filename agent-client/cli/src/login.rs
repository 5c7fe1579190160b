//! `taskpass login`: exchanges a join token for an identity directory.

use std::{io::Read, path::PathBuf};

use anyhow::Context as _;
use clap::{Args, ValueHint};
use serde::Serialize;
use taskpass_client::{Client, JoinToken, Login, Predecessor};
use taskpass_core::{InvalidValue, Timestamp};

use super::{context::Context, ledger};

/// Bytes read from a token file; a token is much shorter.
const TOKEN_BYTES_MAX: u64 = 4096;

#[derive(Debug, Args)]
#[command(
    after_help = "EXAMPLES:\n  taskpass login --join-token-file /run/secrets/join-token\n  taskpass agent token builder | taskpass login --identity ./builder --join-token -\n\n\
        The token names the broker's root certificate, so it is sent to the right broker only. A token given\n\
        as an argument is refused: other users of the machine can see arguments, and shells keep them.\n\n\
        An agent has one live identity: after a second login under the same name, the first use of the new\n\
        identity ends the old one. Give each machine, and each of several CI runners, a name of its own.\n\n\
        A directory that holds another agent's or an operator's identity is left alone: name another one\n\
        with --identity DIR, or give that identity up with --replace. The same holds for the identity of\n\
        another installation. A broker that shows another ledger key than the directory has pinned is\n\
        refused; --accept-ledger-key pins the new key after a person has compared it."
)]
pub(crate) struct LoginArgs {
    #[command(flatten)]
    source: Source,
    /// Overwrite another agent's or an operator's identity in the directory. That identity is lost.
    #[arg(long)]
    replace: bool,
    /// Pin this ledger key (C2SP vkey), or the one in a file, in place of the pinned one. Compare
    /// it first with `operator/ledger.vkey` on the broker's machine, or ask an operator.
    #[arg(long, value_name = "VKEY|FILE", value_hint = ValueHint::FilePath)]
    accept_ledger_key: Option<String>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// `-`: read the join token from standard input.
    #[arg(long, value_name = "-")]
    join_token: Option<String>,
    /// A file with the join token, or `-` for standard input.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    join_token_file: Option<PathBuf>,
}

/// Why a token in an argument is refused. The message does not repeat it.
const IN_AN_ARGUMENT: &str = "a join token is not taken as an argument, since every user of this machine can read it \
    there, and the shell keeps it; give it with `--join-token-file FILE`, or pipe it into \
    `taskpass login --join-token -`; if others may have seen this one, withdraw it with \
    `taskpass join-token withdraw ID`";

#[derive(Serialize)]
struct LoginView {
    spiffe_id: String,
    expires_at: Timestamp,
    identity: PathBuf,
}

pub(crate) async fn run(args: LoginArgs, context: &Context) -> anyhow::Result<()> {
    let text = match (args.source.join_token, args.source.join_token_file) {
        (Some(word), _) if word != "-" => {
            let refused = InvalidValue::new(IN_AN_ARGUMENT);
            return Err(taskpass_client::Error::Invalid(refused).into());
        }
        (None, Some(path)) if path.as_os_str() != "-" => {
            let file = std::fs::File::open(&path)
                .with_context(|| format!("cannot read the join token from `{}`", path.display()))?;
            read(file)?
        }
        _ => read(std::io::stdin().lock())?,
    };
    let token: JoinToken = text.parse().map_err(taskpass_client::Error::Invalid)?;
    let config = context.config()?;
    let login = Login {
        predecessor: if args.replace {
            Predecessor::Any
        } else {
            Predecessor::Same
        },
        accepted_ledger_key: args
            .accept_ledger_key
            .as_deref()
            .map(ledger::key)
            .transpose()?,
    };
    let leaf = Client::login_with(&config, &token, &login).await?;
    let view = LoginView {
        spiffe_id: leaf.spiffe_id.to_string(),
        expires_at: leaf.not_after,
        identity: config.directory.path().to_owned(),
    };
    context.print(&view, || {
        format!(
            "logged in as {}\nidentity in {}, valid until {} and renewed by itself when used in time",
            view.spiffe_id,
            view.identity.display(),
            view.expires_at
        )
    })
}

fn read(source: impl Read) -> anyhow::Result<String> {
    let mut text = String::new();
    source
        .take(TOKEN_BYTES_MAX)
        .read_to_string(&mut text)
        .context("cannot read the join token")?;
    Ok(text)
}
