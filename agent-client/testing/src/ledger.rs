//! The ledger of the tests' broker: a real one, which a test can grow, replace and rewrite.

use taskpass_core::{SystemEntropy, Timestamp};
use taskpass_ledger::{Checkpoint, Ledger, Options, Priority, ProofFile, SigningKey, export};
use taskpass_proto::v1::{
    ExportLedgerRequest, ExportLedgerResponse, GetCheckpointRequest, GetCheckpointResponse,
    LedgerHead, ProveEntryRequest, ProveEntryResponse, ledger_service_server,
};
use tonic::{Code, Request, Response, Status};

use crate::{
    fake::Shared,
    pki::DOMAIN,
    services::{Reply, refusal},
};

/// The entries that a new ledger has.
pub const ENTRIES: [&str; 2] = [r#"{"event":"one"}"#, "not json"];

/// A real ledger with two entries.
pub struct FakeLedger {
    pub vkey: String,
    ledger: Ledger,
    checkpoint: std::sync::Arc<Checkpoint>,
}

impl FakeLedger {
    /// Another history under the key that `dir` has, in `elsewhere`.
    pub fn rewritten(dir: &std::path::Path, elsewhere: &std::path::Path, entries: &[&str]) -> Self {
        let origin = format!("taskpass/{DOMAIN}");
        let key = SigningKey::load(&origin, &dir.join("ledger.key")).unwrap();
        let vkey = key.verifying_key().to_string();
        let (mut ledger, _) = Ledger::open(&elsewhere.join("ledger"), Options::new(key)).unwrap();
        let entries: Vec<&[u8]> = entries.iter().map(|entry| entry.as_bytes()).collect();
        ledger.append_batch(&entries, Priority::Normal).unwrap();
        let checkpoint = ledger.checkpoint_now().unwrap();
        Self {
            vkey,
            ledger,
            checkpoint,
        }
    }

    /// Appends an entry and signs it.
    pub fn grow(&mut self, entry: &[u8]) {
        self.ledger
            .append_batch(&[entry], Priority::Normal)
            .unwrap();
        self.checkpoint = self.ledger.checkpoint_now().unwrap();
    }

    /// The head, with the proof that it continues the ledger of `older` entries.
    pub fn head(&self, older: u64) -> LedgerHead {
        let size = self.checkpoint.size();
        let proof = (older != 0 && older < size)
            .then(|| self.ledger.reader().consistency_proof(older, size).unwrap());
        let proof = proof.unwrap_or_default();
        LedgerHead {
            checkpoint: self.checkpoint.note().to_owned(),
            consistency: proof.iter().map(|hash| hash.to_vec()).collect(),
        }
    }

    /// A note by this ledger's key about the root with this public key.
    pub fn signed_roots(&self, root: &[u8; 32], time: Timestamp) -> String {
        self.ledger.roots_signer().sign(&[*root], time)
    }

    pub fn create(dir: &std::path::Path) -> Self {
        let (origin, entropy) = (format!("taskpass/{DOMAIN}"), SystemEntropy::new());
        let key = SigningKey::generate(&origin, &dir.join("ledger.key"), &entropy).unwrap();
        let vkey = key.verifying_key().to_string();
        let (mut ledger, _) = Ledger::open(&dir.join("ledger"), Options::new(key)).unwrap();
        let entries = ENTRIES.map(str::as_bytes);
        ledger.append_batch(&entries, Priority::Normal).unwrap();
        let checkpoint = ledger.checkpoint_now().unwrap();
        Self {
            vkey,
            ledger,
            checkpoint,
        }
    }
}

#[tonic::async_trait]
impl ledger_service_server::LedgerService for Shared {
    async fn get_checkpoint(
        &self,
        request: Request<GetCheckpointRequest>,
    ) -> Reply<GetCheckpointResponse> {
        self.enter("get_checkpoint")?;
        let state = self.lock();
        let ledger = state.ledger.as_ref().unwrap();
        let head = ledger.head(request.into_inner().consistent_with);
        Ok(Response::new(GetCheckpointResponse {
            checkpoint: head.checkpoint,
            vkey: ledger.vkey.clone(),
            consistency: head.consistency,
        }))
    }

    type ExportLedgerStream =
        tokio_stream::Iter<std::vec::IntoIter<Result<ExportLedgerResponse, Status>>>;

    async fn export_ledger(
        &self,
        _request: Request<ExportLedgerRequest>,
    ) -> Reply<Self::ExportLedgerStream> {
        self.enter("export_ledger")?;
        let state = self.lock();
        let ledger = state.ledger.as_ref().unwrap();
        let mut file = Vec::new();
        export::write_full(&ledger.ledger.reader(), &ledger.checkpoint, &mut file).unwrap();
        let message = |(at, line): (usize, &[u8])| {
            let done = u64::try_from(at + 1).unwrap().min(2);
            Ok(ExportLedgerResponse {
                lines: line.to_vec(),
                done,
                total: 2,
            })
        };
        let lines = file.split_inclusive(|b| *b == b'\n').enumerate();
        let messages: Vec<_> = lines.map(message).collect();
        Ok(Response::new(tokio_stream::iter(messages)))
    }

    async fn prove_entry(&self, request: Request<ProveEntryRequest>) -> Reply<ProveEntryResponse> {
        self.enter("prove_entry")?;
        let state = self.lock();
        let ledger = state.ledger.as_ref().unwrap();
        let index = request.into_inner().index;
        let proof = ProofFile::new(&ledger.ledger.reader(), &ledger.checkpoint, index);
        let proof = proof.map_err(|_missing| refusal(Code::NotFound, "ENTRY_NOT_FOUND", &[]))?;
        Ok(Response::new(ProveEntryResponse {
            proof: proof.to_string(),
            entry: ENTRIES[0].as_bytes().to_vec(),
        }))
    }
}
