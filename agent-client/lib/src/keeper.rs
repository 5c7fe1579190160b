//! The place that keeps the identity of a connection: a directory, or only the memory of this
//! process.
//!
//! A renewed identity is staged before its first use, promoted after it, and discarded when the
//! broker does not accept it. The identity of a task is worth nothing after the task, so its key
//! never touches the disk.

use std::fs::File;

use arc_swap::ArcSwapOption;

use crate::{
    Error, IdentityDirectory, Pinned, directory::StoredIdentity, link::blocking, renew_lock,
};

/// Keeps the identity of one connection.
pub(crate) enum Keeper {
    /// The identity directory, which other processes may share.
    Directory(IdentityDirectory),
    /// Memory. The connection holds the identity in use; this holds a staged one.
    Memory(ArcSwapOption<StoredIdentity>),
}

impl Keeper {
    /// Memory without a staged identity.
    pub(crate) fn memory() -> Self {
        Self::Memory(ArcSwapOption::empty())
    }

    /// Keeps other processes that share the directory from renewing until the file is dropped. They
    /// do not share memory.
    pub(crate) async fn lock(&self) -> Result<Option<File>, Error> {
        match self {
            Self::Directory(directory) => renew_lock::acquire(directory).await.map(Some),
            Self::Memory(_) => Ok(None),
        }
    }

    /// The newest identity that is kept apart from the one in use.
    pub(crate) async fn newest(&self) -> Result<Option<StoredIdentity>, Error> {
        match self {
            Self::Directory(directory) => {
                let directory = directory.clone();
                blocking(move || directory.load()).await.map(Some)
            }
            Self::Memory(staged) => Ok(staged.load().as_ref().map(|staged| staged.duplicate())),
        }
    }

    /// Keeps a new identity beside the one in use. A directory also keeps how much of the ledger
    /// was seen with it.
    pub(crate) async fn stage(&self, fresh: &StoredIdentity, seen: Pinned) -> Result<(), Error> {
        let fresh = fresh.duplicate();
        match self {
            Self::Directory(directory) => {
                let directory = directory.clone();
                blocking(move || {
                    directory.save_trust(&fresh.bundle, &seen)?;
                    directory.stage(&fresh.svid)
                })
                .await
            }
            Self::Memory(staged) => {
                staged.store(Some(fresh.into()));
                Ok(())
            }
        }
    }

    /// The broker has accepted the staged identity with this serial: it is the one in use now.
    pub(crate) async fn promote(&self, serial: &str) -> Result<(), Error> {
        match self {
            Self::Directory(directory) => {
                let (directory, serial) = (directory.clone(), serial.to_owned());
                blocking(move || directory.promote(&serial)).await
            }
            Self::Memory(staged) => {
                staged.store(None);
                Ok(())
            }
        }
    }

    /// The broker does not accept the staged identity with this serial.
    pub(crate) async fn discard(&self, serial: &str) -> Result<(), Error> {
        match self {
            Self::Directory(directory) => {
                let (directory, serial) = (directory.clone(), serial.to_owned());
                blocking(move || directory.discard(&serial)).await
            }
            Self::Memory(staged) => {
                staged.store(None);
                Ok(())
            }
        }
    }
}
