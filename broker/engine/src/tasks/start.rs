//! Starting a task: an agent, its purpose, its roles, and its deadline.

use std::{collections::BTreeMap, num::NonZeroU32, sync::Arc};

use serde::{Serialize, Serializer};
use taskpass_ca::{IssueOptions, PublicKey};
use taskpass_core::{
    Agent, Event, Identity, InvalidValue, Labels, Requester, RoleName, Scope, SvidOrigin, Task,
    TaskId, TaskState, Text, Timestamp, Ttl, limits,
};
use taskpass_policy::{Action, CredentialRequest, Resource};
use taskpass_store::{Guard, Subject};

use crate::{
    Call, Engine, Error, Field, IssuedSvid, RequestKey, Settings, budgets::Spending,
    credentials::lifetime, failpoint,
};

/// A task to start.
#[derive(Debug, Clone, Serialize)]
pub struct StartTask {
    /// The purpose.
    pub purpose: Text,
    /// The person that the agent claims to work for.
    pub requester: Option<Text>,
    /// Roles with the scope parameters that are fixed for the whole task.
    pub roles: TaskRoles,
    /// Time until the deadline; the configured one when the caller does not say.
    pub ttl: Option<Ttl>,
    /// How long it may stay silent; without it no heartbeat is needed.
    pub heartbeat: Option<Ttl>,
    /// The delegating task.
    pub parent: Option<TaskId>,
    /// Labels.
    pub labels: Labels,
    /// Live credentials it may hold; as many as possible when the caller does not say.
    pub max_credentials: Option<NonZeroU32>,
    /// The key of an SVID that is bound to the task.
    #[serde(serialize_with = "key_sha256")]
    pub key: Option<PublicKey>,
}

/// A key in the digest of a request: a repeated request may be signed anew.
fn key_sha256<S: Serializer>(key: &Option<PublicKey>, serializer: S) -> Result<S::Ok, S::Error> {
    key.as_ref()
        .map(PublicKey::key_sha256)
        .serialize(serializer)
}

/// The roles of a task to start: each once, and no more than a task may have.
#[derive(Debug, Clone, Default, Serialize)]
pub struct TaskRoles(BTreeMap<RoleName, Scope>);

impl TaskRoles {
    /// Reads roles with the scope parameters that the task fixes.
    pub fn from_pairs(
        pairs: impl IntoIterator<Item = (RoleName, Scope)>,
    ) -> Result<Self, InvalidValue> {
        let mut roles = BTreeMap::new();
        for (role, pins) in pairs {
            if roles.insert(role.clone(), pins).is_some() {
                return Err(InvalidValue::new(format!("role `{role}` is given twice")));
            }
        }
        if roles.len() > limits::TASK_ROLES_MAX {
            return Err(InvalidValue::new(format!(
                "a task has at most {} roles",
                limits::TASK_ROLES_MAX
            )));
        }
        Ok(Self(roles))
    }
}

/// The task that was started.
#[derive(Debug)]
pub struct StartedTask {
    /// The task.
    pub task: Task,
    /// The SVID bound to it, when a CSR was given and this is the first answer.
    pub svid: Option<IssuedSvid>,
}

impl Engine {
    /// Starts a task. The broker refuses a task that is wider than its parent in any respect.
    pub async fn start_task(
        &self,
        call: &Call,
        key: Option<&RequestKey>,
        request: &StartTask,
    ) -> Result<StartedTask, Error> {
        let now = self.require_sound()?;
        let Some(agent) = call.agent() else {
            return Err(self
                .refuse_kind(call, Action::TaskStart, "only agents start tasks")
                .await);
        };
        let parent = self.parent(call, request.parent).await?;
        self.require_parents_roles(call, request, parent.as_deref())
            .await?;
        let task = self.new_task(call, agent, request, parent.as_deref(), now)?;
        let idempotency = Self::idempotency_key(call, key, request)?;
        if let Some(Subject::Task(id)) = self.earlier(idempotency.as_ref()).await? {
            let task = self.existing_task(id).await?;
            return Ok(StartedTask {
                task: task.as_ref().clone(),
                svid: None,
            });
        }
        self.require_budget(call, Spending::TaskStart, text_bytes(&task))?;
        let (mut events, counts) = self.authorize_start(call, &task, now).await?;
        check_pins(call, &task)?;
        let keys = Self::share_of_keys(call, idempotency.as_ref(), task.parent);
        events.push(Event::TaskStarted {
            task: task.clone(),
            idempotency,
        });
        let mut svid = None;
        if let Some(key) = &request.key {
            let identity = Identity::AgentTask(agent.name.clone(), task.id);
            let options = IssueOptions {
                ttl: self.life_left(&task)?,
                ..IssueOptions::default()
            };
            let (issued, record) = self.sign(&identity, key, &options)?;
            events.push(Event::SvidIssued {
                svid: record,
                join_token: None,
                evidence: None,
                renews: None,
                origin: Some(SvidOrigin::Task),
            });
            svid = Some(issued);
        }
        let mut guards = vec![
            Guard::AgentActive(agent.name.clone()),
            Guard::SvidLive(call.caller.serial().to_owned()),
            Guard::AgentOpenTasksBelow(
                agent.name.clone(),
                call.snapshot.settings().tasks.open_per_agent,
            ),
        ];
        guards.extend(keys);
        guards.extend(counts);
        guards.extend(parent.iter().map(|parent| Guard::TaskOpen(parent.id)));
        self.heartbeats.begin(&task);
        let started = self.commit_for(call, Spending::TaskStart, events, guards);
        if let Err(error) = started.await {
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
        parent: Option<TaskId>,
    ) -> Result<Option<Arc<Task>>, Error> {
        let Some(id) = parent else {
            return match call.bound_to() {
                None => Ok(None),
                Some(bound) => Err(Error::invalid(
                    Field::Parent,
                    format!(
                        "an identity bound to a task delegates from it: name `{}` as the parent",
                        bound.id
                    ),
                )),
            };
        };
        let task = self.reachable_task(call, Action::TaskStart, id).await?;
        if task.state == TaskState::Open {
            Ok(Some(task))
        } else {
            Err(Error::TaskEnded(id))
        }
    }

    /// A child has no role that its parent lacks. The store refuses it as well, for races.
    async fn require_parents_roles(
        &self,
        call: &Call,
        request: &StartTask,
        parent: Option<&Task>,
    ) -> Result<(), Error> {
        let Some(parent) = parent else { return Ok(()) };
        for role in request.roles.0.keys() {
            if !parent.roles.contains_key(role) {
                let reason = format!(
                    "the parent task `{}` does not have role `{role}` itself",
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
        call: &Call,
        agent: &Agent,
        request: &StartTask,
        parent: Option<&Task>,
        now: Timestamp,
    ) -> Result<Task, Error> {
        let requester = match parent {
            Some(parent) => Requester::Delegated { parent: parent.id },
            None => Requester::SelfDeclared {
                name: request.requester.clone(),
            },
        };
        let settings = call.snapshot.settings();
        let most = parent.map_or(settings.credentials.live_per_task, |p| p.max_credentials);
        let max_credentials = request.max_credentials.map_or(most, NonZeroU32::get);
        if max_credentials > most {
            return Err(Error::invalid(
                Field::MaxCredentials,
                format!("at most {most} live credentials are possible"),
            ));
        }
        Ok(Task {
            id: TaskId::generate(self.context.clock.as_ref(), self.context.entropy.as_ref())?,
            agent: agent.name.clone(),
            purpose: request.purpose.clone(),
            requester,
            roles: with_parents_pins(&request.roles, parent)?,
            started_at: now,
            deadline: deadline(settings, request.ttl, parent, now)?,
            heartbeat: heartbeat_interval(settings, request.heartbeat)?,
            parent: parent.map(|p| p.id),
            depth: parent.map_or(0, |p| p.depth.saturating_add(1)),
            max_credentials,
            labels: request.labels.clone(),
            state: TaskState::Open,
            end_cause: None,
            ending_at: None,
            ended_at: None,
        })
    }

    /// One decision for each role, so that policy says which roles an agent may put into a task.
    async fn authorize_start(
        &self,
        call: &Call,
        task: &Task,
        now: Timestamp,
    ) -> Result<(Vec<Event>, Option<Guard>), Error> {
        let usage = self.context.store.usage_of_agent(&task.agent).await?;
        let ttl = lifetime(task.deadline.since(now))?;
        let nothing = Scope::default();
        let wanted = |scope| CredentialRequest {
            task,
            ttl,
            scope,
            live_in_task: 0,
            live_of_agent: u64::from(usage.live_credentials),
        };
        let mut events = Vec::with_capacity(task.roles.len() + 3);
        for (name, scope) in &task.roles {
            let allowed = self
                .authorize_role(call, name, Action::TaskStart, wanted(scope))
                .await
                .granted()?;
            events.push(allowed.into_event());
        }
        if task.roles.is_empty() {
            let allowed = self
                .authorize(
                    call,
                    Action::TaskStart,
                    Resource::Installation,
                    Some(wanted(&nothing)),
                )
                .await
                .granted()?;
            events.push(allowed.into_event());
        }
        Ok((events, Self::counts_guard(call, &wanted(&nothing))))
    }
}

fn deadline(
    settings: &Settings,
    ttl: Option<Ttl>,
    parent: Option<&Task>,
    now: Timestamp,
) -> Result<Timestamp, Error> {
    let longest = settings.tasks.ttl_max;
    let deadline = match ttl {
        None => {
            let default = now.plus(settings.tasks.ttl_default.duration());
            parent.map_or(default, |p| default.min(p.deadline))
        }
        Some(ttl) if ttl > longest => {
            return Err(Error::invalid(
                Field::Ttl,
                format!("a task lives at most {longest} here"),
            ));
        }
        Some(ttl) => now.plus(ttl.duration()),
    };
    match parent {
        Some(parent) if deadline > parent.deadline => Err(Error::invalid(
            Field::Ttl,
            format!(
                "a delegated task ends with its parent `{}`, at {}",
                parent.id, parent.deadline
            ),
        )),
        _ => Ok(deadline),
    }
}

fn heartbeat_interval(settings: &Settings, asked: Option<Ttl>) -> Result<Option<Ttl>, Error> {
    let shortest = settings.tasks.heartbeat_min;
    match asked {
        Some(interval) if interval < shortest => Err(Error::invalid(
            Field::Heartbeat,
            format!("the shortest heartbeat here is {shortest}"),
        )),
        _ => Ok(asked),
    }
}

/// Bytes of the texts that the caller chose.
fn text_bytes(task: &Task) -> u64 {
    let labels = task.labels.iter();
    let labels = labels.map(|(key, value)| key.len() + value.len());
    let bytes = labels.sum::<usize>() + task.purpose.as_str().len();
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// Checks the fixed parameters against the roles. Policy has allowed them by then.
fn check_pins(call: &Call, task: &Task) -> Result<(), Error> {
    for (name, scope) in &task.roles {
        let (_, spec) = call.snapshot.backends().role(name)?;
        spec.check_pins(scope).map_err(|e| Error::scope(&e))?;
    }
    Ok(())
}

/// The roles with their fixed parameters; a child inherits its parent's. A later check finds roles
/// that do not exist.
fn with_parents_pins(
    roles: &TaskRoles,
    parent: Option<&Task>,
) -> Result<BTreeMap<RoleName, Scope>, Error> {
    let Some(parent) = parent else {
        return Ok(roles.0.clone());
    };
    let merged = roles.0.iter().map(|(name, pins)| {
        let fixed = parent.roles.get(name).cloned().unwrap_or_default();
        match fixed.merged_with(pins) {
            Ok(scope) => Ok((name.clone(), scope)),
            Err(param) => Err(Error::invalid(
                Field::RoleScope,
                format!("the parent task fixes `{param}` of role `{name}` otherwise"),
            )),
        }
    });
    merged.collect()
}
