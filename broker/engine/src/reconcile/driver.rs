//! The one loop of all reconcilers.

use std::{future, sync::Arc};

use async_trait::async_trait;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{ReconcilerStatus, Round};
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
    use std::time::Duration;

    use tokio::sync::{mpsc, watch};

    use super::*;
    use crate::{Settings, testing::Bench};

    /// Its rounds go as the test says, one for each message.
    struct Told {
        rounds: mpsc::Receiver<Round>,
        /// How many rounds began.
        begun: watch::Sender<u64>,
    }

    #[async_trait]
    impl Reconciler for Told {
        fn name(&self) -> &'static str {
            "told"
        }

        async fn round(&mut self) -> Round {
            self.begun.send_modify(|begun| *begun += 1);
            match self.rounds.recv().await {
                Some(round) => round,
                None => future::pending().await,
            }
        }
    }

    #[tokio::test]
    async fn people_see_how_the_rounds_went() {
        let bench = Bench::new(&[], Settings::default()).await;
        let (rounds, told) = mpsc::channel(4);
        let (begun, begins) = watch::channel(0);
        let stop = CancellationToken::new();
        let told = Told {
            rounds: told,
            begun,
        };
        drive(&bench.engine, told, &stop);
        let after = async |count| {
            // A round is noted before the next one begins.
            let next = |begun: &u64| *begun == count + 1;
            begins.clone().wait_for(next).await.unwrap();
            let status = bench.engine.reconcilers().pop().unwrap();
            assert_eq!(status.rounds, count);
            status
        };
        let failed = || Round::Failed {
            pause: Duration::ZERO,
            message: "the disk is full".to_owned(),
        };
        rounds.send(failed()).await.unwrap();
        rounds.send(failed()).await.unwrap();
        let status = after(2).await;
        assert_eq!((status.name, status.failures), ("told", 2));
        assert_eq!((status.failed_rounds, status.last_success), (2, None));
        rounds.send(Round::Done(Duration::ZERO)).await.unwrap();
        let status = after(3).await;
        assert_eq!((status.failures, status.failed_rounds), (0, 2));
        assert_eq!(status.last_success, Some(status.last_round));
        let failure = status.last_failure.unwrap();
        assert_eq!(failure.message, "the disk is full");
        stop.cancel();
    }
}
