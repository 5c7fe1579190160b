//! How a reload ended: for the log, for `taskpassd reload`, and on disk for `taskpassd doctor`.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use taskpass_core::Timestamp;
use taskpass_engine::ProviderChange;
use taskpass_files::Access;

/// Problems that one line of the log names. All of them are in the answer and in the file.
const LOGGED_MAX: usize = 5;

/// How a reload ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// When it began.
    pub at: Timestamp,
    /// The configuration that was read.
    pub config: String,
    /// The end.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// Whether the files that were read are in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// They are.
    Reloaded {
        /// The differences, a line each.
        changes: Vec<String>,
        /// Values that are probably not meant, a line each.
        warnings: Vec<String>,
    },
    /// They were in force already.
    Unchanged {
        /// Values that are probably not meant, a line each.
        warnings: Vec<String>,
    },
    /// They are not: the configuration before them stays in force.
    Refused {
        /// Why, a line each.
        problems: Vec<String>,
    },
}

impl Outcome {
    /// Whether the configuration in force is now the one in the files.
    pub const fn is_in_force(&self) -> bool {
        !matches!(self.verdict, Verdict::Refused { .. })
    }

    /// A refusal needs a person: the next start of the broker would fail over the same files.
    pub(super) fn log(&self) {
        let config = &self.config;
        match &self.verdict {
            Verdict::Reloaded { changes, .. } => {
                tracing::info!(
                    config,
                    changes = few(changes),
                    "the configuration was reloaded"
                );
            }
            Verdict::Unchanged { .. } => {
                tracing::info!(config, "the configuration was read again: nothing changed");
            }
            Verdict::Refused { problems } => tracing::error!(
                config,
                problems = few(problems),
                "the reload was refused; what was in force before stays in force"
            ),
        }
        if let Verdict::Reloaded { warnings, .. } | Verdict::Unchanged { warnings } = &self.verdict
            && !warnings.is_empty()
        {
            tracing::warn!(
                config,
                warnings = few(warnings),
                "something is probably not meant"
            );
        }
    }

    /// Leaves the outcome where `taskpassd doctor` finds it.
    pub(super) fn save(&self, data_dir: &Path) -> Result<(), taskpass_files::Error> {
        // Cannot fail: the fields are texts, which JSON can always represent.
        let text = serde_json::to_vec_pretty(self).unwrap_or_default();
        taskpass_files::replace(&file(data_dir), &text, Access::Private)
    }

    /// The outcome of the last reload of the broker that runs with this directory, or that ran last
    /// and did not stop in good order; `None` when there was none, or it cannot be read.
    pub(crate) fn last(data_dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(file(data_dir)).ok()?).ok()
    }
}

/// Removes the outcome: a broker that starts has read the files as they are now.
pub(crate) fn forget(data_dir: &Path) {
    match fs::remove_file(file(data_dir)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, "`taskpassd doctor` goes on showing the last reload of an earlier run");
        }
        _ => {}
    }
}

fn file(data_dir: &Path) -> PathBuf {
    data_dir.join("reload.json")
}

/// One line for each change, warning and problem.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = &self.config;
        let warnings = match &self.verdict {
            Verdict::Reloaded { changes, warnings } => {
                write!(f, "reloaded `{config}`")?;
                changes.iter().try_for_each(|line| write!(f, "\n{line}"))?;
                warnings
            }
            Verdict::Unchanged { warnings } => {
                write!(f, "nothing changed in `{config}`")?;
                warnings
            }
            Verdict::Refused { problems } => {
                write!(
                    f,
                    "`{config}` was refused; what was in force before stays in force"
                )?;
                return problems.iter().try_for_each(|line| write!(f, "\n{line}"));
            }
        };
        warnings
            .iter()
            .try_for_each(|line| write!(f, "\nwarning: {line}"))
    }
}

pub(super) const fn in_words(change: ProviderChange) -> &'static str {
    match change {
        ProviderChange::Added => "added",
        ProviderChange::Replaced => "changed",
        ProviderChange::Retired => "removed; it only revokes what it minted",
        ProviderChange::Resumed => "configured again as it was",
    }
}

fn few(lines: &[String]) -> String {
    let shown: Vec<&str> = lines.iter().take(LOGGED_MAX).map(String::as_str).collect();
    let shown = shown.join("; ");
    match lines.len().saturating_sub(LOGGED_MAX) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}
