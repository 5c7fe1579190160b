//! `taskpassd doctor`: checks an installation and names the remedy of each problem.
//!
//! `doctor` only reads and takes no lock, so it can run beside a broker. Of a broker that runs it
//! asks how its reconcilers stand.

mod files;
mod growth;
mod network;
mod reconcilers;
mod roots;
mod state;
#[cfg(test)]
mod tests;

use std::{fmt, path::Path, sync::Arc};

use serde::Serialize;
use taskpass_ca::KeyFiles;
use taskpass_core::{ProviderName, with_sources};
use taskpass_provider::{Provider, ProviderKinds};

use crate::{
    app::Deps,
    config::{Config, ConfigError, check},
    init::quoted,
    keys,
    observe::reconciler::ReconcilerReport,
    reload::{Outcome, Verdict as ReloadVerdict},
};

/// The result of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All is well.
    Ok,
    /// It works, but a person should look at it.
    Warn,
    /// It does not work, or is not safe.
    Fail,
}

/// The finding of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The name of the check, one word or two.
    pub check: String,
    /// The result.
    pub verdict: Verdict,
    /// The finding, on one line.
    pub message: String,
    /// The remedy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// The findings of all checks, in order.
#[derive(Debug, Default, Serialize)]
pub struct Diagnosis {
    /// The worst verdict; absent without findings.
    pub verdict: Option<Verdict>,
    /// The findings.
    pub findings: Vec<Finding>,
    /// How the reconcilers stand; absent when no broker runs or answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reconcilers: Option<Vec<ReconcilerReport>>,
}

/// A configured provider, or the reason why it cannot be built.
pub type BuiltProvider = (ProviderName, Result<Arc<dyn Provider>, String>);

/// Runs all checks. `build` makes the configured providers; only the composition root knows how.
pub async fn diagnose(
    path: &Path,
    kinds: &ProviderKinds,
    deps: &Deps,
    build: impl Fn(&Config) -> Vec<BuiltProvider>,
) -> Diagnosis {
    let mut diagnosis = Diagnosis::default();
    let config = match Config::load(path, kinds) {
        Ok(config) => config,
        Err(error) => {
            diagnosis.bad_config(&error);
            let data_dir = Config::data_dir_of(path);
            last_reload(path, &data_dir, &mut diagnosis);
            // With the file as it is, no broker starts: only a running one is of interest.
            let _no_broker = reconcilers::ask(&data_dir, &mut diagnosis).await;
            return diagnosis;
        }
    };
    diagnosis.ok("config", format!("`{}` is right", config.path.display()));
    files::look(&config, &mut diagnosis);
    let keys = private_keys(&config, deps, &mut diagnosis).await;
    state::check(&config, &deps.clock, keys.as_ref(), &mut diagnosis);
    policy(&config, &mut diagnosis);
    last_reload(path, &config.data_dir, &mut diagnosis);
    reconcilers::check(&config.data_dir, &mut diagnosis).await;
    network::check_address(&config, &mut diagnosis).await;
    network::check_providers(build(&config), &mut diagnosis).await;
    diagnosis
}

/// How the private keys lie on the disk, if the seal opens. Keys in plain text are named.
async fn private_keys(config: &Config, deps: &Deps, diagnosis: &mut Diagnosis) -> Option<KeyFiles> {
    let file = quoted(&config.path);
    let plain = keys::plain_files(config).unwrap_or_default();
    let opened = match keys::open(config, deps).await {
        Ok(opened) => opened,
        Err(error) => {
            let advice = format!(
                "run `taskpassd keys status --config {file}`; a broker would not start, and one that runs has the keys until it ends"
            );
            diagnosis.fail("seal", with_sources(&error), advice);
            return None;
        }
    };
    if plain.is_empty() {
        let message = format!("the private keys are sealed by `{}`", config.keys.word());
        diagnosis.ok("seal", message);
    } else if config.keys.is_sealed() {
        let message = format!("these keys are not sealed: {}", plain.join(", "));
        let advice = format!("stop the broker and run `taskpassd keys seal --config {file}`");
        diagnosis.fail("seal", message, advice);
    } else {
        let message = format!(
            "these keys lie in plain text in `{}`, and a copy of them signs as this broker: {}",
            config.data_dir.display(),
            plain.join(", ")
        );
        let advice = format!(
            "name a seal in [keys], stop the broker and run `taskpassd keys seal --config {file}`"
        );
        diagnosis.warn("seal", message, advice);
    }
    Some(opened)
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
            "correct it: a policy that names something unknown permits nothing",
        );
    }
    if report.is_ok() {
        for line in report.summary {
            diagnosis.ok("policy", line);
        }
    }
}

/// How the last reload of the broker ended. The files may be right by now, and the broker may still
/// run with earlier ones.
fn last_reload(path: &Path, data_dir: &Path, diagnosis: &mut Diagnosis) {
    let Some(Outcome { at, verdict, .. }) = Outcome::last(data_dir) else {
        return;
    };
    let ReloadVerdict::Refused { problems } = verdict else {
        let message = format!("the broker read policy and configuration again at {at}");
        return diagnosis.ok("reload", message);
    };
    let advice = format!(
        "correct it and run `taskpassd reload --config {}`; until then the broker goes by what it read before",
        quoted(path)
    );
    for problem in problems {
        let message = format!("the reload at {at} was refused: {problem}");
        diagnosis.fail("reload", message, &advice);
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
            other => self.fail("config", with_sources(other), "give the right `--config`"),
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
        // Cannot fail: the fields are texts and enums, which JSON can always represent.
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
