//! Policy and configuration, read again while the broker runs.
//!
//! SIGHUP and `taskpassd reload` put a `Request` into the same queue, and one `Reloader` takes them
//! out, so that a second reload waits for the first. A reload is all or nothing. The reloader
//! reads, checks and builds everything first; then the engine records it and swaps. A failure on
//! the way leaves the broker as it was.

pub(crate) mod control;
mod outcome;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use taskpass_core::{Timestamp, with_sources};
use taskpass_engine::{Change, Configuration, Engine, ReloadedFiles};
use taskpass_metrics::Metrics;
use taskpass_provider::{ProviderFactory, ProviderKinds};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

pub use self::{
    control::{AskError, ask},
    outcome::{Outcome, Verdict},
};
pub(crate) use self::{
    control::{look, look_at_breakers},
    outcome::forget,
};
use crate::{
    app::{Deps, configuration},
    config::{Config, ConfigError, Difference, check},
    transport::LimitsInForce,
};

/// Reloads that may wait. A waiting reload reads the files when it begins.
const QUEUE: usize = 16;

/// A wish to read the files again, and where the answer goes.
#[derive(Debug)]
pub(crate) struct Request {
    answer: Option<oneshot::Sender<Outcome>>,
}

/// The way to ask a running broker for a reload from within its process.
#[derive(Debug, Clone)]
pub struct Reloads(mpsc::Sender<Request>);

impl Reloads {
    /// Asks for a reload and does not wait for it. Its outcome is on the log.
    pub fn request(&self) {
        // A full queue has reloads that have not begun, and these will read the present files.
        let _queued_already = self.0.try_send(Request { answer: None });
    }

    /// Asks for a reload and waits for its outcome; `None` when the broker stops first.
    pub(crate) async fn perform(&self) -> Option<Outcome> {
        let (answer, outcome) = oneshot::channel();
        let request = Request {
            answer: Some(answer),
        };
        self.0.send(request).await.ok()?;
        outcome.await.ok()
    }
}

/// Carries out reloads, one after the other.
#[derive(Debug)]
pub(crate) struct Reloader {
    in_force: Config,
    engine: Arc<Engine>,
    limits: LimitsInForce,
    deps: Deps,
    metrics: Arc<Metrics>,
    kinds: Vec<Arc<dyn ProviderFactory>>,
    requests: mpsc::Receiver<Request>,
}

/// Everything that was read and built, before any of it is in force.
struct Prepared {
    config: Config,
    configuration: Configuration,
    warnings: Vec<String>,
}

impl Reloader {
    /// For a broker that runs with `in_force`.
    pub(crate) fn new(
        in_force: Config,
        engine: Arc<Engine>,
        limits: LimitsInForce,
        deps: Deps,
        metrics: Arc<Metrics>,
        kinds: Vec<Arc<dyn ProviderFactory>>,
    ) -> (Self, Reloads) {
        let (sender, requests) = mpsc::channel(QUEUE);
        let this = Self {
            in_force,
            engine,
            limits,
            deps,
            metrics,
            kinds,
            requests,
        };
        (this, Reloads(sender))
    }

    /// Works until `stop`, and never stops in the middle of a reload.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            let request = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                request = self.requests.recv() => request,
            };
            let Some(Request { answer }) = request else {
                break;
            };
            let outcome = self.reload().await;
            outcome.log();
            if let Err(error) = outcome.save(&self.in_force.data_dir) {
                let error = with_sources(&error);
                tracing::warn!(
                    error,
                    "`taskpassd doctor` cannot know how the last reload ended"
                );
            }
            if let Some(answer) = answer {
                // A caller that left without its answer finds the outcome on the log.
                let _left = answer.send(outcome);
            }
        }
        outcome::forget(&self.in_force.data_dir);
    }

    async fn reload(&mut self) -> Outcome {
        let at = self.deps.clock.now();
        let verdict = match self.prepare().await {
            Ok(prepared) => self.put_in_force(prepared).await,
            Err(problems) => Verdict::Refused { problems },
        };
        self.outcome(at, verdict)
    }

    fn outcome(&self, at: Timestamp, verdict: Verdict) -> Outcome {
        Outcome {
            at,
            config: self.in_force.path.display().to_string(),
            verdict,
        }
    }

    /// Reads and builds. Files and policies take as long as they take, so another thread does it.
    async fn prepare(&self) -> Result<Prepared, Vec<String>> {
        let (in_force, deps) = (self.in_force.clone(), self.deps.clone());
        let (metrics, kinds) = (Arc::clone(&self.metrics), self.kinds.clone());
        let prepared =
            tokio::task::spawn_blocking(move || read_and_build(&in_force, &kinds, &deps, &metrics));
        prepared
            .await
            .unwrap_or_else(|panic| Err(vec![format!("reading the files failed: {panic}")]))
    }

    async fn put_in_force(&mut self, prepared: Prepared) -> Verdict {
        let Prepared {
            config,
            configuration,
            warnings,
        } = prepared;
        let differences = self.in_force.differences(&config);
        let files = ReloadedFiles {
            previous_config_sha256: self.in_force.config_sha256().to_owned(),
            config_sha256: config.config_sha256().to_owned(),
            keys: differences.iter().map(|it| it.key.clone()).collect(),
        };
        let same_file = files.previous_config_sha256 == files.config_sha256;
        match self.engine.reload(configuration, files).await {
            Ok(change) if change.is_none() && same_file => Verdict::Unchanged { warnings },
            Ok(change) => {
                self.limits.replace(fitting(&config));
                self.in_force = config;
                Verdict::Reloaded {
                    changes: in_words(&differences, &change),
                    warnings,
                }
            }
            Err(error) => Verdict::Refused {
                problems: vec![format!(
                    "the reload cannot be recorded in the ledger: {}",
                    with_sources(&error)
                )],
            },
        }
    }
}

fn read_and_build(
    in_force: &Config,
    kinds: &ProviderKinds,
    deps: &Deps,
    metrics: &Metrics,
) -> Result<Prepared, Vec<String>> {
    let config = read_again(in_force, kinds)?;
    let mut report = check::Report::default();
    // The checked set itself comes into force, since a file may change in between.
    let Some(policy) = check::policy(&config, &mut report).filter(|_| report.is_ok()) else {
        return Err(report.problems);
    };
    let configuration = configuration(&config, policy, deps, metrics)
        .map_err(|error| vec![with_sources(&error)])?;
    Ok(Prepared {
        config,
        configuration,
        warnings: report.warnings,
    })
}

fn read_again(in_force: &Config, kinds: &ProviderKinds) -> Result<Config, Vec<String>> {
    in_force.load_again(kinds).map_err(|error| match error {
        ConfigError::Invalid(problems) => problems.iter().map(ToString::to_string).collect(),
        other => vec![with_sources(&other)],
    })
}

/// The limits of the transport, with as many connections as fit into the open files of this
/// process.
fn fitting(config: &Config) -> crate::transport::Limits {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let mut limits = config.limits;
    limits.connections = limits.connections_within(files.unwrap_or(u64::MAX));
    limits
}

/// The differences for people: keys with both values, providers, and whether the policy changed.
fn in_words(differences: &[Difference], change: &Change) -> Vec<String> {
    let mut lines: Vec<String> = differences.iter().map(ToString::to_string).collect();
    for (name, what) in &change.providers {
        lines.push(format!("provider `{name}`: {}", outcome::in_words(*what)));
    }
    let (before, after) = &change.policy;
    if before != after {
        lines.push(format!("policy set: {before} is now {after}"));
    }
    if lines.is_empty() {
        lines.push("nothing but the text of the file".to_owned());
    }
    lines
}
