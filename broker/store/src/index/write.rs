//! Writing to the index, in ledger order.

use std::sync::Arc;

use serde::Serialize;
use taskpass_core::{Digest, Task, TaskId, Timestamp, TrustDomain};

use super::{FORMAT, Index, IndexError, Meta, guarded, keys};
use crate::state::Change;

/// What some consecutive entries did.
#[derive(Debug)]
pub(crate) struct Portion {
    /// How many entries there are after them.
    pub(crate) position: u64,
    /// The last of them.
    pub(crate) last: Digest,
    /// The time of the last of them.
    pub(crate) time: Timestamp,
    pub(crate) trust_domain: Option<TrustDomain>,
    pub(crate) changes: Vec<Change>,
    pub(crate) ended: Vec<Arc<Task>>,
    /// Which entries are about which tasks.
    pub(crate) about: Vec<(TaskId, u64)>,
}

impl Index {
    /// Writes consecutive portions in one atomic batch.
    pub(crate) fn write(&self, portions: &[Portion]) -> Result<(), IndexError> {
        let Some(last) = portions.last() else {
            return Ok(());
        };
        let mut batch = sled::Batch::default();
        for portion in portions {
            for change in &portion.changes {
                write_change(&mut batch, change)?;
            }
            for task in &portion.ended {
                batch.insert(keys::record(keys::TASK, &task.id), json(task)?);
                batch.remove(keys::record(keys::LIVE, &task.id));
            }
            for (task, index) in &portion.about {
                batch.insert(keys::entry(*task, *index), Vec::new());
            }
        }
        let meta = Meta {
            format: FORMAT,
            origin: self.origin.clone(),
            position: last.position,
            entry_sha256: last.last.to_string(),
            time: last.time,
            trust_domain: last.trust_domain.clone(),
        };
        batch.insert(keys::META, json(&meta)?);
        guarded(|| self.db.apply_batch(batch))
    }
}

/// What left memory because it ended stays here as history; what was only forgotten goes.
fn write_change(batch: &mut sled::Batch, change: &Change) -> Result<(), IndexError> {
    match change {
        Change::Position(..)
        | Change::TrustDomain(_)
        | Change::Agent(_, None)
        | Change::Task(_, None)
        | Change::Credential(_, None)
        | Change::Anchor(_, None) => {}
        Change::Agent(name, Some(agent)) => {
            batch.insert(keys::record(keys::AGENT, name), json(agent)?);
        }
        Change::Token(id, Some(token)) => {
            batch.insert(keys::record(keys::TOKEN, id), json(token)?);
        }
        Change::Token(id, None) => batch.remove(keys::record(keys::TOKEN, id)),
        Change::Svid(serial, Some(svid)) => {
            batch.insert(keys::record(keys::SVID, serial), json(svid)?);
        }
        Change::Svid(serial, None) => batch.remove(keys::record(keys::SVID, serial)),
        Change::Key(hash, Some(key)) => batch.insert(keys::remembered(hash), json(key)?),
        Change::Key(hash, None) => batch.remove(keys::remembered(hash)),
        Change::Task(id, Some(task)) => {
            batch.insert(keys::record(keys::TASK, id), json(task)?);
            batch.insert(keys::record(keys::LIVE, id), Vec::new());
            let of_agent = keys::tasks_of_agent(&task.agent);
            batch.insert(keys::record(&of_agent, id), Vec::new());
        }
        Change::Credential(id, Some(credential)) => {
            batch.insert(keys::record(keys::CREDENTIAL, id), json(credential)?);
            // The state only moves away from intended, so these are written once.
            if credential.state == taskpass_core::CredentialState::Intended {
                let of_task = keys::credentials_of(credential.task);
                batch.insert(keys::record(&of_task, id), Vec::new());
                let of_agent = keys::credentials_of_agent(&credential.agent);
                batch.insert(keys::record(&of_agent, id), Vec::new());
            }
        }
        Change::Anchor(id, Some(anchor)) => {
            batch.insert(keys::record(keys::ANCHOR, id), json(anchor)?);
            let of_task = keys::anchors_of(anchor.task);
            batch.insert(keys::record(&of_task, id), Vec::new());
        }
    }
    Ok(())
}

fn json(record: &impl Serialize) -> Result<Vec<u8>, IndexError> {
    serde_json::to_vec(record).map_err(|e| IndexError(format!("a record cannot be written: {e}")))
}
