//! `taskpassd operator issue`: issues an identity for an operator, on the broker's own machine
//! while no broker runs.
//!
//! The command asks for no proof of the operator's identity. It needs none: a process that may read
//! the root's key and write the ledger can sign and record anything anyway. With the command, the
//! ledger says so: its entry is marked as `local`. The entry also ends every other certificate of
//! the operator, so that a stolen one is useless.

#[cfg(test)]
mod tests;

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Serialize;
use taskpass_ca::NewKey;
use taskpass_core::{
    Clock, ClockDoubt, Event, Identity, InvalidValue, OperatorName, SpiffeId, Timestamp,
};
use taskpass_engine::{CLOCK_LAG_MAX, RootsDiffer, compare_roots};
use taskpass_files::create_dir;
use taskpass_ledger::disk::SystemDisk;
use taskpass_store::{Batch, CommitError, Store as _, StoreError};

use crate::{
    app::{self, AppError, Deps},
    clock,
    config::Config,
    init::{self, quoted},
};

/// The operator who gets an identity, and the directory for it.
#[derive(Debug, Clone)]
pub struct Request {
    /// The installation.
    pub config: Config,
    /// The operator, known or new.
    pub operator: OperatorName,
    /// The identity's directory; must not exist yet.
    pub dir: PathBuf,
    /// The effective user id of this process.
    pub user: u32,
}

/// Why no identity was issued, or why it does not count.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A broker or another command that changes the installation is running.
    #[error(
        "`{}` is in use, by a running broker or another command; \
         stop the broker, run this again, and start it",
        .0.display()
    )]
    Running(PathBuf),
    /// This process runs as another user than the broker, so the broker could not change the files
    /// that the process writes.
    #[error(
        "`{}` belongs to the user with id {owner}, not {user}; \
         run this as the user that the broker runs as: `setpriv --reuid={owner} --regid={group} --clear-groups taskpassd …`",
        dir.display()
    )]
    WrongUser {
        /// The data directory.
        dir: PathBuf,
        /// The user that owns it.
        owner: u32,
        /// The group that owns it.
        group: u32,
        /// The user of this process.
        user: u32,
    },
    /// The directory for the identity exists.
    #[error("`{}` exists already and is left as it is; name a new directory with `--dir`", .0.display())]
    Occupied(PathBuf),
    /// The metadata of a file or directory cannot be read.
    #[error("cannot look at `{}`", path.display())]
    Look {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The wall clock is in doubt.
    #[error(
        "{doubt}; set the machine's clock, or if it is right run `taskpassd clock accept --config {config}`, and run this again"
    )]
    ClockInDoubt {
        /// Why.
        doubt: ClockDoubt,
        /// The configuration, as an argument of a command.
        config: String,
    },
    /// The wall clock is behind the ledger.
    #[error(
        "the clock says {clock}, but the ledger has entries of {ledger}; set the machine's clock, or if it is right run `taskpassd clock accept --config {config}`, and run this again"
    )]
    ClockWentBack {
        /// The wall clock.
        clock: Timestamp,
        /// The newest entry.
        ledger: Timestamp,
        /// The configuration, as an argument of a command.
        config: String,
    },
    /// The installation did not open.
    #[error(transparent)]
    Open(#[from] AppError),
    /// The authority signed no certificate.
    #[error("the certificate could not be issued")]
    Authority(#[from] taskpass_ca::Error),
    /// The directory for the identity was not made.
    #[error(transparent)]
    Directory(#[from] init::Error),
    /// The certificate is not on record, so it does not count.
    #[error("the certificate could not be recorded, so it does not count")]
    Record(#[source] CommitError),
    /// The ledger was not closed in good order.
    #[error(
        "closing the store failed; the certificate is on record, and the next start checks the files"
    )]
    Close(#[source] StoreError),
    /// The ledger could not be asked.
    #[error("the roots on record cannot be read; start the broker, which checks the files")]
    Read(#[source] StoreError),
    /// The authority's files have other roots than the ledger.
    #[error(transparent)]
    Roots(#[from] RootsDiffer),
    /// A bug.
    #[error("BUG: {0}")]
    Invalid(#[from] InvalidValue),
}

/// An identity that was issued.
#[derive(Debug, Clone, Serialize)]
pub struct Issued {
    /// The operator.
    pub operator: OperatorName,
    /// Its SPIFFE ID.
    pub spiffe_id: SpiffeId,
    /// The certificate's serial number.
    pub serial: String,
    /// The end of the certificate.
    pub expires_at: Timestamp,
    /// The ledger entry that records it.
    pub ledger_index: u64,
    /// The directory with the identity.
    pub identity_dir: PathBuf,
    #[serde(skip)]
    config: Config,
}

/// Signs the certificate, writes the identity, and then records it, which ends every other
/// certificate of the operator. Takes the locks that a running broker holds.
pub async fn issue(request: Request, deps: &Deps) -> Result<Issued, Error> {
    let Request {
        config,
        operator,
        dir,
        user,
    } = request;
    let dir = std::path::absolute(&dir).map_err(look_failed(&dir))?;
    check_user(&config.data_dir, user)?;
    let deps = &Deps {
        clock: clock::trusted(&config.data_dir, Arc::clone(&deps.clock)),
        ..deps.clone()
    };
    let keys = app::open_keys(&config, deps).await.map_err(Error::Open)?;
    let authority = app::open_authority(&config, deps, &keys);
    let authority = authority.map_err(|e| open_failed(e, &config))?;
    let opened = app::open_store(&config, deps, Arc::new(SystemDisk), &keys).await;
    let app::OpenStore {
        store,
        roots_signer,
        ..
    } = opened.map_err(|e| open_failed(e, &config))?;
    require_sane_clock(deps.clock.as_ref(), store.last_time(), &config)?;
    let recorded = store.recorded_roots().await.map_err(Error::Read)?;
    compare_roots(&recorded, &authority.roots())?;

    let key = NewKey::generate()?;
    let svid = authority.issue_operator(&operator, key.public_key())?;
    // The files come before the record. After the record the operator's other certificates no
    // longer count, so a crash in between would leave the operator without any; the files alone do
    // not count and do no harm.
    make_dir(&dir)?;
    let (bundle, vkey) = (
        authority.bundle(),
        format!("{}\n", roots_signer.verifying_key()),
    );
    init::write_identity(&dir, &key, &svid.chain_pem(), &bundle.pem, &vkey)
        .inspect_err(|_| remove_identity(&dir))?;
    let event = Event::OperatorSvidIssued {
        operator: operator.clone(),
        serial: svid.serial.clone(),
        key_sha256: svid.key_sha256.clone(),
        not_after: svid.not_after,
        renews: None,
        local: true,
        origin: Some(taskpass_core::SvidOrigin::Machine),
        root: svid.root,
    };
    let recorded = store.commit(Batch::new([event])).await.map_err(|error| {
        remove_identity(&dir);
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

/// Refuses while the time is wrong: the entry's time would stay in the ledger for good.
pub(crate) fn require_sane_clock(
    clock: &dyn Clock,
    ledger: Timestamp,
    config: &Config,
) -> Result<(), Error> {
    let config = || quoted(&config.path);
    if let Some(doubt) = clock.doubt() {
        let config = config();
        return Err(Error::ClockInDoubt { doubt, config });
    }
    let clock = clock.now();
    if ledger.since(clock) > CLOCK_LAG_MAX {
        let config = config();
        return Err(Error::ClockWentBack {
            clock,
            ledger,
            config,
        });
    }
    Ok(())
}

/// Removes an identity that does not count. If that fails, the next run reports that the directory
/// exists.
fn remove_identity(dir: &Path) {
    drop(fs::remove_dir_all(dir));
}

/// Refuses another user than the owner of the data directory: a file made by that user would keep
/// the broker from starting.
pub(crate) fn check_user(dir: &Path, user: u32) -> Result<(), Error> {
    let found = fs::metadata(dir).map_err(look_failed(dir))?;
    let (owner, group) = (found.uid(), found.gid());
    if owner == user {
        return Ok(());
    }
    let dir = dir.to_owned();
    Err(Error::WrongUser {
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

/// Tells a lock that another process holds from every other reason why an installation does not
/// open.
pub(crate) fn open_failed(error: AppError, config: &Config) -> Error {
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
        // Cannot fail: the fields are texts and numbers, which JSON can always represent.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

/// The new identity, the changes by it, and the next steps.
impl fmt::Display for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            operator, config, ..
        } = self;
        let (dir, identity) = (self.identity_dir.display(), quoted(&self.identity_dir));
        let (policies, config_file) = (config.policy.dir.display(), quoted(&config.path));
        let (id, until, index) = (&self.spiffe_id, self.expires_at, self.ledger_index);
        let address = config.listen.grpc;
        write!(
            f,
            "\
The identity {id} is in `{dir}`, valid until {until}.
`taskpass` renews it when it is used in the last third of its life.
It is entry {index} of the ledger, and no other certificate of `{operator}` counts any more.

The policies in `{policies}` say what `{operator}` may do; an operator without a policy is refused.

Start the broker, and give the directory to that person alone, with its modes unchanged:

  taskpassd run --config {config_file}
  export TASKPASS_ADDR={address} TASKPASS_IDENTITY={identity}

If a key was stolen, look up what was done with it, and revoke what should not exist:

  taskpass ledger export --to history.jsonl
  taskpass credential list --live"
        )
    }
}
