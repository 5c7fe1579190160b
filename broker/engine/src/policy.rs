//! Reading the policy set, and asking it about requests that no agent has made.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use taskpass_core::{
    Agent, AgentName, AgentState, Credential, CredentialId, CredentialIntent, Labels, Requester,
    RoleName, RoleSpec, Scope, Task, TaskId, TaskState, Text, Timestamp, Ttl,
};
use taskpass_policy::{Action, CredentialRequest, Decision, Facts, PolicySet, Principal, Resource};
use taskpass_store::{Listing, Page};

use crate::{Call, Engine, Error, Field};

/// A request for access that no agent has made.
#[derive(Debug, Clone)]
pub struct AccessQuestion {
    /// Which role.
    pub role: RoleName,
    /// The scope, which the task fixes as well.
    pub scope: Scope,
    /// The life of the task and of the credential; the role's longest if it is not said.
    pub ttl: Option<Ttl>,
    /// The agent's address, if policy is to be told one.
    pub ip: Option<IpAddr>,
}

/// The decisions about each action that gives access, in the order in which an agent takes them.
pub type AccessDecisions = [Decision; 3];

/// The decisions about one agent.
#[derive(Debug)]
pub struct AgentAccess {
    /// The agent.
    pub agent: AgentName,
    /// The decisions.
    pub decisions: AccessDecisions,
}

impl Engine {
    /// The policy set in force.
    pub async fn policy_set(&self, call: &Call) -> Result<Arc<PolicySet>, Error> {
        self.require_operator(call, Action::PolicyRead).await?;
        self.authorize_read(call, Action::PolicyRead, Resource::Installation)
            .await?;
        Ok(Arc::clone(call.snapshot.policy()))
    }

    /// The decisions of the policy in force if the agent asks for a role now, in a new task. They
    /// grant nothing and are not recorded, because no agent made the request.
    pub async fn explain_access(
        &self,
        call: &Call,
        agent: &AgentName,
        question: &AccessQuestion,
    ) -> Result<AccessDecisions, Error> {
        self.policy_set(call).await?;
        let agent = self.existing_agent(agent).await?;
        if agent.state != AgentState::Active {
            return Err(Error::AgentNotActive {
                agent: agent.name,
                state: agent.state,
            });
        }
        self.decide_access(call, &agent, question).await
    }

    /// The agents that the policy in force lets have a role: the active ones with at least one of
    /// the actions. A page leaves the others out.
    pub async fn list_access(
        &self,
        call: &Call,
        question: &AccessQuestion,
        page: &Page,
    ) -> Result<Listing<AgentAccess>, Error> {
        self.policy_set(call).await?;
        let listing = self.context.store.list_agents(page).await?;
        let mut rows = Vec::new();
        let active = |agent: &&Arc<Agent>| agent.state == AgentState::Active;
        for agent in listing.rows.iter().filter(active) {
            let decisions = self.decide_access(call, agent, question).await?;
            if decisions.iter().any(Decision::is_allowed) {
                rows.push(AgentAccess {
                    agent: agent.name.clone(),
                    decisions,
                });
            }
            // Thousands of decisions must not hold up the requests of agents.
            tokio::task::yield_now().await;
        }
        Ok(Listing {
            rows,
            next: listing.next,
        })
    }

    async fn decide_access(
        &self,
        call: &Call,
        agent: &Agent,
        question: &AccessQuestion,
    ) -> Result<AccessDecisions, Error> {
        let (_, spec) = call.snapshot.backends().role(&question.role)?;
        let now = self.now();
        let ttl = question.ttl.unwrap_or(spec.max_ttl);
        let task = self.imagined_task(call, agent, question, ttl, now)?;
        let credential = self.imagined_credential(&task, spec, question, now)?;
        let usage = self.context.store.usage_of_agent(&agent.name).await?;
        let request = CredentialRequest {
            task: &task,
            ttl,
            scope: &question.scope,
            live_in_task: 0,
            live_of_agent: u64::from(usage.live_credentials),
        };
        let decide = |action, resource| {
            let facts = Facts {
                trust_domain: &self.context.trust_domain,
                principal: Principal::Agent {
                    agent,
                    bound_to: None,
                },
                action,
                resource,
                now,
                ip: question.ip,
                request: Some(request),
            };
            let clock = self.context.clock.as_ref();
            call.snapshot.policy().decide(&facts, clock)
        };
        let renewed = Resource::Credential {
            credential: &credential,
            role: Some(spec),
        };
        Ok([
            decide(Action::TaskStart, Resource::Role(spec)),
            decide(Action::CredentialIssue, Resource::Role(spec)),
            decide(Action::CredentialRenew, renewed),
        ])
    }

    /// The task that the agent would start for the role.
    fn imagined_task(
        &self,
        call: &Call,
        agent: &Agent,
        question: &AccessQuestion,
        ttl: Ttl,
        now: Timestamp,
    ) -> Result<Task, Error> {
        let purpose = "asked by an operator".parse::<Text>();
        let purpose = purpose.map_err(|e| Error::invalid(Field::Request, e))?;
        Ok(Task {
            id: TaskId::generate(self.context.clock.as_ref(), self.context.entropy.as_ref())?,
            agent: agent.name.clone(),
            purpose,
            requester: Requester::SelfDeclared { name: None },
            roles: BTreeMap::from([(question.role.clone(), question.scope.clone())]),
            started_at: now,
            deadline: now.plus(ttl.duration()),
            heartbeat: None,
            parent: None,
            depth: 0,
            max_credentials: call.snapshot.settings().credentials.live_per_task,
            labels: Labels::default(),
            state: TaskState::Open,
            end_cause: None,
            ending_at: None,
            ended_at: None,
        })
    }

    /// The credential that the agent would renew.
    fn imagined_credential(
        &self,
        task: &Task,
        spec: &RoleSpec,
        question: &AccessQuestion,
        now: Timestamp,
    ) -> Result<Credential, Error> {
        let mut credential = Credential::from(CredentialIntent {
            id: CredentialId::generate(self.context.clock.as_ref(), self.context.entropy.as_ref())?,
            task: task.id,
            agent: task.agent.clone(),
            role: spec.name.clone(),
            scope: question.scope.clone(),
            revocation_class: spec.revocation_class,
            intended_at: now,
            expires_at: task.deadline,
            anchor_key: None,
            handle: None,
        });
        credential.record_issued(now, task.deadline);
        Ok(credential)
    }
}
