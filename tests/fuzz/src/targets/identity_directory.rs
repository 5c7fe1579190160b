//! The files of an agent's identity: chain, bundle, the ledger's key and
//! checkpoint, and a staged chain. The
//! private key is fixed.

use std::{
    fs,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use taskpass_client::IdentityDirectory;
use taskpass_core::TrustDomain;

use crate::{der, fixtures, input, wording};

/// The files, in the order of the input's parts.
pub(crate) const FILES: [&str; 5] = [
    "svid.pem",
    "bundle.pem",
    "ledger.vkey",
    "svid.pem.new",
    "ledger.checkpoint",
];

pub(crate) fn run(data: &[u8]) {
    let path = directory();
    let parts = input::parts(data);
    for (index, file) in FILES.iter().enumerate() {
        match parts.get(index) {
            Some(part) => write(&path.join(file), part),
            None => drop(fs::remove_file(path.join(file))),
        }
    }
    write(
        &path.join("key.pem"),
        der::pem("PRIVATE KEY", &fixtures::pkcs8(3)).as_bytes(),
    );
    let identity = IdentityDirectory::new(path);
    match identity.leaf() {
        Ok(leaf) => {
            assert!(leaf.spiffe_id.is_member_of(&leaf.trust_domain));
            assert!(leaf.trust_domain.as_str().parse::<TrustDomain>().is_ok());
            assert!(leaf.serial.len() >= 32);
            assert!(leaf.renew_at() <= leaf.not_after.max(leaf.not_before));
            assert_eq!(identity.leaf().ok().as_ref(), Some(&leaf));
        }
        Err(error) => wording::one_line_each(&error, 600),
    }
    match identity.pinned() {
        Ok(pinned) => assert!(pinned.newest.is_none() || pinned.key.is_some()),
        Err(error) => wording::one_line_each(&error, 600),
    }
    if let Ok(vkey) = identity.ledger_vkey()
        && let Err(error) = vkey.parse::<taskpass_ledger::VerifyingKey>()
    {
        wording::one_line_each(&error, 400);
    }
}

/// One directory for all inputs of a process. It is emptied for each input, so that no file is
/// carried over.
fn directory() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| tempfile::tempdir().expect("a directory").keep())
}

fn write(path: &Path, content: &[u8]) {
    use std::io::Write as _;
    let file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path);
    file.and_then(|mut file| file.write_all(content))
        .expect("a file");
}
