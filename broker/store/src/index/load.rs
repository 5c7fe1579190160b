//! Reading the credentials and anchors of tasks, on every core.

use std::{
    num::NonZero,
    sync::{Arc, mpsc},
    thread,
};

use serde::de::DeserializeOwned;
use taskpass_core::TaskId;

use super::{Index, IndexError};

/// Threads that read at the same time; sled's cache is shared, and more gain little.
const READERS_MAX: NonZero<usize> = NonZero::new(4).expect("not zero");

/// The records under one task.
type Found<T> = Result<Vec<Arc<T>>, IndexError>;

impl Index {
    /// Calls `put` with each record that stands under one of the tasks, in no order. A start with
    /// many live records spends most of its time here, so every core takes a share.
    pub(crate) fn each_under<T: DeserializeOwned + Send + Sync>(
        &self,
        tasks: &[TaskId],
        prefix: fn(TaskId) -> String,
        mut put: impl FnMut(Arc<T>),
    ) -> Result<(), IndexError> {
        let cores = thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
        let share = tasks.len().div_ceil(cores.min(READERS_MAX).get()).max(1);
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
            let found = self.records(&prefix(*task));
            let failed = found.is_err();
            if to.send(found).is_err() || failed {
                return;
            }
        }
    }
}
