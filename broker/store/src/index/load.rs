//! Reading everything that is alive into memory.

use std::{
    num::NonZero,
    sync::{Arc, mpsc},
    thread,
};

use taskpass_core::{Agent, Anchor, Credential, Task, TaskId};

use super::{Index, IndexError, Meta, keys, parse};
use crate::{
    JoinTokenRecord, SvidRecord,
    state::{Change, Remembered, State},
};

/// Threads that read at the same time; sled's cache is shared, and more gain little.
const READERS_MAX: NonZero<usize> = NonZero::new(4).expect("not zero");

/// What hangs on a task.
type Hanging = (Vec<Arc<Credential>>, Vec<Arc<Anchor>>);

impl Index {
    /// The state after `meta.position` entries.
    pub(crate) fn load(&self, meta: &Meta) -> Result<State, IndexError> {
        let mut state = State::new();
        state.set(&Change::Position(meta.position, meta.time));
        state.set(&Change::TrustDomain(meta.trust_domain.clone()));
        self.each(keys::AGENT, |_, value| {
            let agent: Agent = parse(value)?;
            state.set(&Change::Agent(agent.name.clone(), Some(Arc::new(agent))));
            Ok(())
        })?;
        self.each(keys::TOKEN, |_, value| {
            let token: JoinTokenRecord = parse(value)?;
            state.set(&Change::Token(token.token.id, Some(Arc::new(token))));
            Ok(())
        })?;
        self.each(keys::SVID, |_, value| {
            let svid: SvidRecord = parse(value)?;
            state.set(&Change::Svid(svid.serial.clone(), Some(Arc::new(svid))));
            Ok(())
        })?;
        self.load_tasks(&mut state)?;
        // After the tasks they hang on.
        self.each(keys::KEY, |key, value| {
            let remembered: Remembered = parse(value)?;
            let hash = key
                .strip_prefix(keys::KEY)
                .and_then(|hash| hash.try_into().ok())
                .ok_or_else(|| IndexError("an idempotency key cannot be read".to_owned()))?;
            state.set(&Change::Key(hash, Some(Arc::new(remembered))));
            Ok(())
        })?;
        Ok(state)
    }

    fn load_tasks(&self, state: &mut State) -> Result<(), IndexError> {
        let ids: Vec<TaskId> = self.ids(keys::LIVE)?;
        let mut tasks: Vec<Arc<Task>> = Vec::with_capacity(ids.len());
        for id in ids {
            let task = self.task(id)?;
            tasks.push(task.ok_or_else(|| IndexError(format!("task `{id}` is missing")))?);
        }
        // Parents first: ids alone do not tell, since the clock may have gone back between two.
        tasks.sort_by_key(|task| task.depth);
        for task in &tasks {
            state.set(&Change::Task(task.id, Some(Arc::clone(task))));
        }
        self.each_hanging(&tasks, |(credentials, anchors)| {
            for credential in credentials {
                state.set(&Change::Credential(credential.id, Some(credential)));
            }
            for anchor in anchors {
                state.set(&Change::Anchor(anchor.id, Some(anchor)));
            }
        })
    }

    /// Calls `put` with what hangs on each task, in no order. Reading and parsing it is most of what a start with much that
    /// is alive has to do, so every core takes a share.
    fn each_hanging(
        &self,
        tasks: &[Arc<Task>],
        mut put: impl FnMut(Hanging),
    ) -> Result<(), IndexError> {
        let cores = thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
        let share = tasks.len().div_ceil(cores.min(READERS_MAX).get()).max(1);
        thread::scope(|scope| {
            let (found, inbox) = mpsc::channel();
            for tasks in tasks.chunks(share) {
                let to = found.clone();
                let reader = thread::Builder::new().name("store-load".to_owned());
                let started = reader.spawn_scoped(scope, move || self.send_hanging(tasks, &to));
                if started.is_err() {
                    // Slower is better than not at all.
                    self.send_hanging(tasks, &found);
                }
            }
            drop(found);
            inbox.into_iter().try_for_each(|hanging| {
                put(hanging?);
                Ok(())
            })
        })
    }

    /// Ends with the first error, and when nobody listens any more.
    fn send_hanging(&self, tasks: &[Arc<Task>], to: &mpsc::Sender<Result<Hanging, IndexError>>) {
        for task in tasks {
            let credentials = self.credentials_of(task.id);
            let hanging = credentials.and_then(|found| Ok((found, self.anchors_of(task.id)?)));
            let failed = hanging.is_err();
            if to.send(hanging).is_err() || failed {
                return;
            }
        }
    }
}
