//! Whether the authority's disk and the ledger have the same roots.
//!
//! `state.json` and the certificates in `ca/` are not signed. A program that writes the directory
//! could add a root of its own, which every client would take, or put an older copy there, of which
//! the active root may be in other hands. The ledger has each root's number, stage and certificate,
//! and it is signed.

use std::collections::BTreeMap;

use taskpass_ca::RootRecord;
use taskpass_core::{RecordedRoot, RootNumber, RootStage};

/// How the roots on the disk differ from the roots in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RootsDiffer {
    /// The certificate is another one.
    #[error(
        "`ca/{file}` is not the certificate of root {number}: the ledger says serial {recorded}, and the file has serial {found} or other content; restore `ca/` from the newest backup, and find out who can write it"
    )]
    Certificate {
        /// The root.
        number: RootNumber,
        /// The file with the certificate.
        file: String,
        /// The serial number in the ledger.
        recorded: String,
        /// The serial number in the file.
        found: String,
    },
    /// The disk has a root that was never recorded.
    #[error(
        "`ca/state.json` says that root {number} is {stage}, and the ledger has no root {number}; restore `ca/` from the newest backup, and find out who can write it"
    )]
    Unknown {
        /// The root.
        number: RootNumber,
        /// The stage on the disk.
        stage: RootStage,
    },
    /// The disk is behind the ledger.
    #[error(
        "`ca/` is older than the ledger: root {number} is {recorded} in the ledger and {} in `ca/state.json`; restore the newer copy of `ca/`", .found.map_or("absent", RootStage::as_str)
    )]
    Older {
        /// The root.
        number: RootNumber,
        /// The stage in the ledger.
        recorded: RootStage,
        /// The stage on the disk, if the root is there.
        found: Option<RootStage>,
    },
}

/// Compares the roots on the disk with the roots in the ledger. The disk may be ahead by one step
/// that a crash kept from the ledger, and behind by the last step of a retirement, which the broker
/// records first.
pub fn compare_roots(
    recorded: &BTreeMap<RootNumber, RecordedRoot>,
    on_disk: &[RootRecord],
) -> Result<(), RootsDiffer> {
    for root in on_disk {
        match recorded.get(&root.number) {
            Some(known) => check_known(known, root)?,
            None => may_be_new(recorded, root)?,
        }
    }
    for (&number, known) in recorded {
        let is_there = on_disk.iter().any(|root| root.number == number);
        if known.stage != RootStage::Retired && !is_there {
            return Err(RootsDiffer::Older {
                number,
                recorded: known.stage,
                found: None,
            });
        }
    }
    Ok(())
}

fn check_known(known: &RecordedRoot, root: &RootRecord) -> Result<(), RootsDiffer> {
    if known.certificate != root.certificate() {
        return Err(RootsDiffer::Certificate {
            number: root.number,
            file: root.certificate_file(),
            recorded: known.certificate.serial.clone(),
            found: root.serial.clone(),
        });
    }
    let retiring = (known.stage, root.stage) == (RootStage::Retired, RootStage::Outgoing);
    if root.stage < known.stage && !retiring {
        return Err(RootsDiffer::Older {
            number: root.number,
            recorded: known.stage,
            found: Some(root.stage),
        });
    }
    Ok(())
}

/// A root that is not on record yet: the next one, which signs nothing, or the first one of an
/// installation that an earlier version made. The authority has opened the private key of either.
fn may_be_new(
    recorded: &BTreeMap<RootNumber, RecordedRoot>,
    root: &RootRecord,
) -> Result<(), RootsDiffer> {
    let newest = recorded.keys().next_back();
    let is_next = newest.is_none_or(|newest| *newest < root.number);
    match root.stage {
        RootStage::Prepared if is_next => Ok(()),
        RootStage::Active if root.number.is_first() => Ok(()),
        stage => Err(RootsDiffer::Unknown {
            number: root.number,
            stage,
        }),
    }
}

#[cfg(test)]
mod tests;
