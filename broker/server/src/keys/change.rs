//! `taskpassd keys seal`, `reseal` and `unseal`: moves the private keys from one form to another,
//! on the broker's machine while no broker runs.
//!
//! At any moment the files can be read with the keyring on the disk. The new data key is in
//! `seal.json` before the first file is sealed with it, and the old one is there until the last
//! file has left it. After a crash, the same command goes on where it was.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Serialize;
use taskpass_ca::KeyFiles;
use taskpass_core::Event;
use taskpass_ledger::disk::SystemDisk;
use taskpass_seal::{
    DataKey, Keyring, PlainFiles, Rewritten, WrappedKey, erase_leftovers, rewrite,
};
use taskpass_store::{Batch, CommitError, Store as _, StoreError};

use super::{
    KeysError, key_files,
    open::{build, fresh, unwrap},
};
use crate::{
    app::{self, Deps},
    clock,
    config::{Config, PLAIN},
    init::quoted,
    operator::{self, check_user, open_failed, require_sane_clock},
};

/// The move to make.
#[derive(Debug, Clone)]
pub enum Change {
    /// From plain text to the seal in `[keys]`.
    Seal,
    /// To a new data key, by the seal in `[keys]`. `from` is the configuration with the seal of
    /// before, if it was another one.
    Reseal {
        /// The earlier configuration.
        from: Option<Box<Config>>,
    },
    /// To plain text. `from` is the configuration with the seal, if `[keys]` has none any more.
    Unseal {
        /// The earlier configuration.
        from: Option<Box<Config>>,
    },
}

/// A move of an installation's keys.
#[derive(Debug, Clone)]
pub struct Request {
    /// The installation.
    pub config: Config,
    /// The move.
    pub change: Change,
    /// The effective user id of this process.
    pub user: u32,
}

/// Why the keys were not moved, or not all of them.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `[keys]` names no seal.
    #[error(
        "[keys] in `{}` names no seal; name one (`taskpassd config reference` has them all), and run this again",
        .0.display()
    )]
    NoSeal(PathBuf),
    /// The keys are not sealed.
    #[error("the keys in `{}` are not sealed; run `taskpassd keys seal --config {config}`", dir.display())]
    NotSealed {
        /// The data directory.
        dir: PathBuf,
        /// The configuration, as an argument of a command.
        config: String,
    },
    /// No configuration that was given opens the present seal.
    #[error(
        "the present seal `{seal}` does not open; give the configuration that it opens with as `--from FILE`"
    )]
    Present {
        /// The present seal.
        seal: String,
        /// Why.
        #[source]
        source: Box<KeysError>,
    },
    /// The seal cannot be used.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The installation did not open.
    #[error(transparent)]
    Open(#[from] operator::Error),
    /// The move is not on record, so it was not begun.
    #[error("the change could not be recorded, and nothing is changed")]
    Record(#[source] CommitError),
    /// The ledger was not closed in good order.
    #[error("the keys are moved, but closing the store failed; the next start checks the files")]
    Close(#[source] StoreError),
    /// A file was not moved.
    #[error("not every key is moved; each one can still be read: run this again")]
    Unfinished(#[source] taskpass_seal::Error),
}

/// The keys after a move.
#[derive(Debug, Clone, Serialize)]
pub struct Changed {
    /// The seal before, or `plain`.
    pub previous: String,
    /// The seal now, or `plain`.
    pub seal: String,
    /// The files that were rewritten.
    pub rewritten: Vec<PathBuf>,
    /// The files that had the new form already.
    pub unchanged: Vec<PathBuf>,
    /// The ledger entry that records it.
    pub ledger_index: u64,
    #[serde(skip)]
    config: PathBuf,
}

/// The way from the files on the disk to the wanted files.
struct Plan {
    previous: String,
    seal: String,
    /// Reads every file, whatever its form.
    from: KeyFiles,
    to: KeyFiles,
    /// The keyring until the last file is moved.
    between: Keyring,
    /// The keyring afterwards.
    after: Option<Keyring>,
}

/// Moves the keys. Takes the locks that a running broker holds.
pub async fn change(request: Request, deps: &Deps) -> Result<Changed, Error> {
    let Request {
        config,
        change,
        user,
    } = request;
    check_user(&config.data_dir, user)?;
    let plan = plan(&config, &change, deps).await?;
    let deps = &Deps {
        clock: clock::trusted(&config.data_dir, Arc::clone(&deps.clock)),
        ..deps.clone()
    };
    let authority = app::open_authority(&config, deps, &plan.from);
    let _locked = authority.map_err(|e| open_failed(e, &config))?;
    let opened = app::open_store(&config, deps, Arc::new(SystemDisk), &plan.from).await;
    let store = opened.map_err(|e| open_failed(e, &config))?.store;
    require_sane_clock(deps.clock.as_ref(), store.last_time(), &config)?;
    // The entry comes first: a key must not leave its seal without a trace.
    let event = Event::KeysSealed {
        previous: plan.previous.clone(),
        seal: plan.seal.clone(),
    };
    let recorded = store.commit(Batch::reserved([event])).await;
    let ledger_index = recorded.map_err(Error::Record)?.first_index;
    let moved = move_files(&config, &plan).map_err(Error::Unfinished);
    let closed = store.close().await;
    let (rewritten, unchanged) = moved?;
    closed.map_err(Error::Close)?;
    Ok(Changed {
        previous: plan.previous,
        seal: plan.seal,
        rewritten,
        unchanged,
        ledger_index,
        config: config.path,
    })
}

async fn plan(config: &Config, change: &Change, deps: &Deps) -> Result<Plan, Error> {
    let keyring = Keyring::load(&config.keyring()).map_err(KeysError::from)?;
    let domain = config.trust_domain.as_str();
    let sealed = |keys: Vec<DataKey>, plain| {
        KeyFiles::sealed(domain, keys, plain, Arc::clone(&deps.entropy))
    };
    let earlier = match change {
        Change::Seal => None,
        Change::Reseal { from } | Change::Unseal { from } => from.as_deref(),
    };
    if !config.keys.is_sealed() && !matches!(change, Change::Unseal { .. }) {
        return Err(Error::NoSeal(config.path.clone()));
    }
    let Some(keyring) = keyring else {
        return match change {
            Change::Seal => first_plan(config, deps).await,
            Change::Reseal { .. } | Change::Unseal { .. } => Err(Error::NotSealed {
                dir: config.data_dir.clone(),
                config: quoted(&config.path),
            }),
        };
    };
    let (mut opened, opened_by) = open_all(config, earlier, &keyring, deps).await?;
    let previous = keyring.keys.last().map(|key| key.seal.clone());
    let previous = previous.unwrap_or_default();
    let read = |opened: &[DataKey]| {
        let keys = opened.iter().map(DataKey::duplicate).collect();
        sealed(keys, PlainFiles::Accepted)
    };
    if matches!(change, Change::Unseal { .. }) {
        return Ok(Plan {
            previous,
            seal: PLAIN.to_owned(),
            from: read(&opened),
            to: KeyFiles::plain(),
            between: keyring,
            after: None,
        });
    }
    // Two data keys are there after a change that was interrupted. It goes on now if the newer one
    // is by the seal of `[keys]`.
    let goes_on = keyring.keys.len() > 1 && opened_by == OpenedBy::Configured;
    let between = if matches!(change, Change::Seal) || goes_on {
        keyring
    } else {
        let (wrapped, key) = new_key(config, deps).await?;
        opened.insert(0, key);
        Keyring::new(std::iter::once(wrapped).chain(keyring.keys).collect())
    };
    let newest = between.keys.first().cloned().into_iter().collect();
    let target = opened.first().map(DataKey::duplicate).into_iter().collect();
    Ok(Plan {
        previous,
        seal: config.keys.word().to_owned(),
        from: read(&opened),
        to: sealed(target, PlainFiles::Refused),
        between,
        after: Some(Keyring::new(newest)),
    })
}

/// From plain text to the first seal.
async fn first_plan(config: &Config, deps: &Deps) -> Result<Plan, Error> {
    let (wrapped, key) = new_key(config, deps).await?;
    let sealed = |key, plain| {
        let entropy = Arc::clone(&deps.entropy);
        KeyFiles::sealed(config.trust_domain.as_str(), vec![key], plain, entropy)
    };
    let keyring = Keyring::new(vec![wrapped]);
    Ok(Plan {
        previous: PLAIN.to_owned(),
        seal: config.keys.word().to_owned(),
        from: sealed(key.duplicate(), PlainFiles::Accepted),
        to: sealed(key, PlainFiles::Refused),
        between: keyring.clone(),
        after: Some(keyring),
    })
}

async fn new_key(config: &Config, deps: &Deps) -> Result<(WrappedKey, DataKey), Error> {
    let made = fresh(config, deps).await?;
    made.ok_or_else(|| Error::NoSeal(config.path.clone()))
}

/// The seal that opened the newest data key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OpenedBy {
    /// The one in `[keys]`.
    Configured,
    /// The one in the earlier configuration.
    Earlier,
}

/// The data keys that the present seal and the earlier one open. The newest one must be among them.
async fn open_all(
    config: &Config,
    earlier: Option<&Config>,
    keyring: &Keyring,
    deps: &Deps,
) -> Result<(Vec<DataKey>, OpenedBy), Error> {
    let mut opened = Vec::new();
    let mut newest_by = OpenedBy::Configured;
    for (index, wrapped) in keyring.keys.iter().enumerate() {
        match open_one(config, earlier, wrapped, deps).await {
            Ok((key, by)) => {
                opened.push(key);
                if index == 0 {
                    newest_by = by;
                }
            }
            Err(source) if index == 0 => {
                return Err(Error::Present {
                    seal: wrapped.seal.clone(),
                    source: Box::new(source),
                });
            }
            // A file under this key says so when it is read.
            Err(_) => {}
        }
    }
    Ok((opened, newest_by))
}

async fn open_one(
    config: &Config,
    earlier: Option<&Config>,
    wrapped: &WrappedKey,
    deps: &Deps,
) -> Result<(DataKey, OpenedBy), KeysError> {
    let configured = (config, OpenedBy::Configured);
    let earlier = earlier.map(|earlier| (earlier, OpenedBy::Earlier));
    let mut failure = KeysError::Unwrapped(wrapped.seal.clone());
    for (config, by) in std::iter::once(configured).chain(earlier) {
        let Some(seal) = build(config, deps)? else {
            continue;
        };
        match unwrap(config, seal.as_ref(), wrapped).await {
            Ok(key) => return Ok((key, by)),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

type Files = Vec<PathBuf>;

/// Moves the keys without locks and without a record.
#[cfg(test)]
pub(super) async fn move_now(config: &Config, change: &Change, deps: &Deps) -> Result<(), Error> {
    let plan = plan(config, change, deps).await?;
    move_files(config, &plan)
        .map(|_| ())
        .map_err(Error::Unfinished)
}

/// Rewrites the files; returns the rewritten files and the files that had the form already.
fn move_files(config: &Config, plan: &Plan) -> Result<(Files, Files), taskpass_seal::Error> {
    let path = config.keyring();
    plan.between.save(&path)?;
    let (mut rewritten, mut unchanged) = (Vec::new(), Vec::new());
    for file in key_files(config)? {
        match rewrite(&file.path, &file.name, &plan.from, &plan.to)? {
            Rewritten::Now => rewritten.push(file.path),
            Rewritten::Already => unchanged.push(file.path),
        }
    }
    erase_leftovers(&config.ca_dir())?;
    erase_leftovers(&config.data_dir)?;
    match &plan.after {
        Some(after) if *after == plan.between => {}
        Some(after) => after.save(&path)?,
        None => Keyring::remove(&path)?,
    }
    Ok((rewritten, unchanged))
}

impl Changed {
    /// The move as JSON with stable names.
    pub fn to_json(&self) -> String {
        // Cannot fail: the fields are texts and numbers, which JSON can always represent.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

/// The move, and the next steps.
impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            previous,
            seal,
            rewritten,
            unchanged,
            ledger_index,
            config,
        } = self;
        writeln!(f, "The keys are moved from `{previous}` to `{seal}`:\n")?;
        for path in rewritten {
            writeln!(f, "  rewritten  {}", path.display())?;
        }
        for path in unchanged {
            writeln!(f, "  unchanged  {}", path.display())?;
        }
        writeln!(f, "\nEntry {ledger_index} of the ledger says so.\n")?;
        f.write_str(advice(seal))?;
        write!(
            f,
            "\n\n  taskpassd run --config {}",
            quoted(Path::new(config))
        )
    }
}

fn advice(seal: &str) -> &'static str {
    if seal == PLAIN {
        "A copy of the data directory signs as this broker now. Write `seal = \"plain\"` into [keys],
and start the broker:"
    } else {
        "Backups and snapshots of before hold the keys as they were: destroy them, or keep them as secret
as the keys. A disk may keep old blocks. Without the seal's own secret no backup can be restored, so
keep that, too, and in another place. Start the broker:"
    }
}
