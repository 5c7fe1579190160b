//! Budgets: what one agent may use up in an hour of things that all agents share.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A thing that all agents share, and of which each has a budget for every hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// Bytes of the ledger.
    LedgerBytes,
    /// Tasks that are started.
    TaskStarts,
    /// Denials that are recorded.
    Denials,
}

impl Budget {
    /// All budgets.
    pub const ALL: [Self; 3] = [Self::LedgerBytes, Self::TaskStarts, Self::Denials];

    /// The word for it in the ledger, in metrics and in errors.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LedgerBytes => "ledger_bytes",
            Self::TaskStarts => "task_starts",
            Self::Denials => "denials",
        }
    }

    /// The key of the configuration that says how large it is.
    pub const fn key(self) -> &'static str {
        match self {
            Self::LedgerBytes => "limits.agent_ledger_bytes_per_hour",
            Self::TaskStarts => "limits.agent_task_starts_per_hour",
            Self::Denials => "limits.agent_denials_per_hour",
        }
    }

    /// The unit of the number behind the key.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::LedgerBytes => "bytes of the ledger",
            Self::TaskStarts => "task starts",
            Self::Denials => "denials",
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ledger_spells_a_budget_as_metrics_do() {
        for budget in Budget::ALL {
            let json = serde_json::to_value(budget).unwrap();
            assert_eq!(json, budget.as_str());
            assert!(budget.key().contains(budget.as_str()));
        }
    }
}
