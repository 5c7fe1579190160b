//! Reading the records that are alive, as a start does. Each record that it reads is counted for
//! the seal. The credentials and anchors of tasks are read on every core.

use std::{
    fmt::Display,
    num::NonZero,
    str::FromStr,
    sync::{Arc, mpsc},
    thread,
};

use parking_lot::Mutex;

use serde::de::DeserializeOwned;
use taskpass_core::TaskId;

use super::{Index, IndexError, record, rows::parse, seal::Tally};

/// Threads that read at the same time; sled's cache is shared, and more gain little.
const READERS_MAX: NonZero<usize> = NonZero::new(4).expect("not zero");

/// How many threads read live records.
pub(crate) fn loading_threads() -> usize {
    let cores = thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
    cores.min(READERS_MAX).get()
}

/// The records under one task.
type Found<T> = Result<Vec<Arc<T>>, IndexError>;

/// Reads the records that are alive, and counts them.
#[derive(Debug)]
pub(crate) struct LiveRows<'a> {
    index: &'a Index,
    tally: Mutex<Tally>,
}

impl<'a> LiveRows<'a> {
    pub(super) const fn new(index: &'a Index) -> Self {
        Self {
            index,
            tally: Mutex::new(Tally::EMPTY),
        }
    }

    /// The tally of the records that were read so far.
    pub(super) fn tally(&self) -> Tally {
        *self.tally.lock()
    }

    /// Calls `take` with the rest of each key behind `prefix`, and with the record there.
    pub(crate) fn each_record<T: DeserializeOwned>(
        &self,
        prefix: &str,
        mut take: impl FnMut(&[u8], Arc<T>) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        let mut codes = 0;
        self.index.each(prefix, |name, value| {
            codes ^= self.code(&[prefix.as_bytes(), name].concat(), value);
            take(name, Arc::new(parse(value)?))
        })?;
        self.count(codes);
        Ok(())
    }

    /// The record under one key.
    pub(crate) fn record<T: DeserializeOwned>(
        &self,
        prefix: &str,
        id: &dyn Display,
    ) -> Result<Option<Arc<T>>, IndexError> {
        let key = record(prefix, id);
        let Some(value) = self.index.get(&key)? else {
            return Ok(None);
        };
        self.count(self.code(&key, &value));
        Ok(Some(Arc::new(parse(&value)?)))
    }

    /// All ids under a prefix. They are not counted, but the records that they name are.
    pub(crate) fn ids<I: FromStr>(&self, prefix: &str) -> Result<Vec<I>, IndexError> {
        self.index.ids(prefix)
    }

    fn code(&self, key: &[u8], value: &[u8]) -> u128 {
        let seal = self.index.seal.as_ref();
        seal.map_or(0, |seal| seal.code(key, value))
    }

    fn count(&self, codes: u128) {
        let mut tally = self.tally.lock();
        *tally = tally.toggle(codes);
    }

    /// Calls `put` with each record that stands under one of the tasks, in no order. A start with
    /// many live records spends most of its time here, so every core takes a share.
    pub(crate) fn each_under<T: DeserializeOwned + Send + Sync>(
        &self,
        tasks: &[TaskId],
        prefix: fn(TaskId) -> String,
        mut put: impl FnMut(Arc<T>),
    ) -> Result<(), IndexError> {
        let share = tasks.len().div_ceil(loading_threads()).max(1);
        thread::scope(|scope| {
            let (found, inbox) = mpsc::channel();
            for tasks in tasks.chunks(share) {
                let to = found.clone();
                let reader = thread::Builder::new().name("store-load".to_owned());
                let started = reader.spawn_scoped(scope, move || self.send(tasks, prefix, &to));
                if started.is_err() {
                    // Without another thread this one reads the share: slow is better than not at
                    // all.
                    self.send(tasks, prefix, &found);
                }
            }
            drop(found);
            inbox.into_iter().try_for_each(|records: Found<T>| {
                records?.into_iter().for_each(&mut put);
                Ok(())
            })
        })
    }

    /// Ends with the first error, and when nothing listens any more.
    fn send<T: DeserializeOwned>(
        &self,
        tasks: &[TaskId],
        prefix: fn(TaskId) -> String,
        to: &mpsc::Sender<Found<T>>,
    ) {
        for task in tasks {
            let mut records = Vec::new();
            let read = self.each_record(&prefix(*task), |_, record| {
                records.push(record);
                Ok(())
            });
            let found = read.map(|()| records);
            let failed = found.is_err();
            if to.send(found).is_err() || failed {
                return;
            }
        }
    }
}
