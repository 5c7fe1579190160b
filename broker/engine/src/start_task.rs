//! Starting a task: who works on what, with which roles, until when.

use std::collections::BTreeMap;

use serde::Serialize;
use taskpass_ca::{IssueOptions, PublicKey};
use taskpass_core::{
    Agent, Event, Identity, Labels, Requester, RoleName, Scope, Task, TaskId, TaskState, Text,
    Timestamp, Ttl, limits,
};
use taskpass_policy::{Action, CredentialRequest, Resource};
use taskpass_store::{Guard, Subject};

use crate::failpoint;

use super::{Call, Engine, Error, IssuedSvid, error::InField};

/// A task to start, as the caller words it.
#[derive(Debug, Clone, Serialize)]
pub struct StartTask {
    /// What for.
    pub purpose: String,
    /// Whom the agent names as the one who asked; may be empty.
    pub requester: String,
    /// Roles with the scope parameters that are fixed for the whole task.
    pub roles: Vec<(String, Vec<(String, String)>)>,
    /// Seconds until the deadline; 0 for the default.
    pub ttl_seconds: u32,
    /// Seconds it may stay silent; 0 for no heartbeat.
    pub heartbeat_seconds: u32,
    /// The delegating task; may be empty.
    pub parent: String,
    /// Labels.
    pub labels: Vec<(String, String)>,
    /// Live credentials it may hold; 0 for the limit.
    pub max_credentials: u32,
    /// PKCS#10 for an SVID bound to the task; may be empty.
    pub csr: Vec<u8>,
}

/// What came of it.
#[derive(Debug)]
pub struct StartedTask {
    /// The task.
    pub task: Task,
    /// The SVID bound to it, when a CSR was given and this is the first answer.
    pub svid: Option<IssuedSvid>,
}

impl Engine {
    /// Starts a task. With a parent it is refused unless it is no wider than the parent in anything.
    pub async fn start_task(
        &self,
        call: &Call,
        key: &str,
        request: &StartTask,
    ) -> Result<StartedTask, Error> {
        let now = self.require_sane_clock()?;
        let Some(agent) = call.agent() else {
            return Err(self
                .refuse_kind(call, Action::TaskStart, "only agents start tasks")
                .await);
        };
        let key_of_csr = if request.csr.is_empty() {
            None
        } else {
            Some(PublicKey::from_csr(&request.csr).map_err(|e| Error::invalid("csr", e))?)
        };
        let parent = self.parent(call, &request.parent).await?;
        self.require_parents_roles(call, request, parent.as_deref())
            .await?;
        let task = self.new_task(agent, request, parent.as_deref(), now)?;
        let idempotency = Self::idempotency_key(call, key, request)?;
        if let Some(Subject::Task(id)) = self.earlier(idempotency.as_ref()).await? {
            let task = self
                .store
                .task(id)
                .await?
                .ok_or_else(|| Error::no_task(id))?;
            return Ok(StartedTask {
                task: task.as_ref().clone(),
                svid: None,
            });
        }
        let mut events = self.authorize_start(call, &task, now).await?;
        self.check_pins(&task)?;
        let keys = self.share_of_keys(idempotency.as_ref(), task.parent);
        events.push(Event::TaskStarted {
            task: task.clone(),
            idempotency,
        });
        let mut svid = None;
        if let Some(key) = key_of_csr {
            let identity = Identity::AgentTask(agent.name.clone(), task.id);
            let options = IssueOptions {
                ttl: self.life_left(&task)?,
                ..IssueOptions::default()
            };
            let (issued, record) = self.sign(&identity, &key, &options)?;
            events.push(Event::SvidIssued {
                svid: record,
                join_token: None,
                renews: None,
            });
            svid = Some(issued);
        }
        let mut guards = vec![
            Guard::SvidLive(call.caller.serial().to_owned()),
            Guard::AgentOpenTasksBelow(agent.name.clone(), self.settings.open_tasks_per_agent),
        ];
        guards.extend(keys);
        guards.extend(parent.iter().map(|parent| Guard::TaskOpen(parent.id)));
        self.heartbeats.begin(&task);
        if let Err(error) = self.commit(events, guards).await {
            self.heartbeats.stop(task.id);
            return Err(error);
        }
        failpoint::reached("start.recorded");
        Ok(StartedTask { task, svid })
    }

    /// The parent named in the request. A task-bound identity delegates from its own task only.
    async fn parent(
        &self,
        call: &Call,
        parent: &str,
    ) -> Result<Option<std::sync::Arc<Task>>, Error> {
        if parent.is_empty() {
            return match call.bound_to() {
                None => Ok(None),
                Some(bound) => Err(Error::invalid(
                    "parent",
                    format!(
                        "an identity bound to a task delegates from it: name `{}` as the parent",
                        bound.id
                    ),
                )),
            };
        }
        let id: TaskId = parent.parse().in_field("parent")?;
        let task = self.reachable_task(call, Action::TaskStart, id).await?;
        if task.state == TaskState::Open {
            Ok(Some(task))
        } else {
            Err(Error::TaskEnded(id))
        }
    }

    /// A child draws on nothing that its parent may not draw on. The store refuses it as well, for races.
    async fn require_parents_roles(
        &self,
        call: &Call,
        request: &StartTask,
        parent: Option<&Task>,
    ) -> Result<(), Error> {
        let Some(parent) = parent else { return Ok(()) };
        for (role, _) in &request.roles {
            // The refusal goes into the ledger: only what is a role's name may get there.
            let role: RoleName = role.parse().in_field("roles.role")?;
            if !parent.roles.contains_key(&role) {
                let reason = format!(
                    "the parent task `{}` may not draw on role `{role}` itself",
                    parent.id
                );
                return Err(self
                    .refuse_by_rule(call, Action::TaskStart, &role.to_string(), &reason)
                    .await);
            }
        }
        Ok(())
    }

    fn new_task(
        &self,
        agent: &Agent,
        request: &StartTask,
        parent: Option<&Task>,
        now: Timestamp,
    ) -> Result<Task, Error> {
        let requester = match parent {
            Some(parent) => Requester::Delegated { parent: parent.id },
            None if request.requester.is_empty() => Requester::SelfDeclared { name: None },
            None => Requester::SelfDeclared {
                name: Some(request.requester.parse().in_field("requester")?),
            },
        };
        let most = parent.map_or(self.settings.live_credentials_per_task, |p| {
            p.max_credentials
        });
        let max_credentials = if request.max_credentials == 0 {
            most
        } else {
            request.max_credentials
        };
        if max_credentials > most {
            return Err(Error::invalid(
                "max_credentials",
                format!("at most {most} live credentials are possible"),
            ));
        }
        Ok(Task {
            id: TaskId::generate(self.clock.as_ref(), self.entropy.as_ref())?,
            agent: agent.name.clone(),
            purpose: request.purpose.parse::<Text>().in_field("purpose")?,
            requester,
            roles: task_roles(&request.roles, parent)?,
            started_at: now,
            deadline: self.deadline(request.ttl_seconds, parent, now)?,
            heartbeat: self.heartbeat_interval(request.heartbeat_seconds)?,
            parent: parent.map(|p| p.id),
            depth: parent.map_or(0, |p| p.depth.saturating_add(1)),
            max_credentials,
            labels: Labels::from_pairs(request.labels.iter().map(|(k, v)| (k, v)))
                .in_field("labels")?,
            state: TaskState::Open,
            end_cause: None,
            ending_at: None,
            ended_at: None,
        })
    }

    fn deadline(
        &self,
        ttl_seconds: u32,
        parent: Option<&Task>,
        now: Timestamp,
    ) -> Result<Timestamp, Error> {
        let longest = self.settings.task_ttl_max;
        let deadline = if ttl_seconds == 0 {
            let default = now.plus(self.settings.task_ttl_default.duration());
            parent.map_or(default, |p| default.min(p.deadline))
        } else {
            let ttl = Ttl::from_seconds(u64::from(ttl_seconds)).in_field("ttl_seconds")?;
            if ttl > longest {
                return Err(Error::invalid(
                    "ttl_seconds",
                    format!("a task lives at most {longest} here"),
                ));
            }
            now.plus(ttl.duration())
        };
        match parent {
            Some(parent) if deadline > parent.deadline => Err(Error::invalid(
                "ttl_seconds",
                format!(
                    "a delegated task ends with its parent `{}`, at {}",
                    parent.id, parent.deadline
                ),
            )),
            _ => Ok(deadline),
        }
    }

    fn heartbeat_interval(&self, seconds: u32) -> Result<Option<Ttl>, Error> {
        if seconds == 0 {
            return Ok(None);
        }
        let interval = Ttl::from_seconds(u64::from(seconds)).in_field("heartbeat_seconds")?;
        let shortest = self.settings.heartbeat_min;
        if interval < shortest {
            return Err(Error::invalid(
                "heartbeat_seconds",
                format!("the shortest heartbeat here is {shortest}"),
            ));
        }
        Ok(Some(interval))
    }

    /// Whether the roles take what is to be fixed for them. Policy has allowed them by then.
    fn check_pins(&self, task: &Task) -> Result<(), Error> {
        for (name, scope) in &task.roles {
            let (_, spec) = self.role(name)?;
            spec.check_pins(scope).map_err(|e| Error::scope(&e))?;
        }
        Ok(())
    }

    /// One decision for each role, so that policy says which roles an agent may put into a task.
    async fn authorize_start(
        &self,
        call: &Call,
        task: &Task,
        now: Timestamp,
    ) -> Result<Vec<Event>, Error> {
        let usage = self.store.usage_of_agent(&task.agent).await?;
        let ttl =
            Ttl::from_seconds(task.deadline.since(now).as_secs().max(1)).in_field("ttl_seconds")?;
        let nothing = Scope::default();
        let draw = |scope| CredentialRequest {
            task,
            ttl,
            scope,
            live_in_task: 0,
            live_of_agent: u64::from(usage.live_credentials),
        };
        let mut events = Vec::with_capacity(task.roles.len() + 3);
        for (name, scope) in &task.roles {
            let allowed = self
                .authorize_role(call, name, Action::TaskStart, draw(scope))
                .await?;
            events.push(allowed.into_event());
        }
        if task.roles.is_empty() {
            let allowed = self
                .authorize(
                    call,
                    Action::TaskStart,
                    Resource::Installation,
                    Some(draw(&nothing)),
                )
                .await?;
            events.push(allowed.into_event());
        }
        Ok(events)
    }
}

/// The roles with what is fixed for them; a child takes over what its parent fixed. Whether they exist is not looked at.
fn task_roles(
    roles: &[(String, Vec<(String, String)>)],
    parent: Option<&Task>,
) -> Result<BTreeMap<RoleName, Scope>, Error> {
    let mut found = BTreeMap::new();
    for (name, pins) in roles {
        let name: RoleName = name.parse().in_field("roles.role")?;
        let mut scope =
            Scope::from_pairs(pins.iter().map(|(k, v)| (k, v.clone()))).in_field("roles.scope")?;
        if let Some(parent) = parent {
            let fixed = parent.roles.get(&name).cloned().unwrap_or_default();
            scope = fixed.merged_with(&scope).map_err(|param| {
                Error::invalid(
                    "roles.scope",
                    format!("the parent task fixes `{param}` of role `{name}` otherwise"),
                )
            })?;
        }
        if found.insert(name.clone(), scope).is_some() {
            return Err(Error::invalid(
                "roles",
                format!("role `{name}` is given twice"),
            ));
        }
    }
    if found.len() > limits::TASK_ROLES_MAX {
        return Err(Error::invalid(
            "roles",
            format!("a task draws on at most {} roles", limits::TASK_ROLES_MAX),
        ));
    }
    Ok(found)
}
