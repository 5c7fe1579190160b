//! Exports under way: how many there may be, in all and of one operator, and how slow their readers
//! may be.
//!
//! An export holds a thread while it waits for its reader. A reader that takes nothing would hold
//! it for as long as its connection lives, and sixteen of them would keep every auditor out.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use parking_lot::Mutex;
use taskpass_core::Clock;
use taskpass_engine::Error;
use taskpass_proto::v1 as pb;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};
use tokio_stream::Stream;
use tonic::Status;

use crate::{api::status::Refusal, transport::Limits};

/// The pause in a refusal when too many exports run.
const RETRY: Duration = Duration::from_secs(5);
/// Messages read ahead of a slow reader.
const MESSAGES_AHEAD: usize = 8;
/// Bytes of lines in one message.
const MESSAGE_BYTES: usize = 64 * 1024;

type Message = Result<pb::ExportLedgerResponse, Status>;

/// The exports of one broker. Cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::api) struct Exports {
    all: Arc<Semaphore>,
    of_callers: Arc<Mutex<HashMap<String, usize>>>,
    limits: Limits,
    clock: Arc<dyn Clock>,
}

/// The right to one export. The thread that reads holds it.
#[derive(Debug)]
pub(super) struct Running(
    #[expect(dead_code, reason = "held, never looked at")] OwnedSemaphorePermit,
);

/// One of a caller's exports. The answer holds it, so an export that was ended for its slow reader
/// counts until the reader is gone: its last messages wait in memory.
#[derive(Debug)]
struct OfCaller {
    callers: Arc<Mutex<HashMap<String, usize>>>,
    caller: String,
}

impl Drop for OfCaller {
    fn drop(&mut self) {
        let mut callers = self.callers.lock();
        if let Some(count) = callers.get_mut(&self.caller) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                callers.remove(&self.caller);
            }
        }
    }
}

impl Exports {
    pub(in crate::api) fn new(limits: Limits, clock: Arc<dyn Clock>) -> Self {
        Self {
            all: Arc::new(Semaphore::new(limits.exports)),
            of_callers: Arc::default(),
            limits,
            clock,
        }
    }

    /// A new export of a caller, with both ends of its answer.
    pub(super) fn begin(&self, caller: &str) -> Result<(Running, Lines, ExportStream), Error> {
        let of_caller = self.of_caller(caller)?;
        let running = Arc::clone(&self.all).try_acquire_owned();
        let running = running.map_err(|_none_left| Error::Exhausted {
            message: format!(
                "{} exports of the ledger are under way, which are all that may be (`limits.exports`)",
                self.limits.exports
            ),
            retry_after: RETRY,
        })?;
        let (sender, receiver) = mpsc::channel(MESSAGES_AHEAD);
        let cut = Arc::<OnceLock<Status>>::default();
        let lines = Lines {
            sender,
            cut: Arc::clone(&cut),
            handle: Handle::current(),
            clock: Arc::clone(&self.clock),
            limits: self.limits,
            waited: Duration::ZERO,
            sent: 0,
            lines: Vec::new(),
            done: 0,
            total: 0,
        };
        let stream = ExportStream {
            receiver,
            cut,
            of_caller: Some(of_caller),
        };
        Ok((Running(running), lines, stream))
    }

    fn of_caller(&self, caller: &str) -> Result<OfCaller, Error> {
        let (mut callers, most) = (self.of_callers.lock(), self.limits.exports_per_operator);
        let count = callers.entry(caller.to_owned()).or_default();
        if *count >= most {
            return Err(Error::Exhausted {
                message: format!(
                    "{most} of your exports of the ledger are under way, which is your share (`limits.exports_per_operator`)"
                ),
                retry_after: RETRY,
            });
        }
        *count += 1;
        drop(callers);
        Ok(OfCaller {
            callers: Arc::clone(&self.of_callers),
            caller: caller.to_owned(),
        })
    }
}

/// The messages of an export, as the transport reads them.
#[derive(Debug)]
pub(in crate::api) struct ExportStream {
    receiver: mpsc::Receiver<Message>,
    cut: Arc<OnceLock<Status>>,
    of_caller: Option<OfCaller>,
}

impl Stream for ExportStream {
    type Item = Message;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        if self.of_caller.is_none() {
            return Poll::Ready(None);
        }
        let next = self.receiver.poll_recv(cx);
        // Looked at last: the writer ends the messages right after it says why. The messages that
        // wait are dropped, or the reader would learn late that it was too slow.
        if let Some(status) = self.cut.get().cloned() {
            self.receiver.close();
            while self.receiver.try_recv().is_ok() {}
            self.of_caller = None;
            return Poll::Ready(Some(Err(status)));
        }
        next
    }
}

/// Collects lines into messages of a sensible size, and waits for the reader.
#[derive(Debug)]
pub(super) struct Lines {
    sender: mpsc::Sender<Message>,
    cut: Arc<OnceLock<Status>>,
    handle: Handle,
    clock: Arc<dyn Clock>,
    limits: Limits,
    /// How long the reader was waited for, and the bytes that it took.
    waited: Duration,
    sent: u64,
    lines: Vec<u8>,
    done: u64,
    /// Lines of the whole export.
    pub(super) total: u64,
}

impl Lines {
    /// Sends the rest of the lines, and how the export ended. Must be called where blocking is
    /// allowed.
    pub(super) fn end(mut self, result: Result<(), Error>) {
        if self.cut.get().is_some() || self.sender.is_closed() {
            // The reader is gone or was cut, and the ledger is not to blame.
            return;
        }
        let ended = result
            .map_err(|error| Status::from(Refusal::from(error)))
            .and_then(|()| {
                let sent = self.flush_lines();
                sent.map_err(|error| Status::cancelled(error.to_string()))
            });
        if let Err(status) = ended {
            // The reader may be gone by now.
            let _gone = self.send(Err(status));
        }
    }

    fn flush_lines(&mut self) -> io::Result<()> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let newlines = self.lines.iter().filter(|byte| **byte == b'\n').count();
        let bytes = u64::try_from(self.lines.len()).unwrap_or(u64::MAX);
        self.done = self
            .done
            .saturating_add(u64::try_from(newlines).unwrap_or(0));
        let message = pb::ExportLedgerResponse {
            lines: std::mem::take(&mut self.lines),
            done: self.done.min(self.total),
            total: self.total,
        };
        self.send(Ok(message))?;
        self.sent = self.sent.saturating_add(bytes);
        Ok(())
    }

    /// Waits for the reader, who may be slow only for so long.
    fn send(&mut self, message: Message) -> io::Result<()> {
        if self.cut.get().is_some() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let message = match self.sender.try_send(message) {
            Ok(()) => return Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            Err(mpsc::error::TrySendError::Full(message)) => message,
        };
        let (stall, began) = (self.limits.export_stall, self.clock.monotonic());
        let sending = timeout(stall, self.sender.send(message));
        match self.handle.block_on(sending) {
            Ok(Ok(())) => {}
            Ok(Err(_closed)) => return Err(io::ErrorKind::BrokenPipe.into()),
            Err(_elapsed) => {
                return Err(self.cut(&format!(
                    "nothing was read for {} s (`limits.export_stall`)",
                    stall.as_secs_f32()
                )));
            }
        }
        let waited = self.clock.monotonic().saturating_sub(began);
        self.waited = self.waited.saturating_add(waited);
        if is_too_slow(&self.limits, self.waited, self.sent) {
            let least = self.limits.export_bytes_per_second;
            let message = format!(
                "it was read at less than {least} bytes a second (`limits.export_bytes_per_second`)"
            );
            return Err(self.cut(&message));
        }
        Ok(())
    }

    /// Ends the export for a reader that is too slow.
    fn cut(&self, why: &str) -> io::Error {
        let refused = Error::Exhausted {
            message: format!(
                "the export was ended because {why}; write it to a file, or export a part with `--since`"
            ),
            retry_after: RETRY,
        };
        let _first = self.cut.set(Refusal::from(refused).into());
        io::ErrorKind::TimedOut.into()
    }
}

/// Whether a reader took too few bytes for the time that it was waited for.
fn is_too_slow(limits: &Limits, waited: Duration, sent: u64) -> bool {
    let least = u64::from(limits.export_bytes_per_second);
    waited >= limits.export_stall && sent < least.saturating_mul(waited.as_secs())
}

impl io::Write for Lines {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.lines.extend_from_slice(lines);
        if self.lines.len() >= MESSAGE_BYTES && self.lines.ends_with(b"\n") {
            self.flush_lines()?;
        }
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.flush_lines()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use taskpass_core::ManualClock;
    use tokio_stream::StreamExt as _;

    use super::*;

    fn exports(limits: Limits) -> Exports {
        let now = taskpass_core::Timestamp::from_millis(1_760_000_000_000);
        Exports::new(limits, Arc::new(ManualClock::new(now)))
    }

    fn line() -> Vec<u8> {
        let mut line = vec![b'x'; MESSAGE_BYTES];
        line.push(b'\n');
        line
    }

    #[tokio::test]
    async fn one_operator_does_not_take_all_exports() {
        let limits = Limits {
            exports: 3,
            exports_per_operator: 2,
            ..Limits::default()
        };
        let exports = exports(limits);
        let mut of_alice: Vec<_> = (0..2).map(|_| exports.begin("alice").unwrap()).collect();
        let refused = exports.begin("alice").unwrap_err().message();
        assert!(refused.contains("exports_per_operator"), "{refused}");
        let of_bob = exports.begin("bob").unwrap();
        let refused = exports.begin("carol").unwrap_err().message();
        assert!(refused.contains("`limits.exports`"), "{refused}");
        of_alice.pop();
        exports.begin("alice").unwrap();
        drop((of_alice, of_bob));
        assert!(exports.of_callers.lock().is_empty());
    }

    /// The thread is free again, and the reader learns why when it reads at last.
    #[tokio::test]
    async fn a_reader_that_takes_nothing_is_cut() {
        let limits = Limits {
            export_stall: Duration::from_millis(10),
            ..Limits::default()
        };
        let exports = exports(limits);
        let (running, mut lines, mut stream) = exports.begin("alice").unwrap();
        let writing = tokio::task::spawn_blocking(move || {
            let result = (0..20).try_for_each(|_| lines.write_all(&line()));
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut);
            lines.end(Ok(()));
            drop(running);
        });
        writing.await.unwrap();
        assert_eq!(exports.all.available_permits(), limits.exports);
        let cut = stream.next().await.unwrap().unwrap_err();
        assert_eq!(cut.code(), tonic::Code::ResourceExhausted);
        assert!(cut.message().contains("`limits.export_stall`"), "{cut}");
        assert!(stream.next().await.is_none());
    }

    /// A reader that takes each message just before the stall would hold the export for hours.
    #[test]
    fn the_reader_has_a_least_speed_once_it_was_waited_for() {
        let limits = Limits {
            export_stall: Duration::from_secs(30),
            export_bytes_per_second: 1000,
            ..Limits::default()
        };
        let is_cut = |seconds, sent| is_too_slow(&limits, Duration::from_secs(seconds), sent);
        assert!(!is_cut(29, 0), "the stall is not over");
        assert!(is_cut(30, 29_999) && !is_cut(30, 30_000));
        assert!(is_cut(3600, 2_000_000) && !is_cut(3600, 4_000_000));
    }
}
