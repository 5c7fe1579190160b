//! Reading history.

use std::{str::FromStr, sync::Arc};

use serde::de::DeserializeOwned;
use taskpass_core::{AgentName, Anchor, AnchorId, Credential, CredentialId, Task, TaskId};

use super::{Index, IndexError, guarded, keys, parse};

/// Rows from an index, and whether there may be more.
pub(crate) type Rows<T> = (Vec<Arc<T>>, bool);

impl Index {
    pub(crate) fn task(&self, id: TaskId) -> Result<Option<Arc<Task>>, IndexError> {
        self.record(&keys::record(keys::TASK, &id))
    }

    pub(crate) fn credential(
        &self,
        id: CredentialId,
    ) -> Result<Option<Arc<Credential>>, IndexError> {
        let task = self.get(keys::record(keys::CREDENTIAL, &id))?;
        task.map_or(Ok(None), |task| self.credential_under(&task, id))
    }

    fn credential_under(
        &self,
        task: &[u8],
        id: CredentialId,
    ) -> Result<Option<Arc<Credential>>, IndexError> {
        let of_task = keys::credentials_of(id_in(task, "")?);
        match self.record(&keys::record(&of_task, &id))? {
            None => Err(IndexError(format!("credential `{id}` is missing"))),
            found => Ok(found),
        }
    }

    /// Whether there ever was this credential.
    pub(crate) fn knew_credential(&self, id: CredentialId) -> Result<bool, IndexError> {
        Ok(self.get(keys::record(keys::CREDENTIAL, &id))?.is_some())
    }

    /// Whether there ever was this anchor.
    pub(crate) fn knew_anchor(&self, id: AnchorId) -> Result<bool, IndexError> {
        Ok(self.get(keys::record(keys::ANCHOR, &id))?.is_some())
    }

    /// The credentials of a task, by id.
    pub(crate) fn credentials_of(&self, task: TaskId) -> Result<Vec<Arc<Credential>>, IndexError> {
        self.records(&keys::credentials_of(task))
    }

    /// The anchors of a task, by id.
    pub(crate) fn anchors_of(&self, task: TaskId) -> Result<Vec<Arc<Anchor>>, IndexError> {
        self.records(&keys::anchors_of(task))
    }

    /// Tasks that pass `keep`, newest first, from below `before`.
    pub(crate) fn tasks(
        &self,
        agent: Option<&AgentName>,
        before: Option<TaskId>,
        size: usize,
        keep: impl Fn(&Task) -> bool,
    ) -> Result<Rows<Task>, IndexError> {
        match agent {
            None => self.newest(keys::TASK, before, size, |_, task| recorded(task), keep),
            Some(agent) => {
                let prefix = keys::tasks_of_agent(agent);
                self.newest(&prefix, before, size, |id, _| self.task(id), keep)
            }
        }
    }

    /// Credentials that pass `keep`, newest first, from below `before`.
    pub(crate) fn credentials(
        &self,
        of: Option<Owner<'_>>,
        before: Option<CredentialId>,
        size: usize,
        keep: impl Fn(&Credential) -> bool,
    ) -> Result<Rows<Credential>, IndexError> {
        let prefix = match of {
            None => keys::CREDENTIAL.to_owned(),
            Some(Owner::Agent(agent)) => keys::credentials_of_agent(agent),
            Some(Owner::Task(task)) => {
                let prefix = keys::credentials_of(task);
                return self.newest(&prefix, before, size, |_, row| recorded(row), keep);
            }
        };
        let find = |id, task: &[u8]| self.credential_under(task, id);
        self.newest(&prefix, before, size, find, keep)
    }

    /// Indexes of the entries about a task, from `from` on.
    pub(crate) fn entries_of(
        &self,
        task: TaskId,
        from: u64,
        limit: usize,
    ) -> Result<Vec<u64>, IndexError> {
        // `from` may be listed under an earlier key, the last one that is not behind it.
        let before = keys::entry(task, 0)..=keys::entry(task, from);
        let db = self.db()?;
        let first = guarded(|| db.range(before).next_back().transpose())?;
        let start = first.map_or_else(|| keys::entry(task, from), |(key, _)| key.to_vec());
        let range = start..=keys::entry(task, u64::MAX);
        let mut found = Vec::new();
        let mut rows = guarded(|| Ok(db.range(range)))?;
        while found.len() < limit {
            let Some((_, value)) = guarded(|| rows.next().transpose())? else {
                break;
            };
            let (indexes, _) = value.as_chunks::<8>();
            let indexes = indexes.iter().map(|bytes| u64::from_be_bytes(*bytes));
            found.extend(indexes.filter(|index| *index >= from));
        }
        found.truncate(limit);
        Ok(found)
    }

    /// The newest task id there is.
    pub(crate) fn newest_task(&self) -> Result<Option<TaskId>, IndexError> {
        self.last_id(keys::TASK)
    }

    /// The newest credential id there is.
    pub(crate) fn newest_credential(&self) -> Result<Option<CredentialId>, IndexError> {
        self.last_id(keys::CREDENTIAL)
    }

    /// The newest anchor id there is.
    pub(crate) fn newest_anchor(&self) -> Result<Option<AnchorId>, IndexError> {
        self.last_id(keys::ANCHOR)
    }

    fn last_id<I: FromStr>(&self, prefix: &str) -> Result<Option<I>, IndexError> {
        let Some(db) = &self.db else { return Ok(None) };
        let last = guarded(|| db.scan_prefix(prefix).next_back().transpose())?;
        last.map(|(key, _)| id_in(&key, prefix)).transpose()
    }

    fn newest<I: FromStr + std::fmt::Display, T>(
        &self,
        prefix: &str,
        before: Option<I>,
        size: usize,
        record: impl Fn(I, &[u8]) -> Result<Option<Arc<T>>, IndexError>,
        keep: impl Fn(&T) -> bool,
    ) -> Result<Rows<T>, IndexError> {
        // `~` sorts behind every character of an id.
        let end = before.map_or_else(
            || keys::record(prefix, &"~"),
            |id| keys::record(prefix, &id),
        );
        let db = self.db()?;
        let mut rows = guarded(|| Ok(db.range(prefix.as_bytes().to_vec()..end)))?;
        let mut found = Vec::new();
        while let Some((key, value)) = guarded(|| rows.next_back().transpose())? {
            let row = record(id_in(&key, prefix)?, &value)?;
            let Some(row) = row.filter(|row| keep(row)) else {
                continue;
            };
            if found.len() == size {
                return Ok((found, true));
            }
            found.push(row);
        }
        Ok((found, false))
    }

    pub(super) fn ids<I: FromStr>(&self, prefix: &str) -> Result<Vec<I>, IndexError> {
        let mut ids = Vec::new();
        self.each(prefix, |key, _| {
            ids.push(id_in(key, prefix)?);
            Ok(())
        })?;
        Ok(ids)
    }

    /// Calls `row` with every key and value under `prefix`.
    pub(super) fn each(
        &self,
        prefix: impl AsRef<[u8]>,
        mut row: impl FnMut(&[u8], &[u8]) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        let db = self.db()?;
        let mut rows = guarded(|| Ok(db.scan_prefix(prefix)))?;
        while let Some((key, value)) = guarded(|| rows.next().transpose())? {
            row(&key, &value)?;
        }
        Ok(())
    }

    /// All records that stand under a prefix.
    fn records<T: DeserializeOwned>(&self, prefix: &str) -> Result<Vec<Arc<T>>, IndexError> {
        let mut records = Vec::new();
        self.each(prefix, |_, value| {
            records.push(Arc::new(parse(value)?));
            Ok(())
        })?;
        Ok(records)
    }

    fn record<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<Arc<T>>, IndexError> {
        self.get(key)?.map_or(Ok(None), |bytes| recorded(&bytes))
    }
}

fn recorded<T: DeserializeOwned>(value: &[u8]) -> Result<Option<Arc<T>>, IndexError> {
    parse(value).map(|record| Some(Arc::new(record)))
}

/// Whose credentials to list.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Owner<'a> {
    Agent(&'a AgentName),
    Task(TaskId),
}

/// The id behind a prefix.
fn id_in<I: FromStr>(key: &[u8], prefix: &str) -> Result<I, IndexError> {
    key.strip_prefix(prefix.as_bytes())
        .and_then(|id| std::str::from_utf8(id).ok())
        .and_then(|id| id.parse().ok())
        .ok_or_else(|| IndexError(format!("a key under `{prefix}` cannot be read")))
}
