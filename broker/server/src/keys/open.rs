//! Unwraps the data key, at the start and for commands.

use std::{path::PathBuf, sync::Arc, time::Duration};

use taskpass_ca::KeyFiles;
use taskpass_core::with_sources;
use taskpass_engine::Timer;
use taskpass_provider::{BuildError, ProviderError, Seal, SealParts};
use taskpass_seal::{DataKey, Keyring, PlainFiles, WrappedKey};

use crate::{app::Deps, config::Config, init::quoted};

/// How long a start waits for a key service that does not answer. Then the broker ends, says so,
/// and its supervisor starts it again.
const START_WAIT_MAX: Duration = Duration::from_secs(30);
/// The pause before the key service is asked again.
const START_PAUSE: Duration = Duration::from_secs(2);

/// Why the private keys of the installation cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The seal in `[keys]` cannot be set up.
    #[error("the seal in [keys] cannot be set up")]
    Build(#[source] BuildError),
    /// The keys are not sealed, and `[keys]` names a seal.
    #[error(
        "[keys] names the seal `{seal}`, and the keys in `{}` lie in plain text; run `taskpassd keys seal --config {config}`",
        dir.display()
    )]
    NotSealed {
        /// The configured seal.
        seal: String,
        /// The data directory.
        dir: PathBuf,
        /// The configuration, as an argument of a command.
        config: String,
    },
    /// The keys are sealed otherwise than `[keys]` says.
    #[error(
        "the keys in `{}` are sealed by `{found}`, and [keys] names `{configured}`; change [keys] back, or run `taskpassd keys {command} --config {config} --from OLD-FILE` with the configuration of before",
        dir.display()
    )]
    OtherSeal {
        /// The data directory.
        dir: PathBuf,
        /// The seal on the disk.
        found: String,
        /// The seal in `[keys]`.
        configured: String,
        /// The command that moves the keys.
        command: &'static str,
        /// The configuration, as an argument of a command.
        config: String,
    },
    /// The seal did not wrap or unwrap the data key.
    #[error("the seal `{seal}` did not give the data key of `{}`", dir.display())]
    Seal {
        /// The seal.
        seal: String,
        /// The data directory.
        dir: PathBuf,
        /// Why.
        #[source]
        source: ProviderError,
    },
    /// The seal gave something else than a data key.
    #[error(
        "the seal `{0}` gave something else than the data key that it had wrapped; nothing was changed"
    )]
    Unwrapped(String),
    /// A file cannot be used.
    #[error(transparent)]
    Files(#[from] taskpass_seal::Error),
}

impl KeysError {
    /// Whether trying again can help.
    const fn is_retryable(&self) -> bool {
        matches!(self, Self::Seal { source, .. } if source.is_retryable())
    }
}

/// The private keys' form as `[keys]` says, for a broker that starts: a key service may be away for
/// a moment, just as this machine was.
pub(crate) async fn open_at_start(
    config: &Config,
    deps: &Deps,
    timer: &dyn Timer,
) -> Result<KeyFiles, KeysError> {
    let until = deps.clock.monotonic() + START_WAIT_MAX;
    loop {
        match open(config, deps).await {
            Err(error) if error.is_retryable() && deps.clock.monotonic() < until => {
                let error = with_sources(&error);
                tracing::warn!(
                    error,
                    "the keys are still sealed; the start waits for the key service"
                );
                timer.sleep(START_PAUSE).await;
            }
            opened => return opened,
        }
    }
}

/// The private keys' form as `[keys]` says.
pub(crate) async fn open(config: &Config, deps: &Deps) -> Result<KeyFiles, KeysError> {
    let keyring = Keyring::load(&config.keyring())?;
    let seal = build(config, deps)?;
    let (seal, keyring) = match (seal, keyring) {
        (None, None) => return Ok(KeyFiles::plain()),
        (Some(_), None) => {
            return Err(KeysError::NotSealed {
                seal: config.keys.word().to_owned(),
                dir: config.data_dir.clone(),
                config: quoted(&config.path),
            });
        }
        (None, Some(keyring)) => return Err(other_seal(config, &keyring)),
        (Some(seal), Some(keyring)) => (seal, keyring),
    };
    let mut keys = Vec::new();
    for (index, wrapped) in keyring.keys.iter().enumerate() {
        match unwrap(config, seal.as_ref(), wrapped).await {
            Ok(key) => keys.push(key),
            // The others are of a change that was interrupted. A file under one of them says so.
            Err(_) if index > 0 => {}
            Err(_) if wrapped.seal != config.keys.word() => {
                return Err(other_seal(config, &keyring));
            }
            Err(error) => return Err(error),
        }
    }
    let entropy = Arc::clone(&deps.entropy);
    let domain = config.trust_domain.as_str();
    Ok(KeyFiles::sealed(domain, keys, PlainFiles::Refused, entropy))
}

fn other_seal(config: &Config, keyring: &Keyring) -> KeysError {
    let found = keyring.keys.first().map(|key| key.seal.clone());
    KeysError::OtherSeal {
        dir: config.data_dir.clone(),
        found: found.unwrap_or_default(),
        configured: config.keys.word().to_owned(),
        command: if config.keys.is_sealed() {
            "reseal"
        } else {
            "unseal"
        },
        config: quoted(&config.path),
    }
}

/// A new data key, wrapped by the seal of `[keys]` and unwrapped again to see that the seal gives
/// it back. `None` for keys in plain text.
pub(crate) async fn fresh(
    config: &Config,
    deps: &Deps,
) -> Result<Option<(WrappedKey, DataKey)>, KeysError> {
    let Some(seal) = build(config, deps)? else {
        return Ok(None);
    };
    let key = DataKey::generate(deps.entropy.as_ref())?;
    let context = context(config, key.id());
    let wrapped = seal.wrap(&key.to_secret(), &context).await;
    let wrapped = WrappedKey {
        id: key.id().to_owned(),
        seal: config.keys.word().to_owned(),
        wrapped: wrapped.map_err(|source| seal_failed(config, source))?,
    };
    let again = unwrap(config, seal.as_ref(), &wrapped).await?;
    if again.to_secret().expose() != key.to_secret().expose() {
        return Err(KeysError::Unwrapped(wrapped.seal));
    }
    Ok(Some((wrapped, key)))
}

/// The seal of `[keys]`; `None` for keys in plain text.
pub(super) fn build(config: &Config, deps: &Deps) -> Result<Option<Arc<dyn Seal>>, KeysError> {
    let parts = |base_dir| SealParts {
        base_dir,
        credentials: deps.credentials.clone(),
        clock: Arc::clone(&deps.clock),
        entropy: Arc::clone(&deps.entropy),
    };
    config.keys.build(parts).map_err(KeysError::Build)
}

/// Unwraps one data key with the seal of `[keys]`.
pub(super) async fn unwrap(
    config: &Config,
    seal: &dyn Seal,
    wrapped: &WrappedKey,
) -> Result<DataKey, KeysError> {
    if wrapped.seal != config.keys.word() {
        let why = format!("it was wrapped by `{}`", wrapped.seal);
        return Err(seal_failed(config, ProviderError::Misconfigured(why)));
    }
    let context = context(config, &wrapped.id);
    let secret = seal.unwrap(&wrapped.wrapped, &context).await;
    let secret = secret.map_err(|source| seal_failed(config, source))?;
    DataKey::from_secret(&wrapped.id, &secret)
        .ok_or_else(|| KeysError::Unwrapped(wrapped.seal.clone()))
}

/// A wrapped key of another installation, or one under another name, does not unwrap.
fn context(config: &Config, id: &str) -> String {
    format!("{} {id}", config.trust_domain)
}

fn seal_failed(config: &Config, source: ProviderError) -> KeysError {
    KeysError::Seal {
        seal: config.keys.word().to_owned(),
        dir: config.data_dir.clone(),
        source,
    }
}
