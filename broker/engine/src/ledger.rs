//! Reading the ledger: checkpoints, proofs, exports. For operators with a permission of policy.

use std::{io::Write, sync::Arc};

use taskpass_core::{TaskId, Timestamp};
use taskpass_ledger::{Checkpoint, Pin, ProofFile, Reader, export};
use taskpass_policy::{Action, Resource};

use crate::{Call, Engine, Error, Field};

/// Indexes fetched from the index at once.
const INDEXES_PER_QUERY: usize = 4096;

/// A checkpoint with the proof that it continues an earlier one.
#[derive(Debug, Clone)]
pub struct Consistency {
    /// The newest checkpoint.
    pub checkpoint: Arc<Checkpoint>,
    /// RFC 6962 consistency proof; empty when none was asked for.
    pub proof: Vec<[u8; 32]>,
}

/// An entry of the ledger with its proof.
#[derive(Debug, Clone)]
pub struct ProvenEntry {
    /// A C2SP proof file: inclusion proof and checkpoint.
    pub proof: String,
    /// The entry's bytes, as they were hashed.
    pub entry: Vec<u8>,
}

/// The entries to export.
#[derive(Debug, Clone, Default)]
pub struct ExportFilter {
    /// Only entries from this time on.
    pub since: Option<Timestamp>,
    /// Only entries about this task.
    pub task: Option<TaskId>,
    /// The size of an older checkpoint, for a proof that the history continues it.
    pub consistent_with: Option<u64>,
}

/// An export that the rules allow.
#[derive(Debug)]
pub struct AllowedExport(());

/// A prepared export. Writing it is blocking work.
#[derive(Debug)]
pub struct ExportPlan {
    /// Keeps its segments on this machine until it is written.
    _pin: Option<Pin>,
    reader: Reader,
    checkpoint: Arc<Checkpoint>,
    selection: Selection,
    older: Option<u64>,
}

#[derive(Debug)]
enum Selection {
    /// Everything: the tree itself is the proof.
    All,
    /// These, each with its proof.
    Some(Vec<u64>),
    /// From this index on, each with its proof.
    From(u64),
}

impl Engine {
    /// The newest checkpoint, and the proof that it continues the log of `older` entries.
    pub async fn checkpoint(&self, call: &Call, older: Option<u64>) -> Result<Consistency, Error> {
        self.require_operator(call, Action::LedgerRead).await?;
        self.authorize_read(call, Action::LedgerRead, Resource::Installation)
            .await?;
        let checkpoint = self.fresh_checkpoint().await?;
        let proof = match older {
            None => Vec::new(),
            Some(older) => {
                Self::require_within(older, &checkpoint)?;
                let reader = self.context.ledger.clone();
                let size = checkpoint.size();
                blocking(move || reader.consistency_proof(older, size)).await?
            }
        };
        Ok(Consistency { checkpoint, proof })
    }

    /// The newest checkpoint as it stands, for a caller that has just been issued an identity. It
    /// comes with the proof that it continues the log of `older` entries, as far as there are so
    /// many.
    ///
    /// Takes no decision of policy: heads and proofs show no entry, and an agent that may read
    /// nothing still has to notice a history that was rewritten. Signs nothing, so that issuing
    /// identities does not wait for the disk once more.
    pub async fn ledger_head(&self, older: Option<u64>) -> Result<Consistency, Error> {
        let checkpoint = self.context.ledger.checkpoint();
        let size = checkpoint.size();
        let proof = match older.filter(|older| *older < size) {
            None => Vec::new(),
            Some(older) => {
                let reader = self.context.ledger.clone();
                blocking(move || reader.consistency_proof(older, size)).await?
            }
        };
        Ok(Consistency { checkpoint, proof })
    }

    /// The inclusion proof of one entry, and the entry.
    pub async fn prove(&self, call: &Call, index: u64) -> Result<ProvenEntry, Error> {
        self.require_operator(call, Action::LedgerRead).await?;
        self.authorize_read(call, Action::LedgerRead, Resource::Installation)
            .await?;
        let checkpoint = self.fresh_checkpoint().await?;
        if index >= checkpoint.size() {
            return Err(Error::NotFound {
                what: format!("ledger entry {index}"),
                advice: "see `taskpass ledger checkpoint` for the ledger's size",
            });
        }
        let reader = self.context.ledger.clone();
        require_readable(&reader, index)?;
        blocking(move || {
            let proof = ProofFile::new(&reader, &checkpoint, index)?;
            Ok(ProvenEntry {
                proof: proof.to_string(),
                entry: reader.entry(index)?,
            })
        })
        .await
    }

    /// Decides about an export. A caller takes its place among the exports only then: a refusal
    /// takes time, and must keep no auditor out.
    pub async fn authorize_export(&self, call: &Call) -> Result<AllowedExport, Error> {
        self.require_operator(call, Action::LedgerRead).await?;
        self.authorize_read(call, Action::LedgerRead, Resource::Installation)
            .await?;
        Ok(AllowedExport(()))
    }

    /// Finds the entries that belong to an export.
    pub async fn plan_export(
        &self,
        _allowed: AllowedExport,
        filter: &ExportFilter,
    ) -> Result<ExportPlan, Error> {
        let checkpoint = self.fresh_checkpoint().await?;
        let older = filter.consistent_with;
        if let Some(older) = older {
            Self::require_within(older, &checkpoint)?;
        }
        let from = match filter.since {
            None => 0,
            Some(since) => self.context.store.first_index_since(since).await?,
        };
        let selection = match (filter.task, filter.since) {
            (None, None) => Selection::All,
            (None, Some(_)) => Selection::From(from),
            (Some(task), _) => {
                self.existing_task(task).await?;
                Selection::Some(self.entries_of_task(task, from, checkpoint.size()).await?)
            }
        };
        let first = match &selection {
            Selection::All => Some(0),
            Selection::From(index) => Some(*index),
            Selection::Some(indexes) => indexes.first().copied(),
        };
        // Archiving may run at the same time. Without the pin, it would take segments away after
        // the first lines were sent.
        let pin = match first {
            Some(first) => Some(readable(self.context.ledger.pin(first))?),
            None => None,
        };
        Ok(ExportPlan {
            _pin: pin,
            reader: self.context.ledger.clone(),
            checkpoint,
            selection,
            older,
        })
    }

    async fn entries_of_task(&self, task: TaskId, from: u64, size: u64) -> Result<Vec<u64>, Error> {
        let mut indexes = Vec::new();
        let mut next = from;
        loop {
            let page = self
                .context
                .store
                .entries_of_task(task, next, INDEXES_PER_QUERY)
                .await?;
            let Some(last) = page.last().copied() else {
                break;
            };
            indexes.extend(page.into_iter().filter(|index| *index < size));
            next = last.saturating_add(1);
        }
        Ok(indexes)
    }

    /// A checkpoint that covers everything that was in the ledger when asked for.
    async fn fresh_checkpoint(&self) -> Result<Arc<Checkpoint>, Error> {
        self.context.store.seal().await?;
        Ok(self.context.ledger.checkpoint())
    }

    fn require_within(older: u64, checkpoint: &Checkpoint) -> Result<(), Error> {
        if older <= checkpoint.size() {
            return Ok(());
        }
        Err(Error::invalid(
            Field::ConsistentWith,
            format!(
                "the ledger has only {} entries, fewer than your checkpoint's {older}",
                checkpoint.size()
            ),
        ))
    }
}

impl ExportPlan {
    /// How many entries it has.
    pub fn total(&self) -> u64 {
        match &self.selection {
            Selection::All => self.checkpoint.size(),
            Selection::From(index) => self.checkpoint.size().saturating_sub(*index),
            Selection::Some(indexes) => u64::try_from(indexes.len()).unwrap_or(u64::MAX),
        }
    }

    /// Writes the lines of the export.
    pub fn write(&self, out: &mut dyn Write) -> Result<(), Error> {
        let (reader, checkpoint, older) = (&self.reader, &self.checkpoint, self.older);
        let written = match &self.selection {
            Selection::All => export::write_full(reader, checkpoint, out),
            Selection::From(index) => {
                let range = *index..checkpoint.size();
                export::write_selection(reader, checkpoint, range, &mut |_, _| true, older, out)
            }
            Selection::Some(indexes) => {
                let indexes = indexes.iter().copied();
                export::write_indexes(reader, checkpoint, indexes, older, out)
            }
        };
        written.map(drop).map_err(Error::ledger)
    }
}

/// Fails before the first line is sent when the entries from `index` on are in an archive.
fn require_readable(reader: &Reader, index: u64) -> Result<(), Error> {
    readable(reader.require(index))
}

fn readable<T>(found: Result<T, taskpass_ledger::Error>) -> Result<T, Error> {
    found.map_err(|archived| Error::Precondition(archived.to_string()))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, taskpass_ledger::Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(Error::ledger)?
        .map_err(Error::ledger)
}
