//! The thread that drives the sequencer: it gathers pending requests, and has checkpoints signed.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Duration,
};

use tokio::sync::oneshot;

use crate::sequencer::{PRUNE_EVERY, Request, Sequencer};

/// Events appended together at most, before the events that follow from them.
const GROUP_EVENTS_MAX: usize = 8192;
/// Bytes of JSON appended together at most, before the events that follow from them.
const GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A checkpoint is at most this much younger than the entries it signs.
const CHECKPOINT_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) enum Message {
    Commit(Request),
    /// Signs all entries, and says when that is done or why it is not.
    Seal(oneshot::Sender<Result<(), String>>),
    Close,
}

#[derive(Debug)]
pub(crate) struct Writer(pub(crate) Sequencer);

impl Writer {
    /// Works until told to close, or until the store is gone; then signs all entries.
    pub(crate) fn run(mut self, inbox: &Receiver<Message>) {
        loop {
            let next = match inbox.recv_timeout(self.pause()) {
                Ok(Message::Commit(first)) => {
                    let (requests, next) = gather(first, inbox);
                    self.0.process(requests);
                    next
                }
                Ok(other) => Some(other),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => Some(Message::Close),
            };
            match next {
                // Requests that are left were sent after closing. Dropping them
                // tells their callers so.
                Some(Message::Close) => break,
                Some(Message::Seal(reply)) => {
                    let signed = self.0.sign().map_err(|error| error.to_string());
                    drop(reply.send(signed));
                }
                Some(Message::Commit(request)) => self.0.process(vec![request]),
                None => {}
            }
            if self.pause().is_zero() {
                self.sign_when_due();
            }
        }
        self.sign_when_due();
    }

    /// How long nothing needs to be done.
    fn pause(&self) -> Duration {
        let unsigned = self.0.unsigned_for();
        unsigned.map_or(PRUNE_EVERY, |waited| {
            CHECKPOINT_AFTER.saturating_sub(waited)
        })
    }

    fn sign_when_due(&mut self) {
        if let Err(error) = self.0.sign() {
            // Entries are safe without it; only proofs wait. The next pause tries again.
            tracing::warn!(%error, "a checkpoint of the ledger could not be written");
        }
    }
}

/// Pending requests up to the limits of one group, and a message of another kind that came behind
/// them.
fn gather(first: Request, inbox: &Receiver<Message>) -> (Vec<Request>, Option<Message>) {
    let mut events = first.events();
    let mut bytes = first.bytes();
    let mut requests = vec![first];
    while events < GROUP_EVENTS_MAX && bytes < GROUP_BYTES_MAX {
        match inbox.try_recv() {
            Ok(Message::Commit(request)) => {
                events += request.events();
                bytes += request.bytes();
                requests.push(request);
            }
            Ok(other) => return (requests, Some(other)),
            Err(_) => break,
        }
    }
    (requests, None)
}
