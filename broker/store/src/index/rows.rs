//! Rows that a batch of changes sets. A record is written as JSON once, in its last state of the
//! batch.

use std::{collections::HashMap, fmt::Display};

use serde::{Serialize, de::DeserializeOwned};
use taskpass_core::TaskId;

use super::IndexError;

/// The value of a key.
pub(crate) enum Value<'a> {
    /// The key is removed.
    Gone,
    /// The key alone carries the information.
    Mark,
    /// The task under which the record stands.
    Under(TaskId),
    Record(&'a dyn Json),
    /// A record that is alive until its task has ended.
    OfTask(TaskId, &'a dyn Json),
    /// The key is removed, since the task has ended.
    Ended(TaskId),
}

/// Whether and until when a row is one of the records that a start loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing: it lists or finds other rows.
    Aside,
    /// It is loaded while it is there.
    Live,
    /// It is loaded until the task has ended.
    OfTask(TaskId),
    /// The task has ended.
    Ended(TaskId),
}

/// A row to write.
pub(super) struct Row {
    pub(super) key: Vec<u8>,
    /// `None` takes the key out.
    pub(super) value: Option<Vec<u8>>,
    pub(super) standing: Standing,
}

impl<'a> Value<'a> {
    /// The record; without one the key is removed.
    pub(crate) fn of<T: Serialize>(record: Option<&'a T>) -> Self {
        record.map_or(Self::Gone, |record| Self::Record(record))
    }

    fn bytes(&self) -> Result<Option<Vec<u8>>, IndexError> {
        match self {
            Self::Gone | Self::Ended(_) => Ok(None),
            Self::Mark => Ok(Some(Vec::new())),
            Self::Under(task) => Ok(Some(task.to_string().into_bytes())),
            Self::Record(record) | Self::OfTask(_, record) => record.json().map(Some),
        }
    }

    const fn standing(&self) -> Standing {
        match self {
            Self::Gone | Self::Record(_) => Standing::Live,
            Self::Mark | Self::Under(_) => Standing::Aside,
            Self::OfTask(task, _) => Standing::OfTask(*task),
            Self::Ended(task) => Standing::Ended(*task),
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

    pub(super) fn into_rows(self) -> Result<Vec<Row>, IndexError> {
        let row = |(key, value): (Vec<u8>, Value<'_>)| {
            Ok(Row {
                key,
                value: value.bytes()?,
                standing: value.standing(),
            })
        };
        self.0.into_iter().map(row).collect()
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
