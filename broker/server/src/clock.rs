//! The clock of a broker's machine: whether the broker believes it, and the mark for the next
//! process on this machine.
//!
//! `clock.json` in the data directory keeps a good time together with the machine's monotonic
//! clock. A broker that starts again on the same run of the machine therefore notices a clock that
//! jumped while no broker ran.

mod accept;
#[cfg(test)]
mod tests;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use taskpass_core::{Clock, ClockMark, TrustedClock, with_sources};
use taskpass_engine::reconcile::{Reconciler, Round};
use taskpass_files::{Access, replace};

use crate::{config::Config, init::quoted, issuing::Issuing};

pub use accept::{Accepted, Error, Request, accept};

/// The mark, below the data directory.
const MARK: &str = "clock.json";
/// How often the clock is looked at. Requests look at it as well.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often the mark is written while nothing changes. It is good for as long as the machine runs;
/// a newer one takes over the drift of the clock.
const MARK_EVERY: Duration = Duration::from_secs(600);
/// Names this watcher.
const NAME: &str = "clock";

/// Watches the machine's clock, from where the last process on this machine left it.
pub(crate) fn trusted(data_dir: &Path, machine: Arc<dyn Clock>) -> Arc<TrustedClock> {
    Arc::new(TrustedClock::new(machine, mark(data_dir)))
}

/// The mark of the last process. The broker also starts without a readable mark: the ledger is
/// asked then.
pub(crate) fn mark(data_dir: &Path) -> Option<ClockMark> {
    let path = data_dir.join(MARK);
    let read = fs::read(&path).and_then(|text| Ok(serde_json::from_slice(&text)?));
    match read {
        Ok(mark) => Some(mark),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "the mark of the clock cannot be read");
            None
        }
    }
}

/// Leaves a mark for the next process.
fn leave(data_dir: &Path, mark: &ClockMark) -> Result<(), String> {
    // Cannot fail: the fields are texts and numbers, which JSON can always represent.
    let text = serde_json::to_vec(mark).unwrap_or_default();
    replace(&data_dir.join(MARK), &text, Access::Private).map_err(|error| with_sources(&error))
}

/// Looks at the clock, tells people when it is in doubt, and leaves marks.
pub(crate) struct ClockWatch {
    clock: Arc<TrustedClock>,
    data_dir: PathBuf,
    /// The configuration, as an argument of a command.
    config: String,
    issuing: Issuing,
    /// The last mark that was left, and when.
    left: Option<(ClockMark, Duration)>,
    told: Option<Told>,
}

/// What people were told last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Right,
    InDoubt,
}

impl ClockWatch {
    pub(crate) fn new(clock: Arc<TrustedClock>, config: &Config, issuing: Issuing) -> Self {
        Self {
            clock,
            data_dir: config.data_dir.clone(),
            config: quoted(&config.path),
            issuing,
            left: None,
            told: None,
        }
    }

    async fn tell(&mut self) -> Option<String> {
        let doubt = self.clock.doubt();
        if let (None, Some(why)) = (self.told, self.clock.refused_mark()) {
            let path = self.data_dir.join(MARK);
            tracing::warn!(%why, path = %path.display(), "the mark of the clock is not believed");
        }
        let now = doubt.map_or(Told::Right, |_| Told::InDoubt);
        let config = &self.config;
        let message = doubt.map(|doubt| {
            format!(
                "{doubt}; nothing is issued until the machine's clock is right, or until a person confirms it with `taskpassd clock accept --config {config}`"
            )
        });
        if self.told.replace(now) == Some(now) {
            return message;
        }
        match &message {
            Some(message) => tracing::error!("the clock is in doubt: {message}"),
            None => tracing::info!("the clock is right"),
        }
        self.issuing.say(NAME, message.is_none()).await;
        message
    }

    /// A mark is written when the doubt changes, and now and then.
    fn leave(&mut self) -> Result<(), String> {
        let Some(mark) = self.clock.mark() else {
            return Ok(());
        };
        let now = self.clock.monotonic();
        let is_fresh = self.left.as_ref().is_some_and(|(left, at)| {
            let same_doubt = (left.ahead_ms == 0) == (mark.ahead_ms == 0);
            same_doubt && now.saturating_sub(*at) < MARK_EVERY
        });
        if !is_fresh {
            leave(&self.data_dir, &mark)?;
            self.left = Some((mark, now));
        }
        Ok(())
    }
}

#[async_trait]
impl Reconciler for ClockWatch {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn round(&mut self) -> Round {
        let doubt = self.tell().await;
        let left = self.leave();
        let pause = LOOK_EVERY;
        match (doubt, left) {
            (None, Ok(())) => Round::Done(pause),
            (Some(message), _) => Round::Failed { pause, message },
            (None, Err(error)) => {
                let message = format!("the mark of the clock cannot be written: {error}");
                tracing::debug!("{message}");
                Round::Failed { pause, message }
            }
        }
    }
}
