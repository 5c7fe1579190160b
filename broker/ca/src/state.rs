//! The roots, the issuing authorities, and how far each has come, in one small file, `state.json`.

use serde::{Deserialize, Serialize};
use taskpass_core::{RootCertificate, RootNumber, RootStage, Timestamp};

use crate::{Error, custody::Custody};

pub(crate) const STATE: &str = "state.json";
const VERSION: u32 = 1;
/// The content of the bundle that the installation was made with.
const FIRST_SEQUENCE: u64 = 1;

/// How far an issuing authority has come. It only ever moves down this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Key and certificate exist; no verifier knows of them yet.
    Prepared,
    /// Verifiers accept its signatures; it does not sign yet.
    Published,
    /// It signs.
    Active,
    /// It signs no more and its key is erased. Its signatures are accepted until it expires.
    Retired,
}

impl Stage {
    /// The word for it in the ledger.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Published => "published",
            Self::Active => "active",
            Self::Retired => "retired",
        }
    }
}

/// One root of the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootRecord {
    /// Its number.
    pub number: RootNumber,
    /// How far it has come.
    pub stage: RootStage,
    /// The certificate's serial number as 32 hex digits.
    pub serial: String,
    /// From when it is valid.
    pub not_before: Timestamp,
    /// Until when it is valid.
    pub not_after: Timestamp,
    /// SHA-256 of its certificate, in hex.
    pub certificate_sha256: String,
}

impl RootRecord {
    /// Its certificate, as the ledger names it.
    pub fn certificate(&self) -> RootCertificate {
        RootCertificate {
            serial: self.serial.clone(),
            certificate_sha256: self.certificate_sha256.clone(),
        }
    }

    /// The file with its private key.
    pub(crate) fn key_file(&self) -> String {
        format!("{}.key", self.stem())
    }

    /// The file with its certificate.
    pub fn certificate_file(&self) -> String {
        format!("{}.pem", self.stem())
    }

    /// The file with its name and key as the root before it has signed them.
    pub(crate) fn cross_file(&self) -> String {
        format!("{}.cross.pem", self.stem())
    }

    fn stem(&self) -> String {
        if self.number.is_first() {
            return "root".to_owned();
        }
        format!("{ROOT_PREFIX}{}", self.number)
    }

    /// An outgoing root has no key any more. The certificate across from it is shown while both
    /// roots are in the bundle.
    fn needs(&self, name: &str, of_several: bool) -> bool {
        name == self.certificate_file()
            || (name == self.key_file() && self.stage < RootStage::Outgoing)
            || (name == self.cross_file() && self.stage < RootStage::Outgoing && of_several)
    }
}

/// One issuing authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaRecord {
    /// The certificate's serial number as 32 hex digits.
    pub serial: String,
    /// How far it has come.
    pub stage: Stage,
    /// From when it is valid.
    pub not_before: Timestamp,
    /// Until when it is valid.
    pub not_after: Timestamp,
    /// SHA-256 of its certificate, in hex.
    pub certificate_sha256: String,
    /// The number of the root that signed it.
    #[serde(default, skip_serializing_if = "RootNumber::is_first")]
    pub root: RootNumber,
}

impl CaRecord {
    /// The file with its private key.
    pub(crate) fn key_file(&self) -> String {
        format!("{ISSUING_PREFIX}{}.key", self.serial)
    }

    /// The file with its certificate.
    pub(crate) fn certificate_file(&self) -> String {
        format!("{ISSUING_PREFIX}{}.pem", self.serial)
    }
}

const ISSUING_PREFIX: &str = "issuing-";
const ROOT_PREFIX: &str = "root-";

/// A change made by rotation: this authority is now in this stage.
pub type CaStep = CaRecord;

/// The roots of the bundle, and all issuing authorities that have not expired, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    version: u32,
    /// Grows with every change.
    pub(crate) generation: u64,
    pub(crate) authorities: Vec<CaRecord>,
    /// Empty while the first root is the only one there ever was: an earlier version of the program
    /// then reads the file, too.
    #[serde(default, skip_serializing_if = "is_first_alone")]
    pub(crate) roots: Vec<RootRecord>,
    /// Grows with every change of the bundle (B-2).
    #[serde(default = "first_sequence", skip_serializing_if = "is_first_sequence")]
    pub(crate) sequence: u64,
}

const fn first_sequence() -> u64 {
    FIRST_SEQUENCE
}

const fn is_first_sequence(sequence: &u64) -> bool {
    *sequence == FIRST_SEQUENCE
}

fn is_first_alone(roots: &[RootRecord]) -> bool {
    matches!(roots, [root] if root.number.is_first())
}

impl State {
    /// Reads the file; without one there are no authorities.
    pub(crate) fn load(custody: &Custody) -> Result<Self, Error> {
        let Some(text) = custody.read(STATE)? else {
            return Ok(Self {
                version: VERSION,
                generation: 0,
                authorities: Vec::new(),
                roots: Vec::new(),
                sequence: FIRST_SEQUENCE,
            });
        };
        let damaged = |why| Error::Damaged {
            path: custody.path(STATE),
            why,
        };
        let state: Self = serde_json::from_str(&text).map_err(|e| damaged(e.to_string()))?;
        if state.version != VERSION {
            return Err(damaged(format!(
                "version `{}` was written by another release; this one knows {VERSION}",
                state.version
            )));
        }
        // The serial becomes part of file names, and must not lead out of the directory.
        if state.authorities.iter().any(|ca| !is_serial(&ca.serial)) {
            return Err(damaged("a serial number is not 32 hex digits".to_owned()));
        }
        let is_active = |root: &&RootRecord| root.stage == RootStage::Active;
        if !state.roots.is_empty() && state.roots.iter().filter(is_active).count() != 1 {
            return Err(damaged("not exactly one root is active".to_owned()));
        }
        Ok(state)
    }

    /// Writes the file durably, with a new generation.
    pub(crate) fn save(&mut self, custody: &Custody) -> Result<(), Error> {
        self.generation = self.generation.saturating_add(1);
        let text = serde_json::to_vec_pretty(self).map_err(|e| Error::Io {
            action: "write",
            path: custody.path(STATE),
            source: e.into(),
        })?;
        custody.write(STATE, &text)
    }

    /// The authority that signs.
    pub(crate) fn active(&self) -> Option<&CaRecord> {
        self.in_stage(Stage::Active)
    }

    /// The first authority in `stage`.
    pub(crate) fn in_stage(&self, stage: Stage) -> Option<&CaRecord> {
        self.authorities.iter().find(|ca| ca.stage == stage)
    }

    /// Whether `name` is a file of some root or issuing authority, or of this state.
    pub(crate) fn is_ours(name: &str) -> bool {
        name.starts_with(ISSUING_PREFIX)
            || name.starts_with(ROOT_PREFIX)
            || [STATE, "root.key", "root.pem"].contains(&name)
    }

    /// The root in `stage`.
    pub(crate) fn root_in(&self, stage: RootStage) -> Option<&RootRecord> {
        self.roots.iter().find(|root| root.stage == stage)
    }

    /// Whether the file `name` is still needed. Keys of roots and authorities that sign no more are
    /// not, and neither are leftovers.
    pub(crate) fn needs(&self, name: &str) -> bool {
        let of_several = self.roots.len() > 1;
        name == STATE
            || self.roots.iter().any(|root| root.needs(name, of_several))
            || self.authorities.iter().any(|ca| {
                name == ca.certificate_file()
                    || (ca.stage != Stage::Retired && name == ca.key_file())
            })
    }
}

fn is_serial(text: &str) -> bool {
    text.len() == 32
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}
