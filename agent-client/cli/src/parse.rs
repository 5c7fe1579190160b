//! Arguments with parts: `key=value`, `role:key=value,…`.

use std::{collections::BTreeMap, str::FromStr};

use taskpass_core::{InvalidValue, LabelKey, RoleName, Scope};

use crate::failure::Usage;

/// `key=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) key: String,
    pub(crate) value: String,
}

/// `<provider>/<role>` with scope parameters fixed for the task:
/// `vault-main/ci-db:schema=a,table=b`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PinnedRole {
    pub(crate) role: RoleName,
    pub(crate) scope: Scope,
}

/// `<provider>/<role>:key=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RolePair {
    pub(crate) role: RoleName,
    pub(crate) pair: Pair,
}

impl FromStr for Pair {
    type Err = InvalidValue;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Self {
                key: key.to_owned(),
                value: value.to_owned(),
            }),
            _ => Err(InvalidValue::new(format!(
                "`{s}` is not a pair: write KEY=VALUE"
            ))),
        }
    }
}

impl FromStr for PinnedRole {
    type Err = InvalidValue;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let (role, pins) = s.split_once(':').unwrap_or((s, ""));
        let pairs = pins
            .split(',')
            .filter(|pair| !pair.is_empty())
            .map(Pair::from_str)
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            role: role.parse()?,
            scope: scope(&pairs)?,
        })
    }
}

impl FromStr for RolePair {
    type Err = InvalidValue;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let (role, pair) = s.split_once(':').ok_or_else(|| {
            InvalidValue::new(format!(
                "`{s}` is not a scope of a role: write PROVIDER/ROLE:KEY=VALUE"
            ))
        })?;
        Ok(Self {
            role: role.parse()?,
            pair: pair.parse()?,
        })
    }
}

/// The pairs as a scope. Each parameter may be given once.
pub(crate) fn scope(pairs: &[Pair]) -> Result<Scope, InvalidValue> {
    Scope::from_pairs(pairs.iter().map(|p| (p.key.as_str(), p.value.as_str())))
}

/// Labels by key. Each key may be given once.
pub(crate) fn label_map<M: FromIterator<(String, String)>>(labels: Vec<Pair>) -> anyhow::Result<M> {
    let mut seen = BTreeMap::new();
    for Pair { key, value } in labels {
        let key: LabelKey = key.parse().map_err(taskpass_client::Error::Invalid)?;
        if seen.insert(key.to_string(), value).is_some() {
            return Err(Usage(format!("label `{key}` is given twice")).into());
        }
    }
    Ok(seen.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_with_pins_table() {
        let pinned: PinnedRole = "vault-main/ci-db:schema=a=b,table=c".parse().unwrap();
        assert_eq!(pinned.role.to_string(), "vault-main/ci-db");
        assert_eq!(pinned.scope.value("schema"), Some("a=b"));
        assert_eq!(pinned.scope.value("table"), Some("c"));
        assert!(
            "vault-main/ci-db"
                .parse::<PinnedRole>()
                .unwrap()
                .scope
                .is_empty()
        );
        for bad in ["", "ci-db", "v/r:x", "v/r:=x", "v/r:a=1,a=2", "v/r:1=2"] {
            assert!(bad.parse::<PinnedRole>().is_err(), "{bad}");
        }
        assert!("v/r".parse::<RolePair>().is_err());
        assert!("v/r:a=b".parse::<RolePair>().is_ok());
    }
}
