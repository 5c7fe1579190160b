//! The permissions of the files, and how much room is left.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::Diagnosis;
use crate::{config::Config, init::quoted};

/// With less room than this, the ledger may be full before a person has read the warning.
const ROOM_BYTES_LOW: u64 = 1024 * 1024 * 1024;
/// With less than this, the broker soon stops issuing.
const ROOM_BYTES_MIN: u64 = 64 * 1024 * 1024;
const MEBIBYTE: u64 = 1024 * 1024;

pub(super) fn look(config: &Config, diagnosis: &mut Diagnosis) {
    installation(config, diagnosis);
    for secret in config.keys.secret_files() {
        let advice =
            "put the secret of the seal there, with mode 0600; without it no broker starts";
        if is_private(&secret, 0o600, advice, diagnosis) {
            let message = format!("[keys]: `{}` is private", secret.display());
            diagnosis.ok("secrets", message);
        }
    }
    let secrets = config.providers.iter().flat_map(|provider| {
        let files = provider.secret_files().into_iter();
        files.map(|file| (&provider.name, file))
    });
    for (provider, secret) in secrets {
        if is_private(
            &secret,
            0o600,
            "put the secret there, with mode 0600",
            diagnosis,
        ) {
            let message = format!("provider `{provider}`: `{}` is private", secret.display());
            diagnosis.ok("secrets", message);
        }
    }
    unwritable(&config.path, diagnosis);
    open_files(config, diagnosis);
}

/// The broker has the same limit as this process only if both are started the same way.
fn open_files(config: &Config, diagnosis: &mut Diagnosis) {
    let allowed = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let (files, wanted) = (allowed.unwrap_or(u64::MAX), config.limits.connections);
    let fitting = config.limits.connections_within(files);
    if fitting < wanted {
        return diagnosis.warn(
            "files",
            format!(
                "{files} open files have room for {fitting} of the {wanted} connections of [limits]"
            ),
            "raise LimitNOFILE= or `ulimit -n` for the broker, or lower `connections`",
        );
    }
    diagnosis.ok(
        "files",
        format!("{files} open files have room for {wanted} connections"),
    );
}

fn installation(config: &Config, diagnosis: &mut Diagnosis) {
    let advice = "run `taskpassd init`, restore a backup, or correct `data_dir`";
    let dir = &config.data_dir;
    if !is_private(dir, 0o700, advice, diagnosis) && !dir.exists() {
        return;
    }
    let advice = "restore a backup: a part of the installation is missing";
    let mut all_private = true;
    for part in [config.ca_dir(), config.ledger_dir()] {
        all_private &= is_private(&part, 0o700, advice, diagnosis);
    }
    let keyring = Some(config.keyring()).filter(|path| path.exists());
    let others = std::iter::once(config.ledger_key()).chain(keyring);
    for key in keys(&config.ca_dir())
        .iter()
        .chain(&others.collect::<Vec<_>>())
    {
        all_private &= is_private(key, 0o600, advice, diagnosis);
    }
    if all_private {
        diagnosis.ok(
            "keys",
            format!("the keys in `{}` are private", dir.display()),
        );
    }
    room(dir, diagnosis);
}

/// The private keys of the certificate authority.
fn keys(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        // Another check reports that the directory cannot be read.
        return Vec::new();
    };
    let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    paths
        .filter(|path| path.extension().is_some_and(|e| e == "key"))
        .collect()
}

/// Whether only its owner can get at `path`; `missing` is the remedy when it is not there.
fn is_private(path: &Path, wanted: u32, missing: &str, diagnosis: &mut Diagnosis) -> bool {
    match mode(path) {
        Ok(mode) if mode & 0o077 == 0 => return true,
        Ok(mode) => diagnosis.fail(
            "permissions",
            format!(
                "`{}` is open to other users (mode {mode:04o})",
                path.display()
            ),
            format!(
                "run `chmod {wanted:o} {}`, and replace the secret if others could have read it",
                quoted(path)
            ),
        ),
        Err(e) if e.kind() == io::ErrorKind::NotFound => diagnosis.fail(
            "permissions",
            format!("`{}` is not there", path.display()),
            missing,
        ),
        Err(e) => diagnosis.fail(
            "permissions",
            format!("`{}` cannot be looked at: {e}", path.display()),
            "run this as the user that the broker runs as",
        ),
    }
    false
}

/// A user that can change the configuration can name other keys and policies.
fn unwritable(path: &Path, diagnosis: &mut Diagnosis) {
    if let Ok(mode) = mode(path)
        && mode & 0o022 != 0
    {
        diagnosis.fail(
            "permissions",
            format!(
                "`{}` can be changed by other users (mode {mode:04o})",
                path.display()
            ),
            format!("run `chmod go-w {}`", quoted(path)),
        );
    }
}

fn mode(path: &Path) -> io::Result<u32> {
    fs::metadata(path).map(|metadata| metadata.permissions().mode() & 0o7777)
}

fn room(dir: &Path, diagnosis: &mut Diagnosis) {
    let Ok(volume) = rustix::fs::statvfs(dir) else {
        // Another check reports that the directory is missing.
        return;
    };
    let bytes = volume.f_bavail.saturating_mul(volume.f_frsize);
    let message = format!("{} MiB are free for `{}`", bytes / MEBIBYTE, dir.display());
    let advice = "make room: without it nothing is issued, only revoked";
    match bytes {
        bytes if bytes < ROOM_BYTES_MIN => diagnosis.fail("disk", message, advice),
        bytes if bytes < ROOM_BYTES_LOW => diagnosis.warn("disk", message, advice),
        _ => diagnosis.ok("disk", message),
    }
}
