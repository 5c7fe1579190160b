//! The broker's own seals: a passphrase in a file, or in a credential of systemd.
//!
//! No passphrase stands in an argument or a variable of the environment, which other processes of
//! the machine can read.

use std::{
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use taskpass_core::{Entropy, Secret, with_sources};
use taskpass_provider::{
    BuildError, Finding, ProviderError, Seal, SealConfiguration, SealParts, config::SecretFile,
};
use taskpass_seal::{
    PASSPHRASE_BYTES_MAX, read_private, unwrap_with_passphrase, wrap_with_passphrase,
};

/// A passphrase in a file. Keep the file on another volume than `data_dir`, and out of its backups.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PassphraseFile {
    /// The kind of seal.
    #[expect(dead_code, reason = "the schema checks it")]
    seal: PassphraseWord,
    /// The file of mode 0600 with the passphrase, of at least 16 bytes on one line. Write it with
    /// `openssl rand -base64 32`. It must not be in `data_dir`.
    passphrase_file: SecretFile,
}

/// The word behind `seal`.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum PassphraseWord {
    /// A passphrase in a file.
    PassphraseFile,
}

/// A passphrase that systemd hands over: `LoadCredentialEncrypted=` in the unit takes it from a
/// file that `systemd-creds` has sealed to this machine's TPM or to its host key.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SystemdCredential {
    /// The kind of seal.
    #[expect(dead_code, reason = "the schema checks it")]
    seal: CredentialWord,
    /// The name of the credential in the unit, such as `taskpass-keys`. It holds a passphrase of at
    /// least 16 bytes.
    credential: String,
}

/// The word behind `seal`.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum CredentialWord {
    /// A credential of systemd.
    SystemdCredential,
}

impl SealConfiguration for PassphraseFile {
    const WORD: &'static str = "passphrase_file";

    fn findings(&self) -> Vec<Finding> {
        Vec::new()
    }

    fn build(&self, parts: &SealParts) -> Result<Arc<dyn Seal>, BuildError> {
        Ok(Arc::new(Passphrase {
            source: Source::File(parts.base_dir.join(&self.passphrase_file)),
            entropy: Arc::clone(&parts.entropy),
        }))
    }
}

impl SealConfiguration for SystemdCredential {
    const WORD: &'static str = "systemd_credential";

    fn findings(&self) -> Vec<Finding> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let name = self.credential.as_str();
        if name.is_empty() || name.starts_with('.') || !name.chars().all(is_name) {
            let message = "`credential` must be the name of a credential in the unit";
            return vec![Finding::new("/credential", message)];
        }
        Vec::new()
    }

    fn build(&self, parts: &SealParts) -> Result<Arc<dyn Seal>, BuildError> {
        Ok(Arc::new(Passphrase {
            source: Source::Credential {
                name: self.credential.clone(),
                dir: parts.credentials.clone(),
            },
            entropy: Arc::clone(&parts.entropy),
        }))
    }
}

/// Where the passphrase is; it is read for each use and not kept.
#[derive(Debug)]
enum Source {
    File(PathBuf),
    Credential { name: String, dir: Option<PathBuf> },
}

#[derive(Debug)]
struct Passphrase {
    source: Source,
    entropy: Arc<dyn Entropy>,
}

#[async_trait]
impl Seal for Passphrase {
    async fn wrap(&self, key: &Secret, context: &str) -> Result<String, ProviderError> {
        let passphrase = self.source.read()?;
        wrap_with_passphrase(&passphrase, key, context, self.entropy.as_ref())
            .map_err(|error| self.source.of(&error))
    }

    async fn unwrap(&self, wrapped: &str, context: &str) -> Result<Secret, ProviderError> {
        let passphrase = self.source.read()?;
        unwrap_with_passphrase(&passphrase, wrapped, context)
            .map_err(|error| self.source.of(&error))
    }
}

impl Source {
    fn read(&self) -> Result<Secret, ProviderError> {
        let text = match self {
            Self::File(path) => {
                let content = read_private(path).map_err(|error| {
                    // The message names the file.
                    let why = with_sources(&error);
                    ProviderError::Misconfigured(format!("the passphrase cannot be read: {why}"))
                })?;
                String::from_utf8(content.to_vec()).ok().map(Secret::new)
            }
            Self::Credential { name, dir } => {
                let Some(dir) = dir else {
                    return Err(ProviderError::Misconfigured(format!(
                        "the credential `{name}` is not there, since no CREDENTIALS_DIRECTORY is set; let systemd start the broker, and run other commands of taskpassd with \
                         `systemd-run --pipe --wait -p User=taskpass -p LoadCredentialEncrypted={name}:FILE taskpassd …`"
                    )));
                };
                let read = read_credential(&dir.join(name));
                Some(read.map_err(|why| {
                    ProviderError::Misconfigured(format!("the credential `{name}` {why}"))
                })?)
            }
        };
        let text = text.ok_or_else(|| {
            ProviderError::Misconfigured(format!("the passphrase of {self} is not text"))
        })?;
        let line = text.expose();
        let line = line.strip_suffix('\n').unwrap_or(line);
        Ok(Secret::new(line.to_owned()))
    }

    /// An error about this passphrase.
    fn of(&self, error: &taskpass_seal::Error) -> ProviderError {
        ProviderError::Misconfigured(format!("{self}: {}", with_sources(error)))
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "`{}`", path.display()),
            Self::Credential { name, .. } => write!(f, "the credential `{name}`"),
        }
    }
}

/// systemd lets the service's user read the file by an access list, which shows as bits of the
/// group.
fn read_credential(path: &Path) -> Result<Secret, String> {
    let unreadable = |error: io::Error| format!("cannot be read: {error}");
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o7777;
    if mode & 0o007 != 0 {
        return Err(format!("is open to all users (mode {mode:04o})"));
    }
    let mut text = String::with_capacity(PASSPHRASE_BYTES_MAX + 2);
    let read = file
        .take(PASSPHRASE_BYTES_MAX as u64 + 2)
        .read_to_string(&mut text);
    let text = Secret::new(text);
    read.map_err(unreadable)?;
    Ok(text)
}
