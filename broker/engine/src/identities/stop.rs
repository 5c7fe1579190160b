//! Stopping an agent, for a while or for good, and releasing it.
//!
//! One commit ends everything that the agent has: the store adds the end of its tasks, the revoking
//! of their credentials and the withdrawal of its join tokens. From that entry on the store gives
//! the agent nothing. The engine then cuts the agent's open connections.

use std::time::Duration;

use taskpass_core::{Actor, Agent, AgentName, AgentState, Event, TaskId, TaskState, Text};
use taskpass_policy::{Action, Resource};
use taskpass_store::{Guard, Page, TaskFilter};

use super::AgentView;
use crate::{Call, Engine, Error, Receipt, credentials::Reader, failpoint};

/// An agent to freeze or to retire.
#[derive(Debug, Clone)]
pub struct StopAgent {
    /// Which.
    pub agent: AgentName,
    /// Why.
    pub reason: Text,
    /// How long to wait for revocation; the configured time when the caller does not say.
    pub wait: Option<Duration>,
}

/// An agent to release.
#[derive(Debug, Clone)]
pub struct ReleaseAgent {
    /// Which.
    pub agent: AgentName,
    /// Why.
    pub reason: Text,
}

/// An agent that is stopped.
#[derive(Debug, Clone)]
pub struct StoppedAgent {
    /// The agent as it is now.
    pub view: AgentView,
    /// The tasks that ended.
    pub tasks: Vec<TaskId>,
    /// One receipt for each credential of these tasks.
    pub receipts: Vec<Receipt>,
}

impl Engine {
    /// Freezes an agent and waits for the receipts of its credentials up to a deadline. The agent
    /// gets nothing more from the first moment on, however long revoking takes. Freezing it twice
    /// changes nothing.
    pub async fn freeze_agent(
        &self,
        call: &Call,
        request: &StopAgent,
    ) -> Result<StoppedAgent, Error> {
        let by = Actor::Caller(call.caller.id().clone());
        let frozen = Event::AgentFrozen {
            agent: request.agent.clone(),
            reason: request.reason.clone(),
            by,
        };
        self.stop_agent(call, Action::AgentFreeze, request, frozen)
            .await
    }

    /// Retires an agent: as [`Engine::freeze_agent`], and no person can release it. Its name is
    /// never given out again.
    pub async fn retire_agent(
        &self,
        call: &Call,
        request: &StopAgent,
    ) -> Result<StoppedAgent, Error> {
        let by = Actor::Caller(call.caller.id().clone());
        let retired = Event::AgentRetired {
            agent: request.agent.clone(),
            reason: request.reason.clone(),
            by,
        };
        self.stop_agent(call, Action::AgentRetire, request, retired)
            .await
    }

    /// Releases a frozen agent. It attests anew; its earlier tasks and credentials stay ended.
    pub async fn release_agent(
        &self,
        call: &Call,
        request: &ReleaseAgent,
    ) -> Result<AgentView, Error> {
        const ACTION: Action = Action::AgentRelease;
        let name = &request.agent;
        self.require_operator(call, ACTION).await?;
        let agent = self.existing_agent(name).await?;
        let allowed = self
            .authorize(call, ACTION, Resource::Agent(&agent), None)
            .await
            .granted()?;
        match agent.state {
            AgentState::Active => {
                self.commit_allowed(call, allowed).await?;
                return self.agent_view(&agent).await;
            }
            AgentState::Retired => return Err(retired(name)),
            AgentState::Frozen if agent.owner_departed => {
                return Err(Error::Precondition(format!(
                    "the owner of agent `{name}` left; name another person with `taskpass agent owner {name} EMAIL`, then release it"
                )));
            }
            AgentState::Frozen => {}
        }
        let released = Event::AgentReleased {
            agent: name.clone(),
            reason: request.reason.clone(),
            by: Actor::Caller(call.caller.id().clone()),
        };
        let guard = Guard::SvidLive(call.caller.serial().to_owned());
        self.commit(vec![allowed.into_event(), released], vec![guard])
            .await?;
        tracing::info!(agent = %name, by = %call.caller.id(), "an agent was released");
        let agent = self.existing_agent(name).await?;
        self.agent_view(&agent).await
    }

    async fn stop_agent(
        &self,
        call: &Call,
        action: Action,
        request: &StopAgent,
        stopped: Event,
    ) -> Result<StoppedAgent, Error> {
        let name = &request.agent;
        self.require_operator(call, action).await?;
        let agent = self.existing_agent(name).await?;
        let allowed = self
            .authorize(call, action, Resource::Agent(&agent), None)
            .await
            .granted()?;
        let wanted = match action {
            Action::AgentRetire => AgentState::Retired,
            _ => AgentState::Frozen,
        };
        let tasks = if agent.state == wanted {
            self.commit_allowed(call, allowed).await?;
            Vec::new()
        } else if agent.state == AgentState::Retired {
            return Err(retired(name));
        } else {
            let guard = Guard::SvidLive(call.caller.serial().to_owned());
            let events = vec![allowed.into_event(), stopped];
            self.commit_stop(name, events, vec![guard]).await?
        };
        failpoint::reached("stop.recorded");
        self.all_ended(&tasks, Self::wait_for(call, request.wait))
            .await?;
        self.stopped(name, tasks).await
    }

    /// Commits the stop of an agent, cuts its connections, and cancels the calls for its tasks.
    /// Returns the tasks that ended with it.
    pub(super) async fn commit_stop(
        &self,
        name: &AgentName,
        events: Vec<Event>,
        guards: Vec<Guard>,
    ) -> Result<Vec<TaskId>, Error> {
        let open = self.context.store.open_tasks_of_agent(name).await?;
        self.commit_reserved(events, guards).await?;
        let connections = self.context.connections.cut_agent(name);
        tracing::warn!(
            agent = %name, tasks = open.len(), connections,
            "an agent was stopped: its tasks end, its credentials are revoked, its connections are closed"
        );
        self.stop_tasks_of(name, open).await
    }

    /// Cancels the calls for tasks that the store ended: tasks that were `open` before the commit,
    /// and tasks that began meanwhile.
    pub(super) async fn stop_tasks_of(
        &self,
        name: &AgentName,
        open: Vec<TaskId>,
    ) -> Result<Vec<TaskId>, Error> {
        let filter = TaskFilter {
            agent: Some(name.clone()),
            state: Some(TaskState::Ending),
        };
        let ending = self
            .context
            .store
            .list_tasks(&filter, &Page::first())
            .await?;
        let mut tasks = open;
        tasks.extend(ending.rows.iter().map(|task| task.id));
        tasks.sort_unstable();
        tasks.dedup();
        self.stop_tasks(&tasks);
        Ok(tasks)
    }

    async fn stopped(&self, name: &AgentName, tasks: Vec<TaskId>) -> Result<StoppedAgent, Error> {
        let now = self.now();
        let mut receipts = Vec::new();
        for task in &tasks {
            let credentials = self.context.store.credentials_of_task(*task).await?;
            receipts.extend(
                credentials
                    .iter()
                    .map(|c| Receipt::of(c, now, Reader::Operator)),
            );
        }
        let agent: Agent = self.existing_agent(name).await?;
        Ok(StoppedAgent {
            view: self.agent_view(&agent).await?,
            tasks,
            receipts,
        })
    }
}

/// The refusal of everything that would change a retired agent.
pub(super) fn retired(name: &AgentName) -> Error {
    Error::Precondition(format!(
        "agent `{name}` is retired for good; register another one with `taskpass agent register`"
    ))
}

#[cfg(test)]
mod tests;
