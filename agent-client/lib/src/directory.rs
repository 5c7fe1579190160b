//! The identity directory: `svid.pem`, `key.pem`, `bundle.pem`, `ledger.vkey`, readable by their owner only.
//!
//! Key and certificate are two files and must never part. A new pair is first *staged* beside the old one
//! (`key.pem.new`, `svid.pem.new`), made durable, and then renamed into place, key before certificate. Wherever a
//! crash falls, [`IdentityDirectory::load`] finds a pair: a complete staged pair wins, since the broker counts the
//! newest certificate it has issued; a staged half is dropped. Processes that share a directory take turns by a lock
//! on the directory itself.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustls_pki_types::CertificateDer;

use crate::{
    Error, pem,
    svid::{Leaf, Svid},
};

const KEY: &str = "key.pem";
const SVID: &str = "svid.pem";
const BUNDLE: &str = "bundle.pem";
const VKEY: &str = "ledger.vkey";
const STAGED_KEY: &str = "key.pem.new";
const STAGED_SVID: &str = "svid.pem.new";
/// Bytes of any file here; chains and bundles are far smaller.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Where an identity is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityDirectory {
    path: PathBuf,
}

/// Everything the directory holds.
pub(crate) struct Identity {
    pub(crate) svid: Svid,
    pub(crate) bundle: Vec<CertificateDer<'static>>,
}

impl IdentityDirectory {
    /// The directory `path`, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The public key of the ledger in C2SP vkey form, as the broker gave it.
    pub fn ledger_vkey(&self) -> Result<String, Error> {
        let text = read(&self.path.join(VKEY))?.ok_or_else(|| Error::NoIdentity {
            dir: self.path.clone(),
        })?;
        Ok(String::from_utf8_lossy(&text).trim().to_owned())
    }

    /// What the stored certificate says. Fails when there is none, or when it does not belong to the stored key.
    pub fn leaf(&self) -> Result<Leaf, Error> {
        Ok(self.load()?.svid.leaf)
    }

    /// Whose directory it is, also where key or bundle cannot be used. `None` when no certificate can be read.
    pub fn holder(&self) -> Option<Leaf> {
        self.leaf().ok().or_else(|| {
            let chain = pem::to_certificates(&read(&self.path.join(SVID)).ok()??).ok()?;
            Leaf::parse(chain.first()?).ok()
        })
    }

    /// Reads the identity, finishing a change that was cut off.
    pub(crate) fn load(&self) -> Result<Identity, Error> {
        if !self.path.is_dir() {
            return Err(self.missing());
        }
        let _turn = self.lock()?;
        if self.exists(STAGED_KEY) || self.exists(STAGED_SVID) {
            self.recover()?;
        }
        let (Some(key), Some(chain)) = (self.read_private(KEY)?, read(&self.path.join(SVID))?)
        else {
            return Err(self.missing());
        };
        let svid = self.pair(&key, &chain, KEY, SVID)?;
        let bundle = read(&self.path.join(BUNDLE))?.ok_or_else(|| self.missing())?;
        let bundle = pem::to_certificates(&bundle).map_err(|why| self.bad(BUNDLE, why))?;
        Ok(Identity { svid, bundle })
    }

    /// Makes the pair durable beside the present one. It counts from here on, also after a crash.
    pub(crate) fn stage(&self, svid: &Svid) -> Result<(), Error> {
        self.create()?;
        let _turn = self.lock()?;
        self.stage_locked(svid)
    }

    /// Puts the staged pair into place, if there is one.
    pub(crate) fn promote(&self) -> Result<(), Error> {
        let _turn = self.lock()?;
        self.recover()
    }

    /// Forgets a staged pair that the broker does not accept.
    pub(crate) fn discard(&self) -> Result<(), Error> {
        let _turn = self.lock()?;
        self.discard_locked()
    }

    /// Replaces the root certificates and the ledger's key.
    pub(crate) fn save_bundle(
        &self,
        bundle: &[CertificateDer<'_>],
        ledger_vkey: &str,
    ) -> Result<(), Error> {
        self.create()?;
        let _turn = self.lock()?;
        let roots = pem::from_certificates(bundle);
        write(&self.path.join(BUNDLE), roots.as_bytes())?;
        if !ledger_vkey.is_empty() {
            let line = format!("{}\n", ledger_vkey.trim());
            write(&self.path.join(VKEY), line.as_bytes())?;
        }
        self.sync()
    }

    /// What is wrong with the permissions, in words; empty when nothing is.
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

    fn create(&self) -> Result<(), Error> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path)
            .map_err(|e| file_error("create", &self.path, e))
    }

    /// Held until the file is dropped. Locks the directory, so that no file of ours can be left behind.
    fn lock(&self) -> Result<File, Error> {
        let directory = File::open(&self.path).map_err(|e| file_error("open", &self.path, e))?;
        directory
            .lock()
            .map_err(|e| file_error("lock", &self.path, e))?;
        Ok(directory)
    }

    fn stage_locked(&self, svid: &Svid) -> Result<(), Error> {
        self.discard_locked()?;
        write(
            &self.path.join(STAGED_KEY),
            pem::from_key(&svid.key).as_bytes(),
        )?;
        write(
            &self.path.join(STAGED_SVID),
            pem::from_certificates(&svid.chain).as_bytes(),
        )?;
        self.sync()
    }

    /// Ends in one of two states: the staged pair is in place, or there is no staged pair.
    fn recover(&self) -> Result<(), Error> {
        let staged_chain = read(&self.path.join(STAGED_SVID))?;
        let staged_key = self.read_private(STAGED_KEY)?;
        // Between the two renames the new key is already in place.
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
            let path = self.path.join(name);
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(file_error("remove", &path, e));
                }
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

    /// A private key that others can read is not used: it is not private any more.
    fn read_private(&self, name: &str) -> Result<Option<zeroize::Zeroizing<Vec<u8>>>, Error> {
        let path = self.path.join(name);
        let Some(content) = read(&path)? else {
            return Ok(None);
        };
        let content = zeroize::Zeroizing::new(content);
        let mode = fs::metadata(&path)
            .map_err(|e| file_error("read", &path, e))?
            .permissions()
            .mode();
        if mode & 0o077 != 0 {
            return Err(self.bad(
                name,
                format!(
                    "others may read it (mode {:03o}); run `chmod 600 {}`, and log in again if others did",
                    mode & 0o777,
                    path.display()
                ),
            ));
        }
        Ok(Some(content))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        let to = self.path.join(to);
        fs::rename(self.path.join(from), &to).map_err(|e| file_error("replace", &to, e))
    }

    /// Makes renames and removals durable.
    fn sync(&self) -> Result<(), Error> {
        File::open(&self.path)
            .and_then(|directory| directory.sync_all())
            .map_err(|e| file_error("sync", &self.path, e))
    }

    fn exists(&self, name: &str) -> bool {
        self.path.join(name).exists()
    }

    fn missing(&self) -> Error {
        Error::NoIdentity {
            dir: self.path.clone(),
        }
    }

    fn bad(&self, name: &str, why: impl Into<String>) -> Error {
        Error::IdentityFile {
            path: self.path.join(name),
            why: why.into(),
        }
    }
}

/// Writes a file of mode 0600 that is there completely or not at all.
fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
    let unfinished = path.with_added_extension("tmp");
    let attempt = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)?;
        // A file left by a crash keeps its mode.
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&unfinished, path)
    };
    attempt().map_err(|e| file_error("write", path, e))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > FILE_BYTES_MAX => {
            return Err(Error::IdentityFile {
                path: path.to_owned(),
                why: "it is larger than 1 MiB".to_owned(),
            });
        }
        _ => {}
    }
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(file_error("read", path, e)),
    }
}

fn file_error(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::File {
        action,
        path: path.to_owned(),
        source,
    }
}
