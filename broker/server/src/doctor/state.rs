//! The ledger, the certificate authority, and whether the clock can be right.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path, sync::Arc, time::UNIX_EPOCH};

use serde::Deserialize;
use taskpass_ca::{CaRecord, KeyFiles, RootRecord, Stage};
use taskpass_core::{Clock, Identity, RootNumber, RootStage, Timestamp, with_sources};
use taskpass_ledger::{
    SigningKey,
    verify::{self, Extent},
};
use taskpass_store::{Entry, indexes_set_aside};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName};

use super::{Diagnosis, growth, roots};
use crate::{
    clock::trusted,
    config::Config,
    init::{OPERATOR, quoted},
};

/// A file this far in the future was written while the clock showed another time.
const CLOCK_LAG: std::time::Duration = std::time::Duration::from_secs(5);
/// How long before the root's end `doctor` starts to warn.
const ROOT_LEFT: std::time::Duration = std::time::Duration::from_secs(365 * 86_400);
/// How long before the end of an operator's certificate `doctor` starts to warn. `taskpass` renews
/// a certificate that is used before then. After its end, another certificate can only be issued
/// while the broker is stopped.
const OPERATOR_LEFT: std::time::Duration = std::time::Duration::from_secs(5 * 86_400);

/// `keys` is absent when the private keys do not open, which another check has reported.
pub(super) fn check(
    config: &Config,
    clock: &Arc<dyn Clock>,
    keys: Option<&KeyFiles>,
    diagnosis: &mut Diagnosis,
) {
    let now = clock.now();
    if !config.data_dir.exists() {
        // `files` has reported it.
        return;
    }
    let newest = keys.and_then(|keys| ledger(config, keys, clock, diagnosis));
    archive(config, diagnosis);
    index(config, diagnosis);
    authority(&config.ca_dir(), now, diagnosis);
    if newest.is_some() {
        // Of a damaged ledger `ledger` has reported that it proves nothing.
        roots::check(config, diagnosis);
    }
    operator(config, now, diagnosis);
    time(config, clock, newest, diagnosis);
}

/// Returns the time of the newest entry.
fn ledger(
    config: &Config,
    keys: &KeyFiles,
    clock: &Arc<dyn Clock>,
    diagnosis: &mut Diagnosis,
) -> Option<Timestamp> {
    let loaded = SigningKey::load_from(&config.ledger_origin(), &config.ledger_key(), keys);
    let key = match loaded {
        Ok(key) => key,
        Err(e) => {
            let advice =
                "restore the key from a backup: without it the broker cannot sign its history";
            diagnosis.fail("ledger", with_sources(&e), advice);
            return None;
        }
    };
    match verify::verify_dir(&config.ledger_dir(), key.verifying_key(), None, &mut |_| ()) {
        Ok(found) => {
            let entries = found.entries;
            let mut message = format!("{entries} entries are as they were written and signed");
            if let Extent::From(first) = found.extent {
                message += &format!("; the {first} entries before them are in an archive");
            }
            diagnosis.ok("ledger", message);
            growth::check(config, clock.now(), found.checkpoint.size(), diagnosis);
            let newest = found.newest.and_then(|entry| Entry::parse(&entry).ok());
            newest.map(|entry| entry.time)
        }
        Err(e) => {
            let advice = "stop the broker, keep a copy of the directory, and restore a backup";
            diagnosis.fail("ledger", with_sources(&e), advice);
            None
        }
    }
}

/// The archive is looked at from outside; `taskpass ledger verify --archive` reads it.
fn archive(config: &Config, diagnosis: &mut Diagnosis) {
    let Some(archive) = config.ledger.archive.directory() else {
        return;
    };
    let shown = archive.display();
    let Ok(there) = fs::metadata(&archive) else {
        return diagnosis.fail(
            "archive",
            format!("`{shown}` is not there"),
            "mount or make it: without it old entries cannot be read, and a lost index cannot be built again",
        );
    };
    if !archive.join("ledger.vkey").exists() {
        let file = quoted(&config.path);
        return diagnosis.fail(
            "archive",
            format!("`{shown}` has no archive in it"),
            format!(
                "mount its volume, or begin an archive there: `taskpassd ledger archive --config {file} --before TIME --to {}`",
                quoted(&archive)
            ),
        );
    }
    match fs::metadata(&config.data_dir) {
        Ok(own) if own.dev() == there.dev() => diagnosis.warn(
            "archive",
            format!("`{shown}` is on the same file system as the ledger"),
            "move the archive to another disk and mount that there: one disk that fails takes both, and archiving frees no room",
        ),
        _ => diagnosis.ok("archive", format!("`{shown}` is there")),
    }
}

/// The broker builds an index that does not fit again by itself. A person should know: a bad disk
/// or another program may have changed it.
fn index(config: &Config, diagnosis: &mut Diagnosis) {
    for aside in indexes_set_aside(&config.data_dir).unwrap_or_default() {
        diagnosis.warn(
            "index",
            format!(
                "an index did not fit the ledger; it is in {} now",
                quoted(&aside)
            ),
            "look for `index_rebuilt` in the ledger for the reason, find out who can write the directory, then remove it",
        );
    }
}

/// The part of the authority's `state.json` that the check needs. Opening the authority would take
/// its lock.
#[derive(Default, Deserialize)]
struct AuthorityState {
    authorities: Vec<CaRecord>,
    /// Empty while no root was ever replaced.
    #[serde(default)]
    roots: Vec<RootRecord>,
}

fn authority(dir: &Path, now: Timestamp, diagnosis: &mut Diagnosis) {
    let path = dir.join("state.json");
    let state = match fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str::<AuthorityState>(&text),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(AuthorityState::default()),
        Err(e) => Err(serde_json::Error::io(e)),
    };
    let AuthorityState { authorities, roots } = match state {
        Ok(state) => state,
        Err(e) => {
            let message = format!("`{}` cannot be read: {e}", path.display());
            return diagnosis.fail("authority", message, "restore a backup");
        }
    };
    if roots.is_empty() {
        // No root was ever replaced, so the state names none.
        match end_of(&dir.join("root.pem")) {
            Ok(end) => root(end, now, diagnosis),
            Err(e) => diagnosis.fail(
                "authority",
                format!("`root.pem` cannot be read: {e}"),
                "restore a backup",
            ),
        }
    }
    for record in &roots {
        match record.stage {
            RootStage::Active => root(record.not_after, now, diagnosis),
            stage => under_way(record.number, stage, diagnosis),
        }
    }
    match authorities.iter().find(|ca| ca.stage == Stage::Active) {
        Some(ca) if now < ca.not_before => diagnosis.fail(
            "authority",
            format!("the signing CA is valid from {} only", ca.not_before),
            "set the machine's clock: it is behind",
        ),
        Some(ca) if now < ca.not_after => {
            diagnosis.ok(
                "authority",
                format!("the signing CA is valid until {}", ca.not_after),
            );
        }
        Some(ca) => diagnosis.warn(
            "authority",
            format!("the signing CA ended at {}", ca.not_after),
            "start the broker: it makes another; if it is running, look at its log",
        ),
        None => diagnosis.ok(
            "authority",
            "there is no signing CA yet: the broker makes one at its start",
        ),
    }
}

/// The root that signs.
fn root(end: Timestamp, now: Timestamp, diagnosis: &mut Diagnosis) {
    if end <= now {
        diagnosis.fail(
            "authority",
            format!("the root certificate ended at {end}"),
            "start a new installation: identities of this one can no longer be verified",
        );
    } else if end.since(now) < ROOT_LEFT {
        diagnosis.warn(
            "authority",
            format!("the root certificate ends at {end}"),
            "replace it before then: `taskpassd root prepare` begins",
        );
    } else {
        diagnosis.ok(
            "authority",
            format!("the root certificate is valid until {end}"),
        );
    }
}

/// A replacement of the root that waits for a person.
fn under_way(number: RootNumber, stage: RootStage, diagnosis: &mut Diagnosis) {
    let next = match stage {
        RootStage::Prepared => "`taskpassd root activate` has it sign",
        RootStage::Active | RootStage::Outgoing | RootStage::Retired => {
            "`taskpassd root status` says what hangs on it; then run `taskpassd root retire`"
        }
    };
    let message = format!("root {number} is {stage}: the replacement of the root is not finished");
    diagnosis.warn("authority", message, next);
}

/// The identity that `init` left beside the configuration, if it is still there.
fn operator(config: &Config, now: Timestamp, diagnosis: &mut Diagnosis) {
    let path = config.path.with_file_name(OPERATOR).join("svid.pem");
    if !path.exists() {
        return;
    }
    let at = path.display();
    let another = format!(
        "stop the broker and run `taskpassd operator issue NAME --config {} --dir DIR`",
        quoted(&config.path)
    );
    let (holder, end) = match holder_of(&path) {
        Ok(found) => found,
        Err(e) => {
            return diagnosis.warn(
                "operator",
                format!("`{at}` cannot be read: {e}"),
                "look at the file; it should hold a certificate",
            );
        }
    };
    if !matches!(
        Identity::parse(&holder, &config.trust_domain),
        Ok(Identity::Operator(_))
    ) {
        return diagnosis.fail(
            "operator",
            format!("`{at}` holds the certificate of `{holder}`, which is no operator of this installation"),
            format!("use the operator's own identity; if there is none any more, {another} for another"),
        );
    }
    // A renewed certificate may have superseded this one; only the broker knows.
    let message = format!("the certificate of `{holder}` in `{at}`");
    if end <= now {
        diagnosis.fail(
            "operator",
            format!("{message} ended at {end}"),
            format!("use a newer one; if there is none, {another} for another"),
        );
    } else if end.since(now) < OPERATOR_LEFT {
        diagnosis.warn(
            "operator",
            format!("{message} ends at {end}"),
            "run `taskpass svid renew` with it before then; \
             after its end, only `taskpassd operator issue` on this machine makes another",
        );
    } else {
        diagnosis.ok(
            "operator",
            format!(
                "{message} ends at {end}; `taskpass doctor` asks the broker whether it still counts"
            ),
        );
    }
}

/// The SPIFFE ID in a certificate, and the certificate's end.
fn holder_of(path: &Path) -> Result<(String, Timestamp), String> {
    let certificate = fs::read(path).map_err(|e| e.to_string())?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&certificate).map_err(|e| e.to_string())?;
    let certificate = pem.parse_x509().map_err(|e| e.to_string())?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|e| e.to_string())?
        .ok_or("it has no SPIFFE ID")?;
    let uri = names
        .value
        .general_names
        .iter()
        .find_map(|name| match name {
            GeneralName::URI(uri) => Some((*uri).to_owned()),
            _ => None,
        });
    Ok((uri.ok_or("it has no SPIFFE ID")?, end(&certificate)))
}

fn end_of(path: &Path) -> Result<Timestamp, String> {
    let text = fs::read(path).map_err(|e| e.to_string())?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&text).map_err(|e| e.to_string())?;
    Ok(end(&pem.parse_x509().map_err(|e| e.to_string())?))
}

fn end(certificate: &X509Certificate<'_>) -> Timestamp {
    let seconds = certificate.validity().not_after.timestamp();
    Timestamp::from_millis(seconds.saturating_mul(1000))
}

/// A clock that is in doubt or behind the ledger: the broker then issues nothing. The files say
/// which of the two is wrong: the file system dates them by the machine's clock.
fn time(
    config: &Config,
    machine: &Arc<dyn Clock>,
    newest: Option<Timestamp>,
    diagnosis: &mut Diagnosis,
) {
    let Some(written) = newest_file(&config.ledger_dir()) else {
        // `ledger` has reported that there is none.
        return;
    };
    let now = machine.now();
    let accept = format!(
        "set the machine's clock; if it is right, stop the broker and run `taskpassd clock accept --config {}`",
        quoted(&config.path)
    );
    let message = format!("it is {now}; the ledger was last written at {written}");
    // Of a damaged ledger the files' times have to do.
    if let Some(newest) = newest {
        let clock = trusted(&config.data_dir, Arc::clone(machine));
        clock.resumes_after(newest);
        if let Some(doubt) = clock.doubt() {
            let message = format!("{doubt}: nothing is issued");
            return diagnosis.fail("clock", message, accept);
        }
        if now.plus(CLOCK_LAG) < newest {
            let message =
                format!("{message}, and its newest entry is of {newest}: nothing is issued");
            return diagnosis.fail("clock", message, accept);
        }
    }
    if now.plus(CLOCK_LAG) < written {
        return diagnosis.fail("clock", message, accept);
    }
    diagnosis.ok("clock", message);
}

/// The time at which the newest file in `dir` and its directories was written.
fn newest_file(dir: &Path) -> Option<Timestamp> {
    let entries = fs::read_dir(dir).ok()?;
    let times = entries.filter_map(|entry| {
        let entry = entry.ok()?;
        let metadata = entry.metadata().ok()?;
        if metadata.is_dir() {
            return newest_file(&entry.path());
        }
        let since = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        i64::try_from(since.as_millis())
            .ok()
            .map(Timestamp::from_millis)
    });
    times.max()
}
