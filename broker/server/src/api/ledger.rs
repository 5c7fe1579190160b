//! `LedgerService`. An export is read off the async threads and streamed with back-pressure: a slow
//! reader slows only itself.

mod exports;

use taskpass_engine::ExportFilter;
use taskpass_proto::v1 as pb;
use tonic::{Request, Response};

pub(super) use self::exports::{ExportStream, Exports};
use super::{Answer, Api, parse};

#[tonic::async_trait]
impl pb::ledger_service_server::LedgerService for Api {
    type ExportLedgerStream = ExportStream;

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
            let allowed = self.engine.authorize_export(&call).await?;
            let (running, mut lines, stream) = self.exports.begin(call.caller.id().as_str())?;
            let since = message.since.map(|at| parse::time("since", at));
            let filter = ExportFilter {
                since: since.transpose()?,
                task: parse::optional("task_id", &message.task_id)?,
                consistent_with: older(message.consistent_with),
            };
            let plan = self.engine.plan_export(allowed, &filter).await?;
            tokio::task::spawn_blocking(move || {
                let _running = running;
                lines.total = plan.total();
                let result = plan.write(&mut lines);
                lines.end(result);
            });
            Ok(Response::new(stream))
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
