//! Rows that a batch of changes sets. A record is written as JSON once, in its last state of the
//! batch.

use std::{collections::HashMap, fmt::Display};

use serde::{Serialize, de::DeserializeOwned};
use taskpass_core::TaskId;

use super::IndexError;
use crate::history::Batch;

/// The value of a key.
pub(crate) enum Value<'a> {
    /// The key is removed.
    Gone,
    /// The key alone carries the information.
    Mark,
    /// The task under which the record stands.
    Under(TaskId),
    Record(&'a dyn Json),
}

impl<'a> Value<'a> {
    /// The record; without one the key is removed.
    pub(crate) fn of<T: Serialize>(record: Option<&'a T>) -> Self {
        record.map_or(Self::Gone, |record| Self::Record(record))
    }

    fn bytes(&self) -> Result<Option<Vec<u8>>, IndexError> {
        match self {
            Self::Gone => Ok(None),
            Self::Mark => Ok(Some(Vec::new())),
            Self::Under(task) => Ok(Some(task.to_string().into_bytes())),
            Self::Record(record) => record.json().map(Some),
        }
    }
}

/// A record that can be written.
pub(crate) trait Json {
    fn json(&self) -> Result<Vec<u8>, IndexError>;
}

impl<T: Serialize> Json for T {
    fn json(&self) -> Result<Vec<u8>, IndexError> {
        json(self)
    }
}

/// Keys with the value that the last change gives them.
#[derive(Default)]
pub(crate) struct Rows<'a>(HashMap<Vec<u8>, Value<'a>>);

impl<'a> Rows<'a> {
    pub(crate) fn put(&mut self, key: Vec<u8>, value: Value<'a>) {
        self.0.insert(key, value);
    }

    pub(super) fn into_batch(self) -> Result<Batch, IndexError> {
        let rows = self.0.into_iter();
        rows.map(|(key, value)| Ok((key, value.bytes()?))).collect()
    }
}

/// The key of a record under a prefix.
pub(crate) fn record(prefix: &str, id: &dyn Display) -> Vec<u8> {
    format!("{prefix}{id}").into_bytes()
}

pub(super) fn json(record: &impl Serialize) -> Result<Vec<u8>, IndexError> {
    serde_json::to_vec(record).map_err(|e| IndexError(format!("a record cannot be written: {e}")))
}

pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, IndexError> {
    serde_json::from_slice(bytes).map_err(|e| IndexError(format!("a record cannot be read: {e}")))
}
