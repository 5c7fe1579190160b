//! The one loop of all reconcilers, and their status.

use std::{collections::BTreeMap, future, sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use taskpass_core::Timestamp;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::Engine;

/// A loop that takes no input.
#[async_trait]
pub trait Reconciler: Send {
    /// Its name, for people.
    fn name(&self) -> &'static str;

    /// Does one round of work. It logs its own failures, with advice.
    async fn round(&mut self) -> Round;

    /// Ends when there may be work before the pause is over.
    async fn signal(&mut self) {
        future::pending().await
    }
}

/// How a round went, and how long to rest.
#[derive(Debug)]
pub enum Round {
    /// Everything was done. The next round comes after this pause, or with a signal.
    Done(Duration),
    /// A step failed. The next round comes after this pause; a signal would only repeat the failure
    /// sooner.
    Failed {
        /// How long to wait.
        pause: Duration,
        /// What failed.
        message: String,
    },
}

/// The status of a reconciler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReconcilerStatus {
    /// Its name.
    pub name: &'static str,
    /// Rounds since the process began.
    pub rounds: u64,
    /// When the last round was over.
    pub last_round: Timestamp,
    /// Failed rounds in a row, up to the last one.
    pub failures: u32,
    /// The last failure, also when it is mended.
    pub last_failure: Option<Failure>,
}

/// A round that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// When.
    pub at: Timestamp,
    /// What failed.
    pub message: String,
}

/// The statuses of all reconcilers, by name.
#[derive(Debug, Default)]
pub(crate) struct Statuses(Mutex<BTreeMap<&'static str, ReconcilerStatus>>);

impl Statuses {
    pub(crate) fn all(&self) -> Vec<ReconcilerStatus> {
        self.0.lock().values().cloned().collect()
    }

    fn note(&self, name: &'static str, at: Timestamp, round: &Round) {
        let mut statuses = self.0.lock();
        let status = statuses.entry(name).or_insert(ReconcilerStatus {
            name,
            rounds: 0,
            last_round: at,
            failures: 0,
            last_failure: None,
        });
        status.rounds = status.rounds.saturating_add(1);
        status.last_round = at;
        match round {
            Round::Done(_) => status.failures = 0,
            Round::Failed { message, .. } => {
                status.failures = status.failures.saturating_add(1);
                let message = message.clone();
                status.last_failure = Some(Failure { at, message });
            }
        }
    }
}

/// Runs a reconciler until `stop` is cancelled. The engine's task tracker waits for its end.
pub fn drive(
    engine: &Arc<Engine>,
    mut reconciler: impl Reconciler + 'static,
    stop: &CancellationToken,
) -> JoinHandle<()> {
    let (driven, stop) = (Arc::clone(engine), stop.clone());
    engine.tasks().spawn(async move {
        let engine = driven;
        while !stop.is_cancelled() {
            let round = reconciler.round().await;
            engine.note_round(reconciler.name(), &round);
            match round {
                Round::Done(pause) => tokio::select! {
                    biased;
                    () = reconciler.signal() => {}
                    () = engine.timer().sleep(pause) => {}
                    () = stop.cancelled() => {}
                },
                Round::Failed { pause, .. } => tokio::select! {
                    biased;
                    () = engine.timer().sleep(pause) => {}
                    () = stop.cancelled() => {}
                },
            }
        }
    })
}

impl Engine {
    /// The status of the reconcilers, by name.
    pub fn reconcilers(&self) -> Vec<ReconcilerStatus> {
        self.reconcilers.all()
    }

    fn note_round(&self, name: &'static str, round: &Round) {
        self.reconcilers.note(name, self.now(), round);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        Settings,
        testing::{Bench, eventually},
    };

    /// Its rounds go as the test says, one for each message.
    struct Told(mpsc::Receiver<Round>);

    #[async_trait]
    impl Reconciler for Told {
        fn name(&self) -> &'static str {
            "told"
        }

        async fn round(&mut self) -> Round {
            match self.0.recv().await {
                Some(round) => round,
                None => future::pending().await,
            }
        }
    }

    #[tokio::test]
    async fn people_see_how_the_rounds_went() {
        let bench = Bench::new(&[], Settings::default()).await;
        let (rounds, told) = mpsc::channel(4);
        let stop = CancellationToken::new();
        drive(&bench.engine, Told(told), &stop);
        let status = || bench.engine.reconcilers().pop();
        let after = async |count| {
            eventually("the round is over", || async {
                status().is_some_and(|status| status.rounds == count)
            })
            .await;
            status().unwrap()
        };
        let failed = || Round::Failed {
            pause: Duration::ZERO,
            message: "the disk is full".to_owned(),
        };
        rounds.send(failed()).await.unwrap();
        rounds.send(failed()).await.unwrap();
        let status = after(2).await;
        assert_eq!((status.name, status.failures), ("told", 2));
        rounds.send(Round::Done(Duration::ZERO)).await.unwrap();
        let status = after(3).await;
        assert_eq!(status.failures, 0);
        let failure = status.last_failure.unwrap();
        assert_eq!(failure.message, "the disk is full");
        stop.cancel();
    }
}
