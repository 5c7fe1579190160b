//! Reading: agents, tasks, credentials, the policy set. Agents see their own, operators what policy lets them see.

use std::sync::Arc;

use taskpass_core::{
    Agent, AgentName, Anchor, AnchorState, Credential, CredentialId, Task, TaskId, TaskState,
};
use taskpass_policy::{Action, PolicySet, Resource};
use taskpass_store::{CredentialFilter, Listing, Page, TaskFilter, Usage};

use super::{Call, Engine, Error, Receipt};

/// An agent and what it has out.
#[derive(Debug, Clone)]
pub struct AgentView {
    /// The agent.
    pub agent: Agent,
    /// What it has out.
    pub usage: Usage,
}

/// A credential, without its secret.
#[derive(Debug, Clone)]
pub struct CredentialView {
    /// The credential.
    pub credential: Arc<Credential>,
    /// Whether its role lets it be renewed.
    pub renewable: bool,
}

/// A task and what became of its credentials.
#[derive(Debug, Clone)]
pub struct TaskView {
    /// The task.
    pub task: Arc<Task>,
    /// The receipts so far.
    pub receipts: Vec<Receipt>,
    /// Sessions at providers that are all an ending task waits for.
    pub anchors: Vec<Arc<Anchor>>,
}

impl Engine {
    /// One agent.
    pub async fn agent(&self, call: &Call, name: &AgentName) -> Result<AgentView, Error> {
        self.require_operator(call, Action::AgentRead).await?;
        let agent = self.existing_agent(name).await?;
        self.authorize_read(call, Action::AgentRead, Resource::Agent(&agent))
            .await?;
        self.agent_view(&agent).await
    }

    /// All agents, by name.
    pub async fn list_agents(&self, call: &Call, page: &Page) -> Result<Listing<AgentView>, Error> {
        self.require_operator(call, Action::AgentRead).await?;
        self.authorize_read(call, Action::AgentRead, Resource::Installation)
            .await?;
        let listing = self.context.store.list_agents(page).await?;
        let mut rows = Vec::with_capacity(listing.rows.len());
        for agent in &listing.rows {
            rows.push(self.agent_view(agent).await?);
        }
        Ok(Listing {
            rows,
            next: listing.next,
        })
    }

    /// One task with its receipts so far.
    pub async fn task(&self, call: &Call, id: TaskId) -> Result<TaskView, Error> {
        let task = self.reachable_task(call, Action::TaskRead, id).await?;
        self.authorize_read(call, Action::TaskRead, Resource::Task(&task))
            .await?;
        let now = self.now();
        let credentials = self.context.store.credentials_of_task(id).await?;
        let receipts = credentials
            .iter()
            .filter(|c| c.revocation.is_some() || c.state.is_final())
            .map(|c| Receipt::of(c, now))
            .collect();
        let mut anchors = Vec::new();
        // While credentials are alive, their receipts say what it waits for, and anchors are ended with the last of them.
        if task.state == TaskState::Ending && credentials.iter().all(|c| c.state.is_final()) {
            anchors = self.context.store.anchors_of_task(id).await?;
            anchors.retain(|anchor| anchor.state == AnchorState::Live);
        }
        Ok(TaskView {
            task,
            receipts,
            anchors,
        })
    }

    /// Tasks, newest first. An agent sees its own; through an identity bound to a task just that one.
    pub async fn list_tasks(
        &self,
        call: &Call,
        mut filter: TaskFilter,
        page: &Page,
    ) -> Result<Listing<Arc<Task>>, Error> {
        if let Some(bound) = call.bound_to() {
            let task = self.task(call, bound.id).await?.task;
            return Ok(Listing {
                rows: vec![task],
                next: None,
            });
        }
        self.narrow_to_caller(call, Action::TaskRead, &mut filter.agent)
            .await?;
        Ok(self.context.store.list_tasks(&filter, page).await?)
    }

    /// One credential.
    pub async fn credential(&self, call: &Call, id: CredentialId) -> Result<CredentialView, Error> {
        let credential = self
            .reachable_credential(call, Action::CredentialRead, id)
            .await?;
        let role = call.snapshot.backends().spec(&credential.role);
        let resource = Resource::Credential {
            credential: &credential,
            role,
        };
        self.authorize_read(call, Action::CredentialRead, resource)
            .await?;
        let renewable = role.is_some_and(|spec| spec.renewable);
        Ok(CredentialView {
            credential,
            renewable,
        })
    }

    /// Credentials, newest first.
    pub async fn list_credentials(
        &self,
        call: &Call,
        mut filter: CredentialFilter,
        page: &Page,
    ) -> Result<Listing<CredentialView>, Error> {
        if let (None, Some(bound)) = (filter.task, call.bound_to()) {
            filter.task = Some(bound.id);
        }
        if let Some(id) = filter.task {
            let task = self
                .reachable_task(call, Action::CredentialRead, id)
                .await?;
            self.authorize_read(call, Action::CredentialRead, Resource::Task(&task))
                .await?;
        } else {
            self.narrow_to_caller(call, Action::CredentialRead, &mut filter.agent)
                .await?;
        }
        let listing = self.context.store.list_credentials(&filter, page).await?;
        let backends = call.snapshot.backends();
        let renewable = |c: &Credential| backends.spec(&c.role).is_some_and(|spec| spec.renewable);
        let rows = listing
            .rows
            .into_iter()
            .map(|credential| CredentialView {
                renewable: renewable(&credential),
                credential,
            })
            .collect();
        Ok(Listing {
            rows,
            next: listing.next,
        })
    }

    /// The policy set in force.
    pub async fn policy_set(&self, call: &Call) -> Result<Arc<PolicySet>, Error> {
        self.require_operator(call, Action::PolicyRead).await?;
        self.authorize_read(call, Action::PolicyRead, Resource::Installation)
            .await?;
        Ok(Arc::clone(call.snapshot.policy()))
    }

    /// Keeps an agent's listing to its own, and decides about an operator's.
    async fn narrow_to_caller(
        &self,
        call: &Call,
        action: Action,
        wanted: &mut Option<AgentName>,
    ) -> Result<(), Error> {
        if let Some(agent) = call.agent() {
            if wanted.as_ref().is_some_and(|name| *name != agent.name) {
                return Err(self
                    .refuse_by_rule(call, action, "agent", "an agent sees only its own")
                    .await);
            }
            *wanted = Some(agent.name.clone());
            return self
                .authorize_read(call, action, Resource::Agent(agent))
                .await;
        }
        match wanted {
            Some(name) => {
                let agent = self.existing_agent(name).await?;
                self.authorize_read(call, action, Resource::Agent(&agent))
                    .await
            }
            None => {
                self.authorize_read(call, action, Resource::Installation)
                    .await
            }
        }
    }

    async fn agent_view(&self, agent: &Agent) -> Result<AgentView, Error> {
        Ok(AgentView {
            agent: agent.clone(),
            usage: self.context.store.usage_of_agent(&agent.name).await?,
        })
    }
}
