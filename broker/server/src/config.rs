//! The configuration: `taskpass.toml`, read, checked and explained.
//!
//! Every part of the broker declares the keys it takes, and every provider its own; `schema` puts
//! them together, and `taskpass_config` compares the file with the whole. Every complaint has file,
//! line and column, and one reading finds all of them. No value of a key is a secret: a key names
//! the file of a secret. Nothing here opens a secret's file or calls a provider; `check` also reads
//! other files, for `taskpassd config check`.

mod change;
pub mod check;
mod keys;
mod ledger;
mod listen;
mod log;
mod provider;
pub mod reference;
mod schema;
mod sections;

use std::{
    collections::BTreeMap,
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
pub use taskpass_config::Problem;
use taskpass_config::{Complaints, Document, Section, Setting as _};
use taskpass_core::{TrustDomain, sha256_hex};
use taskpass_engine::{Credentials, Settings, Tasks};
use taskpass_provider::ProviderKinds;

use self::sections::DATA_DIR;
use crate::transport;

pub use self::{
    change::Difference,
    keys::{KeysConfig, PLAIN},
    ledger::{Archive, Keep},
    listen::MetricsListen,
    log::{Log, LogFilter, LogFormat},
    provider::ProviderConfig,
    schema::schema,
    sections::{Identity, Ledger, Listen, Policy},
};

/// No configuration is as long; a larger file is not a configuration.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// The life of the root certificate, used when an installation is made.
const ROOT_TTL: Duration = Duration::from_secs(3650 * 86_400);

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration `{}`; `taskpassd init` writes one", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not text, or far too large.
    #[error("`{}` is not a configuration: {why}", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// The reason why it is none.
        why: &'static str,
    },
    /// The file is wrong. The message is the first complaint and how many others there are.
    #[error("{}", summary(.0))]
    Invalid(Vec<Problem>),
}

/// The whole configuration of one broker. All paths are absolute.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it was read from.
    pub path: PathBuf,
    /// The SPIFFE trust domain.
    pub trust_domain: TrustDomain,
    /// Where ledger, index and keys are.
    pub data_dir: PathBuf,
    /// `[listen]`
    pub listen: Listen,
    /// `[identity]`
    pub identity: Identity,
    /// `[policy]`
    pub policy: Policy,
    /// `[ledger]`
    pub ledger: Ledger,
    /// The transport's part of `[limits]`.
    pub limits: transport::Limits,
    /// `[tasks]`, `[credentials]`, `[provider_calls]` and the engine's part of `[limits]`.
    pub engine: Settings,
    /// `[log]`
    pub log: Log,
    /// `[keys]`
    pub keys: KeysConfig,
    /// Every `[[provider]]`, in the order of the file.
    pub providers: Vec<ProviderConfig>,
    /// Every key outside of providers with its value, as the file has it; the program may have
    /// adapted a field since.
    values: BTreeMap<String, Value>,
    sha256: String,
}

impl Config {
    /// Reads and checks the file, with providers of these kinds. Paths in it are relative to the
    /// directory it is in.
    pub fn load(path: &Path, kinds: &ProviderKinds) -> Result<Self, ConfigError> {
        Self::parse(path, &read_text(path)?, kinds)
    }

    /// Reads and checks the same file again, for a broker that runs with `self`. A key that cannot
    /// change while the broker runs must have the value it has.
    pub fn load_again(&self, kinds: &ProviderKinds) -> Result<Self, ConfigError> {
        Self::parse_beside(&self.path, &read_text(&self.path)?, kinds, Some(self))
    }

    /// The same from a text already read; `path` is the file it stands in.
    pub fn parse(path: &Path, text: &str, kinds: &ProviderKinds) -> Result<Self, ConfigError> {
        Self::parse_beside(path, text, kinds, None)
    }

    fn parse_beside(
        path: &Path,
        text: &str,
        kinds: &ProviderKinds,
        in_force: Option<&Self>,
    ) -> Result<Self, ConfigError> {
        let shown = path.display().to_string();
        let mut complaints = Complaints::new(&shown, text);
        let config = Document::parse(text, &mut complaints).and_then(|document| {
            let config = read(&document, kinds, path, &mut complaints)?;
            if let Some(in_force) = in_force {
                change::refuse_fixed(&document, &in_force.values, &config.values, &mut complaints);
            }
            Some(config)
        });
        match config {
            Some(mut config) if complaints.count() == 0 => {
                config.sha256 = sha256_hex(text.as_bytes());
                Ok(config)
            }
            _ => Err(ConfigError::Invalid(complaints.into_problems())),
        }
    }

    /// The keys outside of providers that have other values in `next`.
    pub fn differences(&self, next: &Self) -> Vec<Difference> {
        change::differences(&self.values, &next.values)
    }

    /// The data directory that a file names, even if the file is wrong. A command has to find the
    /// broker that runs with the file as it was before.
    pub fn data_dir_of(path: &Path) -> PathBuf {
        let text = read_text(path).unwrap_or_default();
        data_dir(&base_of(path), &Document::recover(&text).to_json())
    }

    /// Lifetimes of the certificate authority; fails when they do not fit together.
    pub fn ca(&self) -> Result<taskpass_ca::Config, taskpass_ca::Error> {
        let Identity {
            svid_ttl,
            ca_ttl,
            operator_svid_ttl,
            ..
        } = &self.identity;
        let config = taskpass_ca::Config::new(*svid_ttl, *ca_ttl, ROOT_TTL)?;
        Ok(config.with_operator_ttl(*operator_svid_ttl))
    }

    /// The name under which the ledger's checkpoints are signed (C2SP tlog-checkpoint, origin).
    pub fn ledger_origin(&self) -> String {
        format!("taskpass/{}", self.trust_domain)
    }

    /// SHA-256 of the file, in hex, as the ledger names it.
    pub fn config_sha256(&self) -> &str {
        &self.sha256
    }

    /// The directory with the keys of the certificate authority.
    pub fn ca_dir(&self) -> PathBuf {
        self.data_dir.join("ca")
    }

    /// The directory of the ledger.
    pub fn ledger_dir(&self) -> PathBuf {
        self.data_dir.join("ledger")
    }

    /// The wrapped data key that the private keys are sealed with; absent when they lie in plain
    /// text.
    pub fn keyring(&self) -> PathBuf {
        self.data_dir.join("seal.json")
    }

    /// The key that signs the ledger's checkpoints.
    pub fn ledger_key(&self) -> PathBuf {
        self.data_dir.join("ledger.key")
    }
}

fn read_text(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let not_text = |why| ConfigError::NotText {
        path: path.to_owned(),
        why,
    };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(not_text("it is larger than 1 MiB"));
    }
    String::from_utf8(bytes).map_err(|_invalid| not_text("it is not UTF-8 text"))
}

fn summary(problems: &[Problem]) -> String {
    match problems {
        [] => "the configuration is wrong".to_owned(),
        [only] => only.to_string(),
        [first, others @ ..] => format!(
            "{first} (and {} more: run `taskpassd config check`)",
            others.len()
        ),
    }
}

/// Reads everything, so that every complaint is gathered; `None` only when a key without default is
/// missing or wrong.
fn read(
    document: &Document<'_>,
    kinds: &ProviderKinds,
    path: &Path,
    complaints: &mut Complaints<'_>,
) -> Option<Config> {
    document.check(&schema(kinds), complaints);
    let file = document.to_json();
    let path = std::path::absolute(path).unwrap_or_else(|_unknown| path.to_owned());
    let base = base_of(&path);
    let providers = provider::read(document, &file, kinds, &base, complaints);
    let keys = keys::read(document, &file, kinds, base.clone(), complaints);
    let mut sections = Sections {
        document,
        file: &file,
        complaints,
        values: change::top_level(&file),
    };
    let mut config = Config {
        data_dir: data_dir(&base, &file),
        listen: sections.read(),
        identity: sections.read(),
        policy: sections.read(),
        ledger: sections.read(),
        limits: sections.read(),
        engine: Settings {
            agents: sections.read(),
            tasks: sections.read(),
            credentials: sections.read(),
            requests: sections.read(),
            budgets: sections.read(),
            provider: sections.read(),
        },
        log: sections.read(),
        keys,
        // A wrong trust domain has its complaint already; another one takes its place, so that the
        // rest can be checked.
        trust_domain: trust_domain(&file).or_else(|| "invalid".parse().ok())?,
        values: BTreeMap::new(),
        sha256: String::new(),
        providers,
        path,
    };
    config.values = sections.values;
    config
        .values
        .insert(keys::TABLE.to_owned(), config.keys.value());
    config.policy.dir = base.join(&config.policy.dir);
    config.ledger.archive = config.ledger.archive.below(&base);
    compare(document, &config, complaints);
    trust_domain(&file).map(|_right| config)
}

/// The directory at which relative paths in a file begin.
fn base_of(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_unknown| path.to_owned());
    path.parent().unwrap_or_else(|| Path::new(".")).to_owned()
}

fn data_dir(base: &Path, file: &Value) -> PathBuf {
    let named = file.get("data_dir").and_then(Value::as_str);
    base.join(named.unwrap_or(DATA_DIR))
}

fn trust_domain(file: &Value) -> Option<TrustDomain> {
    TrustDomain::read(file.get("trust_domain")?).ok()
}

/// A document that was compared with the schema, to read sections of.
struct Sections<'r, 't, 'c> {
    document: &'r Document<'t>,
    file: &'r Value,
    complaints: &'r mut Complaints<'c>,
    /// The values read so far, as `table.key`.
    values: BTreeMap<String, Value>,
}

impl Sections<'_, '_, '_> {
    fn read<S: Section>(&mut self) -> S {
        let section = S::read(self.file.get(S::TABLE), &mut |key, message| {
            let offset = self.document.place(&format!("/{}/{key}", S::TABLE));
            // The comparison with the schema may have said it.
            if !self.complaints.has(offset) {
                self.complaints
                    .add(offset, format!("`{key}` in [{}] {message}", S::TABLE));
            }
        });
        let values = section.values().into_iter();
        self.values
            .extend(values.map(|(key, value)| (format!("{}.{key}", S::TABLE), value)));
        section
    }
}

/// Checks that keys fit together.
fn compare(document: &Document<'_>, config: &Config, complaints: &mut Complaints<'_>) {
    let (tasks, credentials) = (&config.engine.tasks, &config.engine.credentials);
    // Where `key` stands. If it is left out, `other` was written and is too small or too large.
    let place = |table: &str, key: &str, other: &str| {
        let at = |key| document.find(&format!("/{table}/{key}"));
        at(key).or_else(|| at(other)).unwrap_or(0)
    };
    if tasks.ttl_default > tasks.ttl_max {
        let (default, max) = (tasks.ttl_default.write(), tasks.ttl_max.write());
        complaints.add(
            place(Tasks::TABLE, "ttl_default", "ttl_max"),
            format!("`ttl_default` in [tasks] is {default}, more than `ttl_max`, {max}"),
        );
    }
    if credentials.revoke_wait_default > credentials.revoke_wait_max {
        let default = credentials.revoke_wait_default.write();
        let max = credentials.revoke_wait_max.write();
        complaints.add(
            place(Credentials::TABLE, "revoke_wait_default", "revoke_wait_max"),
            format!(
                "`revoke_wait_default` in [credentials] is {default}, more than `revoke_wait_max`, {max}"
            ),
        );
    }
    for file in config.keys.secret_files() {
        if file.starts_with(&config.data_dir) {
            complaints.add(
                document.place(&format!("/{}", keys::TABLE)),
                format!(
                    "`{}` in [keys] is inside of `data_dir`, so that every copy of the sealed keys would have the secret along with them; put it elsewhere",
                    file.display()
                ),
            );
        }
    }
    if let (Some(_), None) = config.ledger.kept() {
        complaints.add(
            place(Ledger::TABLE, "keep", "archive"),
            "`keep` in [ledger] needs `archive`, the directory that older segments go to"
                .to_owned(),
        );
    }
    if let Err(e) = config.ca() {
        complaints.add(
            place(Identity::TABLE, "svid_ttl", "ca_ttl"),
            format!("the lifetimes in [identity] do not fit: {e}"),
        );
    }
}

#[cfg(test)]
mod tests;
