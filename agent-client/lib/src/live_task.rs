//! An open task while this program works on it: heartbeats, the deadline, and the moment it is
//! over.

use std::{fmt, time::Duration};

use taskpass_core::{TaskId, Timestamp};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::{Client, Error};

/// The state that the guard of a task shares with its heartbeats and its credentials.
pub(crate) struct LiveTask {
    pub(crate) id: TaskId,
    pub(crate) deadline: Timestamp,
    pub(crate) client: Client,
    /// Why the task is over, once it is.
    pub(crate) over: watch::Sender<Option<String>>,
    /// Stops heartbeats and refreshing.
    pub(crate) stop: CancellationToken,
}

impl LiveTask {
    pub(crate) fn new(id: TaskId, deadline: Timestamp, client: Client) -> Self {
        Self {
            id,
            deadline,
            client,
            over: watch::Sender::new(None),
            stop: CancellationToken::new(),
        }
    }

    /// Waits until the task is over and says why.
    pub(crate) async fn until_over(&self) -> String {
        let mut over = self.over.subscribe();
        let why = over
            .wait_for(Option::is_some)
            .await
            .map(|why| why.clone().unwrap_or_default());
        match why {
            Ok(why) => why,
            // INVARIANT: the sender lives in `self`, so it is never closed.
            Err(_closed) => std::future::pending().await,
        }
    }

    /// Stops heartbeats and refreshing; from here on no secret is returned.
    pub(crate) fn mark_over(&self, why: &str) {
        self.over
            .send_if_modified(|over| over.is_none() && over.replace(why.to_owned()).is_none());
        self.stop.cancel();
    }

    /// Fails when the task is over.
    pub(crate) fn check_open(&self) -> Result<(), Error> {
        match self.over.borrow().clone() {
            None => Ok(()),
            Some(why) => Err(Error::TaskEnded { task: self.id, why }),
        }
    }

    /// Marks the task over at its deadline. The broker ends it then, also when it cannot be reached
    /// from here to say so.
    pub(crate) async fn watch_deadline(&self, life: Duration) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(life) => self.mark_over("its deadline has passed"),
        }
    }

    /// Sends a heartbeat each `interval` until the task is over.
    pub(crate) async fn send_heartbeats(&self, interval: Duration) {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(interval) => {}
            }
            let outcome = tokio::select! {
                () = self.stop.cancelled() => return,
                outcome = self.client.heartbeat_within(interval, self.id) => outcome,
            };
            match outcome {
                Ok(_) => {}
                Err(error) if says_over(&error) => {
                    tracing::warn!(task = %self.id, %error, "the broker says that the task is over");
                    return self.mark_over(&error.to_string());
                }
                Err(error) => {
                    tracing::warn!(task = %self.id, %error, "a heartbeat failed; the next one follows");
                }
            }
        }
    }
}

/// Whether a refused heartbeat means that the task is over. An identity that does not count any
/// more keeps no task alive; by then [`Client::heartbeat`] has already tried the stored identity
/// too.
fn says_over(error: &Error) -> bool {
    error.is_unknown_identity()
        || error.refusal().is_some_and(|refusal| {
            matches!(
                refusal.code,
                Code::NotFound | Code::FailedPrecondition | Code::PermissionDenied
            )
        })
}

impl fmt::Debug for LiveTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LiveTask({})", self.id)
    }
}
