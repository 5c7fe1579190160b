//! `taskpassd init`: everything a new installation needs, in one directory.
//!
//! `init` writes `taskpass.toml` last and as a whole. Without it no broker starts: a crash on the
//! way leaves no directory that passes for an installation, and the next `init` names the files to
//! remove.

mod error;
mod files;
mod shell;
#[cfg(test)]
mod tests;

pub use error::Error;
pub use shell::quoted;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use taskpass_ca::{Authority, Issued, KeyFiles, NewKey};
use taskpass_core::{Clock, Entropy, Event, OperatorName, Timestamp, TrustDomain};
use taskpass_files::{create_dir, unfinished};
use taskpass_ledger::{Ledger, Options, Priority, SigningKey};
use taskpass_policy::{StarterOptions, starter_policy};
use taskpass_provider::ProviderKinds;
use taskpass_seal::{Keyring, PlainFiles};
use taskpass_store::Entry;

use crate::{app::Deps, config::Config, keys};

const CONFIG: &str = "taskpass.toml";
const POLICY: &str = "policy";
/// The directory of the first operator's identity, beside the configuration.
pub(crate) const OPERATOR: &str = "operator";
const DATA: &str = "data";
/// `[keys]` of an installation that is made without a seal.
const PLAIN_KEYS: &str = "\
[keys]
# The private keys in `data_dir`. In plain text, a copy of them signs as this broker. To seal them by
# a passphrase, a credential of systemd or a key service, name the seal here and run
# `taskpassd keys seal --config FILE`.
seal = \"plain\"";

/// The installation to make.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The directory. It is made with mode 0700 if it does not exist.
    pub dir: PathBuf,
    /// The SPIFFE trust domain.
    pub trust_domain: TrustDomain,
    /// The first operator, who may do everything operators can do.
    pub operator: OperatorName,
}

/// A new installation.
#[derive(Debug)]
pub struct Installed {
    plan: Plan,
    operator_until: Timestamp,
    vkey: String,
    config: Config,
}

/// Makes a new installation with keys in plain text. If the directory holds one already, or the
/// remains of one, this fails and changes nothing.
pub fn install(
    plan: Plan,
    kinds: &ProviderKinds,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
) -> Result<Installed, Error> {
    let site = Site::new(plan, PLAIN_KEYS, kinds)?;
    site.build(&KeyFiles::plain(), None, kinds, (clock, entropy))
}

/// The same with the table `[keys]` that a file holds: no private key of the broker ever
/// lies in plain text. The operator's does, and belongs on another machine.
/// Paths in the table begin at the directory of the new installation.
pub async fn install_sealed(
    plan: Plan,
    keys_file: &Path,
    kinds: &ProviderKinds,
    deps: &Deps,
) -> Result<Installed, Error> {
    let table = std::fs::read_to_string(keys_file).map_err(|source| Error::KeysFile {
        path: keys_file.to_owned(),
        source: Box::new(source),
    })?;
    let unusable = |source| Error::KeysFile {
        path: keys_file.to_owned(),
        source,
    };
    let site = Site::new(plan, table.trim_end(), kinds).map_err(|error| match error {
        Error::Config(error) => unusable(error.into()),
        other => other,
    })?;
    // The seal is tried before anything is written. A path in its table may lead through the
    // directory.
    files::private_dir(&site.plan.dir)?;
    let made = keys::fresh(&site.config, deps).await;
    let Some((wrapped, key)) = made.map_err(|error| unusable(error.into()))? else {
        return Err(unusable("it has no table [keys] that names a seal".into()));
    };
    let domain = site.plan.trust_domain.as_str();
    let entropy = Arc::clone(&deps.entropy);
    let files = KeyFiles::sealed(domain, vec![key], PlainFiles::Refused, entropy);
    let keyring = Keyring::new(vec![wrapped]);
    let sources = (&deps.clock, &deps.entropy);
    site.build(&files, Some(&keyring), kinds, sources)
}

/// The place of an installation that is to be made.
struct Site {
    plan: Plan,
    text: String,
    config: Config,
}

impl Site {
    fn new(mut plan: Plan, keys: &str, kinds: &ProviderKinds) -> Result<Self, Error> {
        // With an absolute path, the printed commands work from any directory.
        plan.dir = std::path::absolute(&plan.dir).map_err(|source| Error::Write {
            path: plan.dir.clone(),
            source,
        })?;
        let text = configuration(&plan.trust_domain, keys, kinds);
        let config = Config::parse(&plan.dir.join(CONFIG), &text, kinds)?;
        refuse_occupied(&plan.dir)?;
        Ok(Self { plan, text, config })
    }

    fn build(
        self,
        keys: &KeyFiles,
        keyring: Option<&Keyring>,
        kinds: &ProviderKinds,
        (clock, entropy): (&Arc<dyn Clock>, &Arc<dyn Entropy>),
    ) -> Result<Installed, Error> {
        let Self { plan, text, config } = self;
        files::private_dir(&plan.dir)?;
        // Of two processes that run `init` at the same time, only one succeeds in making this
        // directory.
        create_dir(&plan.dir.join(DATA))?;
        if let Some(keyring) = keyring {
            keyring.save(&config.keyring())?;
        }
        write(plan, &text, &config, keys, kinds, (clock, entropy))
    }
}

/// Writes everything but the keyring.
fn write(
    plan: Plan,
    text: &str,
    config: &Config,
    keys: &KeyFiles,
    kinds: &ProviderKinds,
    (clock, entropy): (&Arc<dyn Clock>, &Arc<dyn Entropy>),
) -> Result<Installed, Error> {
    let dir = plan.dir.as_path();

    let authority = Authority::create(
        &config.ca_dir(),
        taskpass_ca::Deps {
            trust_domain: plan.trust_domain.clone(),
            config: config.ca()?,
            clock: Arc::clone(clock),
            entropy: Arc::clone(entropy),
            keys: keys.clone(),
        },
    )?;
    let ledger_key = SigningKey::generate_in(
        &config.ledger_origin(),
        &config.ledger_key(),
        entropy.as_ref(),
        keys,
    )?;
    let verifying = ledger_key.verifying_key().to_string();
    let key = NewKey::generate()?;
    let svid = authority.issue_operator(&plan.operator, key.public_key())?;
    // The identity is on record before its files exist.
    record(
        config,
        ledger_key,
        &first_events(&plan, &authority, &svid),
        clock.now(),
    )?;

    let vkey = format!("{verifying}\n");
    let operator = dir.join(OPERATOR);
    create_dir(&operator)?;
    write_identity(
        &operator,
        &key,
        &svid.chain_pem(),
        &authority.bundle().pem,
        &vkey,
    )?;
    let starter = starter_policy(&StarterOptions {
        admin: &plan.operator,
    });
    let policy = dir.join(POLICY);
    create_dir(&policy)?;
    files::new_file(&policy.join(&starter.name), starter.text.as_bytes())?;

    files::new_file(&config.path, text.as_bytes())?;
    let config = Config::load(&config.path, kinds)?;
    Ok(Installed {
        plan,
        operator_until: svid.not_after,
        vkey: verifying,
        config,
    })
}

/// The text of a new `taskpass.toml`, with an example of each kind of provider behind `#`.
fn configuration(trust_domain: &TrustDomain, keys: &str, kinds: &ProviderKinds) -> String {
    let mut examples = String::new();
    for kind in kinds {
        for line in kind.example().lines() {
            examples += format!("# {line}").trim_end();
            examples.push('\n');
        }
        examples.push('\n');
    }
    include_str!("init/taskpass.toml")
        .replace("{trust_domain}", trust_domain.as_str())
        .replace("{keys}", keys)
        .replace("{providers}", examples.trim_end())
}

/// Writes an identity into a new directory, in the form that `taskpass` reads.
pub(crate) fn write_identity(
    dir: &Path,
    key: &NewKey,
    chain: &str,
    bundle: &str,
    vkey: &str,
) -> Result<(), Error> {
    files::new_file(
        &dir.join("key.pem"),
        key.private_key_pem().expose().as_bytes(),
    )?;
    files::new_file(&dir.join("svid.pem"), chain.as_bytes())?;
    files::new_file(&dir.join("bundle.pem"), bundle.as_bytes())?;
    files::new_file(&dir.join("ledger.vkey"), vkey.as_bytes())
}

fn first_events(plan: &Plan, authority: &Authority, svid: &Issued) -> [Event; 2] {
    let root = authority.roots().into_iter().next();
    let root = root.map(|root| root.certificate());
    [
        Event::Initialized {
            trust_domain: plan.trust_domain.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            root,
        },
        Event::OperatorSvidIssued {
            operator: plan.operator.clone(),
            serial: svid.serial.clone(),
            key_sha256: svid.key_sha256.clone(),
            not_after: svid.not_after,
            renews: None,
            local: false,
            origin: Some(taskpass_core::SvidOrigin::Machine),
            root: svid.root,
        },
    ]
}

/// Writes the first entries of the ledger and signs them.
fn record(
    config: &Config,
    key: SigningKey,
    events: &[Event],
    time: Timestamp,
) -> Result<(), Error> {
    let entries = events
        .iter()
        .map(|event| {
            serde_json::to_vec(&Entry {
                time,
                event: event.clone(),
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let entries: Vec<&[u8]> = entries.iter().map(Vec::as_slice).collect();
    let (mut ledger, _) = Ledger::open(&config.ledger_dir(), Options::new(key))?;
    ledger.append_batch(&entries, Priority::Normal)?;
    ledger.checkpoint_now()?;
    Ok(())
}

fn refuse_occupied(dir: &Path) -> Result<(), Error> {
    // A dangling link counts as existing: its target may only be unmounted.
    let is_there = |path: &PathBuf| path.symlink_metadata().is_ok();
    let config = dir.join(CONFIG);
    if is_there(&config) {
        return Err(Error::Exists(dir.to_owned()));
    }
    let made = [
        dir.join(DATA),
        dir.join(OPERATOR),
        dir.join(POLICY),
        unfinished(&config),
    ];
    let left: Vec<String> = made
        .iter()
        .filter(|path| is_there(path))
        .map(|p| quoted(p))
        .collect();
    if left.is_empty() {
        return Ok(());
    }
    Err(Error::Unfinished {
        dir: dir.to_owned(),
        left,
    })
}

impl Installed {
    /// The configuration as it was written.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The directory with the operator's identity.
    pub fn identity_dir(&self) -> PathBuf {
        self.plan.dir.join(OPERATOR)
    }
}

/// The contents of the installation, and the next steps.
impl fmt::Display for Installed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan {
            dir,
            trust_domain,
            operator,
        } = &self.plan;
        let (config, identity) = (quoted(&self.config.path), quoted(&self.identity_dir()));
        let (until, vkey) = (self.operator_until, &self.vkey);
        let vkey_file = quoted(&self.identity_dir().join("ledger.vkey"));
        let (dir, address) = (dir.display(), self.config.listen.grpc);
        write!(
            f,
            "\
A new installation of `{trust_domain}` is in `{dir}`:

  taskpass.toml  the configuration, with examples of providers as comments
  policy/        the policies; `{operator}` may do everything that operators can do
  data/          ledger, index and keys; keep it private and back it up as one
  operator/      the identity spiffe://{trust_domain}/operator/{operator}, valid until {until};
                 `taskpass` renews it when it is used in the last third of its life. Its key.pem
                 is in plain text, also where [keys] seals the broker's keys: move it to the
                 machine of `{operator}`

Auditors verify the ledger with its public key, which is also in {vkey_file}:

  {vkey}

Start the broker:

  taskpassd run --config {config}

Then, in another terminal:

  export TASKPASS_ADDR={address} TASKPASS_IDENTITY={identity}
  taskpass agent register builder --owner you@example.com
  (umask 077; taskpass agent token builder > token)

and where the agent runs, with a directory of its own for its identity:

  taskpass login --identity ./builder --join-token-file token
  taskpass doctor --identity ./builder"
        )
    }
}
