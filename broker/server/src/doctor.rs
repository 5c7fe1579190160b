//! `taskpassd doctor`: is everything well, and if not, what to do.
//!
//! It only reads, takes no lock, and so may run beside a broker.

mod files;
mod network;
mod state;
#[cfg(test)]
mod tests;

use std::{fmt, path::Path, sync::Arc};

use serde::Serialize;
use taskpass_core::{Clock, ProviderName};
use taskpass_provider::Provider;

use crate::config::{Config, ConfigError, check};

/// How well one thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Works, but somebody should look at it.
    Warn,
    /// Does not work, or is not safe.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, in one word or two.
    pub check: String,
    /// How well it is.
    pub verdict: Verdict,
    /// What was found, on one line.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// Everything that was looked at, in order.
#[derive(Debug, Default, Serialize)]
pub struct Diagnosis {
    /// The worst of the verdicts; `ok` when there are none.
    pub verdict: Option<Verdict>,
    /// The findings.
    pub findings: Vec<Finding>,
}

/// A provider that is to be asked, or why there is none.
pub type Patient = (ProviderName, Result<Arc<dyn Provider>, String>);

/// Looks at everything. `providers` builds what is configured; only the composition root knows how.
pub async fn diagnose(
    path: &Path,
    clock: &dyn Clock,
    providers: impl Fn(&Config) -> Vec<Patient>,
) -> Diagnosis {
    let mut diagnosis = Diagnosis::default();
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(error) => {
            diagnosis.bad_config(&error);
            return diagnosis;
        }
    };
    diagnosis.ok("config", format!("`{}` is right", config.path.display()));
    files::look(&config, &mut diagnosis);
    state::look(&config, clock, &mut diagnosis);
    policy(&config, &mut diagnosis);
    network::address(&config, &mut diagnosis).await;
    network::ask(providers(&config), &mut diagnosis).await;
    diagnosis
}

fn policy(config: &Config, diagnosis: &mut Diagnosis) {
    let mut report = check::Report::default();
    check::policy(config, &mut report);
    let advice = "run `taskpass policy check` while you correct it; a broker would not start";
    for problem in &report.problems {
        diagnosis.fail("policy", problem, advice);
    }
    for warning in &report.warnings {
        diagnosis.warn(
            "policy",
            warning,
            "a policy that names nothing that exists permits nothing",
        );
    }
    if report.is_ok() {
        for line in report.summary {
            diagnosis.ok("policy", line);
        }
    }
}

impl Diagnosis {
    fn bad_config(&mut self, error: &ConfigError) {
        let advice = "correct the file; `taskpassd config reference` explains every key";
        match error {
            ConfigError::Invalid(problems) => {
                for problem in problems {
                    self.fail("config", problem, advice);
                }
            }
            other => self.fail(
                "config",
                check::with_sources(other),
                "give the right `--config`",
            ),
        }
    }

    fn ok(&mut self, check: &str, message: impl fmt::Display) {
        self.add(check, Verdict::Ok, message, None);
    }

    fn warn(&mut self, check: &str, message: impl fmt::Display, advice: impl fmt::Display) {
        self.add(check, Verdict::Warn, message, Some(advice.to_string()));
    }

    fn fail(&mut self, check: &str, message: impl fmt::Display, advice: impl fmt::Display) {
        self.add(check, Verdict::Fail, message, Some(advice.to_string()));
    }

    fn add(
        &mut self,
        check: &str,
        verdict: Verdict,
        message: impl fmt::Display,
        advice: Option<String>,
    ) {
        self.verdict = self.verdict.max(Some(verdict));
        let message = message.to_string();
        self.findings.push(Finding {
            check: check.to_owned(),
            verdict,
            message,
            advice,
        });
    }

    /// Whether anything failed.
    pub fn has_failed(&self) -> bool {
        self.verdict == Some(Verdict::Fail)
    }

    /// The diagnosis as JSON with stable names.
    pub fn to_json(&self) -> String {
        // Texts and enums only, which JSON can always say.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

/// One line for each finding, and one more for advice.
impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, finding) in self.findings.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            let Finding {
                check,
                verdict,
                message,
                advice,
            } = finding;
            let verdict = match verdict {
                Verdict::Ok => "[ok]  ",
                Verdict::Warn => "[warn]",
                Verdict::Fail => "[fail]",
            };
            write!(f, "{verdict} {check}: {message}")?;
            if let Some(advice) = advice {
                write!(f, "; {advice}")?;
            }
        }
        Ok(())
    }
}
