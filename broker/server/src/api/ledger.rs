//! `LedgerService`. An export is read off the async threads and streamed with back-pressure: a slow
//! reader slows only itself.

use std::{io, sync::Arc, time::Duration};

use taskpass_engine::{Error, ExportFilter};
use taskpass_proto::v1 as pb;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Answer, Api, EXPORTS_MAX, parse, status::Refusal};

/// The pause in a refusal when [`EXPORTS_MAX`] exports run.
const EXPORT_RETRY: Duration = Duration::from_secs(5);
/// Messages read ahead of a slow reader.
const MESSAGES_AHEAD: usize = 8;
/// Bytes of lines in one message.
const MESSAGE_BYTES: usize = 64 * 1024;

#[tonic::async_trait]
impl pb::ledger_service_server::LedgerService for Api {
    type ExportLedgerStream = ReceiverStream<Result<pb::ExportLedgerResponse, Status>>;

    async fn get_checkpoint(
        &self,
        request: Request<pb::GetCheckpointRequest>,
    ) -> Answer<pb::GetCheckpointResponse> {
        self.answer(request, |call, message| async move {
            let older = older(message.consistent_with);
            let found = self.engine.checkpoint(&call, older).await?;
            Ok(Response::new(pb::GetCheckpointResponse {
                checkpoint: found.checkpoint.note().to_owned(),
                vkey: self.engine.ledger_key().to_string(),
                consistency: found.proof.iter().map(|hash| hash.to_vec()).collect(),
            }))
        })
        .await
    }

    async fn export_ledger(
        &self,
        request: Request<pb::ExportLedgerRequest>,
    ) -> Answer<Self::ExportLedgerStream> {
        self.answer(request, |call, message| async move {
            let turn = Arc::clone(&self.exports).try_acquire_owned();
            let turn = turn.map_err(|_none_left| Error::Exhausted {
                message: format!("{EXPORTS_MAX} exports of the ledger are under way"),
                retry_after: EXPORT_RETRY,
            })?;
            let since = message.since.map(|at| parse::time("since", at));
            let filter = ExportFilter {
                since: since.transpose()?,
                task: parse::optional("task_id", &message.task_id)?,
                consistent_with: older(message.consistent_with),
            };
            let plan = self.engine.plan_export(&call, &filter).await?;
            let (sender, receiver) = mpsc::channel(MESSAGES_AHEAD);
            tokio::task::spawn_blocking(move || {
                let _turn = turn;
                let mut out = Messages {
                    sender,
                    lines: Vec::new(),
                    done: 0,
                    total: plan.total(),
                };
                let result = plan.write(&mut out).map_err(|e| Refusal::from(e).into());
                let last = result.and_then(|()| {
                    out.flush_lines()
                        .map_err(|e| Status::cancelled(e.to_string()))
                });
                if let Err(error) = last {
                    // The reader may be gone, which is then no error.
                    let _gone = out.sender.blocking_send(Err(error));
                }
            });
            Ok(Response::new(ReceiverStream::new(receiver)))
        })
        .await
    }

    async fn prove_entry(
        &self,
        request: Request<pb::ProveEntryRequest>,
    ) -> Answer<pb::ProveEntryResponse> {
        self.answer(request, |call, message| async move {
            let proven = self.engine.prove(&call, message.index).await?;
            Ok(Response::new(pb::ProveEntryResponse {
                proof: proven.proof,
                entry: proven.entry,
            }))
        })
        .await
    }
}

/// The size of an earlier checkpoint; 0 means that the caller has none.
fn older(consistent_with: u64) -> Option<u64> {
    (consistent_with != 0).then_some(consistent_with)
}

/// Collects lines into messages of a sensible size.
struct Messages {
    sender: mpsc::Sender<Result<pb::ExportLedgerResponse, Status>>,
    lines: Vec<u8>,
    done: u64,
    total: u64,
}

impl Messages {
    fn flush_lines(&mut self) -> io::Result<()> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let newlines = self.lines.iter().filter(|byte| **byte == b'\n').count();
        self.done = self
            .done
            .saturating_add(u64::try_from(newlines).unwrap_or(0));
        let message = pb::ExportLedgerResponse {
            lines: std::mem::take(&mut self.lines),
            done: self.done.min(self.total),
            total: self.total,
        };
        self.sender
            .blocking_send(Ok(message))
            .map_err(|_closed| io::ErrorKind::BrokenPipe.into())
    }
}

impl io::Write for Messages {
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
