//! Whether a condition holds.

use std::{collections::BTreeSet, sync::Arc};

use taskpass_core::{
    AnchorState, CredentialId, CredentialState, JoinTokenId, ProviderName, SpiffeId, TaskId,
    TaskState, Timestamp, limits,
};

use super::{KeyHash, State, owner_hash};
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
            Guard::IdempotencyKeysWithin {
                caller,
                task,
                limit,
            } => self.keys_within(caller, *task, *limit, now),
            Guard::NothingInDoubt(task, provider) => self.nothing_in_doubt(*task, provider),
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

    /// A key that was promised to be remembered is never forgotten early, so what is too much is refused instead.
    fn keys_within(
        &self,
        caller: &SpiffeId,
        task: Option<TaskId>,
        limit: u32,
        now: Timestamp,
    ) -> Result<(), GuardFailure> {
        let Some(keys) = self.keys_of.get(&owner_hash(caller)) else {
            return Ok(());
        };
        let (held, oldest) = remembered(keys, now);
        let wait = oldest.map_or(limits::IDEMPOTENCY_KEPT, |time| {
            time.plus(limits::IDEMPOTENCY_KEPT).since(now)
        });
        let caller = || caller.clone();
        let free = limit.saturating_sub(held);
        if free == 0 {
            return Err(GuardFailure::IdempotencyKeys {
                caller: caller(),
                limit,
                wait,
            });
        }
        let Some(node) = task.and_then(|id| self.tasks.get(&id)) else {
            return Ok(());
        };
        below(remembered(&node.keys, now).0, free, |_| {
            GuardFailure::TaskIdempotencyKeys {
                caller: caller(),
                task: node.task.id,
                free,
                wait,
            }
        })
    }

    /// A credential whose outcome nobody knows is only dead when the session it may have been drawn with is.
    fn nothing_in_doubt(&self, task: TaskId, provider: &ProviderName) -> Result<(), GuardFailure> {
        let (Some(node), Some(revoking)) = (self.tasks.get(&task), self.retries.get(provider))
        else {
            return Ok(());
        };
        let anchors = node.anchors.iter().filter_map(|id| self.anchors.get(id));
        let of_provider =
            anchors.filter(|a| a.state == AnchorState::Live && a.provider == *provider);
        let Some(oldest) = of_provider.map(|a| a.recorded_at).min() else {
            return Ok(());
        };
        // A session that was made after the doubt began has nothing to do with it.
        let is_doubtful = |id: &CredentialId| {
            self.credentials.get(id).is_some_and(|c| {
                c.task == task
                    && c.role.provider() == provider
                    && c.state == CredentialState::Revoking
                    && c.issued_at.is_none()
                    && c.revocation.as_ref().is_some_and(|r| r.since >= oldest)
            })
        };
        // Whichever are fewer: a task may hold thousands, and thousands may wait for a provider that is down.
        let in_doubt = if revoking.len() < node.credentials.len() {
            revoking.iter().any(|(_, id)| is_doubtful(id))
        } else {
            node.credentials.iter().any(is_doubtful)
        };
        if in_doubt {
            return Err(GuardFailure::InDoubt {
                task,
                provider: provider.clone(),
            });
        }
        Ok(())
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

/// How many of the keys are not forgotten, and when the oldest of those came.
fn remembered(keys: &BTreeSet<(Timestamp, KeyHash)>, now: Timestamp) -> (u32, Option<Timestamp>) {
    let is_forgotten =
        |(time, _): &&(Timestamp, KeyHash)| time.plus(limits::IDEMPOTENCY_KEPT) <= now;
    let forgotten = keys.iter().take_while(is_forgotten).count();
    let held = u32::try_from(keys.len() - forgotten).unwrap_or(u32::MAX);
    (held, keys.iter().nth(forgotten).map(|(time, _)| *time))
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
