//! Whether a condition holds.

use std::sync::Arc;

use taskpass_core::{JoinTokenId, TaskId, TaskState, Timestamp};

use super::State;
use crate::{Guard, GuardFailure, SvidRecord};

impl State {
    /// Checks one condition at `now`.
    pub(crate) fn check(&self, guard: &Guard, now: Timestamp) -> Result<(), GuardFailure> {
        match guard {
            Guard::TaskOpen(task) => self.task_open(*task, now),
            Guard::AgentOpenTasksBelow(agent, limit) => {
                below(self.usage(agent, now).open_tasks, *limit, |limit| {
                    GuardFailure::OpenTasks {
                        agent: agent.clone(),
                        limit,
                    }
                })
            }
            Guard::AgentLiveCredentialsBelow(agent, limit) => {
                below(self.usage(agent, now).live_credentials, *limit, |limit| {
                    GuardFailure::AgentCredentials {
                        agent: agent.clone(),
                        limit,
                    }
                })
            }
            Guard::TaskCredentialsWithin(task) => self.credentials_within(*task),
            Guard::JoinTokensBelow(agent, limit) => {
                below(self.usage(agent, now).join_tokens, *limit, |limit| {
                    GuardFailure::JoinTokens {
                        agent: agent.clone(),
                        limit,
                    }
                })
            }
            Guard::SvidLive(serial) => self.svid_live(serial, now).map(drop),
            Guard::CredentialState(id, states) => match self.credentials.get(id) {
                None => Err(GuardFailure::CredentialGone(*id)),
                Some(c) if states.contains(&c.state) => Ok(()),
                Some(c) => Err(GuardFailure::CredentialState(*id, c.shown_state())),
            },
        }
    }

    /// A task past its deadline gives nothing any more, also before anybody has ended it.
    pub(super) fn task_open(&self, id: TaskId, now: Timestamp) -> Result<(), GuardFailure> {
        let node = self.tasks.get(&id).ok_or(GuardFailure::TaskGone(id))?;
        match node.task.state {
            TaskState::Open if node.task.deadline > now => Ok(()),
            TaskState::Open => Err(GuardFailure::TaskOverdue(id)),
            state => Err(GuardFailure::TaskNotOpen(id, state)),
        }
    }

    pub(super) fn svid_live(
        &self,
        serial: &str,
        now: Timestamp,
    ) -> Result<&SvidRecord, GuardFailure> {
        self.live_svid(serial, now)
            .map(Arc::as_ref)
            .ok_or_else(|| GuardFailure::SvidNotLive(serial.to_owned()))
    }

    pub(super) fn token_unused(&self, id: JoinTokenId, now: Timestamp) -> Result<(), GuardFailure> {
        match self.tokens.get(&id) {
            None => Err(GuardFailure::JoinTokenUnknown(id)),
            Some(record) if record.used => Err(GuardFailure::JoinTokenUsed(id)),
            Some(record) if record.token.expires_at <= now => {
                Err(GuardFailure::JoinTokenExpired(id))
            }
            Some(_) => Ok(()),
        }
    }

    fn credentials_within(&self, task: TaskId) -> Result<(), GuardFailure> {
        if !self.tasks.contains_key(&task) {
            return Err(GuardFailure::TaskGone(task));
        }
        for node in self.ancestors(task).filter_map(|id| self.tasks.get(&id)) {
            below(node.live_below, node.task.max_credentials, |limit| {
                GuardFailure::TaskCredentials {
                    task: node.task.id,
                    limit,
                }
            })?;
        }
        Ok(())
    }
}

fn below(
    number: u32,
    limit: u32,
    failure: impl FnOnce(u32) -> GuardFailure,
) -> Result<(), GuardFailure> {
    if number < limit {
        Ok(())
    } else {
        Err(failure(limit))
    }
}
