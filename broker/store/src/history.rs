//! The port under the index: an ordered map of bytes that outlives the state in memory.
//!
//! Each broker fills its own from the log and never trusts it more than the log. [`SledHistory`]
//! keeps it in local files, [`MemoryHistory`] in memory. Nothing above knows which of the two it
//! has.

mod memory;
mod sled;

use std::{fmt, ops::ControlFlow};

pub(crate) use self::{
    memory::MemoryHistory,
    sled::{AbsentHistory, SledHistory, has_room, is_full},
};

/// Why the index failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(crate) struct IndexError(pub(crate) String);

/// Rows to write: a key, and its value or `None` to take the key out.
pub(crate) type Batch = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// Takes a key and its value; says whether to go on.
pub(crate) type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, IndexError> + 'a;

/// From which end a range is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Forward,
    Backward,
}

/// An ordered map of bytes. One thread writes, any thread reads.
pub(crate) trait History: fmt::Debug + Send + Sync {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError>;

    /// Visits the keys from `from` up to and without `to`.
    fn walk(
        &self,
        from: &[u8],
        to: &[u8],
        order: Order,
        visit: &mut Visit<'_>,
    ) -> Result<(), IndexError>;

    /// Writes all rows or none.
    fn write(&self, rows: Batch) -> Result<(), IndexError>;

    /// Makes everything written so far durable.
    fn flush(&self) -> Result<(), IndexError>;

    /// Whether nothing but room keeps it from working.
    fn lacks_room(&self) -> bool;

    /// Whether there is room for another one like this.
    fn has_room(&self) -> bool;

    /// Whether it could not be opened: it fails every other call.
    fn is_absent(&self) -> bool {
        false
    }
}
