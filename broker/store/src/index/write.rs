//! Writing to the index, in ledger order.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use serde::Serialize;
use taskpass_core::{
    Agent, Anchor, Credential, CredentialState, Digest, Task, TaskId, TaskState, Timestamp,
    TrustDomain,
};

use super::{FORMAT, Index, IndexError, Meta, guarded, keys};
use crate::{
    JoinTokenRecord, SvidRecord,
    state::{Change, Remembered},
};

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

/// What a key is set to. Records are written as JSON only once, in their last state of a batch.
enum Value<'a> {
    Gone,
    Mark,
    /// Under which task the record stands.
    Under(TaskId),
    Agent(&'a Agent),
    Token(&'a JoinTokenRecord),
    Svid(&'a SvidRecord),
    Task(&'a Task),
    Credential(&'a Credential),
    Anchor(&'a Anchor),
    Key(&'a Remembered),
}

type Values<'a> = HashMap<Vec<u8>, Value<'a>>;

impl Index {
    /// Writes consecutive portions in one atomic batch.
    pub(crate) fn write(&self, portions: &[Portion]) -> Result<(), IndexError> {
        let Some(last) = portions.last() else {
            return Ok(());
        };
        let mut values = Values::new();
        let mut entries: BTreeMap<TaskId, Vec<u64>> = BTreeMap::new();
        for portion in portions {
            for change in &portion.changes {
                collect(&mut values, change);
            }
            for task in &portion.ended {
                values.insert(keys::record(keys::TASK, &task.id), Value::Task(task));
                values.insert(keys::record(keys::LIVE, &task.id), Value::Gone);
            }
            for (task, index) in &portion.about {
                entries.entry(*task).or_default().push(*index);
            }
        }
        let mut batch = sled::Batch::default();
        for (key, value) in values {
            match value.bytes()? {
                Some(bytes) => batch.insert(key, bytes),
                None => batch.remove(key),
            }
        }
        for (task, indexes) in entries {
            for run in indexes.chunks(keys::ENTRIES_PER_KEY) {
                let bytes: Vec<u8> = run.iter().flat_map(|index| index.to_be_bytes()).collect();
                let first = run.first().copied().unwrap_or_default();
                batch.insert(keys::entry(task, first), bytes);
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
        let db = self.db()?;
        guarded(|| db.apply_batch(batch))
    }
}

/// What left memory because it ended stays here as history; what was only forgotten goes.
fn collect<'a>(values: &mut Values<'a>, change: &'a Change) {
    use keys::record;
    match change {
        Change::Position(..)
        | Change::TrustDomain(_)
        | Change::Agent(_, None)
        | Change::Task(_, None)
        | Change::Credential(_, None)
        | Change::Anchor(_, None) => {}
        Change::Agent(name, Some(agent)) => {
            values.insert(record(keys::AGENT, name), Value::Agent(agent));
        }
        Change::Token(id, token) => {
            let value = token.as_deref().map_or(Value::Gone, Value::Token);
            values.insert(record(keys::TOKEN, id), value);
        }
        Change::Svid(serial, svid) => {
            let value = svid.as_deref().map_or(Value::Gone, Value::Svid);
            values.insert(record(keys::SVID, serial), value);
        }
        Change::Key(hash, key) => {
            let value = key.as_deref().map_or(Value::Gone, Value::Key);
            values.insert(keys::remembered(hash), value);
        }
        Change::Task(id, Some(task)) => {
            values.insert(record(keys::TASK, id), Value::Task(task));
            if task.state == TaskState::Open {
                values.insert(record(keys::LIVE, id), Value::Mark);
                let of_agent = keys::tasks_of_agent(&task.agent);
                values.insert(record(&of_agent, id), Value::Mark);
            }
        }
        Change::Credential(id, Some(credential)) => {
            let (task, of_task) = (credential.task, keys::credentials_of(credential.task));
            values.insert(record(&of_task, id), Value::Credential(credential));
            // The state only moves away from intended, so these are written once.
            if credential.state == CredentialState::Intended {
                values.insert(record(keys::CREDENTIAL, id), Value::Under(task));
                let of_agent = keys::credentials_of_agent(&credential.agent);
                values.insert(record(&of_agent, id), Value::Under(task));
            }
        }
        Change::Anchor(id, Some(anchor)) => {
            values.insert(record(keys::ANCHOR, id), Value::Under(anchor.task));
            let of_task = keys::anchors_of(anchor.task);
            values.insert(record(&of_task, id), Value::Anchor(anchor));
        }
    }
}

impl Value<'_> {
    /// What is stored; `None` takes the key out.
    fn bytes(&self) -> Result<Option<Vec<u8>>, IndexError> {
        match self {
            Self::Gone => return Ok(None),
            Self::Mark => Ok(Vec::new()),
            Self::Under(task) => Ok(task.to_string().into_bytes()),
            Self::Agent(record) => json(record),
            Self::Token(record) => json(record),
            Self::Svid(record) => json(record),
            Self::Task(record) => json(record),
            Self::Credential(record) => json(record),
            Self::Anchor(record) => json(record),
            Self::Key(record) => json(record),
        }
        .map(Some)
    }
}

fn json(record: &impl Serialize) -> Result<Vec<u8>, IndexError> {
    serde_json::to_vec(record).map_err(|e| IndexError(format!("a record cannot be written: {e}")))
}
