//! `LedgerService`. An export is read off the async threads and streamed with back-pressure: a slow reader slows
//! only itself.

use std::{io, sync::Arc, time::Duration};

use taskpass_engine::{Error, ExportFilter};
use taskpass_proto::v1::{
    ExportLedgerRequest, ExportLedgerResponse, GetCheckpointRequest, GetCheckpointResponse,
    ProveEntryRequest, ProveEntryResponse, ledger_service_server::LedgerService,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Api, convert, status};

/// Exports at a time. Each holds a thread for as long as its reader takes, and other reads need threads, too.
pub(super) const EXPORTS_MAX: usize = 16;
/// What a caller is told to wait when there are that many.
const EXPORT_RETRY: Duration = Duration::from_secs(5);
/// Messages read ahead of a slow reader.
const MESSAGES_AHEAD: usize = 8;
/// Bytes of lines in one message.
const MESSAGE_BYTES: usize = 64 * 1024;

#[tonic::async_trait]
impl LedgerService for Api {
    type ExportLedgerStream = ReceiverStream<Result<ExportLedgerResponse, Status>>;

    async fn get_checkpoint(
        &self,
        request: Request<GetCheckpointRequest>,
    ) -> Result<Response<GetCheckpointResponse>, Status> {
        let call = self.call(request.extensions()).await?;
        let older = request.get_ref().consistent_with;
        let found = self
            .engine
            .checkpoint(&call, older)
            .await
            .map_err(status::from)?;
        Ok(Response::new(GetCheckpointResponse {
            checkpoint: found.checkpoint.note().to_owned(),
            vkey: self.engine.ledger_key().to_string(),
            consistency: found.proof.iter().map(|hash| hash.to_vec()).collect(),
        }))
    }

    async fn export_ledger(
        &self,
        request: Request<ExportLedgerRequest>,
    ) -> Result<Response<Self::ExportLedgerStream>, Status> {
        let call = self.call(request.extensions()).await?;
        let turn = Arc::clone(&self.exports).try_acquire_owned();
        let turn = turn.map_err(|_none_left| {
            status::from(Error::Exhausted {
                message: format!("{EXPORTS_MAX} exports of the ledger are under way"),
                retry_after: EXPORT_RETRY,
            })
        })?;
        let message = request.into_inner();
        let since = message
            .since
            .map(|at| convert::from_time("since", at))
            .transpose()
            .map_err(status::from)?;
        let filter = ExportFilter {
            since,
            task_id: message.task_id,
            consistent_with: message.consistent_with,
        };
        let plan = self
            .engine
            .plan_export(&call, &filter)
            .await
            .map_err(status::from)?;
        let (sender, receiver) = mpsc::channel(MESSAGES_AHEAD);
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let mut out = Messages {
                sender,
                lines: Vec::new(),
                done: 0,
                total: plan.total(),
            };
            let result = plan.write(&mut out).map_err(status::from);
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
    }

    async fn prove_entry(
        &self,
        request: Request<ProveEntryRequest>,
    ) -> Result<Response<ProveEntryResponse>, Status> {
        let call = self.call(request.extensions()).await?;
        let (proof, entry) = self
            .engine
            .prove(&call, request.get_ref().index)
            .await
            .map_err(status::from)?;
        Ok(Response::new(ProveEntryResponse { proof, entry }))
    }
}

/// Collects lines into messages of a sensible size.
struct Messages {
    sender: mpsc::Sender<Result<ExportLedgerResponse, Status>>,
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
        let message = ExportLedgerResponse {
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
