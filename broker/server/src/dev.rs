//! `taskpassd dev`: a broker in a temporary directory, for a first look.

use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use taskpass_broker::{
    App, Deps,
    config::Config,
    init::{self, quoted},
    observe::logging,
    provider_kinds,
};
use taskpass_core::{Entropy, OperatorName, TrustDomain};

use crate::process;

/// Makes an installation in a temporary directory, serves it on a free port until a signal, and
/// removes it.
pub(crate) fn run(trust_domain: TrustDomain, deps: Deps) -> anyhow::Result<ExitCode> {
    let scratch = Scratch::new(deps.entropy.as_ref())?;
    let operator: OperatorName = "admin".parse()?;
    let plan = init::Plan {
        dir: scratch.0.join("taskpass"),
        trust_domain,
        operator,
    };
    let installed = init::install(plan, &provider_kinds(), &deps.clock, &deps.entropy)?;
    let mut config: Config = installed.config().clone();
    config.listen.grpc.set_port(0);
    logging::start(
        &config.log,
        process::environment(logging::ENVIRONMENT).as_deref(),
    )?;
    process::fit_connections(&mut config.limits);
    let identity = installed.identity_dir();
    process::runtime()?.block_on(async {
        let signals = process::Signals::new().context("listening for signals")?;
        let trust_domain = config.trust_domain.clone();
        let app = App::build(config, deps).await?;
        let address = app.local_addr();
        let message = format!(
            "ready addr={address} trust_domain={trust_domain}\n\
             \n\
             Paste this into another terminal:\n\
             \n  export TASKPASS_ADDR={address} TASKPASS_IDENTITY={}\n\
             \n\
             Then, for example:\n\
             \n  taskpass agent register builder --owner you@example.com\
             \n  (umask 077; taskpass agent token builder > token)\
             \n  taskpass login --identity ./builder --join-token-file token\
             \n  taskpass doctor --identity ./builder\
             \n  taskpass ledger export\n\
             \n\
             This broker has no providers, so agents get identities but no credentials. For those, make an installation\n\
             with `taskpassd init`, put a provider into its taskpass.toml, and start it with `taskpassd run`.\n\
             Ctrl-C stops this broker and removes everything.",
            quoted(&identity),
        );
        process::run(app, signals, || say(&message)).await
    })
}

fn say(message: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{message}")
        .and_then(|()| out.flush())
        .context("writing the output")
}

/// A new directory that is removed when this is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(entropy: &dyn Entropy) -> anyhow::Result<Self> {
        // The name cannot be guessed, and `create_dir` fails if it exists: no other user can
        // prepare the directory.
        let path = std::env::temp_dir().join(format!("taskpass-dev-{:016x}", entropy.next_u64()?));
        fs::create_dir(&path).with_context(|| format!("making `{}`", path.display()))?;
        Ok(Self(path))
    }

    fn remove(path: &Path) {
        if let Err(e) = fs::remove_dir_all(path) {
            let _closed = writeln!(
                io::stderr(),
                "error: cannot remove `{}`: {e}",
                path.display()
            );
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        Self::remove(&self.0);
    }
}
