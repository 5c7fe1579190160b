//! Hashes the entries that the start of a large ledger left out, while the broker serves.
//!
//! Live records do not depend on them: a start reads sealed records, and compares each entry that it
//! replays with the tree. So the broker does not hurry. It takes less than a
//! hundredth of a core, and leaves the rest to callers that connect again after a start.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use taskpass_core::{Clock, with_sources};
use taskpass_engine::reconcile::{Reconciler, Round};
use taskpass_ledger::{Reader, Unhashed};
use tokio::task::spawn_blocking;

use crate::issuing::Issuing;

const NAME: &str = "ledger";
/// A pause is so many times as long as the hashing before it.
const PAUSES: u32 = 400;
/// However long a step took: a disk that is slow for others is no reason to stop.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// The pause after a disk did not answer.
const RETRY: Duration = Duration::from_secs(60);
/// Nothing is left to do.
const DONE: Duration = Duration::from_secs(86_400);

/// Hashes step by step.
pub(crate) struct LedgerHashing {
    /// `None` once every entry was hashed, or one was found that differs.
    unhashed: Option<Unhashed>,
    /// Set when a step did not come back.
    lost: Option<String>,
    ledger: Reader,
    clock: Arc<dyn Clock>,
    issuing: Issuing,
}

impl LedgerHashing {
    pub(crate) fn new(unhashed: Unhashed, clock: Arc<dyn Clock>, issuing: Issuing) -> Self {
        Self {
            ledger: unhashed.reader(),
            unhashed: Some(unhashed).filter(|it| it.left() > 0),
            lost: None,
            clock,
            issuing,
        }
    }

    /// Hashes some entries; returns the pause until the next ones.
    async fn step(&mut self, mut unhashed: Unhashed) -> Result<Duration, String> {
        let began = self.clock.monotonic();
        let stepped = spawn_blocking(move || (unhashed.step(), unhashed)).await;
        let (stepped, unhashed) = stepped.map_err(|error| {
            let message = format!(
                "hashing the ledger failed: {error}; restart the broker, so that it begins again"
            );
            self.lost.insert(message).clone()
        })?;
        let left = unhashed.left();
        self.unhashed = Some(unhashed).filter(|_| left > 0);
        stepped.map_err(|error| with_sources(&error))?;
        if left == 0 {
            tracing::info!("every entry of the ledger was hashed");
            return Ok(DONE);
        }
        let took = self.clock.monotonic().saturating_sub(began);
        Ok((took * PAUSES).min(PAUSE_MAX))
    }
}

#[async_trait]
impl Reconciler for LedgerHashing {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn round(&mut self) -> Round {
        let stepped = match self.unhashed.take() {
            Some(unhashed) => self.step(unhashed).await,
            None => self.lost.clone().map_or(Ok(DONE), Err),
        };
        let damage = self.ledger.damage();
        match (stepped, damage) {
            (_, Some(at)) => {
                self.unhashed = None;
                let message = format!(
                    "{}; nothing is issued; keep a copy of the data directory, and restore a backup",
                    with_sources(&taskpass_ledger::Error::from(at))
                );
                tracing::error!("{message}");
                self.issuing.say(NAME, false).await;
                Round::Failed {
                    pause: DONE,
                    message,
                }
            }
            (Ok(pause), None) => Round::Done(pause),
            (Err(message), None) => {
                tracing::warn!(error = message, "the ledger is hashed later");
                Round::Failed {
                    pause: RETRY,
                    message,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
