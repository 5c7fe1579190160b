//! The configuration: `taskpass.toml`, read, checked and explained.
//!
//! One file for each section in `config/`; a section's declaration is its struct, its reader and its reference at
//! once. Every complaint has file, line and column, and as many as possible are found in one reading. No value of a
//! key is a secret: secrets are named by the files they are in. Nothing here opens those files or calls a provider;
//! `check` looks at more than the file itself, for `taskpassd config check`.

mod aws_keys;
pub mod check;
mod credentials;
mod identity;
mod limits;
mod listen;
mod log;
mod nearest;
mod policy;
mod provider;
mod provider_calls;
mod provider_keys;
mod reader;
pub mod reference;
mod section;
mod settings;
mod tasks;
mod value;
mod vault_keys;

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

use taskpass_core::{AgentName, TrustDomain, Ttl, sha256_hex};
use toml::de::DeTable;

pub use self::{
    credentials::Credentials,
    identity::Identity,
    limits::Limits,
    listen::Listen,
    log::{Log, LogFilter, LogFormat},
    policy::Policy,
    provider::{ProviderConfig, ProviderKind},
    provider_calls::ProviderCalls,
    reader::Problem,
    tasks::Tasks,
};
use self::{
    reader::{Reader, Table},
    section::{Key, Section},
    value::Value,
};

/// Nobody writes as much; a larger file is something else.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
const DATA_DIR: &str = "data";

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
        /// What it is instead.
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
    /// `[limits]`
    pub limits: Limits,
    /// `[tasks]`
    pub tasks: Tasks,
    /// `[credentials]`
    pub credentials: Credentials,
    /// `[provider_calls]`
    pub provider_calls: ProviderCalls,
    /// `[log]`
    pub log: Log,
    /// Every `[[provider]]`, in the order of the file.
    pub providers: Vec<ProviderConfig>,
    sha256: String,
}

impl Config {
    /// Reads and checks the file. Paths in it are relative to the directory it is in.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(path, &read_text(path)?)
    }

    /// The same from a text already read; `path` is the file it stands in.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let shown = path.display().to_string();
        let mut reader = Reader::new(&shown, text, homes());
        let (document, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            // What was recovered would give rise to complaints that are not true.
            for error in errors {
                let offset = error.span().map_or(text.len(), |span| span.start);
                reader.complain(offset, format!("this is not TOML: {}", error.message()));
            }
            return Err(ConfigError::Invalid(reader.into_problems()));
        }
        let top = Table {
            name: String::new(),
            offset: 0,
            entries: document.get_ref(),
        };
        match read(&mut reader, &top, path) {
            Some(mut config) if reader.is_content() => {
                config.sha256 = sha256_hex(text.as_bytes());
                Ok(config)
            }
            _ => Err(ConfigError::Invalid(reader.into_problems())),
        }
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

    /// The key that signs the ledger's checkpoints.
    pub fn ledger_key(&self) -> PathBuf {
        self.data_dir.join("ledger.key")
    }

    /// The directory of the index, which is built again from the ledger when it is missing.
    pub fn index_dir(&self) -> PathBuf {
        self.data_dir.join("index")
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

/// Reads everything, so that every complaint is gathered; `None` only when a key without default is missing.
fn read(reader: &mut Reader<'_>, top: &Table<'_>, path: &Path) -> Option<Config> {
    let tables = sections().into_iter().map(|(table, ..)| table);
    let known: Vec<&'static str> = top_keys()
        .iter()
        .map(|key| key.name)
        .chain(tables)
        .chain([provider::TABLE])
        .collect();
    reader.known_keys(top, &known);
    let base = base_dir(path);
    let trust_domain = reader.required(top, "trust_domain");
    let data_dir = reader
        .value(top, "data_dir", None)
        .unwrap_or_else(|| PathBuf::from(DATA_DIR));
    let mut config = Config {
        path: std::path::absolute(path).unwrap_or_else(|_unknown| path.to_owned()),
        trust_domain: trust_domain.clone().or_else(|| "invalid".parse().ok())?,
        data_dir: base.join(data_dir),
        listen: section(reader, top),
        identity: section(reader, top),
        policy: section(reader, top),
        limits: section(reader, top),
        tasks: section(reader, top),
        credentials: section(reader, top),
        provider_calls: section(reader, top),
        log: section(reader, top),
        providers: provider::read(reader, top, &base),
        sha256: String::new(),
    };
    config.policy.dir = base.join(&config.policy.dir);
    compare(reader, top, &config);
    trust_domain.map(|_present| config)
}

fn section<S: Section>(reader: &mut Reader<'_>, top: &Table<'_>) -> S {
    let table = reader.table(top, S::TABLE);
    S::read(reader, table.as_ref())
}

/// What must fit together across keys.
fn compare(reader: &mut Reader<'_>, top: &Table<'_>, config: &Config) {
    let (tasks, credentials) = (&config.tasks, &config.credentials);
    if tasks.ttl_default > tasks.ttl_max {
        let (default, max) = (tasks.ttl_default.show(), tasks.ttl_max.show());
        let message = format!("`ttl_default` in [tasks] is {default}, more than `ttl_max`, {max}");
        reader.complain(
            offset_of(top, Tasks::TABLE, "ttl_default", "ttl_max"),
            message,
        );
    }
    if credentials.revoke_wait_default > credentials.revoke_wait_max {
        let (default, max) = (
            credentials.revoke_wait_default.show(),
            credentials.revoke_wait_max.show(),
        );
        let message = format!(
            "`revoke_wait_default` in [credentials] is {default}, more than `revoke_wait_max`, {max}"
        );
        let keys = ("revoke_wait_default", "revoke_wait_max");
        reader.complain(offset_of(top, Credentials::TABLE, keys.0, keys.1), message);
    }
    if let Err(e) = config.ca() {
        let offset = offset_of(top, Identity::TABLE, "svid_ttl", "ca_ttl");
        reader.complain(
            offset,
            format!("the lifetimes in [identity] do not fit: {e}"),
        );
    }
}

/// Where `key` of `[table]` stands, or else `other`, which is then the one that was written.
fn offset_of(top: &Table<'_>, table: &str, key: &str, other: &str) -> usize {
    let found = top.entries.get(table);
    let entry = |key| Some(found?.get_ref().as_table()?.get(key)?.span().start);
    entry(key).or_else(|| entry(other)).unwrap_or(0)
}

/// The directory that relative paths begin at.
fn base_dir(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_unknown| path.to_owned());
    path.parent()
        .map_or_else(|| PathBuf::from("."), Path::to_owned)
}

/// The keys at the top level, outside of every table.
fn top_keys() -> [Key; 2] {
    [
        Key {
            name: "trust_domain",
            doc: &[
                " The SPIFFE trust domain. It is in every identity, `spiffe://<trust domain>/agent/…`, and cannot be",
                " changed later.",
            ],
            expects: TrustDomain::EXPECTS,
            default: None,
            range: None,
        },
        Key {
            name: "data_dir",
            doc: &[
                " Where the ledger, the index and the keys of the certificate authority are, relative to this file.",
                " Mode 0700. Back it up as one.",
            ],
            expects: PathBuf::EXPECTS,
            default: Some(PathBuf::from(DATA_DIR).show()),
            range: None,
        },
    ]
}

/// Calls `$then!` with every section, in the order of the reference.
macro_rules! sections {
    ($then:ident) => {
        $then!(
            Listen,
            Identity,
            Policy,
            Limits,
            Tasks,
            Credentials,
            ProviderCalls,
            Log
        )
    };
}

/// The keys of every section with the section's name and text.
fn sections() -> Vec<(&'static str, &'static [&'static str], Vec<Key>)> {
    macro_rules! rows {
        ($($section:ident),*) => {
            vec![$(($section::TABLE, $section::DOC, $section::keys())),*]
        };
    }
    sections!(rows)
}

/// Every key with the table it belongs into, as it is written.
fn homes() -> Vec<(&'static str, &'static str)> {
    let mut homes: Vec<_> = top_keys().iter().map(|key| (key.name, "")).collect();
    for (table, _, keys) in sections() {
        // A name lives as long as the program, and there are eight of them.
        homes.extend(keys.into_iter().map(|key| (key.name, table)));
    }
    homes
}

/// A lifetime for a default or a bound. INVARIANT: only called with numbers between one second and 366 days.
fn lifetime(seconds: u64) -> Ttl {
    Ttl::from_seconds(seconds).unwrap_or(Ttl::MAX)
}

/// The default of `node`.
fn node_name() -> AgentName {
    #[expect(clippy::expect_used, reason = "a constant that a test reads")]
    "broker".parse().expect("a short name")
}

#[cfg(test)]
mod tests;
