//! `taskpassd operator issue`: an identity for an operator, made on the broker's own machine while no broker runs.
//!
//! Nobody vouches for the operator here but the machine: whoever may read the root's key and write the ledger could sign and
//! record anything anyway. What this adds is that it stands in the ledger as what it is. No other certificate of
//! the operator counts from there on, so a thief who holds one has nothing.

#[cfg(test)]
mod tests;

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use serde::Serialize;
use taskpass_ca::NewKey;
use taskpass_core::{
    Event, Identity, InvalidValue, OperatorName, SpiffeId, Timestamp, Ttl, limits,
};
use taskpass_engine::CLOCK_LAG_MAX;
use taskpass_files::create_dir;
use taskpass_store::{Batch, CommitError, Store as _, StoreError};

use crate::{
    app::{self, AppError, Deps},
    config::Config,
    init::{self, quoted},
};

/// Whom to give an identity, and where to put it.
#[derive(Debug, Clone)]
pub struct Order {
    /// The installation.
    pub config: Config,
    /// The operator, known or new.
    pub operator: OperatorName,
    /// The identity's directory; must not be there.
    pub dir: PathBuf,
    /// The effective user id of this process.
    pub user: u32,
}

/// Why no identity was made, or why it is not of use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A broker runs, or another command that changes the installation.
    #[error(
        "`{}` is in use, by a running broker or another command; stop the broker, run this again, and start it",
        .0.display()
    )]
    Running(PathBuf),
    /// What another user writes, the broker could not change any more.
    #[error(
        "`{}` belongs to the user with id {owner}, not {user}; run this as the user that the broker runs as: `setpriv --reuid={owner} --regid={group} --clear-groups taskpassd operator issue …`",
        dir.display()
    )]
    Stranger {
        /// The data directory.
        dir: PathBuf,
        /// Whose it is.
        owner: u32,
        /// And which group's.
        group: u32,
        /// Who runs this.
        user: u32,
    },
    /// The directory for the identity is there.
    #[error("`{}` is there already and is not touched; name a new directory with `--dir`", .0.display())]
    Occupied(PathBuf),
    /// A file or directory cannot be looked at.
    #[error("cannot look at `{}`", path.display())]
    Look {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The wall clock is behind the ledger.
    #[error(
        "the clock says {clock}, but the ledger has entries of {ledger}; set the machine's clock and run this again"
    )]
    ClockWentBack {
        /// The wall clock.
        clock: Timestamp,
        /// The newest entry.
        ledger: Timestamp,
    },
    /// The installation did not open.
    #[error(transparent)]
    Open(#[from] AppError),
    /// The ledger cannot be read.
    #[error("reading the newest ledger entry failed")]
    Newest(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Nothing was signed.
    #[error("the certificate could not be made")]
    Authority(#[from] taskpass_ca::Error),
    /// The directory for the identity was not made.
    #[error(transparent)]
    Directory(#[from] init::Error),
    /// It is not on record, so it does not count.
    #[error("the certificate could not be recorded, so it does not count")]
    Record(#[source] CommitError),
    /// The ledger was not closed in good order.
    #[error(
        "closing the store failed; the certificate is on record, and the next start checks the files"
    )]
    Close(#[source] StoreError),
    /// A bug.
    #[error("BUG: {0}")]
    Invalid(#[from] InvalidValue),
}

/// An identity that was made.
#[derive(Debug, Clone, Serialize)]
pub struct Issued {
    /// The operator.
    pub operator: OperatorName,
    /// Its SPIFFE ID.
    pub spiffe_id: SpiffeId,
    /// The certificate's serial number.
    pub serial: String,
    /// Until when it is valid.
    pub expires_at: Timestamp,
    /// The ledger entry that has it on record.
    pub ledger_index: u64,
    /// Where the identity is.
    pub identity_dir: PathBuf,
    #[serde(skip)]
    config: Config,
}

/// Makes the identity, writes it, and then records it. Every other certificate of the operator stops counting. Needs the
/// locks that a running broker holds.
pub async fn issue(order: Order, deps: &Deps) -> Result<Issued, Error> {
    let Order {
        config,
        operator,
        dir,
        user,
    } = order;
    let dir = std::path::absolute(&dir).map_err(look_failed(&dir))?;
    refuse_stranger(&config.data_dir, user)?;
    let authority = app::open_authority(&config, deps).map_err(|e| running(e, &config))?;
    let (vkey, store) = app::open_store(&config, deps)
        .await
        .map_err(|e| running(e, &config))?;
    let newest = app::newest_time(&store.ledger_reader()).map_err(Error::Newest)?;
    let clock = deps.clock.now();
    if newest.since(clock) > CLOCK_LAG_MAX {
        let ledger = newest;
        return Err(Error::ClockWentBack { clock, ledger });
    }

    let key = NewKey::generate()?;
    let ttl = Ttl::from_seconds(limits::OPERATOR_SVID_SECONDS)?;
    let svid = authority.issue_operator(&operator, key.public_key(), ttl)?;
    // First, since the record ends the operator's other certificates. Until it is recorded this one does not count.
    make_dir(&dir)?;
    let (bundle, vkey) = (&authority.bundle().pem, format!("{vkey}\n"));
    init::hand_over(&dir, &key, &svid.chain_pem(), bundle, &vkey)
        .inspect_err(|_| take_back(&dir))?;
    let event = Event::OperatorSvidIssued {
        operator: operator.clone(),
        serial: svid.serial.clone(),
        key_sha256: svid.key_sha256.clone(),
        not_after: svid.not_after,
        renews: None,
        local: true,
    };
    let recorded = store.commit(Batch::new([event])).await.map_err(|error| {
        take_back(&dir);
        Error::Record(error)
    })?;
    store.close().await.map_err(Error::Close)?;
    Ok(Issued {
        spiffe_id: Identity::Operator(operator.clone()).spiffe_id(&config.trust_domain)?,
        operator,
        serial: svid.serial,
        expires_at: svid.not_after,
        ledger_index: recorded.first_index,
        identity_dir: dir,
        config,
    })
}

/// Removes what is worthless. If it stays, the next run says that the directory is there.
fn take_back(dir: &Path) {
    drop(fs::remove_dir_all(dir));
}

/// A file that another user made in the data directory would keep the broker from starting.
fn refuse_stranger(dir: &Path, user: u32) -> Result<(), Error> {
    let found = fs::metadata(dir).map_err(look_failed(dir))?;
    let (owner, group) = (found.uid(), found.gid());
    if owner == user {
        return Ok(());
    }
    let dir = dir.to_owned();
    Err(Error::Stranger {
        dir,
        owner,
        group,
        user,
    })
}

fn make_dir(dir: &Path) -> Result<(), Error> {
    match create_dir(dir) {
        Err(e) if e.is_already_there() => Err(Error::Occupied(dir.to_owned())),
        made => Ok(made.map_err(init::Error::from)?),
    }
}

/// Tells "somebody else has the lock" from everything else that keeps an installation from opening.
fn running(error: AppError, config: &Config) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(current) = cause {
        let of_ca = matches!(current.downcast_ref(), Some(taskpass_ca::Error::InUse(_)));
        let of_ledger = current.downcast_ref();
        if of_ca || matches!(of_ledger, Some(taskpass_ledger::Error::Locked { .. })) {
            return Error::Running(config.data_dir.clone());
        }
        cause = current.source();
    }
    Error::Open(error)
}

fn look_failed(path: &Path) -> impl Fn(io::Error) -> Error {
    |source| Error::Look {
        path: path.to_owned(),
        source,
    }
}

impl Issued {
    /// The identity as JSON with stable names.
    pub fn to_json(&self) -> String {
        // Texts and numbers only, which JSON can always say.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

/// What was made, what it changed, and what to do next.
impl fmt::Display for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            operator, config, ..
        } = self;
        let identity = quoted(&self.identity_dir);
        writeln!(
            f,
            "The identity {} is in `{}`, valid until {}.",
            self.spiffe_id,
            self.identity_dir.display(),
            self.expires_at
        )?;
        writeln!(
            f,
            "It is entry {} of the ledger, and no other certificate of `{operator}` counts any more.",
            self.ledger_index
        )?;
        writeln!(f)?;
        writeln!(
            f,
            "What `{operator}` may do stands in `{}`; an operator that no policy permits anything is refused.",
            config.policy.dir.display()
        )?;
        writeln!(f)?;
        writeln!(
            f,
            "Start the broker, and hand the directory to that person alone, with its modes:"
        )?;
        writeln!(f)?;
        writeln!(f, "  taskpassd run --config {}", quoted(&config.path))?;
        writeln!(
            f,
            "  export TASKPASS_ADDR={} TASKPASS_IDENTITY={identity}",
            config.listen.grpc
        )?;
        writeln!(f)?;
        writeln!(
            f,
            "If a key was stolen, see what was done with it, and end what should not be:"
        )?;
        writeln!(f)?;
        writeln!(f, "  taskpass ledger export --to history.jsonl")?;
        write!(f, "  taskpass credential list --live")
    }
}
