//! The table of a kind of record: how the state keeps it, where it stands in the index, how a start
//! reads it.
//!
//! `state.rs` lists the tables. Nothing else names them one by one: undoing, the index, replaying
//! and the memory of used ids go through [`Change`](super::Change).

use std::{fmt, sync::Arc};

use super::State;
use crate::index::{IndexError, LiveRows, Rows};

/// One kind of record, by its key.
pub(crate) trait Table {
    /// Names one record.
    type Key: Clone + PartialEq + fmt::Debug;
    /// The record.
    type Record: PartialEq + fmt::Debug;

    /// Where the index lists every id there ever was. Such an id is never given out again. `None`
    /// for tables that forget their records.
    const IDS: Option<&'static str> = None;

    /// Where the index has the records that are alive. `None` where they stand under their tasks.
    const ROWS: Option<&'static str>;

    /// Sets or removes one record in the state, and returns the record before. Keeps all derived
    /// values up to date: counts, orders by time, the lists of a task.
    fn set(
        state: &mut State,
        key: &Self::Key,
        record: Option<&Arc<Self::Record>>,
    ) -> Option<Arc<Self::Record>>;

    /// Says which rows of the index the record sets. A record that left the state because it ended
    /// keeps its rows.
    fn rows<'a>(key: &'a Self::Key, record: Option<&'a Self::Record>, rows: &mut Rows<'a>);

    /// Every record with its key, in an order in which another state takes them.
    fn all(state: &State) -> impl Iterator<Item = (Self::Key, Arc<Self::Record>)>;

    /// Reads the live records into the state. The tables that they depend on are loaded before.
    fn load(rows: &LiveRows<'_>, state: &mut State) -> Result<(), IndexError>;

    /// The id of a record, for tables with [`Table::IDS`].
    fn used(_key: &Self::Key) -> Option<UsedId> {
        None
    }
}

/// An id that names one thing for good, alive or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UsedId {
    /// Where the index lists all ids of the kind.
    pub(crate) listed_under: &'static str,
    pub(crate) id: Arc<str>,
}

impl UsedId {
    pub(crate) fn new(listed_under: &'static str, id: &dyn fmt::Display) -> Self {
        Self {
            listed_under,
            id: id.to_string().into(),
        }
    }
}

/// Which ids records had that have left the state.
pub(crate) trait UsedIds {
    /// Whether a record of this id ever left the state. The error says why that is not known.
    fn knew(&self, id: &UsedId) -> Result<bool, String>;
}
