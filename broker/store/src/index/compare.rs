//! Comparing the live records in the index with its seal, after a start that read them from an
//! image.
//!
//! The seal follows the rows by what stands in them before each write. So before the first write it
//! has to be known that they are those that the broker wrote: a row that another program hid could
//! otherwise be put back later, and would count.

use std::vec;

use taskpass_core::TaskId;

use super::{Index, IndexError, read::range_from, seal::Tally};
use crate::{
    history::Order,
    state::{live_in, rows_of_no_task, rows_of_task},
};

/// Tasks in one step.
const STEP_TASKS: usize = 32;

/// How far the comparison is.
#[derive(Debug)]
pub(crate) struct Comparison {
    tables: vec::IntoIter<&'static str>,
    tasks: Option<vec::IntoIter<TaskId>>,
    tally: Tally,
}

impl Comparison {
    pub(crate) fn new() -> Self {
        Self {
            tables: rows_of_no_task().collect::<Vec<_>>().into_iter(),
            tasks: None,
            tally: Tally::EMPTY,
        }
    }

    /// Reads some more rows; nothing may be written meanwhile.
    pub(crate) fn step(&mut self, index: &Index) -> Result<(), IndexError> {
        if let Some(table) = self.tables.next() {
            return self.count(index, table.into());
        }
        let tasks = match &mut self.tasks {
            Some(tasks) => tasks,
            none @ None => none.insert(live_in(index)?.into_iter()),
        };
        let some: Vec<TaskId> = tasks.take(STEP_TASKS).collect();
        for prefix in some.into_iter().flat_map(rows_of_task) {
            self.count(index, prefix)?;
        }
        Ok(())
    }

    /// Whether every row was read.
    pub(crate) fn ended(&self) -> bool {
        let tasks = self.tasks.as_ref();
        tasks.is_some_and(|tasks| tasks.len() == 0)
    }

    /// Whether the rows that were read are the sealed ones.
    pub(crate) fn fits(&self, index: &Index) -> bool {
        let seal = index.seal.as_ref();
        seal.is_none_or(|seal| seal.has(self.tally))
    }

    fn count(&mut self, index: &Index, prefix: Vec<u8>) -> Result<(), IndexError> {
        let Some(seal) = &index.seal else {
            return Ok(());
        };
        let (from, to) = range_from(prefix);
        let tally = &mut self.tally;
        index
            .history
            .walk(&from, &to, Order::Forward, &mut |key, row| {
                *tally = tally.toggle(seal.code(key, row));
                Ok(std::ops::ControlFlow::Continue(()))
            })
    }
}
