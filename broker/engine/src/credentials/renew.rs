//! Renewing a credential: the ledger knows how long it may live before the provider does.

#[cfg(test)]
mod tests;

use std::{borrow::Cow, sync::Arc};

use serde::Serialize;
use taskpass_core::{
    Credential, CredentialId, CredentialState, Event, Handle, IdempotencyKey, RoleName, RoleSpec,
    Task, TaskState, Timestamp, Ttl,
};
use taskpass_policy::{Action, CredentialRequest, Resource};
use taskpass_provider::{ProviderError, RenewOrder};
use taskpass_store::{Guard, Subject};
use tracing::Instrument as _;

use crate::{
    Call, Engine, Error, RequestKey,
    budgets::Spending,
    failpoint,
    providers::{Backend, IssuePermit},
};

use super::{renewals::Renewing, told::told};

/// A credential to renew.
#[derive(Debug, Clone, Serialize)]
pub struct RenewCredential {
    /// Which.
    pub credential: CredentialId,
    /// How long it is to live from now on; as long as possible when the caller does not say.
    pub ttl: Option<Ttl>,
}

/// How long a renewed credential lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RenewedCredential {
    /// Which.
    pub credential: CredentialId,
    /// Until when.
    pub expires_at: Timestamp,
}

impl Engine {
    /// Renews a credential, at most to its task's deadline. A credential that already lives longer
    /// than asked for keeps its end.
    pub async fn renew_credential(
        self: &Arc<Self>,
        call: &Call,
        key: Option<&RequestKey>,
        request: &RenewCredential,
    ) -> Result<RenewedCredential, Error> {
        let id = request.credential;
        let renewed = |expires_at| RenewedCredential {
            credential: id,
            expires_at,
        };
        let (task, role) = self.own_task_and_role(call, id).await?;
        let idempotency = Self::idempotency_key(call, key, request)?;
        let (running, call) = self.begin_renewal(id, call, idempotency.as_ref()).await?;
        let call = call.as_ref();
        let (backend, spec) = call.snapshot.backends().role(&role)?;
        let ttl = request
            .ttl
            .map_or(spec.max_ttl, |ttl| ttl.min(spec.max_ttl));
        // From here on no other renewal changes the credential.
        let now = self.require_sound()?;
        if let Some(answer) = self
            .renewed_before(backend, id, idempotency.as_ref())
            .await?
        {
            return Ok(renewed(answer));
        }
        // Checked before policy: the agent may know the state of its own task, and policy would
        // only say that it does not permit it.
        if task.state != TaskState::Open || task.deadline <= now {
            return Err(Error::TaskEnded(task.id));
        }
        let credential = self.context.store.credential(id).await?;
        let credential = credential.ok_or_else(|| Error::no_credential(id))?;
        let until = now.plus(ttl.duration()).min(task.deadline);
        let until = within_total(&credential, spec, until);
        let until = not_before_its_end(&credential, until, task.deadline);
        renewable(&credential, spec, now)?;
        self.rates.check_task(call.snapshot.settings(), task.id)?;
        self.require_budget(call, Spending::Renewal, 0)?;
        let (decided, counts) = self
            .decide_renewal(call, &task, &credential, (spec, until, now))
            .await?;
        let intent = Event::CredentialRenewIntended {
            credential: id,
            until,
            idempotency: idempotency.clone(),
        };
        let mut guards = Self::renewal_guards(call, &credential, idempotency.as_ref());
        guards.extend(counts);
        let mut events = vec![decided, intent];
        // A renewal never shortens a credential. Should an earlier request to issue have been
        // executed twice, shortening would reach only the copy on record, and the other would
        // outlive `expires_at`. To end a credential early, a caller revokes it.
        if credential.surely_outlives(until) {
            events.push(Event::CredentialRenewed {
                credential: id,
                expires_at: credential.expires_at,
                idempotency,
            });
            self.commit_for(call, Spending::Renewal, events, guards)
                .await?;
            return Ok(renewed(self.lives_until(id).await?));
        }
        let permit = backend.acquire(&credential.agent, &credential.role)?;
        self.commit_for(call, Spending::Renewal, events, guards)
            .await?;
        failpoint::reached("renew.intended");
        let running = Renewal {
            permit,
            running,
            idempotency,
        };
        let expires_at = self.extend(backend, &credential, until, running).await?;
        Ok(renewed(expires_at))
    }

    /// The task and the role of a credential, if the caller may renew it.
    async fn own_task_and_role(
        &self,
        call: &Call,
        id: CredentialId,
    ) -> Result<(Arc<Task>, RoleName), Error> {
        const ACTION: Action = Action::CredentialRenew;
        let credential = self.reachable_credential(call, ACTION, id).await?;
        if call.agent().is_none() {
            let why = "only the agent itself renews";
            return Err(self.refuse_kind(call, ACTION, why).await);
        }
        let task = self.context.store.task(credential.task).await?;
        let task = task.ok_or_else(|| Error::no_task(credential.task))?;
        Ok((task, credential.role.clone()))
    }

    /// The decision of policy, and the guard for the counts that it read.
    async fn decide_renewal(
        &self,
        call: &Call,
        task: &Task,
        credential: &Credential,
        (spec, until, now): (&RoleSpec, Timestamp, Timestamp),
    ) -> Result<(Event, Option<Guard>), Error> {
        let counted = self
            .policy_request(task, &credential.scope, until, now)
            .await?;
        let resource = Resource::Credential {
            credential,
            role: Some(spec),
        };
        let request = Some(besides_itself(counted));
        let allowed = self
            .authorize(call, Action::CredentialRenew, resource, request)
            .await
            .granted()?;
        Ok((allowed.into_event(), Self::counts_guard(call, &counted)))
    }

    fn renewal_guards(
        call: &Call,
        credential: &Credential,
        key: Option<&IdempotencyKey>,
    ) -> Vec<Guard> {
        let mut guards = vec![
            Guard::AgentActive(credential.agent.clone()),
            Guard::SvidLive(call.caller.serial().to_owned()),
            Guard::TaskOpen(credential.task),
            Guard::CredentialState(credential.id, &[CredentialState::Active]),
        ];
        guards.extend(Self::share_of_keys(call, key, Some(credential.task)));
        guards
    }

    /// Registers the renewal; only one runs for each credential. A repeated request waits for the
    /// running renewal, which may be its own first attempt. Nothing is decided while it waits, and
    /// a reload may come: the call goes on with the snapshot in force after the wait.
    async fn begin_renewal<'a>(
        &self,
        id: CredentialId,
        call: &'a Call,
        key: Option<&IdempotencyKey>,
    ) -> Result<(Renewing, Cow<'a, Call>), Error> {
        let waited = key.is_some() && self.renewals.over(id).await;
        let running = self.renewals.begin(id).ok_or_else(|| {
            Error::Precondition(format!(
                "credential `{id}` is just being renewed; try again"
            ))
        })?;
        if !waited {
            return Ok((running, Cow::Borrowed(call)));
        }
        let call = Call {
            snapshot: self.snapshot(),
            ..call.clone()
        };
        Ok((running, Cow::Owned(call)))
    }

    /// The answer to a repeated request, which never renews twice.
    async fn renewed_before(
        &self,
        backend: &Backend,
        id: CredentialId,
        key: Option<&IdempotencyKey>,
    ) -> Result<Option<Timestamp>, Error> {
        let Some(Subject::Renewal { expires_at, .. }) = self.earlier(key).await? else {
            return Ok(None);
        };
        let ends_at = self.lives_until(id).await?;
        match expires_at {
            Some(expires_at) => Ok(Some(ends_at.min(expires_at))),
            None => Err(backend.error(ProviderError::retryable(format!(
                "whether the first attempt with this idempotency key renewed it is not known; it lives until {ends_at} at most; try again with a new key"
            )))),
        }
    }

    /// When a credential expires. An error if it was revoked meanwhile or has expired, also
    /// where an earlier answer had an end.
    async fn lives_until(&self, id: CredentialId) -> Result<Timestamp, Error> {
        let recorded = self.context.store.credential(id).await?;
        let recorded = recorded.ok_or_else(|| Error::no_credential(id))?;
        alive(&recorded, self.now())?;
        Ok(recorded.ends_at())
    }

    /// Calls the provider in a task of its own, so that the outcome is recorded even if the caller
    /// hangs up.
    async fn extend(
        self: &Arc<Self>,
        backend: &Arc<Backend>,
        credential: &Credential,
        until: Timestamp,
        renewal: Renewal,
    ) -> Result<Timestamp, Error> {
        let backend = Arc::clone(backend);
        let anchor = match credential.anchor {
            None => None,
            Some(id) => {
                let anchors = self.context.store.anchors_of_task(credential.task).await?;
                anchors
                    .iter()
                    .find(|anchor| anchor.id == id)
                    .map(|anchor| anchor.handle.to_json())
            }
        };
        let order = RenewOrder {
            credential: credential.id,
            task: credential.task,
            role: credential.role.clone(),
            handle: credential.handle.as_ref().map(Handle::to_json),
            anchor,
            until,
        };
        let engine = Arc::clone(self);
        let (answer, answered) = tokio::sync::oneshot::channel();
        let calling = async move {
            let Renewal {
                permit,
                running,
                idempotency,
            } = renewal;
            // The call may have waited for others. What was revoked meanwhile, with its task or
            // alone, is not renewed.
            let lives = async {
                let lives = engine.lives_until(order.credential).await.map(drop);
                lives.map_err(|ended| ProviderError::Gone(ended.message()))
            };
            let renewing = backend.provider().renew(&order);
            let result = backend.issue_if(permit, lives, renewing).await;
            failpoint::reached("renew.extended");
            let outcome = match result {
                Ok(renewed) => {
                    let answered = engine.context.clock.monotonic();
                    let lives = &engine.lives;
                    lives.record(order.credential, renewed.lives_for, answered);
                    // The provider may have given more than was asked for; the ledger records its
                    // word.
                    let event = Event::CredentialRenewed {
                        credential: order.credential,
                        expires_at: renewed.expires_at,
                        idempotency,
                    };
                    match engine.commit_reserved(vec![event], Vec::new()).await {
                        Ok(_) => engine.lives_until(order.credential).await,
                        Err(error) => Err(error),
                    }
                }
                // The intent stays on record: the ledger has the later end, and the outcome is
                // unknown. A credential that ended meanwhile needs no other reason.
                Err(error) => match engine.lives_until(order.credential).await {
                    Ok(_) => Err(backend.error(told(order.credential, error))),
                    Err(ended) => Err(ended),
                },
            };
            failpoint::reached("renew.recorded");
            drop(running);
            if answer.send(outcome).is_err() {
                tracing::debug!(credential = %order.credential, "nobody waited for the renewal");
            }
        };
        // The call may outlive its request; its log lines carry the request's id all the same.
        self.context.tasks.spawn(calling.in_current_span());
        answered
            .await
            .unwrap_or_else(|_stopped| Err(Error::stopping()))
    }
}

/// The counts as policy reads them: without the credential that is to be renewed.
fn besides_itself(request: CredentialRequest<'_>) -> CredentialRequest<'_> {
    CredentialRequest {
        live_in_task: request.live_in_task.saturating_sub(1),
        live_of_agent: request.live_of_agent.saturating_sub(1),
        ..request
    }
}

/// While the outcome of a renewal is unknown, the next one asks for no earlier end than is on
/// record. The lost call, or a request to issue that was executed twice, may still take effect, and
/// must not outlive the record.
fn not_before_its_end(credential: &Credential, until: Timestamp, deadline: Timestamp) -> Timestamp {
    if credential.renewal_in_doubt() {
        return until.max(credential.expires_at.min(deadline));
    }
    until
}

/// An end within the longest life that the role gives with renewals. It counts from the intent,
/// which is before the minting.
fn within_total(credential: &Credential, spec: &RoleSpec, until: Timestamp) -> Timestamp {
    match spec.max_total_ttl {
        Some(total) => until.min(credential.intended_at.plus(total.duration())),
        None => until,
    }
}

/// Refuses to renew a credential of a kind that has a fixed life, or that is not alive.
fn renewable(credential: &Credential, spec: &RoleSpec, now: Timestamp) -> Result<(), Error> {
    if spec.renewable {
        return alive(credential, now);
    }
    Err(Error::Precondition(format!(
        "credential `{}` cannot be renewed: it is of a kind that has a fixed life; issue a new one",
        credential.id
    )))
}

fn alive(credential: &Credential, now: Timestamp) -> Result<(), Error> {
    let state = match credential.state {
        CredentialState::Active if credential.ends_at() > now => return Ok(()),
        CredentialState::Active => CredentialState::Expired.as_str(),
        _ => credential.shown_state(),
    };
    Err(Error::Precondition(format!(
        "credential `{}` cannot be renewed: it is {state}; issue a new one",
        credential.id
    )))
}

/// A renewal that goes to the provider.
struct Renewal {
    permit: IssuePermit,
    running: Renewing,
    idempotency: Option<IdempotencyKey>,
}
