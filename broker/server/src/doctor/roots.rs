//! Whether the authority's disk and the ledger have the same roots, as the broker's start checks.

use std::{collections::BTreeMap, fs, ops::ControlFlow, path::Path};

use serde::Deserialize;
use taskpass_ca::RootRecord;
use taskpass_core::{
    Event, RecordedRoot, RootCertificate, RootNumber, RootStage, Timestamp, hex, sha256_hex,
};
use taskpass_engine::compare_roots;
use taskpass_ledger::recent_entries;
use taskpass_store::Entry;

use super::Diagnosis;
use crate::config::Config;

/// Digits of a serial number.
const SERIAL_DIGITS: usize = 32;

/// The roots of the authority's `state.json`. Opening the authority would take its lock.
#[derive(Default, Deserialize)]
struct OnDisk {
    /// Empty while no root was ever replaced.
    #[serde(default)]
    roots: Vec<RootRecord>,
}

/// The roots of the ledger, as far as its entries are on this machine.
#[derive(Default)]
struct Recorded {
    roots: BTreeMap<RootNumber, RecordedRoot>,
    /// Whether the first entry is there, and with it all that was ever said of roots.
    is_whole: bool,
}

/// The ledger was verified, and other checks report what cannot be read.
pub(super) fn check(config: &Config, diagnosis: &mut Diagnosis) {
    let (Some(mut on_disk), Some(recorded)) = (
        on_disk(&config.ca_dir()),
        Recorded::read(&config.ledger_dir()),
    ) else {
        return;
    };
    if !recorded.is_whole {
        on_disk.retain(|root| recorded.roots.contains_key(&root.number));
    }
    match compare_roots(&recorded.roots, &on_disk) {
        Ok(()) => diagnosis.ok("roots", "the roots in `ca/` are those of the ledger"),
        Err(differs) => diagnosis.fail(
            "roots",
            differs.to_string(),
            "the broker does not start with it; keep a copy of the directory first",
        ),
    }
}

/// The roots on the disk, each with the hash of the file that is there.
fn on_disk(dir: &Path) -> Option<Vec<RootRecord>> {
    let OnDisk { mut roots } = match fs::read_to_string(dir.join("state.json")) {
        Ok(text) => serde_json::from_str(&text).ok()?,
        Err(_) => OnDisk::default(),
    };
    if roots.is_empty() {
        roots.push(RootRecord {
            number: RootNumber::FIRST,
            stage: RootStage::Active,
            serial: String::new(),
            not_before: Timestamp::EPOCH,
            not_after: Timestamp::EPOCH,
            certificate_sha256: String::new(),
        });
    }
    for root in &mut roots {
        let certificate = certificate(&dir.join(root.certificate_file()))?;
        root.serial = certificate.serial;
        root.certificate_sha256 = certificate.certificate_sha256;
    }
    Some(roots)
}

fn certificate(path: &Path) -> Option<RootCertificate> {
    let text = fs::read(path).ok()?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&text).ok()?;
    let serial = hex(pem.parse_x509().ok()?.raw_serial());
    let digits = serial.trim_start_matches('0');
    Some(RootCertificate {
        serial: format!("{digits:0>SERIAL_DIGITS$}"),
        certificate_sha256: sha256_hex(&pem.contents),
    })
}

impl Recorded {
    fn read(ledger: &Path) -> Option<Self> {
        let mut recorded = Self::default();
        let read = recent_entries(ledger, &mut |entry, _| {
            if let Ok(entry) = Entry::parse(entry) {
                recorded.note(entry.event);
            }
            ControlFlow::Continue(())
        });
        read.ok().map(|()| recorded)
    }

    /// Entries come in no order, and a root's stage only ever grows.
    fn note(&mut self, event: Event) {
        let (number, root) = match event {
            Event::Initialized { root, .. } => {
                self.is_whole = true;
                let Some(certificate) = root else {
                    return;
                };
                let stage = RootStage::Active;
                (RootNumber::FIRST, RecordedRoot { stage, certificate })
            }
            Event::RootChanged {
                root,
                stage,
                serial,
                certificate_sha256,
                ..
            } => {
                let certificate = RootCertificate {
                    serial,
                    certificate_sha256,
                };
                (root, RecordedRoot { stage, certificate })
            }
            _ => return,
        };
        let known = self.roots.entry(number).or_insert_with(|| root.clone());
        if known.stage < root.stage {
            *known = root;
        }
    }
}
