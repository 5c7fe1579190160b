//! The roots of an installation: their numbers and stages.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{InvalidValue, excerpt};

/// Counts the roots of an installation, from 1. No number is given out twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RootNumber(u32);

impl RootNumber {
    /// The root that the installation was made with.
    pub const FIRST: Self = Self(1);

    /// The number of the root that takes this one's place.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Whether it is the first root. Records leave out the number of the first root, so they equal
    /// the records of an installation that knows no other root.
    pub const fn is_first(&self) -> bool {
        self.0 == Self::FIRST.0
    }
}

impl Default for RootNumber {
    fn default() -> Self {
        Self::FIRST
    }
}

impl fmt::Display for RootNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for RootNumber {
    type Err = InvalidValue;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let number = s.parse().ok().filter(|number| *number >= Self::FIRST.0);
        number.map(Self).ok_or_else(|| {
            InvalidValue::new(format!("`{}` is not the number of a root", excerpt(s)))
        })
    }
}

/// The certificate of a root, as the ledger tells it from every other one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootCertificate {
    /// The serial number as 32 hex digits.
    pub serial: String,
    /// SHA-256 of the certificate, in hex.
    pub certificate_sha256: String,
}

/// A root as it stands in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedRoot {
    /// How far it has come.
    pub stage: RootStage,
    /// Its certificate.
    #[serde(flatten)]
    pub certificate: RootCertificate,
}

/// How far a root has come. It only ever moves down this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RootStage {
    /// It is in the bundle; it does not sign yet.
    Prepared,
    /// It signs issuing authorities and operators.
    Active,
    /// It signs no more and its key is erased. It stays in the bundle, and its signatures are
    /// accepted, until it is retired.
    Outgoing,
    /// It is in no bundle any more, and nothing counts that it signed.
    Retired,
}

impl RootStage {
    /// The word for it in the ledger.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Active => "active",
            Self::Outgoing => "outgoing",
            Self::Retired => "retired",
        }
    }
}

impl fmt::Display for RootStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_count_from_one() {
        assert_eq!("2".parse::<RootNumber>().unwrap(), RootNumber::FIRST.next());
        assert!(RootNumber::default().is_first());
        for bad in ["0", "-1", "", "two", "4294967296"] {
            assert!(bad.parse::<RootNumber>().is_err(), "{bad}");
        }
        assert_eq!(
            serde_json::to_string(&(RootNumber::FIRST.next(), RootStage::Outgoing)).unwrap(),
            "[2,\"outgoing\"]"
        );
    }
}
