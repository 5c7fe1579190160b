//! The open breakers of a running broker, as the broker tells them to `taskpassd doctor`.

use std::fmt;

use serde::{Deserialize, Serialize};
use taskpass_engine::Engine;

/// A provider from which nothing, or not everything, is issued for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerReport {
    /// The provider.
    pub provider: String,
    /// Whether the pause is for all its roles.
    pub circuit_open: bool,
    /// The roles with a pause of their own.
    pub paused_roles: Vec<String>,
}

impl BreakerReport {
    /// The open breakers of this process.
    pub(crate) fn open(engine: &Engine) -> Vec<Self> {
        let open = engine.open_breakers().into_iter();
        open.map(|(provider, status)| Self {
            provider: provider.to_string(),
            circuit_open: status.circuit_open,
            paused_roles: status
                .paused_roles
                .iter()
                .map(ToString::to_string)
                .collect(),
        })
        .collect()
    }
}

/// On one line, without the name.
impl fmt::Display for BreakerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.circuit_open {
            f.write_str("it could not be reached several times, so nothing is issued for a while")?;
        }
        if !self.paused_roles.is_empty() {
            let gap = if self.circuit_open { "; " } else { "" };
            let roles = self.paused_roles.join("`, `");
            write!(
                f,
                "{gap}calls for `{roles}` failed several times, so nothing is issued from there for a while"
            )?;
        }
        Ok(())
    }
}
