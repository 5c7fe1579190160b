//! Credentials of tasks that have not ended.

mod admit;
mod effects;
mod query;

use std::sync::Arc;

use taskpass_core::{AgentName, Credential, CredentialId, CredentialState, RoleName, TaskId};

use super::{
    Change, State,
    count::Count,
    table::{Table, UsedId},
};
use crate::index::{Index, IndexError, Listed, LiveRows, Rows, Value, id_in, parsed, record};

/// Where the index keeps the task of a credential, by the credential's id.
const CREDENTIAL: &str = "c/";

/// Where the index keeps all credentials of a task: the record under this and the credential's id.
pub(super) fn of_task(task: TaskId) -> String {
    format!("tc/{task}/")
}

/// Where the index lists all credentials of an agent: the task of each under this and the
/// credential's id.
fn of_agent(agent: &AgentName) -> String {
    format!("ca/{agent}/")
}

/// Credentials by id.
pub(crate) enum Credentials {}

impl Table for Credentials {
    type Key = CredentialId;
    type Record = Credential;

    const IDS: Option<&'static str> = Some(CREDENTIAL);
    const ROWS: Option<&'static str> = None;

    fn set(
        state: &mut State,
        id: &CredentialId,
        credential: Option<&Arc<Credential>>,
    ) -> Option<Arc<Credential>> {
        let before = match credential.cloned() {
            Some(credential) => state.credentials.insert(*id, credential),
            None => state.credentials.remove(id),
        };
        for (record, count) in [(before.as_ref(), Count::Down), (credential, Count::Up)] {
            let Some(record) = record else { continue };
            if let Some(node) = state.tasks.get_mut(&record.task) {
                count.member(&mut node.credentials, *id);
            }
            if !record.state.is_final() {
                state.count_live(record, count);
            }
            state.schedule(*id, record, count);
        }
        for record in [before.as_ref(), credential].into_iter().flatten() {
            state.recheck(record.task);
        }
        before
    }

    fn rows<'a>(id: &'a CredentialId, credential: Option<&'a Credential>, rows: &mut Rows<'a>) {
        let Some(credential) = credential else { return };
        let task = credential.task;
        rows.put(record(&of_task(task), id), Value::OfTask(task, credential));
        // A state only moves away from intended, so these are written once.
        if credential.state == CredentialState::Intended {
            rows.put(record(CREDENTIAL, id), Value::Under(task));
            rows.put(record(&of_agent(&credential.agent), id), Value::Under(task));
        }
    }

    fn all(state: &State) -> impl Iterator<Item = (CredentialId, Arc<Credential>)> {
        let all = state.credentials.iter();
        all.map(|(key, record)| (*key, Arc::clone(record)))
    }

    fn load(rows: &LiveRows<'_>, state: &mut State) -> Result<(), IndexError> {
        let tasks: Vec<_> = state.tasks.keys().copied().collect();
        let mut names = Names::default();
        rows.each_under(&tasks, of_task, |mut credential: Arc<Credential>| {
            names.share(&mut credential);
            state.set(&Change::Credential(credential.id, Some(credential)));
        })
    }

    fn used(id: &CredentialId) -> Option<UsedId> {
        Some(UsedId::new(CREDENTIAL, id))
    }
}

/// The names in the record that was read last. There are very many records and few names, and
/// neighbours have the same ones.
#[derive(Debug, Default)]
pub(crate) struct Names(Option<(AgentName, RoleName)>);

impl Names {
    /// Lets a record that was just read have the names of the one before.
    pub(crate) fn share(&mut self, credential: &mut Arc<Credential>) {
        let Some(credential) = Arc::get_mut(credential) else {
            return;
        };
        if let Some((agent, role)) = &self.0
            && *agent == credential.agent
            && *role == credential.role
        {
            credential.agent = agent.clone();
            credential.role = role.clone();
        } else {
            self.0 = Some((credential.agent.clone(), credential.role.clone()));
        }
    }
}

/// The owner of the credentials to list.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Owner<'a> {
    Agent(&'a AgentName),
    Task(TaskId),
}

impl Index {
    pub(crate) fn credential(
        &self,
        id: CredentialId,
    ) -> Result<Option<Arc<Credential>>, IndexError> {
        let task = self.get(&record(CREDENTIAL, &id))?;
        task.map_or(Ok(None), |task| self.credential_under(&task, id))
    }

    fn credential_under(
        &self,
        task: &[u8],
        id: CredentialId,
    ) -> Result<Option<Arc<Credential>>, IndexError> {
        let of_task = of_task(id_in(task, "")?);
        match self.record(&record(&of_task, &id))? {
            None => Err(IndexError(format!("credential `{id}` is missing"))),
            found @ Some(_) => Ok(found),
        }
    }

    /// The credentials of a task, by id.
    pub(crate) fn credentials_of(&self, task: TaskId) -> Result<Vec<Arc<Credential>>, IndexError> {
        self.records(&of_task(task))
    }

    /// Credentials that pass `keep`, newest first, from below `before`.
    pub(crate) fn credentials(
        &self,
        of: Option<Owner<'_>>,
        before: Option<CredentialId>,
        size: usize,
        keep: impl Fn(&Credential) -> bool,
    ) -> Result<Listed<Credential>, IndexError> {
        let prefix = match of {
            None => CREDENTIAL.to_owned(),
            Some(Owner::Agent(agent)) => of_agent(agent),
            Some(Owner::Task(task)) => {
                return self.newest(&of_task(task), before, size, |_, row| parsed(row), keep);
            }
        };
        let find = |id, task: &[u8]| self.credential_under(task, id);
        self.newest(&prefix, before, size, find, keep)
    }
}

impl State {
    /// Counts a live credential at its task, the tasks above it, its agent and its provider.
    fn count_live(&mut self, credential: &Credential, count: Count) {
        let mut at = Some(credential.task);
        while let Some(node) = at.and_then(|id| self.tasks.get_mut(&id)) {
            if node.task.id == credential.task {
                count.on(&mut node.live);
            }
            count.on(&mut node.live_below);
            at = node.task.parent;
        }
        self.with_agent(&credential.agent, |held| {
            count.on(&mut held.live_credentials);
        });
        let provider = credential.role.provider();
        let usage = self.providers.entry(provider.clone()).or_default();
        count.on(&mut usage.live_credentials);
        if credential.state == CredentialState::Revoking {
            count.on(&mut usage.revoking);
        }
        if usage.live_credentials == 0 {
            self.providers.remove(provider);
        }
    }

    /// Puts a credential where reconcilers look for it.
    fn schedule(&mut self, id: CredentialId, credential: &Credential, count: Count) {
        match credential.state {
            CredentialState::Intended => count.member(&mut self.intended, id),
            CredentialState::Active => count.member(&mut self.expiries, (credential.ends_at(), id)),
            CredentialState::Revoking => {
                let intended = credential.intended_at;
                let (since, retry_at) = credential
                    .revocation
                    .as_ref()
                    .map_or((intended, intended), |r| (r.since, r.retry_at));
                count.member(&mut self.revoking, (since, id));
                let provider = credential.role.provider();
                let due = self.retries.entry(provider.clone()).or_default();
                count.member(due, (retry_at, id));
                if due.is_empty() {
                    self.retries.remove(provider);
                }
            }
            CredentialState::RevokedVerified
            | CredentialState::RevokedUnverified
            | CredentialState::Expired
            | CredentialState::Abandoned => {}
        }
    }
}
