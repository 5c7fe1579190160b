//! The identity directory: `svid.pem`, `key.pem`, `bundle.pem`, `ledger.vkey` and
//! `ledger.checkpoint`, for their owner only.
//!
//! Key and certificate are two files and must never part. A new pair is first *staged* beside the
//! old one (`key.pem.new`, `svid.pem.new`), made durable, and then renamed into place, key before
//! certificate. Wherever a crash falls, [`IdentityDirectory::load`] finds a pair. A complete staged
//! pair wins, since the broker counts the newest certificate that it has issued; a staged half is
//! removed. A lock on the directory itself keeps processes that share it apart.
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

use std::{
    fs::{self, File, Metadata},
    io::{self, Read},
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{fs::OFlags, io::Errno, process::geteuid};
use rustls_pki_types::CertificateDer;
use taskpass_files::{Access, create_dir_all, exposed_mode, remove, rename, replace, sync_dir};
use taskpass_ledger_verify::{Checkpoint, VerifyingKey};
use zeroize::Zeroizing;

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
/// Bytes of any file here; chains and bundles are far smaller.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// What is wrong with a pipe, a socket, a directory or a device.
const NOT_A_FILE: &str = "it is no regular file";

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

/// The content of a file, with the metadata of the same open file.
struct Content {
    bytes: Zeroizing<Vec<u8>>,
    metadata: Metadata,
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

    /// Puts the staged pair into place, if there is one.
    pub(crate) fn promote(&self) -> Result<(), Error> {
        let _lock = self.lock()?;
        self.recover()
    }

    /// Removes a staged pair that the broker does not accept.
    pub(crate) fn discard(&self) -> Result<(), Error> {
        let _lock = self.lock()?;
        self.discard_locked()
    }

    /// Replaces the root certificates, pins the ledger's key if none is pinned, and keeps the
    /// checkpoint if it is newer. Changes nothing when it contradicts what is kept.
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
    pub fn pinned(&self) -> Result<Pinned, Error> {
        let Some(text) = self.read(VKEY)? else {
            return Ok(Pinned::default());
        };
        let text = String::from_utf8_lossy(&text);
        let key: VerifyingKey = text.trim().parse().map_err(|e| {
            self.bad(VKEY, format!("{e}; compare the ledger's key with the broker's, and pin it with `taskpass ledger accept-key VKEY`"))
        })?;
        let newest = self.read(CHECKPOINT)?.map(|note| {
            Checkpoint::open(&String::from_utf8_lossy(&note), &key)
                .map_err(|e| self.misplaced(CHECKPOINT, &e.to_string()))
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
    /// Returns what was kept before. It stays beside the new key, in `*.old`.
    pub fn accept_ledger_key(&self, key: &VerifyingKey) -> Result<Pinned, Error> {
        self.create()?;
        let _lock = self.lock()?;
        let before = self.pinned().unwrap_or_default();
        if let Some(old) = self.read(VKEY)? {
            self.write(OLD_VKEY, &old)?;
        }
        if self.exists(CHECKPOINT) {
            self.rename(CHECKPOINT, OLD_CHECKPOINT)?;
            self.sync()?;
        }
        // The key comes last: after a crash the old key still refuses the broker.
        self.write(VKEY, format!("{key}\n").as_bytes())?;
        Ok(before)
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

    /// Reads a private key. A key that others can read is not private any more, and is not used.
    fn read_private(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        let Some(Content { bytes, metadata }) = self.read_with_metadata(name)? else {
            return Ok(None);
        };
        if let Some(mode) = exposed_mode(&metadata) {
            let path = self.path.join(name);
            return Err(self.bad(
                name,
                format!(
                    "others may read it (mode {mode:03o}); run `chmod 600 {}`, and log in again if others did",
                    path.display()
                ),
            ));
        }
        Ok(Some(bytes))
    }

    fn read(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        let read = self.read_with_metadata(name)?;
        Ok(read.map(|content| content.bytes))
    }

    /// Reads a file; `None` when there is none.
    fn read_with_metadata(&self, name: &str) -> Result<Option<Content>, Error> {
        let path = self.path.join(name);
        let failed = |source| Error::File {
            action: "read",
            path: path.clone(),
            source,
        };
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mut file = match open(&self.base().join(name), flags) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => {
                return Err(match Errno::from_io_error(&e) {
                    Some(Errno::LOOP) => self.misplaced(name, "it is a symbolic link"),
                    // A socket.
                    Some(Errno::NXIO) => self.misplaced(name, NOT_A_FILE),
                    _ => failed(e),
                });
            }
        };
        let metadata = file.metadata().map_err(failed)?;
        self.judge(name, &metadata)?;
        let size = usize::try_from(metadata.len()).unwrap_or(0);
        // Room for everything at once: a growing buffer would leave copies of a key behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(size));
        file.read_to_end(&mut bytes).map_err(failed)?;
        Ok(Some(Content { bytes, metadata }))
    }

    /// Refuses an open file that this user cannot have written here.
    fn judge(&self, name: &str, metadata: &Metadata) -> Result<(), Error> {
        if !metadata.is_file() {
            return Err(self.misplaced(name, NOT_A_FILE));
        }
        let user = geteuid().as_raw();
        if let Some(owner) = other_owner(metadata, user) {
            let path = self.path.join(name);
            let path = path.display();
            return Err(self.bad(
                name,
                format!(
                    "it belongs to user {owner}, and this program runs as user {user}; run it as user {owner}, or, if you trust the file, run `chown -h {user} {path}`"
                ),
            ));
        }
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o022 != 0 {
            let path = self.path.join(name);
            let path = path.display();
            return Err(self.bad(
                name,
                format!(
                    "others may write it (mode {mode:03o}); run `chmod go-w {path}`, and log in again if others did"
                ),
            ));
        }
        if metadata.len() > FILE_BYTES_MAX {
            return Err(self.bad(name, "it is larger than 1 MiB"));
        }
        Ok(())
    }

    /// Writes a private file that is there completely or not at all.
    fn write(&self, name: &str, content: &[u8]) -> Result<(), Error> {
        replace(&self.base().join(name), content, Access::Private).map_err(|e| self.failed(e))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        let base = self.base();
        rename(&base.join(from), &base.join(to)).map_err(|e| self.failed(e))
    }

    /// Makes renames and removals durable.
    fn sync(&self) -> Result<(), Error> {
        sync_dir(&self.base()).map_err(|e| self.failed(e))
    }

    fn exists(&self, name: &str) -> bool {
        self.base().join(name).exists()
    }

    fn missing(&self) -> Error {
        Error::NoIdentity {
            dir: self.path.clone(),
        }
    }

    fn error(&self, action: &'static str, source: io::Error) -> Error {
        Error::File {
            action,
            path: self.path.clone(),
            source,
        }
    }

    /// Names the path that the person knows, and not the open directory.
    fn failed(&self, error: taskpass_files::Error) -> Error {
        let path = match error.path.strip_prefix(self.base()) {
            Ok(below) if below.as_os_str().is_empty() => self.path.clone(),
            Ok(below) => self.path.join(below),
            Err(_elsewhere) => error.path,
        };
        Error::File {
            action: error.action,
            path,
            source: error.source,
        }
    }

    /// Something that this library did not put there. Moving it away loses nothing.
    fn misplaced(&self, name: &str, what: &str) -> Error {
        let path = self.path.join(name);
        let path = path.display();
        self.bad(
            name,
            format!("{what}; run `mv {path} {path}.old`, and log in again"),
        )
    }

    fn bad(&self, name: &str, why: impl Into<String>) -> Error {
        Error::IdentityFile {
            path: self.path.join(name),
            why: why.into(),
        }
    }
}

/// Opens for reading, with more flags than [`File::open`] sets.
fn open(path: &Path, flags: OFlags) -> io::Result<File> {
    // The bits are the same in both types: `open(2)` takes an `int`.
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    File::options().read(true).custom_flags(flags).open(path)
}

/// The owner of a file, unless it is this user.
fn other_owner(metadata: &Metadata, user: u32) -> Option<u32> {
    Some(metadata.uid()).filter(|owner| *owner != user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_another_user_is_told_apart() {
        let metadata = fs::metadata(env!("CARGO_MANIFEST_DIR")).unwrap();
        let owner = metadata.uid();
        assert_eq!(other_owner(&metadata, owner), None);
        assert_eq!(other_owner(&metadata, owner + 1), Some(owner));
    }
}
