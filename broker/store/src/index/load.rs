//! Reading everything that is alive into memory.

use std::sync::Arc;

use taskpass_core::{Agent, Task, TaskId};

use super::{Index, IndexError, Meta, keys, parse};
use crate::{
    JoinTokenRecord, SvidRecord,
    state::{Change, Remembered, State},
};

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
        for task in &tasks {
            for credential in self.credentials_of(task.id)? {
                state.set(&Change::Credential(credential.id, Some(credential)));
            }
            for anchor in self.anchors_of(task.id)? {
                state.set(&Change::Anchor(anchor.id, Some(anchor)));
            }
        }
        Ok(())
    }
}
