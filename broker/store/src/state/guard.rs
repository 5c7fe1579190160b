//! Guards: the conditions of a batch, each checked where its record is kept.

use taskpass_core::Timestamp;

use super::State;
use crate::{Guard, GuardFailure};

impl State {
    /// Checks one condition at `now`.
    pub(crate) fn check(&self, guard: &Guard, now: Timestamp) -> Result<(), GuardFailure> {
        match guard {
            Guard::AgentActive(agent) => self.agent_active(agent),
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
            Guard::LiveCredentialsAtMost {
                agent,
                of_agent,
                task,
                in_task,
            } => {
                let in_task_now = self.node(*task).map_or(0, |node| node.live_below);
                let of_agent_now = self.usage(agent, now).live_credentials;
                if u64::from(of_agent_now) <= *of_agent && u64::from(in_task_now) <= *in_task {
                    Ok(())
                } else {
                    Err(GuardFailure::MoreCredentials(agent.clone()))
                }
            }
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
            Guard::NothingInDoubt(task, provider, key) => {
                self.nothing_in_doubt(*task, provider, *key)
            }
            Guard::AnchorLive {
                anchor,
                task,
                provider,
                key,
            } => self.anchor_live(*anchor, *task, provider, *key),
            Guard::CredentialState(id, states) => self.credential_in(*id, states),
        }
    }
}

/// Refuses where `number` has reached its limit.
pub(super) fn below(
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
