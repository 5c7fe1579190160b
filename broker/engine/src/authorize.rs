//! The one choke point: everything that yields a credential or an identity, and everything else a caller may do,
//! is decided here, and the decision goes into the ledger with its provenance.
//!
//! A refusal is recorded before the caller hears of it. A permission is handed to the use case as [`Allowed`], to
//! be committed together with what it permits, so that there is no action without its decision.

use serde::Serialize;
use taskpass_core::{
    Agent, Credential, CredentialId, DecisionRecord, Event, Outcome, RoleName, SpiffeId, Task,
    TaskId, sha256_hex,
};
use taskpass_policy::{Action, CredentialRequest, Facts, Principal, Resource};
use taskpass_store::Priority;

use std::sync::Arc;

use super::{Call, Caller, Engine, Error, Snapshot};

/// The name of the rule that keeps agents to their own tasks, in place of a policy's id.
const OWNERSHIP: &str = "taskpass.ownership";

/// A permission that must be recorded.
#[derive(Debug)]
#[must_use = "a decision belongs into the ledger"]
pub(super) struct Allowed(DecisionRecord);

impl Allowed {
    /// The event to commit with what was permitted.
    pub(super) fn into_event(self) -> Event {
        Event::Decided { decision: self.0 }
    }
}

impl Engine {
    /// Decides. `Err(Denied)` means that the refusal is already in the ledger, or that even recording failed.
    pub(super) async fn authorize(
        &self,
        call: &Call,
        action: Action,
        resource: Resource<'_>,
        draw: Option<CredentialRequest<'_>>,
    ) -> Result<Allowed, Error> {
        let principal = call.caller.principal();
        self.decide(&call.snapshot, principal, call.ip, action, resource, draw)
            .await
    }

    /// [`Engine::authorize`] for a role that the caller names. Whether policy refuses it or it does not exist is not told,
    /// or roles could be found out by trying names; the ledger and the log have the true reason.
    pub(super) async fn authorize_role(
        &self,
        call: &Call,
        name: &RoleName,
        action: Action,
        draw: CredentialRequest<'_>,
    ) -> Result<Allowed, Error> {
        let refused = match call.snapshot.backends().spec(name) {
            Some(spec) => {
                let role = Resource::Role(spec);
                match self.authorize(call, action, role, Some(draw)).await {
                    Err(denied @ Error::Denied { .. }) => denied,
                    other => return other,
                }
            }
            None => {
                let (resource, reason) = (name.to_string(), format!("there is no role `{name}`"));
                self.refuse_by_rule(call, action, &resource, &reason).await
            }
        };
        tracing::debug!(%refused, "the caller is not told why");
        Err(Error::Denied {
            reason: format!(
                "role `{name}` is not for this caller, or there is no such role; operators find the reason in the broker's log and with `taskpass ledger export | grep deny`"
            ),
            policies: Vec::new(),
        })
    }

    /// [`Engine::authorize`] for a caller that is not authenticated yet, because it is about to be.
    pub(super) async fn authorize_attesting(
        &self,
        snapshot: &Snapshot,
        agent: &Agent,
        ip: Option<std::net::IpAddr>,
    ) -> Result<Allowed, Error> {
        let principal = Principal::Agent {
            agent,
            bound_to: None,
        };
        self.decide(
            snapshot,
            principal,
            ip,
            Action::SvidAttest,
            Resource::Agent(agent),
            None,
        )
        .await
    }

    /// Decides about something that changes nothing, and records the decision at once.
    pub(super) async fn authorize_read(
        &self,
        call: &Call,
        action: Action,
        resource: Resource<'_>,
    ) -> Result<(), Error> {
        let allowed = self.authorize(call, action, resource, None).await?;
        self.commit_allowed(call, allowed).await
    }

    /// Records a permission that changes nothing. People must see what goes on when the disk is full; agents must not
    /// be able to use up the room that is kept for revoking.
    pub(super) async fn commit_allowed(&self, call: &Call, allowed: Allowed) -> Result<(), Error> {
        let priority = if call.agent().is_some() {
            Priority::Normal
        } else {
            Priority::Reserved
        };
        self.commit_with(vec![allowed.into_event()], Vec::new(), priority)
            .await
            .map(drop)
    }

    async fn decide(
        &self,
        snapshot: &Snapshot,
        principal: Principal<'_>,
        ip: Option<std::net::IpAddr>,
        action: Action,
        resource: Resource<'_>,
        draw: Option<CredentialRequest<'_>>,
    ) -> Result<Allowed, Error> {
        let facts = Facts {
            trust_domain: &self.context.trust_domain,
            principal,
            action,
            resource,
            now: self.now(),
            ip,
            request: draw,
        };
        let decision = snapshot
            .policy()
            .decide(&facts, self.context.clock.as_ref());
        let allowed = decision.is_allowed();
        let record = decision.into_record();
        if allowed {
            Ok(Allowed(record))
        } else {
            Err(self.refuse(record).await)
        }
    }

    /// The task `id`, if the caller may know of it: an agent its own, through a bound SVID just that one; an operator
    /// any. For an agent, a task of somebody else and one that never was look the same.
    pub(super) async fn reachable_task(
        &self,
        call: &Call,
        action: Action,
        id: TaskId,
    ) -> Result<Arc<Task>, Error> {
        let task = self.context.store.task(id).await?;
        match (&call.caller, task) {
            (Caller::Operator { .. }, None) => Err(Error::no_task(id)),
            (Caller::Operator { .. }, Some(task)) => Ok(task),
            (
                Caller::Agent {
                    agent, bound_to, ..
                },
                Some(task),
            ) if task.agent == agent.name
                && bound_to.as_ref().is_none_or(|bound| bound.id == id) =>
            {
                Ok(task)
            }
            (Caller::Agent { .. }, _) => Err(self
                .refuse_stranger(call, action, &format!("task `{id}`"), "task")
                .await),
        }
    }

    /// The credential `id` with its task, by the rules of [`Engine::reachable_task`].
    pub(super) async fn reachable_credential(
        &self,
        call: &Call,
        action: Action,
        id: CredentialId,
    ) -> Result<Arc<Credential>, Error> {
        let credential = self.context.store.credential(id).await?;
        match (&call.caller, credential) {
            (Caller::Operator { .. }, None) => Err(Error::no_credential(id)),
            (Caller::Operator { .. }, Some(credential)) => Ok(credential),
            (
                Caller::Agent {
                    agent, bound_to, ..
                },
                Some(credential),
            ) if credential.agent == agent.name
                && bound_to
                    .as_ref()
                    .is_none_or(|bound| bound.id == credential.task) =>
            {
                Ok(credential)
            }
            (Caller::Agent { .. }, _) => Err(self
                .refuse_stranger(call, action, &format!("credential `{id}`"), "credential")
                .await),
        }
    }

    /// Refuses what only agents or only operators can do at all, whatever policy says.
    pub(super) async fn refuse_kind(&self, call: &Call, action: Action, reason: &str) -> Error {
        self.refuse_by_rule(call, action, action.as_str(), reason)
            .await
    }

    async fn refuse_stranger(
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
    pub(super) async fn refuse_by_rule(
        &self,
        call: &Call,
        action: Action,
        resource: &str,
        reason: &str,
    ) -> Error {
        let principal = call.caller.id();
        let record = self.denial_by_rule(&call.snapshot, principal, action, resource, reason);
        self.refuse(record).await
    }

    /// The record of a refusal by a rule, not yet in the ledger.
    pub(super) fn denial_by_rule(
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

    /// Records a refusal. When that fails the answer is a refusal all the same: whoever may do nothing must not use up
    /// the room that is kept for revoking.
    async fn refuse(&self, record: DecisionRecord) -> Error {
        let denied = Error::Denied {
            reason: record.reason.clone(),
            policies: record.policies.clone(),
        };
        tracing::info!(
            principal = %record.principal, action = %record.action, resource = %record.resource,
            reason = %record.reason, "denied"
        );
        if let Err(error) = self
            .commit(vec![Event::Decided { decision: record }], Vec::new())
            .await
        {
            tracing::warn!(%error, "a refusal could not be recorded");
        }
        denied
    }
}
