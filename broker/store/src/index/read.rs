//! Reading rows. The tables decide which record stands under which key.

use std::{fmt::Display, ops::ControlFlow, str::FromStr, sync::Arc};

use serde::de::DeserializeOwned;
use taskpass_core::TaskId;

use super::{Index, IndexError, entry_key, record, rows::parse};
use crate::history::Order;

/// Records from an index, and whether there may be more.
pub(crate) type Listed<T> = (Vec<Arc<T>>, bool);

impl Index {
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        self.history.get(key)
    }

    /// The record under one key.
    pub(crate) fn record<T: DeserializeOwned>(
        &self,
        key: &[u8],
    ) -> Result<Option<Arc<T>>, IndexError> {
        self.get(key)?.map_or(Ok(None), |bytes| parsed(&bytes))
    }

    /// All records under a prefix.
    pub(crate) fn records<T: DeserializeOwned>(
        &self,
        prefix: &str,
    ) -> Result<Vec<Arc<T>>, IndexError> {
        let mut records = Vec::new();
        self.each_record(prefix, |_, record| {
            records.push(record);
            Ok(())
        })?;
        Ok(records)
    }

    /// Calls `take` with the rest of each key behind `prefix`, and with the record there.
    pub(crate) fn each_record<T: DeserializeOwned>(
        &self,
        prefix: &str,
        mut take: impl FnMut(&[u8], Arc<T>) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        self.each(prefix, |name, value| take(name, Arc::new(parse(value)?)))
    }

    /// All ids under a prefix.
    pub(crate) fn ids<I: FromStr>(&self, prefix: &str) -> Result<Vec<I>, IndexError> {
        let mut ids = Vec::new();
        self.each(prefix, |name, _| {
            ids.push(id_in(name, prefix)?);
            Ok(())
        })?;
        Ok(ids)
    }

    pub(super) fn each(
        &self,
        prefix: &str,
        mut take: impl FnMut(&[u8], &[u8]) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        let (from, to) = range_of(prefix);
        self.history
            .walk(&from, &to, Order::Forward, &mut |key, value| {
                take(key.get(from.len()..).unwrap_or_default(), value)?;
                Ok(ControlFlow::Continue(()))
            })
    }

    /// Records that pass `keep`, newest first, from below `before`. `find` gives the record of an
    /// id and its row.
    pub(crate) fn newest<I: FromStr + Display, T>(
        &self,
        prefix: &str,
        before: Option<I>,
        size: usize,
        find: impl Fn(I, &[u8]) -> Result<Option<Arc<T>>, IndexError>,
        keep: impl Fn(&T) -> bool,
    ) -> Result<Listed<T>, IndexError> {
        let (from, end) = range_of(prefix);
        let to = before.map_or(end, |id| record(prefix, &id));
        let (mut found, mut more) = (Vec::new(), false);
        self.history
            .walk(&from, &to, Order::Backward, &mut |key, value| {
                let name = key.get(from.len()..).unwrap_or_default();
                let row = find(id_in(name, prefix)?, value)?;
                let Some(row) = row.filter(|row| keep(row)) else {
                    return Ok(ControlFlow::Continue(()));
                };
                if found.len() == size {
                    more = true;
                    return Ok(ControlFlow::Break(()));
                }
                found.push(row);
                Ok(ControlFlow::Continue(()))
            })?;
        Ok((found, more))
    }

    /// Whether an id stands under a prefix.
    pub(crate) fn lists(&self, prefix: &str, id: &str) -> Result<bool, IndexError> {
        Ok(self.get(&record(prefix, &id))?.is_some())
    }

    /// The last id under a prefix, which is the newest; `None` too where the index could not be
    /// opened.
    pub(crate) fn last_id(&self, prefix: &str) -> Result<Option<Arc<str>>, IndexError> {
        if self.history.is_absent() {
            return Ok(None);
        }
        let (from, to) = range_of(prefix);
        let mut last = None;
        self.history
            .walk(&from, &to, Order::Backward, &mut |key, _| {
                let name = key.get(from.len()..).unwrap_or_default();
                let name: String = id_in(name, prefix)?;
                last = Some(name.into());
                Ok(ControlFlow::Break(()))
            })?;
        Ok(last)
    }

    /// Indexes of the entries about a task, from `from` on.
    pub(crate) fn entries_of(
        &self,
        task: TaskId,
        from: u64,
        limit: usize,
    ) -> Result<Vec<u64>, IndexError> {
        // `from` may be listed under an earlier key: the last key that is not behind it.
        let mut start = entry_key(task, from);
        let until = just_behind(&start);
        self.history.walk(
            &entry_key(task, 0),
            &until,
            Order::Backward,
            &mut |key, _| {
                start = key.to_vec();
                Ok(ControlFlow::Break(()))
            },
        )?;
        let end = just_behind(&entry_key(task, u64::MAX));
        let mut found = Vec::new();
        self.history
            .walk(&start, &end, Order::Forward, &mut |_, value| {
                let (indexes, _) = value.as_chunks::<8>();
                let indexes = indexes.iter().map(|bytes| u64::from_be_bytes(*bytes));
                found.extend(indexes.filter(|index| *index >= from));
                Ok(match found.len() < limit {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                })
            })?;
        found.truncate(limit);
        Ok(found)
    }
}

/// The keys of the rows of a task under one prefix; or one key, which no other key begins with.
pub(super) fn range_from(prefix: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    let mut to = prefix.clone();
    if let Some(last) = to.last_mut() {
        *last = last.saturating_add(1);
    }
    (prefix, to)
}

/// The keys that begin with `prefix`, from and up to. A prefix ends with a slash.
fn range_of(prefix: &str) -> (Vec<u8>, Vec<u8>) {
    range_from(prefix.as_bytes().to_vec())
}

/// The smallest key behind this one.
fn just_behind(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// The record of a row.
pub(crate) fn parsed<T: DeserializeOwned>(value: &[u8]) -> Result<Option<Arc<T>>, IndexError> {
    parse(value).map(|record| Some(Arc::new(record)))
}

/// An id that stands in a key or value of the rows under `prefix`.
pub(crate) fn id_in<I: FromStr>(bytes: &[u8], prefix: &str) -> Result<I, IndexError> {
    std::str::from_utf8(bytes)
        .ok()
        .and_then(|id| id.parse().ok())
        .ok_or_else(|| IndexError(format!("a key under `{prefix}` cannot be read")))
}
