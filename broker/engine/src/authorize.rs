//! The one choke point: everything that yields a credential or an identity, and everything else a
//! caller may do, is decided here, and the decision goes into the ledger with its provenance.
//!
//! A refusal is recorded before the caller hears of it. The use case gets a permission as
//! [`Allowed`] and commits it together with the permitted events, so that the ledger has no action
//! without its decision.

use std::{net::IpAddr, sync::Arc};

use serde::Serialize;
use taskpass_core::{
    Agent, AgentName, Credential, CredentialId, DecisionRecord, Event, Outcome, RoleName, SpiffeId,
    Task, TaskId, sha256_hex,
};
use taskpass_policy::{Action, CredentialRequest, Facts, Principal, Resource};

use self::record::Account;
use crate::{
    Call, Engine, Error, Snapshot,
    folds::{Asked, Decided},
};

mod record;

/// The name of the rule that keeps agents to their own tasks, in place of a policy's id.
const OWNERSHIP: &str = "taskpass.ownership";

/// The verdict of one decision. Callers take the permission with [`Verdict::granted`] and know no
/// other outcome, so that another one, such as the need for people to agree, changes no caller.
#[derive(Debug)]
#[must_use = "without its permission nothing may be done"]
pub(crate) struct Verdict(Answer);

#[derive(Debug)]
enum Answer {
    Allowed(Allowed),
    /// The refusal is in the ledger already, or even recording it failed.
    Refused(Error),
}

impl Verdict {
    /// The permission, or why there is none.
    pub(crate) fn granted(self) -> Result<Allowed, Error> {
        match self.0 {
            Answer::Allowed(allowed) => Ok(allowed),
            Answer::Refused(error) => Err(error),
        }
    }

    /// The same verdict, but a caller that is denied is told this reason instead of the true one.
    fn with_denial(self, reason: impl FnOnce() -> String) -> Self {
        match self.0 {
            Answer::Refused(denied @ Error::Denied { .. }) => {
                tracing::debug!(%denied, "the caller is not told why");
                Self(Answer::Refused(Error::Denied {
                    reason: reason(),
                    policies: Vec::new(),
                }))
            }
            other => Self(other),
        }
    }
}

/// A permission that must be recorded.
#[derive(Debug)]
#[must_use = "a decision belongs into the ledger"]
pub(crate) struct Allowed(Decided);

impl Allowed {
    /// The event to commit together with the permitted ones.
    pub(crate) fn into_event(self) -> Event {
        Event::Decided {
            decision: self.0.record,
            repeated: None,
        }
    }
}

impl Engine {
    /// Decides whether a caller may perform an action. A refusal is recorded before this returns.
    pub(crate) async fn authorize(
        &self,
        call: &Call,
        action: Action,
        resource: Resource<'_>,
        request: Option<CredentialRequest<'_>>,
    ) -> Verdict {
        let principal = call.caller.principal();
        let (snapshot, ip) = (&call.snapshot, call.ip);
        self.decide(snapshot, principal, ip, action, resource, request)
            .await
    }

    /// [`Engine::authorize`] for a role that the caller names. A refusal by policy and a role that
    /// does not exist read the same, or roles could be found out by trying names; the ledger and
    /// the log have the true reason.
    pub(crate) async fn authorize_role(
        &self,
        call: &Call,
        name: &RoleName,
        action: Action,
        request: CredentialRequest<'_>,
    ) -> Verdict {
        let verdict = match call.snapshot.backends().spec(name) {
            Some(spec) => {
                self.authorize(call, action, Resource::Role(spec), Some(request))
                    .await
            }
            None => {
                let (resource, reason) = (name.to_string(), format!("there is no role `{name}`"));
                let principal = call.caller.id();
                let record =
                    self.denial_by_rule(&call.snapshot, principal, action, &resource, &reason);
                let asked = Asked::new(call.ip, Some(request.scope));
                let denied = Decided { record, asked };
                Verdict(Answer::Refused(self.refuse(call.account(), denied).await))
            }
        };
        verdict.with_denial(|| {
            format!(
                "role `{name}` is not for this caller, or there is no such role; operators find the reason in the broker's log and with `taskpass ledger export | grep deny`"
            )
        })
    }

    /// [`Engine::authorize`] for an agent that attests, and is therefore not authenticated yet.
    pub(crate) async fn authorize_attesting(
        &self,
        snapshot: &Snapshot,
        agent: &Agent,
        ip: Option<IpAddr>,
    ) -> Verdict {
        let (principal, resource) = (
            Principal::Agent {
                agent,
                bound_to: None,
            },
            Resource::Agent(agent),
        );
        self.decide(snapshot, principal, ip, Action::SvidAttest, resource, None)
            .await
    }

    /// Decides about an action that changes nothing, and records the decision at once.
    pub(crate) async fn authorize_read(
        &self,
        call: &Call,
        action: Action,
        resource: Resource<'_>,
    ) -> Result<(), Error> {
        let verdict = self.authorize(call, action, resource, None).await;
        let allowed = verdict.granted()?;
        self.commit_allowed(call, allowed).await
    }

    async fn decide(
        &self,
        snapshot: &Snapshot,
        principal: Principal<'_>,
        ip: Option<IpAddr>,
        action: Action,
        resource: Resource<'_>,
        request: Option<CredentialRequest<'_>>,
    ) -> Verdict {
        let facts = Facts {
            trust_domain: &self.context.trust_domain,
            principal,
            action,
            resource,
            now: self.now(),
            ip,
            request,
        };
        let decision = snapshot
            .policy()
            .decide(&facts, self.context.clock.as_ref());
        let allowed = decision.is_allowed();
        let decided = Decided {
            record: decision.into_record(),
            asked: Asked::new(ip, request.map(|request| request.scope)),
        };
        Verdict(if allowed {
            Answer::Allowed(Allowed(decided))
        } else {
            let account = match principal {
                Principal::Agent { agent, .. } => Some((&agent.name, &snapshot.settings().budgets)),
                Principal::Operator(_) => None,
            };
            Answer::Refused(self.refuse(account, decided).await)
        })
    }

    /// The task `id`, if the caller may know of it: an agent its own, through an SVID bound to a
    /// task just that one; an operator any. For an agent, another agent's task and an unknown one
    /// look the same.
    pub(crate) async fn reachable_task(
        &self,
        call: &Call,
        action: Action,
        id: TaskId,
    ) -> Result<Arc<Task>, Error> {
        match self.context.store.task(id).await? {
            Some(task) if call.reaches(&task.agent, id) => Ok(task),
            None if call.agent().is_none() => Err(Error::no_task(id)),
            Some(_) | None => Err(self
                .refuse_unreachable(call, action, &format!("task `{id}`"), "task")
                .await),
        }
    }

    /// The credential `id` with its task, by the rules of [`Engine::reachable_task`].
    pub(crate) async fn reachable_credential(
        &self,
        call: &Call,
        action: Action,
        id: CredentialId,
    ) -> Result<Arc<Credential>, Error> {
        match self.context.store.credential(id).await? {
            Some(credential) if call.reaches(&credential.agent, credential.task) => Ok(credential),
            None if call.agent().is_none() => Err(Error::no_credential(id)),
            Some(_) | None => Err(self
                .refuse_unreachable(call, action, &format!("credential `{id}`"), "credential")
                .await),
        }
    }

    /// Refuses an action that is for operators only.
    pub(crate) async fn require_operator(&self, call: &Call, action: Action) -> Result<(), Error> {
        if call.agent().is_none() {
            return Ok(());
        }
        Err(self
            .refuse_kind(call, action, "this is for operators only")
            .await)
    }

    /// Keeps an agent's listing to its own, and decides about an operator's.
    pub(crate) async fn narrow_to_caller(
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

    /// Refuses an action that only agents, or only operators, can perform. Policy is not consulted.
    pub(crate) async fn refuse_kind(&self, call: &Call, action: Action, reason: &str) -> Error {
        self.refuse_by_rule(call, action, action.as_str(), reason)
            .await
    }

    async fn refuse_unreachable(
        &self,
        call: &Call,
        action: Action,
        resource: &str,
        what: &str,
    ) -> Error {
        let how = if call.bound_to().is_some() {
            "the task this identity is bound to"
        } else {
            "the caller's own"
        };
        self.refuse_by_rule(call, action, resource, &format!("this {what} is not {how}"))
            .await
    }

    /// A refusal by a rule that no policy can lift, recorded like any other.
    pub(crate) async fn refuse_by_rule(
        &self,
        call: &Call,
        action: Action,
        resource: &str,
        reason: &str,
    ) -> Error {
        let principal = call.caller.id();
        let record = self.denial_by_rule(&call.snapshot, principal, action, resource, reason);
        let asked = Asked::new(call.ip, None);
        self.refuse(call.account(), Decided { record, asked }).await
    }

    /// The record of a refusal by a rule, not yet in the ledger.
    pub(crate) fn denial_by_rule(
        &self,
        snapshot: &Snapshot,
        principal: &SpiffeId,
        action: Action,
        resource: &str,
        reason: &str,
    ) -> DecisionRecord {
        #[derive(Serialize)]
        struct Input<'a> {
            principal: &'a str,
            action: &'a str,
            resource: &'a str,
        }
        let input = Input {
            principal: principal.as_str(),
            action: action.as_str(),
            resource,
        };
        let canonical = serde_json::to_vec(&input).unwrap_or_default();
        DecisionRecord {
            principal: input.principal.to_owned(),
            action: input.action.to_owned(),
            resource: resource.to_owned(),
            outcome: Outcome::Deny,
            reason: reason.to_owned(),
            policy_set: snapshot.policy().hash().to_owned(),
            policies: vec![OWNERSHIP.to_owned()],
            errors: Vec::new(),
            input_sha256: sha256_hex(&canonical),
            duration_us: 0,
        }
    }

    /// Records a refusal. When that fails the caller is refused all the same. An agent without a
    /// budget for it is told of its budget instead.
    async fn refuse(&self, account: Account<'_>, decided: Decided) -> Error {
        let denied = Error::Denied {
            reason: decided.record.reason.clone(),
            policies: decided.record.policies.clone(),
        };
        match self.commit_denial(account, decided).await {
            Ok(()) => denied,
            Err(over @ Error::BudgetExceeded { .. }) => over,
            Err(error) => {
                tracing::warn!(error = %error.message(), "a refusal could not be recorded");
                denied
            }
        }
    }
}

#[cfg(test)]
mod tests;
