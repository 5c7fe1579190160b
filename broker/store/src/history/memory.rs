//! History in memory, gone with the process. For tests and simulations.

use std::collections::BTreeMap;

use parking_lot::RwLock;

use super::{Batch, History, IndexError, Order, Visit};

/// A map behind a lock.
#[derive(Debug, Default)]
pub(crate) struct MemoryHistory {
    rows: RwLock<BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl History for MemoryHistory {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        // Recursive, since a visitor of a walk looks up further keys.
        Ok(self.rows.read_recursive().get(key).cloned())
    }

    fn walk(
        &self,
        from: &[u8],
        to: &[u8],
        order: Order,
        visit: &mut Visit<'_>,
    ) -> Result<(), IndexError> {
        let rows = self.rows.read_recursive();
        let mut range = rows.range(from.to_vec()..to.to_vec());
        loop {
            let next = match order {
                Order::Forward => range.next(),
                Order::Backward => range.next_back(),
            };
            let Some((key, value)) = next else {
                return Ok(());
            };
            if visit(key, value)?.is_break() {
                return Ok(());
            }
        }
    }

    fn write(&self, batch: Batch) -> Result<(), IndexError> {
        let mut rows = self.rows.write();
        for (key, value) in batch {
            match value {
                Some(value) => rows.insert(key, value),
                None => rows.remove(&key),
            };
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), IndexError> {
        Ok(())
    }

    fn lacks_room(&self) -> bool {
        false
    }

    fn has_room(&self) -> bool {
        true
    }
}
