//! The identity directory: `svid.pem`, `key.pem`, `bundle.pem`, `ledger.vkey` and
//! `ledger.checkpoint`, for their owner only.
//!
//! Key and certificate are two files and must never part. A new pair is first *staged* beside the
//! old one (`key.pem.new`, `svid.pem.new`), made durable, and then renamed into place, key before
//! certificate. Wherever a crash falls, [`IdentityDirectory::load`] finds a pair. A complete staged
//! pair wins, since the broker counts the newest certificate that it has issued; a staged half is
//! removed. A lock on the directory itself keeps the steps of processes that share it apart, and
//! `renew.lock` keeps their renewals and logins apart ([`crate::renew_lock`]).
//!
//! Another user who can write into the directory must not choose which file of this user is read.
//! Each file is therefore opened without following a link and without waiting for a pipe's writer,
//! and the open file is judged: it belongs to this user, and no other user can write it. Against a
//! user who puts back older files of this directory only the directory's own mode helps, which is
//! 0700 when this library makes it.
//!
//! A program of this user that may not read the directory, such as the command behind `taskpass
//! run --hide-identity`, may still rename it and put a link in its place. A connection therefore
//! holds the directory open, and reaches each file through the open directory and not by its path.

mod files;

use std::{
    fs::{self, File, TryLockError},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::OFlags;
use rustls_pki_types::CertificateDer;
use taskpass_files::{create_dir_all, remove};
use taskpass_ledger_verify::{Checkpoint, VerifyingKey};

use self::files::open;
use crate::{
    Error, Pinned,
    ledger_pin::hashes,
    pem,
    svid::{Leaf, Svid},
};

const KEY: &str = "key.pem";
const SVID: &str = "svid.pem";
const BUNDLE: &str = "bundle.pem";
const VKEY: &str = "ledger.vkey";
const CHECKPOINT: &str = "ledger.checkpoint";
/// The key and the checkpoint before a person accepted another key: evidence for an auditor.
const OLD_VKEY: &str = "ledger.vkey.old";
const OLD_CHECKPOINT: &str = "ledger.checkpoint.old";
const STAGED_KEY: &str = "key.pem.new";
const STAGED_SVID: &str = "svid.pem.new";
/// Stays, and is always empty: processes that share the directory lock it.
const RENEW_LOCK: &str = "renew.lock";

/// The directory that an identity is kept in.
#[derive(Debug, Clone)]
pub struct IdentityDirectory {
    path: PathBuf,
    /// The directory itself, wherever its path leads by now. Clones share it.
    held: Option<Arc<File>>,
}

impl PartialEq for IdentityDirectory {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl Eq for IdentityDirectory {}

/// The identity that the directory holds, with the roots to verify brokers by.
pub(crate) struct StoredIdentity {
    pub(crate) svid: Svid,
    pub(crate) bundle: Vec<CertificateDer<'static>>,
}

impl StoredIdentity {
    /// The same identity for another holder in this process.
    pub(crate) fn duplicate(&self) -> Self {
        Self {
            svid: self.svid.duplicate(),
            bundle: self.bundle.clone(),
        }
    }
}

impl IdentityDirectory {
    /// The directory `path`, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            held: None,
        }
    }

    /// The directory that the path leads to now, held open. Everything below it is read and written
    /// there, even when the path leads elsewhere later. Fails without `/proc`.
    pub(crate) fn hold(&self) -> Result<Self, Error> {
        if self.held.is_some() || !cfg!(target_os = "linux") {
            return Ok(self.clone());
        }
        let directory = open(&self.path, OFlags::DIRECTORY).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => self.missing(),
            _ => self.error("open", e),
        })?;
        let held = Self {
            path: self.path.clone(),
            held: Some(Arc::new(directory)),
        };
        fs::metadata(held.base()).map_err(|source| Error::File {
            action: "reach the identity directory through",
            path: held.base(),
            source,
        })?;
        Ok(held)
    }

    /// Where the files are reached.
    fn base(&self) -> PathBuf {
        match &self.held {
            None => self.path.clone(),
            Some(directory) => format!("/proc/self/fd/{}", directory.as_raw_fd()).into(),
        }
    }

    /// Makes the directory, unless it is held and so was there.
    fn create(&self) -> Result<(), Error> {
        match &self.held {
            None => create_dir_all(&self.path).map_err(|e| self.failed(e)),
            Some(_) => Ok(()),
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The public key of the ledger in C2SP vkey form, as it was pinned at login.
    pub fn ledger_vkey(&self) -> Result<String, Error> {
        let text = self.read(VKEY)?.ok_or_else(|| self.missing())?;
        Ok(String::from_utf8_lossy(&text).trim().to_owned())
    }

    /// The stored certificate. Fails when there is none, or when it does not belong to the stored
    /// key.
    pub fn leaf(&self) -> Result<Leaf, Error> {
        Ok(self.load()?.svid.leaf)
    }

    /// The stored certificate, even if key or bundle cannot be used. `None` when it cannot be read.
    pub fn holder(&self) -> Option<Leaf> {
        self.leaf().ok().or_else(|| {
            let chain = pem::to_certificates(&self.read(SVID).ok()??).ok()?;
            Leaf::parse(chain.first()?).ok()
        })
    }

    /// Reads the identity, and first finishes a change that a crash has interrupted.
    pub(crate) fn load(&self) -> Result<StoredIdentity, Error> {
        if !self.base().is_dir() {
            return Err(self.missing());
        }
        let _lock = self.lock()?;
        if self.exists(STAGED_KEY) || self.exists(STAGED_SVID) {
            self.recover()?;
        }
        let (Some(key), Some(chain)) = (self.read_private(KEY)?, self.read(SVID)?) else {
            return Err(self.missing());
        };
        let svid = self.pair(&key, &chain, KEY, SVID)?;
        let bundle = self.read(BUNDLE)?.ok_or_else(|| self.missing())?;
        let bundle = pem::to_certificates(&bundle).map_err(|why| self.bad(BUNDLE, why))?;
        Ok(StoredIdentity { svid, bundle })
    }

    /// Makes the pair durable beside the present one. From here on a crash cannot lose it.
    pub(crate) fn stage(&self, svid: &Svid) -> Result<(), Error> {
        self.create()?;
        let _lock = self.lock()?;
        self.discard_locked()?;
        self.write(STAGED_KEY, pem::from_key(&svid.key).as_bytes())?;
        self.write(STAGED_SVID, pem::from_certificates(&svid.chain).as_bytes())
    }

    /// Puts the staged pair with this serial into place. Any other pair is left alone: a process
    /// that knows no `renew.lock` may have staged it meanwhile.
    pub(crate) fn promote(&self, serial: &str) -> Result<(), Error> {
        let _lock = self.lock()?;
        if self.is_staged(serial)? {
            self.recover()?;
        }
        Ok(())
    }

    /// Removes the staged pair with this serial, which the broker does not accept.
    pub(crate) fn discard(&self, serial: &str) -> Result<(), Error> {
        let _lock = self.lock()?;
        if self.is_staged(serial)? {
            self.discard_locked()?;
        }
        Ok(())
    }

    /// Takes the lock for a renewal or a login; `None` while another process has it.
    pub(crate) fn try_renew_lock(&self) -> Result<Option<File>, Error> {
        self.create()?;
        let failed = |action, source| Error::File {
            action,
            path: self.renew_lock_path(),
            source,
        };
        // The bits are the same in both types: `open(2)` takes an `int`.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
        let flags = i32::try_from(flags).map_err(|e| failed("open", io::Error::other(e)))?;
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(flags)
            .open(self.base().join(RENEW_LOCK))
            .map_err(|e| failed("open", e))?;
        let metadata = file.metadata().map_err(|e| failed("read", e))?;
        self.judge(RENEW_LOCK, &metadata)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(failed("lock", e)),
        }
    }

    /// The path of that lock, for messages.
    pub(crate) fn renew_lock_path(&self) -> PathBuf {
        self.path.join(RENEW_LOCK)
    }

    /// Replaces the root certificates, pins the ledger's key if none is pinned, and keeps the
    /// checkpoint if it is newer. Changes nothing when it contradicts the kept ones.
    pub(crate) fn save_trust(
        &self,
        bundle: &[CertificateDer<'_>],
        seen: &Pinned,
    ) -> Result<(), Error> {
        self.create()?;
        let _lock = self.lock()?;
        self.pin(seen)?;
        self.write(BUNDLE, pem::from_certificates(bundle).as_bytes())
    }

    /// The pinned key of the ledger, and the newest checkpoint that was seen.
    ///
    /// Every login pins the key before it stores an identity. A missing key beside an identity is
    /// therefore refused: pinning the next one would trust any broker anew.
    pub fn pinned(&self) -> Result<Pinned, Error> {
        let Some(text) = self.read(VKEY)? else {
            if self.exists(SVID) {
                return Err(self.unanchored(VKEY, "it is missing beside an identity"));
            }
            return Ok(Pinned::default());
        };
        let text = String::from_utf8_lossy(&text);
        let key: VerifyingKey = text
            .trim()
            .parse()
            .map_err(|e| self.unanchored(VKEY, &format!("{e}")))?;
        let newest = self.read(CHECKPOINT)?.map(|note| {
            Checkpoint::open(&String::from_utf8_lossy(&note), &key)
                .map_err(|e| self.unanchored(CHECKPOINT, &e.to_string()))
        });
        Ok(Pinned {
            newest: newest.transpose()?,
            key: Some(key),
        })
    }

    /// Keeps a checkpoint of the ledger of `key`, if `proof` shows that it continues the kept one.
    pub fn keep_proven(
        &self,
        checkpoint: &Checkpoint,
        key: &VerifyingKey,
        proof: &[Vec<u8>],
    ) -> Result<(), Error> {
        let kept = self.pinned()?;
        kept.check_continues(checkpoint, &hashes(proof)?, self)?;
        let _lock = self.lock()?;
        self.pin(&Pinned {
            key: Some(key.clone()),
            newest: Some(checkpoint.clone()),
        })
    }

    /// Pins `key` in place of the pinned key, and drops the kept checkpoint. Only for a person who
    /// has compared the key with the broker's.
    ///
    /// Returns the key and checkpoint from before. They stay beside the new key, in `*.old`. Later
    /// calls keep theirs in `*.old.2` and so on, so that the first evidence is not lost.
    pub fn accept_ledger_key(&self, key: &VerifyingKey) -> Result<Pinned, Error> {
        self.create()?;
        let _lock = self.lock()?;
        let before = self.pinned().unwrap_or_default();
        if let Some(old) = self.read(VKEY)? {
            self.write(&self.unused(OLD_VKEY), &old)?;
        }
        if self.exists(CHECKPOINT) {
            self.rename(CHECKPOINT, &self.unused(OLD_CHECKPOINT))?;
            self.sync()?;
        }
        // The key comes last: after a crash the old key still refuses the broker.
        self.write(VKEY, format!("{key}\n").as_bytes())?;
        Ok(before)
    }

    /// A file without which this broker's ledger cannot be told from another. Moving it away would
    /// give that up in silence, so a person compares the key.
    fn unanchored(&self, name: &str, what: &str) -> Error {
        self.bad(
            name,
            format!(
                "{what}; compare the ledger's key with the broker's, and pin it with `taskpass ledger accept-key VKEY`, which keeps what is there for an auditor"
            ),
        )
    }

    /// The first of `name`, `name.2`, `name.3` … that is no file yet.
    fn unused(&self, name: &str) -> String {
        let numbered = (2_u64..).map(|number| format!("{name}.{number}"));
        let mut names = std::iter::once(name.to_owned()).chain(numbered);
        names
            .find(|name| !self.exists(name))
            .unwrap_or_else(|| name.to_owned())
    }

    /// The stored root certificates, as far as they can be read.
    pub(crate) fn roots(&self) -> Option<Vec<CertificateDer<'static>>> {
        pem::to_certificates(&self.read(BUNDLE).ok()??).ok()
    }

    /// Another process may have kept more since the caller looked, so both are compared again.
    fn pin(&self, seen: &Pinned) -> Result<(), Error> {
        let kept = self.pinned()?;
        match (&kept.key, &seen.key) {
            (Some(kept), Some(seen)) if kept != seen => {
                return Err(Error::LedgerKeyChanged {
                    dir: self.path.clone(),
                    pinned: kept.to_string(),
                    shown: seen.to_string(),
                });
            }
            (None, Some(key)) => self.write(VKEY, format!("{key}\n").as_bytes())?,
            _ => {}
        }
        let Some(newest) = &seen.newest else {
            return Ok(());
        };
        if kept.size() == newest.size() {
            kept.check_continues(newest, &[], self)?;
        }
        if kept.newest.is_none() || kept.size() < newest.size() {
            self.write(CHECKPOINT, newest.note().as_bytes())?;
        }
        Ok(())
    }

    /// Permissions that let others in, each with the command that mends it.
    pub fn permission_findings(&self) -> Vec<String> {
        let mut findings = Vec::new();
        for (name, allowed) in [("", 0o700), (KEY, 0o600)] {
            let path = if name.is_empty() {
                self.path.clone()
            } else {
                self.path.join(name)
            };
            let Ok(metadata) = fs::metadata(&path) else {
                continue;
            };
            let mode = metadata.permissions().mode() & 0o777;
            if mode & !allowed != 0 {
                findings.push(format!(
                    "`{}` has mode {mode:03o}; run `chmod {allowed:03o} {}`",
                    path.display(),
                    path.display()
                ));
            }
        }
        findings
    }

    /// Locks the directory until the file is dropped. A lock file of its own would have to be
    /// removed.
    fn lock(&self) -> Result<File, Error> {
        let directory = open(&self.base(), OFlags::DIRECTORY).map_err(|e| self.error("open", e))?;
        directory.lock().map_err(|e| self.error("lock", e))?;
        Ok(directory)
    }

    /// Ends in one of two states: the staged pair is in place, or there is no staged pair.
    fn recover(&self) -> Result<(), Error> {
        let staged_chain = self.read(STAGED_SVID)?;
        let staged_key = self.read_private(STAGED_KEY)?;
        // A crash between the two renames leaves the new key in place and only its certificate
        // staged.
        let (key, key_is_staged) = match staged_key {
            Some(key) => (Some(key), true),
            None => (self.read_private(KEY)?, false),
        };
        let pair = key
            .zip(staged_chain)
            .and_then(|(key, chain)| self.pair(&key, &chain, STAGED_KEY, STAGED_SVID).ok());
        if pair.is_none() {
            return self.discard_locked();
        }
        if key_is_staged {
            self.rename(STAGED_KEY, KEY)?;
            self.sync()?;
        }
        self.rename(STAGED_SVID, SVID)?;
        self.sync()
    }

    fn is_staged(&self, serial: &str) -> Result<bool, Error> {
        let Some(chain) = self.read(STAGED_SVID)? else {
            return Ok(false);
        };
        let leaf = pem::to_certificates(&chain).ok();
        let leaf = leaf.and_then(|chain| Leaf::parse(chain.first()?).ok());
        Ok(leaf.is_some_and(|leaf| leaf.serial == serial))
    }

    fn discard_locked(&self) -> Result<(), Error> {
        for name in [STAGED_KEY, STAGED_SVID] {
            match remove(&self.base().join(name)) {
                Err(e) if e.source.kind() != io::ErrorKind::NotFound => return Err(self.failed(e)),
                _ => {}
            }
        }
        self.sync()
    }

    fn pair(
        &self,
        key: &[u8],
        chain: &[u8],
        key_name: &str,
        chain_name: &str,
    ) -> Result<Svid, Error> {
        let key = pem::to_key(key).map_err(|why| self.bad(key_name, why))?;
        let chain = pem::to_certificates(chain).map_err(|why| self.bad(chain_name, why))?;
        Svid::new(key, chain).map_err(|e| match e {
            Error::Reply(why) => self.bad(chain_name, format!("{why}; log in again")),
            other => other,
        })
    }
}

#[cfg(test)]
mod tests {
    use taskpass_client_testing::pki::{self, Pki};

    use super::*;
    use crate::svid::PrivateKey;

    /// A pair of its own, as a login or a renewal gets it.
    fn pair(pki: &Pki) -> Svid {
        let bearer = pki.bearer(&pki::Leaf::named("/agent/builder"));
        Svid::new(PrivateKey::from_pkcs8(bearer.key), bearer.chain).unwrap()
    }

    #[test]
    fn a_login_between_the_staging_and_the_promotion_of_a_renewal_is_not_lost() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = IdentityDirectory::new(scratch.path().join("identity"));
        let pki = Pki::generate();
        let (renewed, login) = (pair(&pki), pair(&pki));
        directory.stage(&renewed.duplicate()).unwrap();
        directory.stage(&login).unwrap();
        for _ in 0..2 {
            // Neither answer of the broker to the renewal touches the pair of the login.
            directory.promote(&renewed.leaf.serial).unwrap();
            directory.discard(&renewed.leaf.serial).unwrap();
            assert!(directory.is_staged(&login.leaf.serial).unwrap());
        }
        assert!(!directory.exists(SVID));
        directory.promote(&login.leaf.serial).unwrap();
        directory.discard(&renewed.leaf.serial).unwrap();
        assert_eq!(directory.holder().unwrap().serial, login.leaf.serial);
        assert!(directory.exists(KEY) && !directory.exists(STAGED_KEY));

        directory.stage(&renewed).unwrap();
        directory.discard(&renewed.leaf.serial).unwrap();
        assert!(!directory.exists(STAGED_KEY) && !directory.exists(STAGED_SVID));
    }
}
